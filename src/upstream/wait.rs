//! How long a request may take: an absolute limit, and one on its silence; and how long to wait before something is tried
//! again.

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

/// The first pause; it doubles with each. *Chosen*.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause. *Chosen*: an operator who mends a backend waits no longer.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What went well for this long begins with the first pause again. *Chosen*.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// The pauses between tries of something that is to go on for ever.
#[derive(Debug)]
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(PAUSE_MIN)
    }
}

impl Pauses {
    /// How long to wait now that it has ended, which went well `since` then, if it did.
    pub fn next(&mut self, since: Option<Instant>) -> Duration {
        if since.is_some_and(|since| since.elapsed() >= STEADY_AFTER) {
            self.0 = PAUSE_MIN;
        }
        let longer = (self.0 * 2).min(PAUSE_MAX);
        std::mem::replace(&mut self.0, longer)
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

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_limit_and_begin_again_behind_what_went_well() {
        let mut pauses = Pauses::default();
        let first: Vec<_> = (0..9).map(|_| pauses.next(None).as_millis()).collect();
        assert_eq!(first, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        let since = Instant::now();
        assert_eq!(pauses.next(Some(since)), PAUSE_MAX);
        tokio::time::advance(STEADY_AFTER).await;
        assert_eq!([pauses.next(Some(since)), pauses.next(None)], [PAUSE_MIN, PAUSE_MIN * 2]);
    }
}
