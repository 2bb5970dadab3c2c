//! The timeouts of a request to a backend: one for its whole duration, and one for the silence between its messages.

use std::time::Duration;

use tokio::time::Instant;

use super::error::CallError;

/// The longest durations of a request.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Between two messages that belong to the request.
    pub idle: Duration,
    /// From its start to its response.
    pub total: Duration,
}

/// The clock of one request in progress, which ends the request when one of its [`Timeouts`] has passed.
#[derive(Debug)]
pub(super) struct RequestTimer {
    timeouts: Timeouts,
    idle_since: Instant,
    started: Instant,
}

impl RequestTimer {
    /// A timer that starts now.
    pub(super) fn new(timeouts: Timeouts) -> Self {
        let now = Instant::now();
        Self { timeouts, idle_since: now, started: now }
    }

    /// The same timer with an earlier start for the total timeout.
    pub(super) fn started_at(self, started: Instant) -> Self {
        Self { started, ..self }
    }

    /// A timer for a request that lasts until one side ends it, such as a subscription.
    pub(super) fn unlimited() -> Self {
        // *Derived*: far longer than any process lives, and within the range of the clock.
        let years = Duration::from_hours(24 * 365 * 30);
        Self::new(Timeouts { idle: years, total: years })
    }

    /// Starts the idle timeout again, after a message that belongs to the request.
    pub(super) fn reset_idle(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Waits for `future` until a timeout passes.
    ///
    /// # Errors
    /// [`CallError::TimedOut`].
    pub(super) async fn run<F: Future>(&self, future: F) -> Result<F::Output, CallError> {
        let Timeouts { idle, total } = self.timeouts;
        let (idle_end, total_end) = (self.idle_since + idle, self.started + total);
        let timed_out = |_| CallError::TimedOut { after: if total_end <= idle_end { total } else { idle } };
        tokio::time::timeout_at(idle_end.min(total_end), future).await.map_err(timed_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { idle: Duration::from_secs(2), total: Duration::from_secs(5) };

    async fn advance(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn message_resets_the_idle_timeout_and_not_the_total_one() {
        let mut timer = RequestTimer::new(TIMEOUTS);
        for _ in 0..4 {
            assert!(timer.run(advance(1)).await.is_ok());
            timer.reset_idle();
        }
        let total = timer.run(advance(2)).await;
        assert!(matches!(total, Err(CallError::TimedOut { after }) if after == TIMEOUTS.total));
        let idle = RequestTimer::new(TIMEOUTS).run(std::future::pending::<()>()).await;
        assert!(matches!(idle, Err(CallError::TimedOut { after }) if after == TIMEOUTS.idle));
    }
}
