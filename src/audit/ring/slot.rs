//! A record in the ring's window.

use std::sync::Arc;

use super::room::Room;
use crate::audit::record::AuditRecord;
use crate::audit::sync::Instant;

/// A record with its position in the stream, and the room that it uses in the window.
#[derive(Debug)]
pub struct Slot {
    /// The record.
    pub record: Arc<AuditRecord>,
    /// The room that the record uses, in bytes.
    pub(super) bytes: usize,
    /// The time at which the record was appended.
    pub(super) appended_at: Instant,
}

impl Slot {
    /// Creates a slot for `record`, which was appended at `appended_at`.
    #[must_use]
    pub fn new(record: Arc<AuditRecord>, appended_at: Instant) -> Self {
        Self { bytes: record.entry.size_bytes(), record, appended_at }
    }

    pub(super) fn room(&self) -> Room {
        Room { records: 1, bytes: self.bytes }
    }

    /// The room that `slots` use together.
    pub(super) fn room_of<'a>(slots: impl Iterator<Item = &'a Self>) -> Room {
        slots.fold(Room::default(), |total, slot| total.plus(slot.room()))
    }
}
