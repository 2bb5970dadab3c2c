//! The alarms: what an operator has to know of at once, each by a name. `docs/runbook.md` has a section for each.
//!
//! A [`Board`] holds those that stand. An alarm is raised once when it begins and cleared when it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::audit::meter::Counter;
use crate::audit::record::Timestamp;

/// All alarms that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// The outbox is more than three quarters full.
    Capacity75,
    /// The outbox is nearly full, or its disk is.
    Capacity90,
    /// The outbox cannot store.
    OutboxFailed,
    /// A damaged file of the outbox was set aside.
    GenerationSetAside,
    /// A stream is forked.
    Fork,
    /// Postgres refused a record, which is in `audit_quarantine`.
    Quarantine,
    /// The oldest undelivered record is older than `alarms.delivery_behind_after`.
    DeliveryBehind,
    /// Delivery is held by an error that an operator has to mend.
    OperatorError,
    /// The wall clock was set by more than a moment.
    ClockStepped,
}

/// An alarm that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Which.
    pub alarm: Alarm,
    /// Since when.
    pub since: Timestamp,
    /// What was found.
    pub words: String,
}

/// The alarms that stand. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    standing: Mutex<BTreeMap<Alarm, Standing>>,
    raised: [Counter; Alarm::ALL.len()],
    /// Notices that could not be given.
    unnoticed: Counter,
}

impl Alarm {
    /// All, in the order of the runbook.
    pub const ALL: [Self; 9] = [
        Self::Capacity75,
        Self::Capacity90,
        Self::OutboxFailed,
        Self::GenerationSetAside,
        Self::Fork,
        Self::Quarantine,
        Self::DeliveryBehind,
        Self::OperatorError,
        Self::ClockStepped,
    ];

    /// Its name in logs, metrics, notices and the runbook.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Capacity75 => "capacity_75",
            Self::Capacity90 => "capacity_90",
            Self::OutboxFailed => "outbox_failed",
            Self::GenerationSetAside => "generation_set_aside",
            Self::Fork => "fork",
            Self::Quarantine => "quarantine",
            Self::DeliveryBehind => "delivery_behind",
            Self::OperatorError => "operator_error",
            Self::ClockStepped => "clock_stepped",
        }
    }
}

impl Serialize for Alarm {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Board {
    /// The alarms that stand.
    #[must_use]
    pub fn standing(&self) -> Vec<Standing> {
        self.lock().values().cloned().collect()
    }

    /// Whether one stands.
    #[must_use]
    pub fn stands(&self, alarm: Alarm) -> bool {
        self.lock().contains_key(&alarm)
    }

    /// Lets one stand; says whether it did not before.
    pub(super) fn raise(&self, alarm: Alarm, words: &str) -> bool {
        let standing = Standing { alarm, since: Timestamp::now(), words: words.to_owned() };
        let mut board = self.lock();
        let new = !board.contains_key(&alarm);
        board.entry(alarm).or_insert(standing);
        if let Some((_, counter)) = self.raised().find(|(known, _)| new && *known == alarm) {
            counter.add(1);
        }
        new
    }

    /// Takes one away; says whether it stood.
    pub(super) fn clear(&self, alarm: Alarm) -> bool {
        self.lock().remove(&alarm).is_some()
    }

    /// How often each was raised.
    pub fn raised(&self) -> impl Iterator<Item = (Alarm, &Counter)> {
        Alarm::ALL.into_iter().zip(&self.0.raised)
    }

    /// How many notices could not be given.
    #[must_use]
    pub fn unnoticed(&self) -> &Counter {
        &self.0.unnoticed
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Alarm, Standing>> {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
