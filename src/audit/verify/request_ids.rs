//! Request ids that more than one record has, found in bounded memory.
//!
//! A table has a tag of 32 bits for each id, at a place that the id's hash decides. An id whose tag is there already
//! is a candidate, and the caller asks the store whether two records really have it. With 5 million ids, about one
//! check in 300 finds a candidate that only one record has. The hash has a random key, so that a caller of a gateway
//! cannot choose ids that collide.

use std::hash::{BuildHasher, RandomState};

use crate::audit::record::{GatewayId, RequestId};

/// Most ids in the table; a longer trail is checked by the store itself. *Derived*: 43 MB at [`SLOTS_PER_3_IDS`].
const IDS_MAX: u64 = 8_000_000;

/// Slots for three ids, so that a search is short. *Chosen*: a load of three quarters.
const SLOTS_PER_3_IDS: u64 = 4;

/// Most candidates that are kept. *Chosen*: as many as a report lists at most; further ones are counted with them.
const CANDIDATES_MAX: usize = 10_000;

/// The table, and the candidates.
#[derive(Debug)]
pub(super) struct RequestIds {
    slots: Vec<u32>,
    key: RandomState,
    room: u64,
    candidates: Vec<(GatewayId, RequestId)>,
    is_complete: bool,
}

impl RequestIds {
    /// A table for so many ids.
    pub(super) fn new(ids: u64) -> Self {
        let room = ids.min(IDS_MAX);
        let slots = usize::try_from(room * SLOTS_PER_3_IDS / 3 + 1).unwrap_or(0);
        let is_complete = ids <= IDS_MAX;
        // I6: the memory does not grow with the trail.
        let slots = if is_complete { vec![0; slots] } else { Vec::new() };
        Self { slots, key: RandomState::new(), room, candidates: Vec::new(), is_complete }
    }

    /// Adds the id of a record.
    pub(super) fn add(&mut self, gateway_id: GatewayId, id: RequestId) {
        if !self.is_complete {
            return;
        }
        let Some(room) = self.room.checked_sub(1) else {
            (self.is_complete, self.slots) = (false, Vec::new());
            return;
        };
        let hash = self.key.hash_one((gateway_id, id));
        // Zero is an empty slot. The tag and the place are from different bits.
        let [.., a, b, c, d] = hash.to_be_bytes();
        let tag = u32::from_be_bytes([a, b, c, d]).max(1);
        let count = self.slots.len();
        let mut at = usize::try_from((u128::from(hash) * count as u128) >> 64).unwrap_or(0);
        while let Some(slot) = self.slots.get_mut(at) {
            if *slot == tag {
                if self.candidates.len() < CANDIDATES_MAX {
                    self.candidates.push((gateway_id, id));
                }
                return;
            }
            if *slot == 0 {
                (*slot, self.room) = (tag, room);
                return;
            }
            at = if at + 1 == count { 0 } else { at + 1 };
        }
    }

    /// The candidates; `None` if there were too many ids for the table.
    pub(super) fn candidates(&self) -> Option<&[(GatewayId, RequestId)]> {
        self.is_complete.then_some(&self.candidates)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const GATEWAY: GatewayId = GatewayId(Uuid::from_u128(7));

    fn id(number: u128) -> RequestId {
        RequestId(Uuid::from_u128(number))
    }

    #[test]
    fn i2_repeated_ids_are_found_and_others_are_not() {
        let mut ids = RequestIds::new(10_000);
        (0..5_000).for_each(|number| ids.add(GATEWAY, id(number)));
        assert_eq!(ids.candidates().unwrap(), []);
        ids.add(GatewayId(Uuid::nil()), id(17));
        assert_eq!(ids.candidates().unwrap(), [], "another gateway may have the same id");
        ids.add(GATEWAY, id(17));
        assert_eq!(ids.candidates().unwrap(), [(GATEWAY, id(17))]);
    }

    #[test]
    fn i6_the_table_does_not_grow() {
        let mut ids = RequestIds::new(10);
        let bytes = ids.slots.len();
        (0..10).for_each(|number| ids.add(GATEWAY, id(number)));
        assert!(ids.candidates().is_some() && ids.slots.len() == bytes);
        ids.add(GATEWAY, id(10));
        assert!(ids.candidates().is_none() && ids.slots.is_empty(), "the store is asked instead");
        assert!(RequestIds::new(IDS_MAX + 1).slots.is_empty());
    }
}
