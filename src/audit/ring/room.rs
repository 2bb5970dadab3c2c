//! The ring's room: how it is counted, and who may use how much of it.

use super::Slot;
use crate::audit::record::{Call, ERROR_BYTES_MAX};

/// Room for what a call's record holds beyond its intent, in bytes: the error message and the note of what was
/// normalised. *Derived* from [`ERROR_BYTES_MAX`] and the names of all fields.
pub(super) const OUTCOME_BYTES: usize = ERROR_BYTES_MAX + 256;

/// Room that is kept for the gateway's own records, which nobody reserves: one gap and the closing record. *Derived*:
/// each has a message and details of some 200 bytes besides the fixed part.
pub(super) const OWN_ROOM: Room = Room { records: 2, bytes: 2 * 2048 };

/// How much the ring may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records and intents.
    pub records: usize,
    /// Their size in bytes.
    pub bytes: usize,
}

/// Records and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// The room used by what the scribe has taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken(pub(super) Room);

/// Who asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A call that is about to begin.
    Call,
    /// The same, which goes on unaudited where there is no room.
    ContinuedCall,
    /// A record of what was refused.
    Refusal,
}

/// There was no room in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The ring is full.
    Full,
    /// The outbox is full.
    OutboxFull,
    /// The gateway is stopping.
    Closed,
    /// The scribe has failed.
    Failed,
}

/// The gateway is stopping, and the ring takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl Room {
    /// Room for a call's intent and for its record.
    pub(super) fn of_call(call: &Call) -> Self {
        Self { records: 2, bytes: 2 * call.size_bytes() + OUTCOME_BYTES }
    }

    /// The room that records take.
    pub(super) fn of<'a>(slots: impl Iterator<Item = &'a Slot>) -> Self {
        slots.fold(Self::default(), |all, slot| all.and(slot.room()))
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { records: self.records + other.records, bytes: self.bytes + other.bytes }
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self { records: self.records.saturating_sub(other.records), bytes: self.bytes.saturating_sub(other.bytes) }
    }

    pub(super) fn within(self, limits: Limits) -> bool {
        self.records <= limits.records && self.bytes <= limits.bytes
    }
}

impl Limits {
    /// What of it `asker` may use.
    pub(super) fn for_asker(self, asker: Asker) -> Self {
        match asker {
            // I6: an eighth of the ring is kept for refusals.
            Asker::Call | Asker::ContinuedCall => Limits { records: self.records / 8 * 7, bytes: self.bytes / 8 * 7 },
            Asker::Refusal => Limits {
                records: self.records.saturating_sub(OWN_ROOM.records),
                bytes: self.bytes.saturating_sub(OWN_ROOM.bytes),
            },
        }
    }
}
