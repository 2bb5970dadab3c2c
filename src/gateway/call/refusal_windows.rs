//! Deduplication of refusals: in a time window, the first equal refusals are recorded one by one, and the rest in one
//! record.
//!
//! Two refusals are equal if they have the same caller (the principal, or the address without one), status, method and
//! target. The record of a window represents all refusals that were counted in it. It is made from the first of them,
//! without the arguments, in which they may differ.
//!
//! The number of windows is bounded (I6). Refusals for which there is no room for a window are recorded one by one. The
//! caller passes the time and makes the records.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::audit::record::{Call, Digest, Outcome};

/// The length of a window. *Chosen*: records of refusals are late by at most this, and a loop of refusals makes at most
/// two records per second.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// Most open windows. *Derived*: 16 MiB at 4 KiB for the record of each.
const WINDOWS_MAX: usize = 4096;

/// The key of equal refusals: a digest, so that its size is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RefusalKey([u8; 32]);

/// The open windows.
#[derive(Debug)]
pub(crate) struct RefusalWindows {
    /// The number of equal refusals of a window that are recorded one by one.
    singles_max: u32,
    windows: HashMap<RefusalKey, Window>,
    /// Ended windows whose records are not made yet.
    pending: Vec<RefusalWindow>,
}

/// The treatment of one refusal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RefusalDecision {
    /// The refusal is recorded by itself.
    Recorded,
    /// The refusal is counted in the record of its window.
    Counted,
}

/// The refusals that were counted in one window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RefusalWindow {
    call: Call,
    outcome: Outcome,
    count: u64,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    singles: u32,
    counted: Option<RefusalWindow>,
}

impl RefusalKey {
    /// The key of a refusal with these parts, in a fixed order.
    pub(crate) fn of(parts: &[Option<&str>]) -> Self {
        let mut text = Vec::new();
        for part in parts {
            // Each part follows its length, so that different lists of parts give different texts.
            text.extend(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            text.extend(part.unwrap_or_default().as_bytes());
        }
        Self(Digest::of(&text).0)
    }
}

impl RefusalWindows {
    /// Counts equal refusals after the first `singles_max` of a window.
    pub(crate) fn new(singles_max: u32) -> Self {
        Self { singles_max, windows: HashMap::new(), pending: Vec::new() }
    }

    /// Decides on a refusal. `record` makes the record of its window, if it is the first to be counted there.
    pub(crate) fn observe(
        &mut self,
        key: RefusalKey,
        now: Instant,
        record: impl FnOnce() -> (Call, Outcome),
    ) -> RefusalDecision {
        if let Some(window) = self.windows.get_mut(&key).filter(|window| !window.has_ended(now)) {
            if window.singles < self.singles_max {
                window.singles += 1;
                return RefusalDecision::Recorded;
            }
            if let Some(window) = &mut window.counted {
                window.count += 1;
            } else {
                let (call, outcome) = record();
                window.counted = Some(RefusalWindow { call, outcome, count: 1 });
            }
            return RefusalDecision::Counted;
        }
        // The record of an ended window is still to be made; a new window begins.
        let ended = self.windows.remove(&key).and_then(|window| window.counted);
        self.pending.extend(ended);
        if self.windows.len() < WINDOWS_MAX {
            self.windows.insert(key, Window { began: now, singles: 1, counted: None });
        }
        RefusalDecision::Recorded
    }

    /// Removes the ended windows that counted refusals, and returns them.
    pub(crate) fn take_ended(&mut self, now: Instant) -> Vec<RefusalWindow> {
        let windows = self.windows.extract_if(|_, window| window.has_ended(now));
        let ended: Vec<RefusalWindow> = windows.filter_map(|(_, window)| window.counted).collect();
        std::mem::take(&mut self.pending).into_iter().chain(ended).collect()
    }

    /// Removes all windows that counted refusals, and returns them.
    pub(crate) fn take_all(&mut self) -> Vec<RefusalWindow> {
        let open = self.windows.drain().filter_map(|(_, window)| window.counted);
        std::mem::take(&mut self.pending).into_iter().chain(open).collect()
    }

    /// Adds a window again whose record could not be made.
    pub(crate) fn put_back(&mut self, window: RefusalWindow) {
        // I6: bounded like the windows; the audit pipeline counts a refusal that is dropped here.
        if self.pending.len() < WINDOWS_MAX {
            self.pending.push(window);
        }
    }
}

impl RefusalWindow {
    /// The call and the outcome of the window's record.
    pub(crate) fn record(&self) -> (Call, Outcome) {
        let mut outcome = self.outcome.clone();
        if let Some(more) = self.count.checked_sub(1).filter(|more| *more > 0) {
            let message = outcome.error_message.unwrap_or_default();
            outcome.error_message = Some(format!("{message} (and {more} more in {} s)", WINDOW.as_secs()));
        }
        (self.call.clone(), outcome)
    }

