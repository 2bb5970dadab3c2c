//! The ring as producers use it: waiting for room, and appending.

use std::sync::Arc;
use std::time::Duration;

use super::room::{AdmissionClass, AdmissionError, RingClosedError, Room};
use super::state::Ring;
use super::work::{Phase, StoredSender, UnrecordedCalls, WorkItem};
use crate::audit::codec;
use crate::audit::record::{Call, Entry, Timestamp};
use crate::audit::sync::{self, Instant};

/// Room in the ring, reserved for an intent or a record that is not appended yet. Dropping it gives the room back.
#[derive(Debug)]
pub struct Reservation {
    ring: Arc<Ring>,
    room: Room,
}

impl Ring {
    /// Waits up to `timeout` for the room for `call`'s intent and record.
    ///
    /// # Errors
    /// [`AdmissionError`]; if the ring or the outbox is full, the call is counted as refused.
    ///
    /// # Cancel safety
    /// Dropping the future reserves nothing.
    pub async fn reserve_call(self: &Arc<Self>, call: &Call, timeout: Duration) -> Result<Reservation, AdmissionError> {
        self.reserve(Room::of_call(call), AdmissionClass::Call, timeout, call.timestamp).await
    }

    /// Waits up to `timeout` for the room for a call that continues unaudited if there is none.
    ///
    /// # Errors
    /// [`AdmissionError`]; if the ring or the outbox is full, the call is counted as unaudited.
    pub async fn reserve_continued(
        self: &Arc<Self>,
        call: &Call,
        timeout: Duration,
    ) -> Result<Reservation, AdmissionError> {
        self.reserve(Room::of_call(call), AdmissionClass::UnauditedAllowed, timeout, call.timestamp).await
    }

    /// Adds room for `bytes` more to `reservation`, without waiting.
    ///
    /// # Errors
    /// [`AdmissionError`]; the reservation is unchanged, and nothing was counted.
    pub fn extend(self: &Arc<Self>, reservation: &mut Reservation, bytes: usize) -> Result<(), AdmissionError> {
        let mut more = self.try_reserve(Room { records: 0, bytes }, AdmissionClass::Call)?;
        reservation.room = reservation.room.plus(std::mem::take(&mut more.room));
        Ok(())
    }

    /// Waits up to `timeout` for the room for a record without an intent: of an event of the gateway, or of a request
    /// that the gateway answered itself.
    ///
    /// # Errors
    /// [`AdmissionError`]; if the ring is full, the event is counted as refused.
    pub async fn reserve_event(
        self: &Arc<Self>,
        entry: &Entry,
        timeout: Duration,
    ) -> Result<Reservation, AdmissionError> {
        let room = Room { records: 1, bytes: entry.size_bytes() };
        self.reserve(room, AdmissionClass::Event, timeout, entry.call.timestamp).await
    }

    /// Reserves the room for the record of a refused request, without waiting.
    ///
    /// # Errors
    /// [`AdmissionError`]; nothing was counted.
    pub fn try_reserve_refusal(self: &Arc<Self>, entry: &Entry) -> Result<Reservation, AdmissionError> {
        let room = Room { records: 1, bytes: entry.size_bytes() };
        self.try_reserve(room, AdmissionClass::Refusal)
    }

    /// Counts `count` refused requests, of which the first arrived at `first` and the last at `last`, in the next gap
    /// record. Returns `false` if nothing was counted, because no record follows any more.
    pub fn count_refused(&self, count: u64, first: Timestamp, last: Timestamp) -> bool {
        self.count_unrecorded(UnrecordedCalls { refused: count, unaudited: 0, first, last })
    }

    /// Appends the intent of `call`. It uses its part of `reservation`; the rest stays reserved for the record.
    ///
    /// # Errors
    /// [`RingClosedError`]; nothing was appended.
    ///
    /// # Panics
    /// If a field of `call` is longer than the constructors of [`Call`] allow.
    pub fn begin(
        &self,
        reservation: &mut Reservation,
        call: &Call,
        stored: Option<StoredSender>,
    ) -> Result<(), RingClosedError> {
        // Encoded here rather than by the scribe: there are many callers and one scribe.
        let frame = codec::encode_intent(call);
        let frame = frame.expect("every field of a call is bounded far below the limit of a frame when it is made");
        let room = reservation.take(call.size_bytes());
        self.append(WorkItem::Begin { request_id: call.request_id, frame: frame.into(), stored }, room, Room::default())
    }

    /// Appends a record and gives back the part of `reservation` that it does not use. `begun` says whether the call's
    /// intent was appended before.
    ///
    /// # Errors
    /// [`RingClosedError`]; nothing was appended. An open call keeps its stored intent and is recorded as `interrupted`
    /// at the next start.
    pub fn end(
        &self,
        mut reservation: Reservation,
        entry: Entry,
        begun: bool,
        stored: Option<StoredSender>,
    ) -> Result<(), RingClosedError> {
        let room = reservation.take(entry.size_bytes());
        // Given back under the same lock as the append, since every call passes here.
        let rest = std::mem::take(&mut reservation.room);
        self.append(WorkItem::End { record: entry.into(), begun, stored, appended_at: Instant::now() }, room, rest)
    }

