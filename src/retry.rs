//! Exponential backoff with jitter, for every retry in the program.
//!
//! A [`RetryPolicy`] is a constant beside the code that retries; a [`Backoff`] is one sequence of its pauses. A
//! sequence never ends: the caller decides when to stop retrying. Jitter spreads the attempts of many backends, or of
//! many gateways, so that they do not all reach a restarted server at the same time.
//!
//! This is the only module that names the `backoff` crate.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// The growth of the pauses between attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The first interval. Each one after it is twice as long.
    pub first: Duration,
    /// The longest interval.
    pub max: Duration,
    /// By how much a pause may be shorter or longer than its interval, as a fraction of the interval from 0 to 1.
    pub jitter: f64,
}

/// The pauses of one series of attempts.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl RetryPolicy {
    /// A policy with the usual jitter. *Chosen*: half of the interval either way spreads attempts well and still lets a
    /// reader of the log recognise the interval.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, jitter: 0.5 }
    }
}

impl Backoff {
    /// A series whose next pause is the first one of `policy`.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        let RetryPolicy { first, max, jitter } = policy;
        let mut builder = ExponentialBackoffBuilder::new();
        builder.with_initial_interval(first.min(max)).with_max_interval(max).with_multiplier(2.0);
        // A fraction above 1 would make a pause negative.
        builder.with_randomization_factor(jitter.clamp(0.0, 1.0));
        // The crate's default ends the series after 15 minutes: the shipper would lose a record.
        builder.with_max_elapsed_time(None);
        Self(builder.build())
    }

    /// The pause before the next attempt. The one after it is longer, up to the policy's maximum.
    pub fn next_pause(&mut self) -> Duration {
        let max = self.0.max_interval;
        self.0.next_backoff().unwrap_or(max)
    }

    /// Begins the series again, after a success: the next pause is the first one.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: RetryPolicy =
        RetryPolicy { first: Duration::from_millis(250), max: Duration::from_secs(30), jitter: 0.0 };

    fn pauses(backoff: &mut Backoff, count: usize) -> Vec<u128> {
        (0..count).map(|_| backoff.next_pause().as_millis()).collect()
    }

    #[test]
    fn pauses_double_up_to_the_maximum_and_never_end() {
        let mut backoff = Backoff::new(EXACT);
        assert_eq!(pauses(&mut backoff, 9), [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert!(pauses(&mut backoff, 10_000).iter().all(|pause| *pause == 30_000));
    }

    #[test]
    fn reset_begins_with_the_first_pause() {
        let mut backoff = Backoff::new(EXACT);
        pauses(&mut backoff, 100);
        backoff.reset();
        assert_eq!(pauses(&mut backoff, 2), [250, 500]);
    }

    #[test]
    fn jitter_stays_within_its_fraction_and_spreads() {
        let policy = RetryPolicy::new(Duration::from_millis(100), Duration::from_millis(400));
        for (attempt, interval) in [100, 200, 400, 400].into_iter().enumerate() {
            let pause = |_| *pauses(&mut Backoff::new(policy), attempt + 1).last().unwrap();
            let seen: Vec<u128> = (0..1_000).map(pause).collect();
            assert!(seen.iter().all(|pause| (interval / 2..=interval * 3 / 2).contains(pause)), "{seen:?}");
            assert!(seen.iter().min() < seen.iter().max(), "no jitter at attempt {attempt}");
        }
    }

    #[test]
    fn first_pause_is_not_longer_than_the_maximum() {
        let (first, max) = (Duration::from_mins(1), Duration::from_secs(30));
        let mut backoff = Backoff::new(RetryPolicy { first, max, jitter: 0.0 });
        assert_eq!(pauses(&mut backoff, 2), [30_000, 30_000]);
    }

    #[test]
    fn jitter_outside_its_range_is_clamped() {
        for jitter in [-1.0, 2.0] {
            let mut backoff = Backoff::new(RetryPolicy { jitter, ..EXACT });
            assert!(backoff.next_pause() <= Duration::from_millis(501));
        }
    }
}
