//! Pauses between tries. This is the only module that names the backoff crate.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// Growing pauses with jitter, without an end.
#[derive(Debug)]
pub struct Retry(ExponentialBackoff);

impl Retry {
    /// For what passes by itself: from 50 ms to 5 s. *Chosen*: a restarted server is found within seconds, a dead one
    /// is asked a dozen times a minute.
    #[must_use]
    pub fn transient() -> Self {
        Self::between(Duration::from_millis(50), Duration::from_secs(5))
    }

    /// For what somebody has to mend: from 1 s to 30 s. *Chosen*: the mended one is noticed within half a minute.
    #[must_use]
    pub fn operator() -> Self {
        Self::between(Duration::from_secs(1), Duration::from_secs(30))
    }

    fn between(first: Duration, longest: Duration) -> Self {
        let mut builder = ExponentialBackoffBuilder::new();
        builder.with_initial_interval(first).with_max_interval(longest).with_multiplier(2.0);
        // The crate's default gives up after 15 minutes: a record would be lost.
        builder.with_max_elapsed_time(None);
        Self(builder.build())
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let longest = self.0.max_interval;
        self.0.next_backoff().unwrap_or(longest)
    }

    /// Begins again with the first pause.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_never_end() {
        let mut retry = Retry::transient();
        let pauses: Vec<_> = (0..10_000).map(|_| retry.next_pause()).collect();
        assert!(pauses[0] <= Duration::from_millis(75));
        let longest = Duration::from_millis(7_500);
        assert!(pauses[9_000..].iter().all(|pause| *pause > Duration::from_secs(2) && *pause <= longest));
    }
}
