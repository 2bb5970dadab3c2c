//! Calls per second, from the counts at recent views.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time over which the rate is taken. *Chosen*: steady enough to read, quick enough to show a change.
const WINDOW: Duration = Duration::from_secs(10);

/// Views that are closer together count as one. *Chosen*: it bounds the list, however many viewers there are.
const MIN_INTERVAL: Duration = Duration::from_millis(500);

/// The counts at recent views, oldest first.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<VecDeque<(Instant, u64)>>);

impl Rate {
    /// Adds a view at which `count` calls had arrived. Returns the rate per second since the oldest view in [`WINDOW`],
    /// or `None` if that is less than [`MIN_INTERVAL`] ago or there is none.
    pub(super) fn add(&self, count: u64, now: Instant) -> Option<f64> {
        let mut views = self.0.lock();
        while views.front().is_some_and(|(then, _)| now.saturating_duration_since(*then) > WINDOW) {
            views.pop_front();
        }
        let rate = views.front().and_then(|(then, before)| {
            let span = now.saturating_duration_since(*then);
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = count.saturating_sub(*before) as f64 / span.as_secs_f64();
            (span >= MIN_INTERVAL).then_some(rate)
        });
        if views.back().is_none_or(|(last, _)| now.saturating_duration_since(*last) >= MIN_INTERVAL) {
            views.push_back((now, count));
        }
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_the_list_is_bounded() {
        let (rate, start) = (Rate::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(rate.add(1_000, at(0)), None);
        assert_eq!(rate.add(1_000, at(100)), None, "too soon");
        assert_eq!(rate.add(1_020, at(2_000)), Some(10.0));
        for view in 0..100_000 {
            rate.add(1_020, at(2_000 + view));
        }
        assert!(rate.0.lock().len() <= 21);
        assert_eq!(rate.add(1_020, at(102_000)), Some(0.0));
        assert_eq!(rate.add(2_000, at(200_000)), None, "the last view is too old");
    }
}
