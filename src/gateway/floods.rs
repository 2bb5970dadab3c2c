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
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Kinds of refusals with an open window. *Derived*: 16 MiB at 4 KiB for the record that each may hold.
const KINDS_MAX: usize = 4096;

/// What makes refusals equal: a digest, so that it is small whatever it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind([u8; 32]);

/// The open windows.
#[derive(Debug)]
pub(super) struct Floods {
    /// Equal refusals of a window that are recorded by themselves.
    singles_max: u32,
    windows: HashMap<Kind, Window>,
    /// Records that could not be made yet.
    left: Vec<Flood>,
}

/// What happens to one refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is recorded by itself.
    Recorded,
    /// It is counted; the window's record stands for it.
    Counted,
}

/// The refusals that were counted in one window.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Flood {
    call: Call,
    outcome: Outcome,
    count: u64,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    singles: u32,
    flood: Option<Flood>,
}

impl Kind {
    /// The kind of a refusal; the parts are in a fixed order.
    pub(super) fn of(parts: &[Option<&str>]) -> Self {
        let mut text = Vec::new();
        for part in parts {
            // With its length before it, so that no two lists of parts give one text.
            text.extend(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            text.extend(part.unwrap_or_default().as_bytes());
        }
        Self(Digest::of(&text).0)
    }
}

impl Floods {
    /// Refusals of a kind are counted where more than `singles_max` of them come in a window.
    pub(super) fn new(singles_max: u32) -> Self {
        Self { singles_max, windows: HashMap::new(), left: Vec::new() }
    }

    /// What happens to a refusal of this kind; `record` makes what is kept of the first that is counted.
    pub(super) fn meet(&mut self, kind: Kind, now: Instant, record: impl FnOnce() -> (Call, Outcome)) -> Fate {
        if let Some(window) = self.windows.get_mut(&kind).filter(|window| !window.has_ended(now)) {
            if window.singles < self.singles_max {
                window.singles += 1;
                return Fate::Recorded;
            }
            if let Some(flood) = &mut window.flood {
                flood.count += 1;
            } else {
                let (call, outcome) = record();
                window.flood = Some(Flood { call, outcome, count: 1 });
            }
            return Fate::Counted;
        }
        // A window that has ended leaves its record to be made, and another begins.
        let ended = self.windows.remove(&kind).and_then(|window| window.flood);
        self.left.extend(ended);
        if self.windows.len() < KINDS_MAX {
            self.windows.insert(kind, Window { began: now, singles: 1, flood: None });
        }
        Fate::Recorded
    }

    /// Takes the floods whose windows have ended.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<Flood> {
        let windows = self.windows.extract_if(|_, window| window.has_ended(now));
        let ended: Vec<Flood> = windows.filter_map(|(_, window)| window.flood).collect();
        std::mem::take(&mut self.left).into_iter().chain(ended).collect()
    }

    /// Takes all, ended or not.
    pub(super) fn all(&mut self) -> Vec<Flood> {
        let open = self.windows.drain().filter_map(|(_, window)| window.flood);
        std::mem::take(&mut self.left).into_iter().chain(open).collect()
    }

    /// Takes back a flood that could not be recorded, to be tried again.
    pub(super) fn put_back(&mut self, flood: Flood) {
        // I6: as many as there may be windows; beyond that the pipeline's own count of refusals has it.
        if self.left.len() < KINDS_MAX {
            self.left.push(flood);
        }
    }
}

impl Flood {
    /// The halves of its record.
    pub(super) fn record(&self) -> (Call, Outcome) {
        let mut outcome = self.outcome.clone();
        if let Some(more) = self.count.checked_sub(1).filter(|more| *more > 0) {
            let message = outcome.error_message.unwrap_or_default();
            outcome.error_message = Some(format!("{message} (and {more} more like it in {} s)", WINDOW.as_secs()));
        }
        (self.call.clone(), outcome)
    }

