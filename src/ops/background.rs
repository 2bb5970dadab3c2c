//! Threads of the lowest priority, for inspections: calls come first.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// The nice value of these threads. *Spec*: sched(7): the lowest priority of a thread that still always progresses,
/// with about a seventieth of the processor beside a busy thread, and all of an idle one. *Measured*:
/// `benches/inspect.rs`.
const NICE: i32 = 19;

/// Permanently lowers the priority of this thread and of the threads that it starts from now on.
pub fn lower_priority() {
    // Linux has a priority for each thread, see setpriority(2). Elsewhere the work is done at the normal priority.
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "priority not lowered");
    }
}

/// Runs `work`, which may block, on a new thread of the lowest priority. The receiver returns an error if `work`
/// panicked.
///
/// # Errors
/// The system cannot start a thread.
pub(super) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        lower_priority();
        // The receiver is gone if the caller no longer waits.
        sender.send(work()).ok();
    };
    thread::Builder::new().name("inspect".to_owned()).spawn(run)?;
    Ok(receiver)
}
