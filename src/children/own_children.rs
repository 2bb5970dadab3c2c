//! The children that the runtime waits for.

use std::collections::BTreeSet;
use std::io;

use parking_lot::{Mutex, MutexGuard};

/// The process ids of children that were started and not dropped yet.
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A child among those that are left to the runtime. Dropping it removes the child: nothing waits for it any more.
#[derive(Debug)]
pub(super) struct OwnChild(u32);

/// Starts a child with `start`, which returns its process id, and registers it before anything else looks at children.
///
/// # Errors
/// The error of `start`.
pub(super) fn register<T>(start: impl FnOnce() -> io::Result<(T, Option<u32>)>) -> io::Result<(T, Option<OwnChild>)> {
    let mut own = OWN.lock();
    let (child, pid) = start()?;
    let registered = pid.map(|pid| {
        own.insert(pid);
        OwnChild(pid)
    });
    Ok((child, registered))
}

/// The process ids; while they are borrowed, no child is started.
pub(super) fn lock() -> MutexGuard<'static, BTreeSet<u32>> {
    OWN.lock()
}

impl Drop for OwnChild {
    fn drop(&mut self) {
        OWN.lock().remove(&self.0);
    }
}
