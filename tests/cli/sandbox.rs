//! A gateway in a root directory, a user and a network of its own, with the files and the environment that a deployment
//! gives it. Only root can make that.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::gatepost::BINARY;
use crate::common::process;
use crate::common::wait::{SOON, until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// The system's directories that a program needs, which the sandbox has too, read-only.
const SYSTEM: [&str; 6] = ["bin", "dev", "lib", "lib64", "sbin", "usr"];

/// The machine's address in its network.
pub const ADDRESS: &str = "10.1.2.3";

/// A directory or file of the machine at a path in the sandbox.
#[derive(Debug)]
struct Mount {
    source: PathBuf,
    path: String,
    is_writable: bool,
}

/// What a deployment gives the gateway. Nothing but the mounts can be written.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    mounts: Vec<Mount>,
    /// New file systems in memory: their paths and sizes in bytes.
    disks: Vec<(String, u64)>,
    /// The user and its group.
    pub user: u32,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The working directory.
    pub cwd: String,
    /// The mask of new files' modes, as `umask` takes it.
    pub umask: &'static str,
}

/// A running gateway, which is killed when this is dropped.
#[derive(Debug)]
pub struct Sandboxed<'a> {
    sandbox: &'a Sandbox,
    child: Child,
}

impl Sandbox {
    /// An empty sandbox; `None` if this user cannot make one.
    pub fn new(user: u32) -> Option<Self> {
        let can = Command::new("unshare").args(["--mount", "--net", "true"]).stderr(Stdio::null()).status();
        if !can.is_ok_and(|status| status.success()) {
            return None;
        }
        let dir = TempDir::with_prefix("gatepost-sandbox-").unwrap();
        // The user of the gateway passes through it to the mounts.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let mut sandbox = Self {
            dir,
            mounts: Vec::new(),
            disks: Vec::new(),
            user,
            env: BTreeMap::new(),
            cwd: "/".to_owned(),
            umask: "0022",
        };
        // The authorities of the system, which packages and images depend on.
        sandbox.mount(PathBuf::from("/etc/ssl"), "/etc/ssl", false);
        let system = sandbox.make_dir("system", 0o755, (0, 0));
        let passwd = Self::make_file(&system, "passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644, (0, 0));
        sandbox.mount(passwd, "/etc/passwd", false);
        sandbox.mount(Self::make_file(&system, "group", "root:x:0:\n", 0o644, (0, 0)), "/etc/group", false);
        Some(sandbox)
    }

    /// A new directory outside of the sandbox.
    pub fn make_dir(&self, name: &str, mode: u32, (owner, group): (u32, u32)) -> PathBuf {
        let dir = self.dir.path().join("volumes").join(name);
        fs::create_dir_all(&dir).unwrap();
        chown(&dir, Some(owner), Some(group)).unwrap();
        // After `chown`, which clears the bit that gives new files the directory's group.
        fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
        dir
    }

