//! How long a request may take: an absolute limit, and one on its silence.

use std::time::Duration;

use tokio::time::Instant;

use super::CallError;

/// The limits of one request that is under way.
#[derive(Debug)]
pub(super) struct Wait {
    idle: Duration,
    total: Duration,
    silent_since: Instant,
    begun: Instant,
}

impl Wait {
    pub(super) fn new(idle: Duration, total: Duration) -> Self {
        let now = Instant::now();
        Self { idle, total, silent_since: now, begun: now }
    }

    /// For what ends when somebody says so.
    pub(super) fn unlimited() -> Self {
        // *Derived*: far beyond any process's life, and within what the clock can add.
        let years = Duration::from_hours(24 * 365 * 30);
        Self::new(years, years)
    }

    /// A message of the request came.
    pub(super) fn heard(&mut self) {
        self.silent_since = Instant::now();
    }

    /// Waits for `future` as long as the limits allow.
    ///
    /// # Errors
    /// [`CallError::TimedOut`].
    pub(super) async fn limit<F: Future>(&self, future: F) -> Result<F::Output, CallError> {
        let (idle, total) = (self.silent_since + self.idle, self.begun + self.total);
        let timed_out = |_| CallError::TimedOut { after: if total <= idle { self.total } else { self.idle } };
        tokio::time::timeout_at(idle.min(total), future).await.map_err(timed_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn passes(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn progress_begins_the_silence_again_and_not_the_whole() {
        let mut wait = Wait::new(Duration::from_secs(2), Duration::from_secs(5));
        for _ in 0..4 {
            assert!(wait.limit(passes(1)).await.is_ok());
            wait.heard();
        }
        let whole = wait.limit(passes(2)).await;
        assert!(matches!(whole, Err(CallError::TimedOut { after }) if after == Duration::from_secs(5)));
        let silent = Wait::new(Duration::from_secs(2), Duration::from_secs(5));
        let silent = silent.limit(std::future::pending::<()>()).await;
        assert!(matches!(silent, Err(CallError::TimedOut { after }) if after == Duration::from_secs(2)));
    }
}