    async fn reserve(
        self: &Arc<Self>,
        room: Room,
        class: AdmissionClass,
        timeout: Duration,
        arrived: Timestamp,
    ) -> Result<Reservation, AdmissionError> {
        let wait = async {
            let _waiting = WaitingProducer::new(self);
            loop {
                let mut notified = std::pin::pin!(self.room.notified());
                notified.as_mut().enable();
                match self.try_reserve(room, class) {
                    Err(AdmissionError::Full | AdmissionError::OutboxFull) => notified.await,
                    done => return done,
                }
            }
        };
        let result = match self.try_reserve(room, class) {
            Err(full @ (AdmissionError::Full | AdmissionError::OutboxFull)) => {
                sync::timeout(timeout, wait).await.unwrap_or(Err(full))
            }
            done => done,
        };
        if result.is_err() {
            let (refused, unaudited) = match class {
                AdmissionClass::UnauditedAllowed => (0, 1),
                AdmissionClass::Call | AdmissionClass::Event | AdmissionClass::Refusal => (1, 0),
            };
            self.count_unrecorded(UnrecordedCalls { refused, unaudited, first: arrived, last: arrived });
        }
        result
    }

    fn try_reserve(self: &Arc<Self>, room: Room, class: AdmissionClass) -> Result<Reservation, AdmissionError> {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(AdmissionError::Closed);
        }
        if state.scribe_failed {
            return Err(AdmissionError::Failed);
        }
        // I6: the outbox accepts the records of open calls when it is full, events up to a limit above the quota, and
        // refusals up to a limit below it, so that no refused caller uses up the room for calls.
        let full = match class {
            AdmissionClass::Call | AdmissionClass::UnauditedAllowed => state.capacity.full,
            AdmissionClass::Event => state.capacity.over,
            AdmissionClass::Refusal => state.capacity.calls_only,
        };
        if state.outbox_required && full {
            return Err(AdmissionError::OutboxFull);
        }
        // I6: the ring never exceeds its limits.
        let (fits, evicted) = state.make_room(room, self.limits.for_class(class));
        if !fits {
            return Err(AdmissionError::Full);
        }
        state.used = state.used.plus(room);
        state.reserved = state.reserved.plus(room);
        drop(state);
        drop(evicted);
        Ok(Reservation { ring: Arc::clone(self), room })
    }

    fn count_unrecorded(&self, more: UnrecordedCalls) -> bool {
        let mut state = self.lock();
        // I3: nothing may follow the record that closes the epoch, so a refusal during the shutdown is not recorded.
        if state.phase != Phase::Open {
            return false;
        }
        let unrecorded = state.unrecorded.get_or_insert(UnrecordedCalls { refused: 0, unaudited: 0, ..more });
        unrecorded.refused += more.refused;
        unrecorded.unaudited += more.unaudited;
        unrecorded.first = unrecorded.first.min(more.first);
        unrecorded.last = unrecorded.last.max(more.last);
        drop(state);
        self.work.notify_one();
        true
    }

    /// Appends `item`, which uses `room` of the reserved room, and gives `rest` of it back.
    fn append(&self, item: WorkItem, room: Room, rest: Room) -> Result<(), RingClosedError> {
        let mut state = self.lock();
        state.give_back(rest);
        // I3: nothing may follow the record that closes the epoch. A failed scribe would never take the item.
        if state.phase != Phase::Open || state.scribe_failed {
            state.give_back(room);
            return Err(RingClosedError);
        }
        state.reserved = state.reserved.minus(room);
        state.appended = state.appended.plus(room);
        // The scribe takes all items at once, so it only waits for the first one or for a certain number: it is woken
        // at most twice for each batch.
        state.items.push(item);
        let wakes_scribe = state.items.len() == 1 || state.items.len() == state.gather_count;
        let frees_room = state.waiting_count > 0 && rest != Room::default();
        drop(state);
        if wakes_scribe {
            self.work.notify_one();
        }
        if frees_room {
            self.room.notify_waiters();
        }
        Ok(())
    }
}

impl Reservation {
    /// Takes the room for one intent or record of `bytes` out of the reservation.
    fn take(&mut self, bytes: usize) -> Room {
        let taken = Room { records: 1.min(self.room.records), bytes: bytes.min(self.room.bytes) };
        self.room = self.room.minus(taken);
        taken
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.room == Room::default() {
            return;
        }
        self.ring.lock().give_back(self.room);
        self.ring.room.notify_waiters();
    }
}

/// Counts a producer in `waiting_count` until it is dropped.
struct WaitingProducer<'a>(&'a Ring);

impl<'a> WaitingProducer<'a> {
    fn new(ring: &'a Ring) -> Self {
        ring.lock().waiting_count += 1;
        Self(ring)
    }
}

impl Drop for WaitingProducer<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting_count -= 1;
    }
}
