//! The pauses between attempts to reach a backend again: to start its process, or to open a subscription.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry::{Backoff, RetryPolicy};

/// *Chosen*: a process that crashed once is back at once, and with its jitter no pause is longer than 30 s, so that a
/// backend that an operator has repaired is used soon.
const POLICY: RetryPolicy = RetryPolicy::new(Duration::from_millis(250), Duration::from_secs(20));

/// The uptime after which the pauses start at the first one again. *Chosen*: longer than most servers need to fail at
/// their start.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The pauses of one backend, or of one subscription at it.
#[derive(Debug)]
pub struct ReconnectBackoff(Backoff);

impl Default for ReconnectBackoff {
    fn default() -> Self {
        Self(Backoff::new(POLICY))
    }
}

impl ReconnectBackoff {
    /// The pause before the next attempt. `up_since` is the time at which the last attempt succeeded, if it did.
    pub fn next_pause(&mut self, up_since: Option<Instant>) -> Duration {
        if up_since.is_some_and(|since| since.elapsed() >= STABLE_AFTER) {
            self.0.reset();
        }
        self.0.next_pause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_30_s_and_start_again_after_a_stable_connection() {
        let mut retries = ReconnectBackoff(Backoff::new(RetryPolicy { jitter: 0.0, ..POLICY }));
        let pauses: Vec<_> = (0..8).map(|_| retries.next_pause(None).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16_000, 20_000]);
        let up_since = Instant::now();
        assert_eq!(retries.next_pause(Some(up_since)), POLICY.max, "a connection that fails at once is not stable");
        tokio::time::advance(STABLE_AFTER).await;
        assert_eq!(retries.next_pause(Some(up_since)), POLICY.first);
        assert_eq!(retries.next_pause(None), POLICY.first * 2);
        let mut jittered = ReconnectBackoff::default();
        assert!((0..1000).all(|_| jittered.next_pause(None) <= Duration::from_secs(30)));
    }
}
