//! A throwaway Postgres: a data directory under `/tmp`, a Unix socket in it and a loopback port of its own.
//!
//! `postgres` refuses to run as root, so as root it runs as `nobody`. The data directory is a copy of a template made
//! once a target directory. A reaper stops the server and removes the directory when the test process is gone, so a
//! cluster in a `static` leaves nothing behind.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::command;
use super::process::{self, Reaper};
use super::wait::{SOON, until};

/// The superuser of every test cluster; nobody asks for a password.
pub const SUPERUSER: &str = "gatepost";

/// What the server is told besides its directory and address: quick to start, small, and no server-side parallelism.
const SETTINGS: [&str; 9] = [
    "shared_buffers=32MB",
    "max_wal_size=1GB",
    "max_connections=60",
    "dynamic_shared_memory_type=mmap",
    "autovacuum=off",
    "jit=off",
    "max_parallel_workers=0",
    "max_logical_replication_workers=0",
    "log_min_messages=warning",
];

/// Stops the server whatever state it is in, frees its shared memory, removes the directory. `$1` is the directory.
const REAP: &str = r#"
if [ -f "$1/data/postmaster.pid" ]; then
    pid=$(sed -n 1p "$1/data/postmaster.pid")
    shm=$(sed -n 7p "$1/data/postmaster.pid" | awk '{print $2}')
    case "$(tr '\0' ' ' <"/proc/$pid/cmdline")" in
    *"$1/data"*)
        kids=$(cat "/proc/$pid/task/$pid/children")
        kill -QUIT "$pid"
        for id in $pid $kids; do kill -CONT "$id"; done
        tries=0
        while [ -f "$1/data/postmaster.pid" ] && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
        kill -KILL "$pid"
        ;;
    esac
    [ -z "$shm" ] || ipcrm -m "$shm"
fi
rm -rf "$1"
"#;

/// One running (or stopped) server with its data directory.
#[derive(Debug)]
pub struct Cluster {
    /// The data directory is `data` in it, the Unix socket is beside.
    pub dir: PathBuf,
    /// The address that the server listens on.
    pub address: Ipv4Addr,
    pub port: u16,
    setting: &'static str,
    /// The directory of the server's programs; `None`: those of this machine.
    pub programs: Option<PathBuf>,
    server: Option<Child>,
    _reaper: Reaper,
}

/// A fresh database of a cluster.
#[derive(Clone, Debug)]
pub struct Database {
    /// `postgres://...`, for sqlx and for Gatepost.
    pub url: String,
}

impl Cluster {
    /// A new cluster, running, without fsync.
    pub fn start() -> Self {
        Self::start_with("fsync=off")
    }

    /// The cluster that all tests of this process share. A test that stops, kills or freezes starts its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A new cluster, running, with this setting, for example `fsync=on`.
    pub fn start_with(setting: &'static str) -> Self {
        let mut cluster = Self::stopped(setting);
        command::run(Command::new("cp").arg("-a").arg(template()).arg(cluster.dir.join("data")));
        cluster.restart();
        cluster
    }

    /// A cluster without a data directory, which is to be made before the first start.
    pub fn stopped(setting: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("gatepost-pg-").tempdir_in("/tmp").unwrap().keep();
        let reaper = Reaper::new(REAP, &dir);
        hand_over(&dir);
        let address = own_address();
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        Self { dir, address, port, setting, programs: None, server: None, _reaper: reaper }
    }

    /// A command for one of the server's programs.
    pub fn program(&self, name: &str) -> Command {
        match &self.programs {
            Some(dir) => as_server_user(&dir.join(name)),
            None => as_server_user(&binary(name)),
        }
    }

    /// Starts a server that was stopped or killed, at the same address.
    pub fn restart(&mut self) {
        assert!(self.server.is_none(), "the server runs already");
        let data = self.dir.join("data");
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = self.program("postgres");
        command
            .arg("-D")
            .arg(&data)
            .args(["-p", &self.port.to_string()])
            .args(["-c", &format!("listen_addresses={}", self.address)])
            .args(["-c", &format!("unix_socket_directories={}", self.dir.display())])
            .args(["-c", self.setting])
            .args(SETTINGS.iter().flat_map(|setting| ["-c", setting]))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut server = command.spawn().unwrap();
        until("Postgres is ready", SOON, || {
            let ended = server.try_wait().unwrap();
            assert!(ended.is_none(), "postgres ended with {ended:?}\n{}", self.log());
            // Its own first: what a killed one left behind says that it is ready, until it is written anew.
            self.pid_file_line(0) == Some(server.id().to_string())
                && self.pid_file_line(7).is_some_and(|status| status.trim() == "ready")
        });
        self.server = Some(server);
    }

