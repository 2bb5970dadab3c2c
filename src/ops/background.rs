//! Work for people who look, which gives way to calls.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// How far it gives way. *Spec*: sched(7), the lowest priority of a thread that still always gets on: beside a busy one
/// about a seventieth of a processor, and all of an idle one. *Measured*: `benches/inspect.rs`.
const NICE: i32 = 19;

/// Lowers the priority of this thread, and of those that it starts from now on, for good.
pub fn give_way() {
    // Linux keeps it by thread, see setpriority(2). Elsewhere the work is done all the same.
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "priority not lowered");
    }
}

/// Runs `work`, which may block, on a thread of its own that gives way to all others. What is returned has no value where
/// it panicked.
///
/// # Errors
/// The system has no thread.
pub(super) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        give_way();
        // Nobody waits where the one who asked went away.
        sender.send(work()).ok();
    };
    thread::Builder::new().name("inspect".to_owned()).spawn(run)?;
    Ok(receiver)
}
