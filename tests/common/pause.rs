//! Pauses, for tests that need a random moment or a slow peer rather than a state to wait for.

use std::time::Duration;

/// Blocks the thread for `time`.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Suspends the task for `time`.
pub async fn pause_async(time: Duration) {
    tokio::time::sleep(time).await;
}
