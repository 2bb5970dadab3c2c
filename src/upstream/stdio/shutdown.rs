//! The end of a child and of the processes that it started.
//!
//! *Spec*: MCP, "Lifecycle", "Shutdown, stdio": the input is closed, then comes SIGTERM, then SIGKILL. Here the signals
//! go to the child's process group: `npx` and shells start the server as a child of their own.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

/// The longest time that a child may take to end once its input is closed. *Chosen*: a server that watches its input
/// ends at once.
const INPUT_END_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest time that processes may take to end after SIGTERM. *Chosen*: enough to close a browser or a container,
/// and with the time above less than the 10 s that Docker leaves to a container that stops.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause between two looks at a process group. *Chosen*: not noticed by a person who stops the gateway.
const GROUP_PAUSE: Duration = Duration::from_millis(20);

/// The process group of a child. `None`: the child had ended when it was started.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    /// The group of a child that was just started, which is its leader.
    pub(super) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    /// Ends a child whose input is closed, and its descendants.
    pub(super) async fn end(self, alias: &str, child: &mut Child) {
        if child.id().is_none() {
            // It was waited for, and its descendants were ended then: the number may belong to another process.
            return;
        }
        for (timeout, signal) in [(INPUT_END_TIMEOUT, Signal::SIGTERM), (TERMINATION_TIMEOUT, Signal::SIGKILL)] {
            match tokio::time::timeout(timeout, child.wait()).await {
                Ok(Ok(status)) => {
                    tracing::info!(backend = alias, %status, "backend ended");
                    self.end_descendants(alias).await;
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(backend = alias, %error, "cannot wait for the backend to end; leaving it");
                    return;
                }
                Err(_) => {
                    tracing::info!(backend = alias, ?timeout, %signal, "backend has not ended; sending the signal");
                    self.signal(alias, signal);
                }
            }
        }
        match child.kill().await {
            Ok(()) => tracing::warn!(backend = alias, "backend did not end after SIGTERM; killed it"),
            Err(error) => tracing::warn!(backend = alias, %error, "cannot kill the backend; leaving it"),
        }
    }

    /// Ends what is left of the group after its leader has ended.
    pub(super) async fn end_descendants(self, alias: &str) {
        if !self.signal(alias, Signal::SIGTERM) {
            return;
        }
        let ended = async {
            while self.0.is_some_and(|group| killpg(group, None).is_ok()) {
                tokio::time::sleep(GROUP_PAUSE).await;
            }
        };
        if tokio::time::timeout(TERMINATION_TIMEOUT, ended).await.is_ok() {
            tracing::info!(backend = alias, "ended the processes that the backend left running");
        } else if self.signal(alias, Signal::SIGKILL) {
            tracing::warn!(backend = alias, "killed the processes that the backend left running");
        }
    }

    /// Sends a signal to the group. `false`: it has no process, or none that may be signalled.
    fn signal(self, alias: &str, signal: Signal) -> bool {
        let Some(group) = self.0 else { return false };
        match killpg(group, signal) {
            Ok(()) => true,
            Err(Errno::ESRCH) => false,
            Err(error) => {
                tracing::warn!(backend = alias, %signal, %error, "cannot signal the backend's processes; leaving them");
                false
            }
        }
    }
}