    /// The number of refusals that were counted.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

impl Window {
    fn has_ended(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= WINDOW
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SINGLES: u32 = 10;
    use crate::audit::record::{RequestId, Status};

    fn record() -> (Call, Outcome) {
        (Call::new(RequestId::new(), "tools/call"), Outcome::failed(Status::Denied, "no"))
    }

    fn key(name: &str) -> RefusalKey {
        RefusalKey::of(&[Some(name)])
    }

    fn messages(refusal_windows: &[RefusalWindow]) -> Vec<String> {
        refusal_windows.iter().map(|window| window.record().1.error_message.unwrap()).collect()
    }

    #[test]
    fn the_first_refusals_of_a_window_are_recorded_and_the_others_counted() {
        let (mut refusal_windows, begin) = (RefusalWindows::new(SINGLES), Instant::now());
        let decisions: Vec<RefusalDecision> =
            (0..134).map(|_| refusal_windows.observe(key("a"), begin, record)).collect();
        assert_eq!(decisions.iter().filter(|decision| **decision == RefusalDecision::Recorded).count(), 10);
        assert_eq!(decisions.last(), Some(&RefusalDecision::Counted));
        assert_eq!(
            refusal_windows.observe(key("b"), begin, record),
            RefusalDecision::Recorded,
            "a refusal with another key has a window of its own"
        );
        assert_eq!(refusal_windows.take_ended(begin + WINDOW.saturating_sub(Duration::from_millis(1))), []);
        let ended = refusal_windows.take_ended(begin + WINDOW);
        assert_eq!(messages(&ended), ["no (and 123 more in 10 s)"]);
        assert_eq!((ended[0].count(), refusal_windows.take_all()), (124, Vec::new()));
        assert_eq!(
            refusal_windows.observe(key("a"), begin + WINDOW, record),
            RefusalDecision::Recorded,
            "a new window"
        );
    }

    #[test]
    fn a_single_counted_refusal_is_recorded_unchanged() {
        let (mut refusal_windows, begin) = (RefusalWindows::new(SINGLES), Instant::now());
        for _ in 0..=SINGLES {
            refusal_windows.observe(key("a"), begin, record);
        }
        // The next refusal arrives before the ended window is taken.
        assert_eq!(refusal_windows.observe(key("a"), begin + WINDOW, record), RefusalDecision::Recorded);
        assert_eq!(messages(&refusal_windows.take_ended(begin + WINDOW)), ["no"]);
    }

    #[test]
    fn i6_windows_are_bounded_and_refusals_without_one_are_recorded_one_by_one() {
        let (mut refusal_windows, begin) = (RefusalWindows::new(SINGLES), Instant::now());
        for name in 0..WINDOWS_MAX {
            refusal_windows.observe(key(&name.to_string()), begin, record);
        }
        assert!((0..100).all(|_| refusal_windows.observe(key("more"), begin, record) == RefusalDecision::Recorded));
        assert_eq!(refusal_windows.windows.len(), WINDOWS_MAX);
        assert!(refusal_windows.take_ended(begin + WINDOW).is_empty() && refusal_windows.windows.is_empty());
    }

    #[test]
    fn different_parts_give_different_keys() {
        let keys = [
            RefusalKey::of(&[Some("ab"), Some("c")]),
            RefusalKey::of(&[Some("a"), Some("bc")]),
            RefusalKey::of(&[Some("abc"), None]),
            RefusalKey::of(&[Some("abc"), Some("")]),
        ];
        assert!((0..4).all(|idx| keys[idx + 1..].iter().all(|other| *other != keys[idx])));
    }

    proptest! {
        #[test]
        fn i2_every_refusal_is_recorded_or_counted_once(
            steps in proptest::collection::vec((0_u64..3000, "[a-c]", any::<bool>(), any::<bool>()), 0..200),
        ) {
            let (mut refusal_windows, mut now) = (RefusalWindows::new(SINGLES), Instant::now());
            let (mut recorded, mut taken) = (0_u64, 0_u64);
            for (idx, (pause, name, takes, fails)) in steps.iter().enumerate() {
                now += Duration::from_millis(*pause);
                recorded += u64::from(refusal_windows.observe(key(name), now, record) == RefusalDecision::Recorded);
                for window in if *takes { refusal_windows.take_ended(now) } else { Vec::new() } {
                    if *fails { refusal_windows.put_back(window) } else { taken += window.count() }
                }
                let open: u64 = refusal_windows.windows.values().filter_map(|window| window.counted.as_ref()).map(RefusalWindow::count).sum();
                let pending: u64 = refusal_windows.pending.iter().map(RefusalWindow::count).sum();
                prop_assert_eq!(recorded + taken + open + pending, idx as u64 + 1);
            }
            taken += refusal_windows.take_all().iter().map(RefusalWindow::count).sum::<u64>();
            prop_assert_eq!(recorded + taken, steps.len() as u64);
        }
    }
}
