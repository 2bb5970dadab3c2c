//! The ring's room: how it is counted, and how much of it each class of request may use.

use crate::audit::record::{Call, ERROR_BYTES_MAX};

/// Room for the fields that a call's record has and its intent does not, in bytes: the error message and the list of
/// normalised fields; the response has room of its own. *Derived* from [`ERROR_BYTES_MAX`] and the names of all fields.
const OUTCOME_BYTES: usize = ERROR_BYTES_MAX + 320;

/// Room kept for the gateway's own records, which are never reserved: one gap record and the closing record.
/// *Derived*: each has a message and details of about 200 bytes besides the fixed part.
const GATEWAY_ROOM: Room = Room { records: 2, bytes: 2 * 2048 };

/// The capacity of the ring.
#[derive(Clone, Copy, Debug)]
pub struct RingLimits {
    /// The maximum number of records and intents.
    pub records: usize,
    /// Their maximum total size in bytes.
    pub bytes: usize,
}

/// An amount of room: a number of records and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// The room used by the work items that the scribe took, until it publishes their records.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchRoom(pub(super) Room);

/// The class of a request for room. It determines how much of the ring the request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdmissionClass {
    /// A call that is about to begin.
    Call,
    /// A call that continues unaudited if there is no room.
    UnauditedAllowed,
    /// The record of an event of the gateway, or of a request that the gateway answered itself.
    Event,
    /// The record of a refused request.
    Refusal,
}

/// The ring did not grant the room for a call, an event or a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionError {
    /// The ring had no room within the timeout: open calls, and records that are neither stored nor delivered, use it.
    Full,
    /// The outbox used up its quota or its disk, and made no room within the timeout.
    OutboxFull,
    /// The gateway is stopping: the ring is past [`Phase::Open`](super::Phase::Open).
    Closed,
    /// The scribe's thread panicked, so nothing would be stored.
    Failed,
}

/// Nothing more can be appended: the gateway is stopping, or the scribe has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingClosedError;

impl Room {
    /// The room for a call's intent and for its record.
    pub(super) fn of_call(call: &Call) -> Self {
        Self { records: 2, bytes: 2 * call.size_bytes() + OUTCOME_BYTES + call.response_room() }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { records: self.records + other.records, bytes: self.bytes + other.bytes }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self { records: self.records.saturating_sub(other.records), bytes: self.bytes.saturating_sub(other.bytes) }
    }

    pub(super) fn fits(self, limits: RingLimits) -> bool {
        self.records <= limits.records && self.bytes <= limits.bytes
    }
}

impl RingLimits {
    /// The part of the ring that requests of `class` may use.
    pub(super) fn for_class(self, class: AdmissionClass) -> Self {
        match class {
            // I6: the last quarter of the ring is kept for calls and events, and the last eighth for events.
            AdmissionClass::Refusal => Self { records: self.records / 4 * 3, bytes: self.bytes / 4 * 3 },
            AdmissionClass::Call | AdmissionClass::UnauditedAllowed => {
                Self { records: self.records / 8 * 7, bytes: self.bytes / 8 * 7 }
            }
            AdmissionClass::Event => Self {
                records: self.records.saturating_sub(GATEWAY_ROOM.records),
                bytes: self.bytes.saturating_sub(GATEWAY_ROOM.bytes),
            },
        }
    }
}
