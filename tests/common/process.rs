//! Processes that never outlive the test process, however it ends.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs a clean-up script once this process is gone or the value is dropped.
///
/// A shell in a process group of its own reads a pipe that only this process holds open; at its end, which the kernel
/// brings about even after SIGKILL, the script runs.
#[derive(Debug)]
pub struct Reaper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Reaper {
    /// `script` runs in `sh` with `$1` set to `dir`.
    pub fn new(script: &str, dir: &Path) -> Self {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("cat >/dev/null\n{script}"))
            .arg("reaper")
            .arg(dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let pipe = child.stdin.take();
        Self { child, pipe }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        self.child.wait().expect("the reaper ends");
    }
}

/// Sends `signal` to `pid`; false if there is no such process.
pub fn signal(pid: u32, signal: Signal) -> bool {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).is_ok()
}