    /// How many refusals it stands for.
    pub(super) fn count(&self) -> u64 {
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

    fn kind(name: &str) -> Kind {
        Kind::of(&[Some(name)])
    }

    fn messages(floods: &[Flood]) -> Vec<String> {
        floods.iter().map(|flood| flood.record().1.error_message.unwrap()).collect()
    }

    #[test]
    fn the_first_ones_are_recorded_and_the_rest_of_the_window_is_counted() {
        let (mut floods, begin) = (Floods::new(SINGLES), Instant::now());
        let fates: Vec<Fate> = (0..134).map(|_| floods.meet(kind("a"), begin, record)).collect();
        assert_eq!(fates.iter().filter(|fate| **fate == Fate::Recorded).count(), 10);
        assert_eq!(fates.last(), Some(&Fate::Counted));
        assert_eq!(floods.meet(kind("b"), begin, record), Fate::Recorded, "another kind has its own window");
        assert_eq!(floods.ended(begin + WINDOW.saturating_sub(Duration::from_millis(1))), []);
        let ended = floods.ended(begin + WINDOW);
        assert_eq!(messages(&ended), ["no (and 123 more like it in 10 s)"]);
        assert_eq!((ended[0].count(), floods.all()), (124, Vec::new()));
        assert_eq!(floods.meet(kind("a"), begin + WINDOW, record), Fate::Recorded, "another window");
    }

    #[test]
    fn one_that_is_counted_alone_is_recorded_as_it_was() {
        let (mut floods, begin) = (Floods::new(SINGLES), Instant::now());
        for _ in 0..=SINGLES {
            floods.meet(kind("a"), begin, record);
        }
        // Nobody asked for the ended window before the next refusal came.
        assert_eq!(floods.meet(kind("a"), begin + WINDOW, record), Fate::Recorded);
        assert_eq!(messages(&floods.ended(begin + WINDOW)), ["no"]);
    }

    #[test]
    fn i6_windows_are_bounded_and_more_kinds_are_recorded_one_by_one() {
        let (mut floods, begin) = (Floods::new(SINGLES), Instant::now());
        for name in 0..KINDS_MAX {
            floods.meet(kind(&name.to_string()), begin, record);
        }
        assert!((0..100).all(|_| floods.meet(kind("more"), begin, record) == Fate::Recorded));
        assert_eq!(floods.windows.len(), KINDS_MAX);
        assert!(floods.ended(begin + WINDOW).is_empty() && floods.windows.is_empty());
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let kinds = [
            Kind::of(&[Some("ab"), Some("c")]),
            Kind::of(&[Some("a"), Some("bc")]),
            Kind::of(&[Some("abc"), None]),
            Kind::of(&[Some("abc"), Some("")]),
        ];
        assert!((0..4).all(|idx| kinds[idx + 1..].iter().all(|other| *other != kinds[idx])));
    }

    proptest! {
        #[test]
        fn i2_every_refusal_is_recorded_or_counted_once(
            steps in proptest::collection::vec((0_u64..3000, "[a-c]", any::<bool>(), any::<bool>()), 0..200),
        ) {
            let (mut floods, mut now) = (Floods::new(SINGLES), Instant::now());
            let (mut recorded, mut taken) = (0_u64, 0_u64);
            for (idx, (wait, name, asks, fails)) in steps.iter().enumerate() {
                now += Duration::from_millis(*wait);
                recorded += u64::from(floods.meet(kind(name), now, record) == Fate::Recorded);
                for flood in if *asks { floods.ended(now) } else { Vec::new() } {
                    if *fails { floods.put_back(flood) } else { taken += flood.count() }
                }
                let open: u64 = floods.windows.values().filter_map(|window| window.flood.as_ref()).map(Flood::count).sum();
                let left: u64 = floods.left.iter().map(Flood::count).sum();
                prop_assert_eq!(recorded + taken + open + left, idx as u64 + 1);
            }
            taken += floods.all().iter().map(Flood::count).sum::<u64>();
            prop_assert_eq!(recorded + taken, steps.len() as u64);
        }
    }
}
