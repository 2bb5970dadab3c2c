//! Work in a task that waits for a disk or computes for long.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` here, while another thread takes over the other tasks of this one, if the runtime has several. Unlike a
/// task of its own the work is never left behind: a task that is aborted has done it or has not begun it.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if matches!(flavor, Ok(RuntimeFlavor::MultiThread)) { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_of_the_thread_continue() {
        let (sender, receiver) = mpsc::channel();
        let working = tokio::spawn(async move {
            // It waits for a task that this thread would run next.
            tokio::spawn(async move { sender.send(()) });
            in_place(move || receiver.recv_timeout(Duration::from_secs(10)))
        });
        assert_eq!(working.await.unwrap(), Ok(()));
    }
}
