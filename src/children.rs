//! Child processes: the thread that starts them, and the end of orphans.
//!
//! The kernel sends the parent-death signal of a child when the *thread* that started it ends. A thread of the runtime
//! may end before the process, so that one thread starts all children and lives as long as the process.
//!
//! A gateway that is PID 1, as in a container without an init, is the parent of every orphan in its PID namespace.
//! [`reap_orphans`] takes their exit status, so that they do not remain as zombies. It leaves alone the children that
//! were started here: the runtime waits for those.

mod orphans;
mod own_children;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
pub use orphans::reap_orphans;
use own_children::OwnChild;
use parking_lot::Mutex;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A child process that was started here.
#[derive(Debug)]
pub struct StartedChild {
    /// The process.
    pub process: Child,
    /// Its process group, if it was started by [`start_group`].
    pub group: Option<Group>,
    /// Removes the child from those that [`reap_orphans`] leaves alone.
    _own: Option<OwnChild>,
}

/// A process group. When this is dropped, all its processes are killed.
#[derive(Debug)]
pub struct Group(Option<Pid>);

impl Group {
    fn led_by(process: &Child) -> Self {
        Self(process.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    /// Leaves the processes alone.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // An error means that none is left.
        self.0.map(|group| killpg(group, Signal::SIGKILL));
    }
}

/// A command to start, and the one who waits for it.
struct Job {
    command: Command,
    is_group: bool,
    runtime: Handle,
    started: oneshot::Sender<io::Result<StartedChild>>,
}

/// The queue of the thread that starts children. `None`: the thread is not started yet. It lives as long as the
/// process, because the queue does.
static JOBS: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);

/// Starts `command` on the thread that starts all children. Runs inside a tokio runtime.
///
/// # Errors
/// The program or the thread cannot be started.
///
/// # Cancel safety
/// If the future is dropped, the child may have been started, and is dropped: it is killed if the command says so.
pub async fn start(command: Command) -> io::Result<StartedChild> {
    start_as(command, false).await
}

/// As [`start`], as the leader of a process group of its own.
///
/// # Errors
/// As for [`start`].
///
/// # Cancel safety
/// If the future is dropped, the child may have been started, and is killed with its group.
pub async fn start_group(mut command: Command) -> io::Result<StartedChild> {
    command.process_group(0);
    start_as(command, true).await
}

async fn start_as(command: Command, is_group: bool) -> io::Result<StartedChild> {
    let (started, child) = oneshot::channel();
    submit(Job { command, is_group, runtime: Handle::current(), started })?;
    child.await.unwrap_or_else(|_| Err(io::Error::other("the thread that starts processes failed")))
}

fn submit(job: Job) -> io::Result<()> {
    let mut jobs = JOBS.lock();
    if jobs.is_none() {
        let (sender, receiver) = mpsc::channel();
        std::thread::Builder::new().name("children".to_owned()).spawn(move || run(&receiver))?;
        *jobs = Some(sender);
    }
    let sent = jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
    if sent { Ok(()) } else { Err(io::Error::other("the thread that starts processes has ended")) }
}

fn run(jobs: &mpsc::Receiver<Job>) {
    for Job { command, is_group, runtime, started } in jobs {
        // All children would end with this thread.
        let child = catch_unwind(AssertUnwindSafe(|| start_here(command, is_group, &runtime)));
        let child = child.unwrap_or_else(|_| Err(io::Error::other("starting the process panicked")));
        // The receiver is gone if the caller no longer waits.
        started.send(child).ok();
    }
}

fn start_here(mut command: Command, is_group: bool, runtime: &Handle) -> io::Result<StartedChild> {
    let _context = runtime.enter();
    own_children::register(|| {
        let process = command.spawn()?;
        let pid = process.id();
        Ok((process, pid))
    })
    .map(|(process, own)| StartedChild { group: is_group.then(|| Group::led_by(&process)), process, _own: own })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_thread_that_is_not_of_the_runtime_starts_all_children() {
        // The kernel names the thread that a child belongs to in /proc/PID/task/TID/children.
        let parent_thread = async || {
            let mut command = Command::new("sleep");
            let child = start({
                command.arg("60").kill_on_drop(true);
                command
            })
            .await
            .unwrap();
            let pid = child.process.id().unwrap().to_string();
            let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
            let is_parent = |thread: &std::path::PathBuf| {
                std::fs::read_to_string(thread.join("children")).unwrap().split(' ').any(|known| known == pid)
            };
            let thread = threads.into_iter().find(is_parent).unwrap();
            std::fs::read_to_string(thread.join("comm")).unwrap()
        };
        assert_eq!((parent_thread().await.as_str(), parent_thread().await.as_str()), ("children\n", "children\n"));
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_an_error_and_the_thread_goes_on() {
        assert_eq!(start(Command::new("/nonexistent")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut child = start(Command::new("true")).await.unwrap();
        assert!(child.process.wait().await.unwrap().success());
    }

    /// As if the caller had not waited for the start.
    #[tokio::test]
    async fn a_group_that_is_not_taken_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("sleep 600 & echo $! > {}; wait", file.display())]).kill_on_drop(true);
        let child = start_group(command).await.unwrap();
        let pid = async {
            loop {
                let text = std::fs::read_to_string(&file).unwrap_or_default();
                if text.ends_with('\n') {
                    break text.trim().to_owned();
                }
                tokio::task::yield_now().await;
            }
        };
        let pid = pid.await;
        drop(child);
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let gone = async {
            while !state().is_empty() && !state().contains(") Z ") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.expect("the process still runs");
    }
}