    /// A new file in such a directory.
    pub fn make_file(dir: &Path, name: &str, text: &str, mode: u32, (owner, group): (u32, u32)) -> PathBuf {
        let file = dir.join(name);
        fs::write(&file, text).unwrap();
        chown(&file, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        file
    }

    /// Shows `source` at `path` in the sandbox.
    pub fn mount(&mut self, source: PathBuf, path: &str, is_writable: bool) {
        self.mounts.push(Mount { source, path: path.to_owned(), is_writable });
    }

    /// Makes a disk of this size at `path` in the sandbox, in which the user may write.
    pub fn mount_disk(&mut self, path: &str, bytes: u64) {
        self.disks.push((path.to_owned(), bytes));
    }

    /// The commands that make the sandbox in a mount namespace of their own and become the gateway in it.
    fn script(&self, args: &[String]) -> String {
        let root = self.dir.path().join("root").display().to_string();
        let mut lines = vec![
            "set -eu".to_owned(),
            // A network without other machines, in which every port is free.
            format!("ip link set lo up; ip address add {ADDRESS}/32 dev lo"),
            format!("mount -t tmpfs -o mode=0755 sandbox {root}"),
        ];
        for name in SYSTEM {
            lines.push(format!(
                "if [ -L /{name} ]; then cp -P /{name} {root}/{name}; elif [ -d /{name} ]; then mkdir {root}/{name}; \
                 mount --rbind /{name} {root}/{name}; mount -o remount,bind,ro {root}/{name}; fi"
            ));
        }
        lines.push(format!("mkdir {root}/proc {root}/etc; mount -t proc proc {root}/proc"));
        lines.push(format!("touch {root}/gatepost; mount --bind {BINARY} {root}/gatepost"));
        for Mount { source, path, is_writable } in &self.mounts {
            let (at, source) = (format!("{root}{path}"), source.display());
            let make = if fs::metadata(source.to_string()).unwrap().is_dir() { "mkdir -p" } else { "touch" };
            lines.push(format!("mkdir -p $(dirname {at}); {make} {at}; mount --bind {source} {at}"));
            if !is_writable {
                lines.push(format!("mount -o remount,bind,ro {at}"));
            }
        }
        let (user, cwd, umask) = (self.user, &self.cwd, self.umask);
        for (path, bytes) in &self.disks {
            lines.push(format!(
                "mkdir -p {root}{path}; mount -t tmpfs -o size={bytes},mode=0700,uid={user},gid={user} disk \
                 {root}{path}"
            ));
        }
        let args: Vec<String> = args.iter().map(|arg| format!("'{arg}'")).collect();
        lines.push(format!("mount -o remount,ro {root}; umask {umask}"));
        lines.push(format!(
            "exec chroot {root} /usr/bin/env --chdir={cwd} /usr/bin/setpriv --reuid={user} --regid={user} --clear-groups \
             --no-new-privs --bounding-set=-all --inh-caps=-all --pdeathsig=KILL /gatepost {}",
            args.join(" ")
        ));
        lines.join("\n")
    }

    /// A command that becomes `gatepost ARGS` in the sandbox, in a network of its own.
    fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--propagation", "private", "sh", "-c", &self.script(args)]);
        command.env_clear().envs(&self.env).stdin(Stdio::null());
        // For the commands of the script, and for the gateway, as images and systemd set it.
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Runs `gatepost ARGS` to its end: its exit code and what it printed.
    pub fn run(&self, args: &[String]) -> (Option<i32>, String) {
        let output = self.command(args).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    /// Starts `gatepost ARGS`, which serves, and waits until it answers.
    pub fn start(&self, args: &[String]) -> Sandboxed<'_> {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let child = self.command(args).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut gateway = Sandboxed { sandbox: self, child };
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let has_own_network = |pid: u32| network(&pid.to_string()).is_some_and(|own| Some(own) != network("self"));
        until("the gateway answers", SOON, || {
            let ended = gateway.child.try_wait().unwrap();
            assert!(ended.is_none(), "the gateway ended with {ended:?}\n{}", self.log());
            has_own_network(gateway.child.id()) && !gateway.health().1.contains("no answer")
        });
        gateway
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What the gateway logged, in all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Sandboxed<'_> {
    /// A program of this machine in the gateway's network: its exit code and what it printed.
    pub fn in_network(&self, program: &str, args: &[&str]) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        let output = Command::new("nsenter").args(["--net", "--target", &pid, program]).args(args).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    /// A path in the sandbox, for this process.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.child.id()))
    }

    /// `gatepost health` at the default port of operations.
    pub fn health(&self) -> (Option<i32>, String) {
        self.in_network(BINARY, &["health", "--address", "127.0.0.1:8809"])
    }

    /// What an HTTP client gets for `url`: the status and the body.
    pub fn get(&self, url: &str, host: &str) -> String {
        let host = format!("Host: {host}");
        let (code, said) = self.in_network("curl", &["-s", "-w", "\n%{http_code}", "-H", &host, url]);
        assert_eq!(code, Some(0), "{url}: {said}");
        said
    }

    /// Stops the gateway and gives its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        process::signal(self.child.id(), Signal::SIGTERM);
        until("the gateway has ended", 2 * SOON, || self.child.try_wait().unwrap().is_some());
        let code = self.child.wait().unwrap().code();
        assert!(!self.sandbox.log().contains("panicked"), "{}", self.sandbox.log());
        code
    }
}

impl Drop for Sandboxed<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            process::signal(self.child.id(), Signal::SIGKILL);
            self.child.wait().unwrap();
        }
    }
}
