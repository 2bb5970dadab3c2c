//! Calls a second, from what was counted when somebody looked.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Over how long a rate is taken. *Chosen*: steady enough to read, quick enough to see a change.
const WINDOW: Duration = Duration::from_secs(10);

/// Looks that are closer together count as one. *Chosen*: it bounds the list, however many look.
const APART: Duration = Duration::from_millis(500);

/// Counts that were seen lately, oldest first.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<VecDeque<(Instant, u64)>>);

impl Rate {
    /// How many a second came lately, when `count` have come until `now`; `None` at the first look in a while.
    pub(super) fn seen(&self, count: u64, now: Instant) -> Option<f64> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while seen.front().is_some_and(|(then, _)| now.saturating_duration_since(*then) > WINDOW) {
            seen.pop_front();
        }
        let rate = seen.front().and_then(|(then, before)| {
            let span = now.saturating_duration_since(*then);
            #[expect(clippy::cast_precision_loss, reason = "of calls within seconds")]
            let rate = count.saturating_sub(*before) as f64 / span.as_secs_f64();
            (span >= APART).then_some(rate)
        });
        if seen.back().is_none_or(|(last, _)| now.saturating_duration_since(*last) >= APART) {
            seen.push_back((now, count));
        }
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_seconds_and_bounded() {
        let (rate, begin) = (Rate::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        assert_eq!(rate.seen(1_000, at(0)), None);
        assert_eq!(rate.seen(1_000, at(100)), None, "too soon");
        assert_eq!(rate.seen(1_020, at(2_000)), Some(10.0));
        for look in 0..100_000 {
            rate.seen(1_020, at(2_000 + look));
        }
        assert!(rate.0.lock().unwrap().len() <= 21);
        assert_eq!(rate.seen(1_020, at(102_000)), Some(0.0));
        assert_eq!(rate.seen(2_000, at(200_000)), None, "nobody looked for a while");
    }
}
