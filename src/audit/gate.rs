//! The gate before the pipeline: closed while evidence is missing and calls must not continue without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The time of a gate that is never closed.
const ALWAYS: u64 = u64::MAX;

/// The gate that each call passes. Cheap to clone. It is open until the notary first closes it. From then on it is open
/// for a time only, so that a notary that hangs or has ended lets no call through.
#[derive(Clone, Debug)]
pub struct Gate {
    begun: Instant,
    /// Milliseconds since `begun` until which it is open.
    open_until: Arc<AtomicU64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { begun: Instant::now(), open_until: Arc::new(AtomicU64::new(ALWAYS)) }
    }
}

impl Gate {
    /// Closes the gate. Calls that have begun are not affected.
    pub fn close(&self) {
        self.open_until.store(0, Ordering::Relaxed);
    }

    /// Opens the gate for this long from now on.
    pub fn open_for(&self, duration: Duration) {
        let until = self.begun.elapsed().saturating_add(duration).as_millis();
        self.open_until.store(u64::try_from(until).unwrap_or(ALWAYS - 1), Ordering::Relaxed);
    }

    /// Returns true if calls must not begin.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let until = self.open_until.load(Ordering::Relaxed);
        until != ALWAYS && self.begun.elapsed().as_millis() >= u128::from(until)
    }
}
