//! Floods of equal refusals: the first ones are recorded one by one, the rest of a window in one record with their count.
//!
//! Refusals are equal where who was refused, how, and what for are the same: the principal, or the address of one without;
//! the status; the method and the target. The record of a window stands for all that were counted in it. It is made of the
//! first of them, without arguments, which differ.
//!
//! What is kept is bounded (I6). Where there is no room for another kind of refusal, each of that kind is recorded by
//! itself. Time is given from outside; nothing here waits or records.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::audit::record::{Call, Digest, Outcome};

/// How long a window is. *Chosen*: what a record may lag behind; a loop of refusals leaves two records a second at most.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// Kinds of refusals with an open window. *Derived*: 16 MiB at 4 KiB for the record that each may hold.
const KINDS_MAX: usize = 4096;

/// What makes refusals equal: a digest, so that it is small whatever it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RefusalKey([u8; 32]);

/// The open windows.
#[derive(Debug)]
pub(crate) struct RefusalWindows {
    /// Equal refusals of a window that are recorded by themselves.
    singles_max: u32,
    windows: HashMap<RefusalKey, Window>,
    /// Records that could not be made yet.
    left: Vec<RefusalWindow>,
}

/// What happens to one refusal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RefusalDecision {
    /// It is recorded by itself.
    Recorded,
    /// It is counted; the window's record stands for it.
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
    /// The kind of a refusal; the parts are in a fixed order.
    pub(crate) fn of(parts: &[Option<&str>]) -> Self {
        let mut text = Vec::new();
        for part in parts {
            // With its length before it, so that no two lists of parts give one text.
            text.extend(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            text.extend(part.unwrap_or_default().as_bytes());
        }
        Self(Digest::of(&text).0)
    }
}

impl RefusalWindows {
    /// Refusals of a kind are counted where more than `singles_max` of them come in a window.
    pub(crate) fn new(singles_max: u32) -> Self {
        Self { singles_max, windows: HashMap::new(), left: Vec::new() }
    }

    /// What happens to a refusal of this kind; `record` makes what is kept of the first that is counted.
    pub(crate) fn observe(
        &mut self,
        kind: RefusalKey,
        now: Instant,
        record: impl FnOnce() -> (Call, Outcome),
    ) -> RefusalDecision {
        if let Some(window) = self.windows.get_mut(&kind).filter(|window| !window.has_ended(now)) {
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
        // A window that has ended leaves its record to be made, and another begins.
        let ended = self.windows.remove(&kind).and_then(|window| window.counted);
        self.left.extend(ended);
        if self.windows.len() < KINDS_MAX {
            self.windows.insert(kind, Window { began: now, singles: 1, counted: None });
        }
        RefusalDecision::Recorded
    }

    /// Takes the windows whose windows have ended.
    pub(crate) fn ended(&mut self, now: Instant) -> Vec<RefusalWindow> {
        let windows = self.windows.extract_if(|_, window| window.has_ended(now));
        let ended: Vec<RefusalWindow> = windows.filter_map(|(_, window)| window.counted).collect();
        std::mem::take(&mut self.left).into_iter().chain(ended).collect()
    }

    /// Takes all, ended or not.
    pub(crate) fn all(&mut self) -> Vec<RefusalWindow> {
        let open = self.windows.drain().filter_map(|(_, window)| window.counted);
        std::mem::take(&mut self.left).into_iter().chain(open).collect()
    }

    /// Takes back a window that could not be recorded, to be tried again.
    pub(crate) fn put_back(&mut self, window: RefusalWindow) {
        // I6: as many as there may be windows; beyond that the pipeline's own count of refusals has it.
        if self.left.len() < KINDS_MAX {
            self.left.push(window);
        }
    }
}

impl RefusalWindow {
    /// The halves of its record.
    pub(crate) fn record(&self) -> (Call, Outcome) {
        let mut outcome = self.outcome.clone();
        if let Some(more) = self.count.checked_sub(1).filter(|more| *more > 0) {
            let message = outcome.error_message.unwrap_or_default();
            outcome.error_message = Some(format!("{message} (and {more} more like it in {} s)", WINDOW.as_secs()));
        }
        (self.call.clone(), outcome)
    }

    /// How many refusals it stands for.
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

    fn kind(name: &str) -> RefusalKey {
        RefusalKey::of(&[Some(name)])
    }

