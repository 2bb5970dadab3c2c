//! The producers' side of the ring: waiting for room, and appending.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::room::{Asker, Room};
use super::{Arrival, Closed, Missed, NoRoom, Phase, Ring};
use crate::audit::codec;
use crate::audit::record::{Call, Entry, Timestamp};
use crate::audit::sync::{self, Instant};

/// Room in the ring that is held for something to come; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    ring: Arc<Ring>,
    room: Room,
}

impl Ring {
    /// Waits up to `timeout` for the room of `call`'s intent and record.
    ///
    /// # Errors
    /// [`NoRoom`]; where ring or outbox are full the call is counted as refused.
    ///
    /// # Cancel safety
    /// Nothing is reserved where the future is dropped.
    pub async fn reserve_call(self: &Arc<Self>, call: &Call, timeout: Duration) -> Result<Reservation, NoRoom> {
        self.reserve(Room::of_call(call), Asker::Call, timeout, call.timestamp).await
    }

    /// The same for a call that goes on unaudited where there is no room.
    ///
    /// # Errors
    /// [`NoRoom`]; where ring or outbox are full the call is counted as unaudited.
    pub async fn reserve_continued(self: &Arc<Self>, call: &Call, timeout: Duration) -> Result<Reservation, NoRoom> {
        self.reserve(Room::of_call(call), Asker::ContinuedCall, timeout, call.timestamp).await
    }

    /// Waits up to `timeout` for the room of a record that was not begun.
    ///
    /// # Errors
    /// [`NoRoom`]; where the ring is full the call is counted as missed.
    pub async fn reserve_refusal(self: &Arc<Self>, entry: &Entry, timeout: Duration) -> Result<Reservation, NoRoom> {
        let room = Room { records: 1, bytes: entry.size_bytes() };
        self.reserve(room, Asker::Refusal, timeout, entry.call.timestamp).await
    }

    /// Appends the intent of `call`, which takes its part of `reservation`; the rest stays for the record.
    ///
    /// # Errors
    /// [`Closed`]; nothing was appended.
    ///
    /// # Panics
    /// Where a field of `call` is longer than a [`Call`] can be made with.
    pub fn begin(
        &self,
        reservation: &mut Reservation,
        call: &Call,
        stored: Option<oneshot::Sender<()>>,
    ) -> Result<(), Closed> {
        // Here and not by the scribe: callers are many, and it is one.
        let frame = codec::encode_intent(call);
        let frame = frame.expect("every field of a call is bounded far below the limit of a frame when it is made");
        let taken = reservation.take(call.size_bytes());
        self.append(Arrival::Begin { request_id: call.request_id, frame: frame.into(), stored }, taken, Room::default())
    }

    /// Appends a record and gives back what it does not need of `reservation`.
    ///
    /// # Errors
    /// [`Closed`]; nothing was appended. A call that is still open keeps its stored intent and becomes `interrupted`
    /// at the next start.
    pub fn end(
        &self,
        mut reservation: Reservation,
        entry: Entry,
        begun: bool,
        stored: Option<oneshot::Sender<()>>,
    ) -> Result<(), Closed> {
        let taken = reservation.take(entry.size_bytes());
        // Under the same lock, since every call passes here.
        let rest = std::mem::take(&mut reservation.room);
        self.append(Arrival::End { record: entry.into(), begun, stored, arrived: Instant::now() }, taken, rest)
    }

    async fn reserve(
        self: &Arc<Self>,
        room: Room,
        asker: Asker,
        timeout: Duration,
        arrived: Timestamp,
    ) -> Result<Reservation, NoRoom> {
        let wait = async {
            let _waiting = Waiting::new(self);
            loop {
                let mut notified = std::pin::pin!(self.room.notified());
                notified.as_mut().enable();
                match self.try_reserve(room, asker) {
                    Err(NoRoom::Full | NoRoom::OutboxFull) => notified.await,
                    done => return done,
                }
            }
        };
        let result = match self.try_reserve(room, asker) {
            Err(full @ (NoRoom::Full | NoRoom::OutboxFull)) => sync::timeout(timeout, wait).await.unwrap_or(Err(full)),
            done => done,
        };
        if result.is_err() {
            self.miss(arrived, asker);
        }
        result
    }

    fn try_reserve(self: &Arc<Self>, room: Room, asker: Asker) -> Result<Reservation, NoRoom> {
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(NoRoom::Closed);
        }
        if state.failed {
            return Err(NoRoom::Failed);
        }
        // I6: outcomes of open calls and refusals still go into a full outbox, and refusals to their own limit.
        let full = if asker == Asker::Refusal { state.capacity.over } else { state.capacity.full };
        if state.outbox_depended_on && full {
            return Err(NoRoom::OutboxFull);
        }
        // I6: the ring never holds more than its limits.
        let (fits, evicted) = state.make_room(room, self.limits.for_asker(asker));
        if !fits {
            return Err(NoRoom::Full);
        }
        state.used = state.used.and(room);
        state.reserved = state.reserved.and(room);
        drop(state);
        drop(evicted);
        Ok(Reservation { ring: Arc::clone(self), room })
    }

    fn miss(&self, arrived: Timestamp, asker: Asker) {
        let mut state = self.lock();
        // I3: nothing may follow the record that closes the epoch, so a refusal while it is written has no record.
        if state.phase != Phase::Open {
            return;
        }
        let missed = state.missed.get_or_insert(Missed { refused: 0, unaudited: 0, first: arrived, last: arrived });
        match asker {
            Asker::ContinuedCall => missed.unaudited += 1,
            Asker::Call | Asker::Refusal => missed.refused += 1,
        }
        missed.last = arrived;
        drop(state);
        self.work.notify_one();
    }

    /// Appends what takes a part of the reserved room, and gives `rest` of it back.
    fn append(&self, arrival: Arrival, taken: Room, rest: Room) -> Result<(), Closed> {
        let mut state = self.lock();
        state.give_back(rest);
        // I3: nothing may follow the record that closes the epoch. Where the scribe failed nothing would be done with it.
        if state.phase != Phase::Open || state.failed {
            state.give_back(taken);
            return Err(Closed);
        }
        state.reserved = state.reserved.without(taken);
        state.arrived = state.arrived.and(taken);
        // The scribe takes all at once, so it waits only where there is nothing, or for a number: two calls of the
        // kernel a batch at most.
        state.arrivals.push(arrival);
        let wakes = state.arrivals.len() == 1 || state.arrivals.len() == state.gathered;
        let makes_room = state.waiting > 0 && rest != Room::default();
        drop(state);
        if wakes {
            self.work.notify_one();
        }
        if makes_room {
            self.room.notify_waiters();
        }
        Ok(())
    }
}

impl Reservation {
    /// Takes the room of one intent or record out of it.
    fn take(&mut self, bytes: usize) -> Room {
        let taken = Room { records: 1.min(self.room.records), bytes: bytes.min(self.room.bytes) };
        self.room = self.room.without(taken);
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

/// A producer that waits for room, while it does.
struct Waiting<'a>(&'a Ring);

impl<'a> Waiting<'a> {
    fn new(ring: &'a Ring) -> Self {
        ring.lock().waiting += 1;
        Self(ring)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}
