//! A throwaway `PgBouncer` before a test cluster, with default settings but for the mode and the number of connections.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::postgres::{Cluster, SUPERUSER, hand_over, run_as_server_user};
use super::process::{Reaper, signal};
use super::wait::{SOON, until};

/// Ends the pooler and removes its directory, `$1`.
const REAP: &str = r#"
if [ -f "$1/pid" ]; then
    pid=$(cat "$1/pid")
    case "$(tr '\0' ' ' <"/proc/$pid/cmdline")" in *"$1"*) kill -KILL "$pid" ;; esac
fi
rm -rf "$1"
"#;

/// One pooler, running or killed.
#[derive(Debug)]
pub struct PgBouncer {
    dir: PathBuf,
    address: Ipv4Addr,
    port: u16,
    child: Option<Child>,
    _reaper: Reaper,
}

impl PgBouncer {
    /// Starts one in `mode` with at most two connections to `cluster`. `settings` are further lines of its file.
    pub fn start(cluster: &Cluster, mode: &str, settings: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("gatepost-pooler-").tempdir_in("/tmp").unwrap().keep();
        let reaper = Reaper::new(REAP, &dir);
        let address = cluster.address;
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let file = format!(
            "[databases]\n* = host={address} port={}\n[pgbouncer]\nlisten_addr = {address}\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {dir}/users\npidfile = {dir}/pid\n\
             pool_mode = {mode}\ndefault_pool_size = 2\n{settings}\n",
            cluster.port,
            dir = dir.display(),
        );
        fs::write(dir.join("pgbouncer.ini"), file).unwrap();
        fs::write(dir.join("users"), format!("\"{SUPERUSER}\" \"\"\n")).unwrap();
        for name in ["pgbouncer.ini", "users"] {
            hand_over(&dir.join(name));
        }
        hand_over(&dir);
        let mut pooler = Self { dir, address, port, child: None, _reaper: reaper };
        pooler.restart();
        pooler
    }

    /// Starts it again at the same address.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the pooler runs already");
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = Command::new("/usr/sbin/pgbouncer");
        command.arg(self.dir.join("pgbouncer.ini")).current_dir("/tmp").stdin(Stdio::null()).stdout(Stdio::null());
        run_as_server_user(&mut command);
        let child = command.stderr(log).spawn().expect("PgBouncer is installed by ./scripts/setup");
        self.child = Some(child);
        until("the pooler answers", SOON, || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the pooler ended with {ended:?}\n{}", self.log());
            TcpStream::connect((self.address, self.port)).is_ok()
        });
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the pooler runs");
        signal(child.id(), Signal::SIGKILL);
        child.wait().unwrap();
        fs::remove_file(self.dir.join("pid")).ok();
    }

    /// A URL through the pooler for `database`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@{}:{}/{database}", self.address, self.port)
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
