//! The one place where a test may sleep: asking again, at a bounded interval, until something holds.

use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is asked. *Chosen*: short against a process start, long against a system call.
const INTERVAL: Duration = Duration::from_millis(5);

/// How long most conditions may take. *Chosen*: far beyond what a loaded two-core machine needs.
pub const SOON: Duration = Duration::from_secs(30);

/// Waits until `holds` is true; panics with `what` after `deadline`.
pub fn until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        std::thread::sleep(INTERVAL);
    }
}

/// Waits until `holds` gives true; panics with `what` after `deadline`.
pub async fn until_async<F: Future<Output = bool>>(what: &str, deadline: Duration, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}
