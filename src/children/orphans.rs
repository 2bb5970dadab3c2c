//! Orphans: processes whose parent has ended, and which the kernel gave to PID 1.

use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::own_children;

/// Pause between two searches. *Chosen*: processes often end together, and a zombie occupies only an entry in the
/// process table.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes the exit status of orphans that have ended, until `stop`. Returns at once unless this process is PID 1, to
/// which the kernel gives orphans.
pub async fn reap_orphans(stop: CancellationToken) {
    if std::process::id() != 1 {
        return;
    }
    let mut child_ended = match signal(SignalKind::child()) {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!(%error, "SIGCHLD cannot be received; zombies of backends' children will remain");
            return;
        }
    };
    loop {
        let orphans = tokio::task::spawn_blocking(reap).await.unwrap_or_default();
        if orphans > 0 {
            tracing::debug!(orphans, "reaped processes that backends left");
        }
        let next = async {
            tokio::time::sleep(PAUSE).await;
            child_ended.recv().await
        };
        if stop.run_until_cancelled(next).await.is_none() {
            return;
        }
    }
}

/// Reaps every zombie among this process's children that was not started here, and returns their number.
fn reap() -> usize {
    // No child is started meanwhile: a child that is not registered yet would look like an orphan.
    let own = own_children::lock();
    let orphans = zombies().into_iter().filter(|pid| !own.contains(pid));
    let reaped = orphans.filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).filter(|pid| {
        // An error means that there is no such child any more.
        waitpid(Some(*pid), WaitOptions::NOHANG).is_ok_and(|status| status.is_some())
    });
    reaped.count()
}

/// The process ids of this process's children that have ended and were not waited for.
fn zombies() -> Vec<u32> {
    let own = std::process::id();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_zombie = |pid: &u32| {
        // *Spec*: proc(5): `PID (COMMAND) STATE PPID ...`; a command may contain anything, parentheses too.
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat).into_owned();
        let Some((_, rest)) = stat.rsplit_once(')') else { return false };
        let mut fields = rest.split_ascii_whitespace();
        fields.next() == Some("Z") && fields.next().and_then(|ppid| ppid.parse().ok()) == Some(own)
    };
    pids.filter(is_zombie).collect()
}

#[cfg(test)]
mod tests {
    use rustix::process::{WaitId, WaitIdOptions};

    use super::*;
    use crate::children::start;

    /// Waits until `pid` has ended, and leaves it a zombie.
    fn wait_for_zombie(pid: u32) {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    }

    #[tokio::test]
    async fn a_zombie_that_was_not_started_here_is_reaped_and_own_children_are_left() {
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", "exit 7"]);
        let mut own = start(command).await.unwrap();
        // Started behind the back of the registry, as the kernel gives an orphan to PID 1.
        let mut strange = std::process::Command::new("true").spawn().unwrap();
        wait_for_zombie(strange.id());
        wait_for_zombie(own.process.id().unwrap());
        assert_eq!(reap(), 1);
        assert!(strange.try_wait().is_err(), "the orphan's status was taken");
        assert_eq!(own.process.wait().await.unwrap().code(), Some(7));
    }
}