    fn messages(refusal_windows: &[RefusalWindow]) -> Vec<String> {
        refusal_windows.iter().map(|window| window.record().1.error_message.unwrap()).collect()
    }

    #[test]
    fn the_first_ones_are_recorded_and_the_rest_of_the_window_is_counted() {
        let (mut refusal_windows, begin) = (RefusalWindows::new(SINGLES), Instant::now());
        let fates: Vec<RefusalDecision> = (0..134).map(|_| refusal_windows.observe(kind("a"), begin, record)).collect();
        assert_eq!(fates.iter().filter(|fate| **fate == RefusalDecision::Recorded).count(), 10);
        assert_eq!(fates.last(), Some(&RefusalDecision::Counted));
        assert_eq!(
            refusal_windows.observe(kind("b"), begin, record),
            RefusalDecision::Recorded,
            "another kind has its own window"
        );
        assert_eq!(refusal_windows.ended(begin + WINDOW.saturating_sub(Duration::from_millis(1))), []);
        let ended = refusal_windows.ended(begin + WINDOW);
        assert_eq!(messages(&ended), ["no (and 123 more like it in 10 s)"]);
        assert_eq!((ended[0].count(), refusal_windows.all()), (124, Vec::new()));
        assert_eq!(
            refusal_windows.observe(kind("a"), begin + WINDOW, record),
            RefusalDecision::Recorded,
            "another window"
        );
    }

    #[test]
    fn one_that_is_counted_alone_is_recorded_as_it_was() {
        let (mut refusal_windows, begin) = (RefusalWindows::new(SINGLES), Instant::now());
        for _ in 0..=SINGLES {
            refusal_windows.observe(kind("a"), begin, record);
        }
        // Nobody asked for the ended window before the next refusal came.
        assert_eq!(refusal_windows.observe(kind("a"), begin + WINDOW, record), RefusalDecision::Recorded);
        assert_eq!(messages(&refusal_windows.ended(begin + WINDOW)), ["no"]);
    }

    #[test]
    fn i6_windows_are_bounded_and_more_kinds_are_recorded_one_by_one() {
        let (mut refusal_windows, begin) = (RefusalWindows::new(SINGLES), Instant::now());
        for name in 0..KINDS_MAX {
            refusal_windows.observe(kind(&name.to_string()), begin, record);
        }
        assert!((0..100).all(|_| refusal_windows.observe(kind("more"), begin, record) == RefusalDecision::Recorded));
        assert_eq!(refusal_windows.windows.len(), KINDS_MAX);
        assert!(refusal_windows.ended(begin + WINDOW).is_empty() && refusal_windows.windows.is_empty());
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let kinds = [
            RefusalKey::of(&[Some("ab"), Some("c")]),
            RefusalKey::of(&[Some("a"), Some("bc")]),
            RefusalKey::of(&[Some("abc"), None]),
            RefusalKey::of(&[Some("abc"), Some("")]),
        ];
        assert!((0..4).all(|idx| kinds[idx + 1..].iter().all(|other| *other != kinds[idx])));
    }

    proptest! {
        #[test]
        fn i2_every_refusal_is_recorded_or_counted_once(
            steps in proptest::collection::vec((0_u64..3000, "[a-c]", any::<bool>(), any::<bool>()), 0..200),
        ) {
            let (mut refusal_windows, mut now) = (RefusalWindows::new(SINGLES), Instant::now());
            let (mut recorded, mut taken) = (0_u64, 0_u64);
            for (idx, (wait, name, asks, fails)) in steps.iter().enumerate() {
                now += Duration::from_millis(*wait);
                recorded += u64::from(refusal_windows.observe(kind(name), now, record) == RefusalDecision::Recorded);
                for window in if *asks { refusal_windows.ended(now) } else { Vec::new() } {
                    if *fails { refusal_windows.put_back(window) } else { taken += window.count() }
                }
                let open: u64 = refusal_windows.windows.values().filter_map(|window| window.counted.as_ref()).map(RefusalWindow::count).sum();
                let left: u64 = refusal_windows.left.iter().map(RefusalWindow::count).sum();
                prop_assert_eq!(recorded + taken + open + left, idx as u64 + 1);
            }
            taken += refusal_windows.all().iter().map(RefusalWindow::count).sum::<u64>();
            prop_assert_eq!(recorded + taken, steps.len() as u64);
        }
    }
}