    /// Kills the server and all its processes with SIGKILL.
    pub fn kill(&mut self) {
        let pid = self.pid();
        process::signal(pid, Signal::SIGSTOP);
        let children = children(pid);
        for id in children.iter().chain([&pid]) {
            process::signal(*id, Signal::SIGKILL);
        }
        self.reap();
        until("the server's processes are gone", SOON, || !children.iter().any(|id| is_alive(*id)));
    }

    /// A URL over TCP for `database`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@{}:{}/{database}", self.address, self.port)
    }

    /// Makes an empty database with a name of its own.
    pub async fn create_database(&self) -> Database {
        self.create_database_with("").await
    }

    /// Makes an empty database with these options of `CREATE DATABASE`.
    pub async fn create_database_with(&self, options: &str) -> Database {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name} {options}"))).execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        Database { url: self.url(&name) }
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The process id of the running server.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("the server runs").id()
    }

    /// Waits for the end of a server that was told to end.
    pub fn reap(&mut self) -> ExitStatus {
        let mut server = self.server.take().expect("the server runs");
        until("the server is gone", SOON, || server.try_wait().unwrap().is_some());
        server.wait().unwrap()
    }

    /// A line of `postmaster.pid`: 0 is the pid, 7 the status.
    fn pid_file_line(&self, idx: usize) -> Option<String> {
        fs::read_to_string(self.dir.join("data/postmaster.pid")).ok()?.lines().nth(idx).map(str::to_owned)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Killed here, so that the reaper, which is dropped next, does not wait for a zombie of ours.
        if self.server.is_some() {
            self.kill();
        }
    }
}

impl Database {
    /// A small pool on this database.
    pub async fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect(&self.url)
            .await
            .unwrap()
    }
}

/// A loopback address that belongs to this process as long as it lives, so that a port on it stays ours across a
/// restart of the server. Linux answers on all of 127.0.0.0/8; process ids end at 2^22.
fn own_address() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | high, middle, low.max(1))
}

/// The data directory that every cluster starts from, made once a target directory and Postgres version.
fn template() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(root).unwrap();
    let lock = File::create(root.join("postgres-template.lock")).unwrap();
    lock.lock().unwrap();
    let version = Command::new(binary("postgres")).arg("--version").output().unwrap().stdout;
    let version: String =
        String::from_utf8(version).unwrap().chars().filter(|c| c.is_ascii_digit() || *c == '.').take(5).collect();
    // The last figure rises with the arguments of initdb below.
    let template = root.join(format!("postgres-{version}-1"));
    if !template.exists() {
        // Made where the server's user may write; kept where cargo cleans.
        let made = tempfile::Builder::new().prefix("gatepost-initdb-").tempdir_in("/tmp").unwrap();
        hand_over(made.path());
        let data = made.path().join("data");
        command::run(initdb(&mut as_server_user(&binary("initdb")), &data));
        let copy = root.join(format!("postgres-{version}-1.tmp"));
        if copy.exists() {
            fs::remove_dir_all(&copy).unwrap();
        }
        command::run(Command::new("cp").arg("-a").arg(&data).arg(&copy));
        fs::rename(&copy, &template).unwrap();
    }
    template
}

/// Completes a command that makes a data directory.
pub fn initdb<'a>(command: &'a mut Command, data: &Path) -> &'a mut Command {
    command.arg("-D").arg(data).args([
        "--no-sync",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--wal-segsize=1",
        "--username",
        SUPERUSER,
    ])
}

/// A command for one of Postgres's programs, run as `nobody` if this process is root's.
fn as_server_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/tmp").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    run_as_server_user(&mut command);
    command
}

/// Makes `command` run as the user that the server runs as.
pub fn run_as_server_user(command: &mut Command) {
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
}

/// Gives `dir` to the user that the server runs as.
pub fn hand_over(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    if let Some((uid, gid)) = server_user() {
        chown(dir, Some(uid), Some(gid)).unwrap();
    }
}

/// The ids of `nobody`, if this process is root's.
fn server_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<&str> = users
        .lines()
        .map(|line| line.split(':').collect())
        .find(|user: &Vec<&str>| user[0] == "nobody")
        .expect("nobody");
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

/// Where a program of the Postgres server is: on `PATH`, or where Debian keeps it.
fn binary(program: &str) -> PathBuf {
    let mut places: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        let mut versions: Vec<PathBuf> = versions.map(|version| version.unwrap().path().join("bin")).collect();
        versions.sort();
        places.extend(versions.into_iter().rev());
    }
    places
        .into_iter()
        .map(|place| place.join(program))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no `{program}` of a Postgres server on this machine: run ./scripts/test"))
}

/// The direct children of `pid`, as the kernel lists them now.
pub fn children(pid: u32) -> Vec<u32> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

/// Whether `pid` exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X'])))
}
