//! The ring: a bounded window over the stream, in memory.
//!
//! ```text
//!   producers            scribe                                 shipper
//!   begin, finish   ->   take   ->   publish (stamped)   ->   read_from ... delivered
//!   [ reserved | arrivals ]  [ held ]  [ window: stored ... only queued ]
//! ```
//!
//! Room is counted in records and in bytes, over everything that is reserved, arrived, held by the scribe or in the
//! window. `begin` reserves the room of its intent and of its outcome at once, so that the outcome of a call that was
//! begun always fits. An eighth is kept for refusals and the gateway's own records. Stored records in the window are only a cache and make room when
//! it is needed; nothing else is ever evicted.
//!
//! Appending takes one short lock. There is no I/O and no await under it. The ring knows neither outbox nor Postgres.

mod admission;
mod room;
mod work;

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::chain::Head;
use super::record::{AuditRecord, Epoch, Seq};
use super::sync::{Condvar, Instant, Mutex, MutexGuard, Notify};
pub use admission::Reservation;
use room::{Asker, Room};
pub use room::{Closed, Limits, NoRoom, Taken};
pub use work::{Arrival, Beat, Capacity, Gauge, Missed, Phase, Window, Work};

/// What producers, scribe and shipper share.
#[derive(Debug)]
pub struct Ring {
    limits: Limits,
    state: Mutex<State>,
    /// The scribe waits here.
    work: Condvar,
    /// Producers wait here for room.
    room: Notify,
    /// The shipper waits here for records.
    shippable: Notify,
    /// The shell waits here for a phase.
    turned: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    arrivals: Vec<Arrival>,
    window: VecDeque<Slot>,
    /// Reserved, arrived, held by the scribe or in the window.
    used: Room,
    /// The part of it that is reserved for what has not arrived.
    reserved: Room,
    /// The part of it that has arrived and was not taken yet.
    arrived: Room,
    /// The part of it that is stored records in the window, which make room when it is needed.
    cached: Room,
    /// Producers that wait for room.
    waiting: usize,
    /// All up to here is in the outbox.
    stored: Seq,
    /// All up to here is in Postgres.
    delivered: Seq,
    /// All up to here may be delivered.
    shippable: Seq,
    /// Watermarks that the scribe has not stored yet.
    watermarks: Vec<(Epoch, Head)>,
    /// How many arrivals the scribe waits for in [`Ring::gather`].
    gathered: usize,
    missed: Option<Missed>,
    outbox_failed: bool,
    /// Whether calls depend on the outbox.
    outbox_depended_on: bool,
    /// The scribe has failed: nothing is taken any more.
    failed: bool,
    capacity: Capacity,
    /// The scribe's sign of life.
    beat: Beat,
}

/// A record with its place, as it stands in the window.
#[derive(Debug)]
pub struct Slot {
    /// The record.
    pub record: Arc<AuditRecord>,
    /// The room that it takes, in bytes.
    bytes: usize,
    arrived: Instant,
}

impl Slot {
    /// A slot for `record`, which was appended at `arrived`.
    #[must_use]
    pub fn new(record: Arc<AuditRecord>, arrived: Instant) -> Self {
        Self { bytes: record.entry.size_bytes(), record, arrived }
    }

    fn room(&self) -> Room {
        Room { records: 1, bytes: self.bytes }
    }
}

impl Ring {
    /// A ring whose stream stands at `head`, all of it stored.
    #[must_use]
    pub fn new(limits: Limits, head: Head) -> Arc<Self> {
        let state = State {
            phase: Phase::Open,
            arrivals: Vec::new(),
            window: VecDeque::new(),
            used: Room::default(),
            reserved: Room::default(),
            arrived: Room::default(),
            cached: Room::default(),
            waiting: 0,
            stored: head.seq,
            delivered: Seq::ZERO,
            shippable: head.seq,
            watermarks: Vec::new(),
            gathered: 0,
            missed: None,
            outbox_failed: false,
            outbox_depended_on: false,
            failed: false,
            capacity: Capacity::default(),
            beat: Beat::default(),
        };
        Arc::new(Self {
            limits,
            state: Mutex::new(state),
            work: Condvar::new(),
            room: Notify::new(),
            shippable: Notify::new(),
            turned: Notify::new(),
        })
    }

    /// For the scribe: waits until there is work, at most `patience` where given, and takes all of it.
    #[must_use]
    pub fn take(&self, patience: Option<Duration>) -> Work {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut unhurried = None;
        let mut state = self.lock();
        let phase = state.phase;
        state.beat.resting = true;
        loop {
            let outdated = state.phase != phase || matches!(state.phase, Phase::Closing | Phase::Finished);
            if !state.arrivals.is_empty() || outdated {
                break;
            }
            if unhurried.is_none() && (!state.watermarks.is_empty() || state.missed.is_some()) {
                unhurried = Some(Instant::now() + UNHURRIED_PATIENCE);
            }
            let Some(until) = deadline.into_iter().chain(unhurried).min() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.beat = Beat { turns: state.beat.turns + 1, resting: false };
        Work {
            arrivals: std::mem::take(&mut state.arrivals),
            taken: Taken(std::mem::take(&mut state.arrived)),
            watermarks: std::mem::take(&mut state.watermarks),
            missed: state.missed.take(),
            phase: state.phase,
        }
    }

    /// For the scribe: waits up to `patience` until `count` have arrived; gives how many had. Returns early where the
    /// phase turns.
    pub fn gather(&self, count: usize, patience: Duration) -> usize {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        state.gathered = count;
        while state.arrivals.len() < count && state.phase == Phase::Open {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.gathered = 0;
        state.arrivals.len()
    }

    /// For the scribe: waits `pause` between tries of a failing outbox; returns early where the phase is `Finished`.
    #[must_use]
    pub fn pause(&self, pause: Duration) -> Phase {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        state.beat.turns += 1;
        while state.phase != Phase::Finished {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.phase
    }

    /// For the scribe: puts stamped records into the window. `taken` is the room that what it took has used so far.
    pub fn publish(&self, slots: Vec<Slot>, taken: Taken) {
        let room = Room::of(slots.iter());
        let mut state = self.lock();
        state.used = state.used.without(taken.0).and(room);
        if let Some(last) = slots.last() {
            state.shippable = last.record.position.seq;
        }
        let at = slots.partition_point(|slot| slot.record.position.seq <= state.stored);
        // The scribe says that they are stored before it publishes them: mostly all of them are, and are counted already.
        let cached = if at == slots.len() { room } else { Room::of(slots.iter().take(at)) };
        state.cached = state.cached.and(cached);
        state.window.extend(slots);
        // A shipper that was behind may have found them in the outbox, and delivered them, before they came here.
        let mut evicted = state.pop_delivered();
        let (_, more) = state.make_room(Room::default(), self.limits.for_asker(Asker::Refusal));
        evicted.extend(more);
        drop(state);
        drop(evicted);
        self.room.notify_waiters();
        self.shippable.notify_one();
    }

    /// For the scribe: all up to `seq` is in the outbox. Said before it is published, which may evict it.
    pub fn stored(&self, seq: Seq) {
        let mut state = self.lock();
        let [before, upto] = [state.stored, seq.max(state.stored)]
            .map(|seq| state.window.partition_point(|slot| slot.record.position.seq <= seq));
        state.cached = state.cached.and(Room::of(state.window.range(before..upto)));
        state.stored = state.stored.max(seq);
        state.outbox_failed = false;
        drop(state);
        self.room.notify_waiters();
    }

    /// For the scribe: how full the outbox is, and whether calls depend on it.
    pub fn set_capacity(&self, capacity: Capacity, depended_on: bool) {
        let mut state = self.lock();
        state.capacity = capacity;
        state.outbox_depended_on = depended_on;
        drop(state);
        self.room.notify_waiters();
    }

    /// For the scribe: watermarks that came since it took the last ones. They stay for the next taking.
    #[must_use]
    pub fn watermarks(&self) -> Vec<(Epoch, Head)> {
        self.lock().watermarks.clone()
    }

    /// The scribe has failed: no call begins any more.
    pub fn fail(&self) {
        let mut state = self.lock();
        (state.failed, state.outbox_failed) = (true, true);
        drop(state);
        self.room.notify_waiters();
    }

    /// For the scribe: the outbox cannot store.
    pub fn outbox_failed(&self) {
        self.lock().outbox_failed = true;
    }

    /// For the scribe: records that are in no outbox and not delivered, oldest first.
    #[must_use]
    pub fn only_queued(&self) -> Vec<Arc<AuditRecord>> {
        let state = self.lock();
        let floor = state.stored.max(state.delivered);
        let at = state.window.partition_point(|slot| slot.record.position.seq <= floor);
        state.window.range(at..).map(|slot| Arc::clone(&slot.record)).collect()
    }

    /// For the scribe: how long ago the oldest record arrived that is in no outbox and not delivered.
    #[must_use]
    pub fn oldest_only_queued(&self) -> Option<Duration> {
        let state = self.lock();
        let floor = state.stored.max(state.delivered);
        let at = state.window.partition_point(|slot| slot.record.position.seq <= floor);
        state.window.get(at).map(|slot| slot.arrived.elapsed())
    }

    /// For the scribe: whether all is delivered but for records younger than `age`.
    #[must_use]
    pub fn delivered_within(&self, age: Duration) -> bool {
        let state = self.lock();
        match state.window.front() {
            None => state.delivered == state.shippable,
            Some(slot) => slot.record.position.seq == state.delivered.next() && slot.arrived.elapsed() < age,
        }
    }

    /// For the shipper: records from `from` on, at most so many and so large together, but at least one.
    #[must_use]
    pub fn read_from(&self, from: Seq, records_max: usize, bytes_max: usize) -> Window {
        let state = self.lock();
        if from > state.shippable {
            return Window::Nothing;
        }
        let Some(front) = state.window.front().map(|slot| slot.record.position.seq) else { return Window::Older };
        if from < front {
            return Window::Older;
        }
        let skip = usize::try_from(from.0 - front.0).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |slot: &&Slot| {
            let first = bytes == 0;
            bytes += slot.bytes;
            first || bytes <= bytes_max
        };
        let records = state.window.iter().skip(skip).take(records_max).take_while(fits);
        Window::Records(records.map(|slot| Arc::clone(&slot.record)).collect())
    }

    /// For the shipper: waits until there is a record behind `seq`, or the epoch is closed.
    pub async fn shippable_behind(&self, seq: Seq) {
        loop {
            let notified = self.shippable.notified();
            {
                let state = self.lock();
                if state.shippable > seq || state.phase >= Phase::Closed {
                    return;
                }
            }
            notified.await;
        }
    }

    /// For the shipper: a stream was delivered up to `head`. `current` says whether it is this epoch's.
    pub fn delivered(&self, epoch: Epoch, head: Head, current: bool) {
        let mut state = self.lock();
        match state.watermarks.iter_mut().find(|(known, _)| *known == epoch) {
            Some((_, known)) => *known = head,
            None => state.watermarks.push((epoch, head)),
        }
        let mut delivered = Vec::new();
        if current {
            state.delivered = state.delivered.max(head.seq);
            delivered = state.pop_delivered();
        }
        drop(state);
        drop(delivered);
        self.room.notify_waiters();
        self.work.notify_one();
    }

    /// Turns to a later phase. Nothing happens where it was reached before.
    pub fn turn(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = state.phase.max(phase);
        drop(state);
        self.work.notify_all();
        self.room.notify_waiters();
        self.shippable.notify_waiters();
        self.shippable.notify_one();
        self.turned.notify_waiters();
    }

    /// Waits for `phase`.
    pub async fn reached(&self, phase: Phase) {
        loop {
            let mut turned = std::pin::pin!(self.turned.notified());
            turned.as_mut().enable();
            if self.phase() >= phase {
                return;
            }
            turned.await;
        }
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// How full and how far the ring is.
    #[must_use]
    pub fn gauge(&self) -> Gauge {
        let state = self.lock();
        Gauge {
            records: state.used.records,
            bytes: state.used.bytes,
            cached_records: state.cached.records,
            cached_bytes: state.cached.bytes,
            stamped: state.shippable,
            stored: state.stored,
            delivered: state.delivered,
            outbox_failed: state.outbox_failed,
            outbox: state.capacity,
        }
    }

    /// Whether the scribe goes on: what it did since it was asked last, and whether there is anything to do.
    #[must_use]
    pub fn beat(&self) -> Beat {
        let state = self.lock();
        Beat { resting: state.beat.resting && state.arrivals.is_empty(), ..state.beat }
    }

    /// For the scribe: whether records, with the `batch` that it made of what it has `taken`, take more than half of the
    /// room that open calls leave them. Spilling makes no room for these, nor for what it has not taken yet.
    #[must_use]
    pub fn past_high_water(&self, batch: &[Slot], taken: &Taken) -> bool {
        let batch = Room::of(batch.iter());
        let state = self.lock();
        let left = Room { records: self.limits.records, bytes: self.limits.bytes }.without(state.reserved);
        let window = state.used.without(state.reserved).without(state.arrived).without(taken.0);
        let records = window.and(batch);
        records.records > left.records / 2 || records.bytes > left.bytes / 2
    }

    /// Records that would be lost if the process ended now.
    #[must_use]
    pub fn only_in_memory(&self) -> usize {
        let state = self.lock();
        let floor = state.stored.max(state.delivered);
        let window = state.window.iter().filter(|slot| slot.record.position.seq > floor).count();
        let ends = state.arrivals.iter().filter(|arrival| matches!(arrival, Arrival::End { .. })).count();
        window + ends + usize::from(state.missed.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the scribe waits before it stores watermarks or a gap alone. *Chosen*: long enough that a steady stream of
/// calls carries them along for nothing and that refusals are counted together, short enough that an idle outbox is
/// small.
const UNHURRIED_PATIENCE: Duration = Duration::from_millis(500);

impl State {
    /// Evicts until `room` fits `limits`; says whether it does. Only what is stored makes room. What was evicted is
    /// dropped by the caller without the lock: a record is a dozen allocations.
    fn make_room(&mut self, room: Room, limits: Limits) -> (bool, Vec<Slot>) {
        let mut evicted = Vec::new();
        while !self.used.and(room).within(limits) {
            if self.window.front().is_none_or(|slot| slot.record.position.seq > self.stored) {
                return (false, evicted);
            }
            evicted.extend(self.pop_front());
        }
        (true, evicted)
    }

    fn give_back(&mut self, reserved: Room) {
        self.used = self.used.without(reserved);
        self.reserved = self.reserved.without(reserved);
    }

    fn pop_delivered(&mut self) -> Vec<Slot> {
        let delivered = self.window.partition_point(|slot| slot.record.position.seq <= self.delivered);
        (0..delivered).filter_map(|_| self.pop_front()).collect()
    }

    fn pop_front(&mut self) -> Option<Slot> {
        let slot = self.window.pop_front()?;
        self.used = self.used.without(slot.room());
        if slot.record.position.seq <= self.stored {
            self.cached = self.cached.without(slot.room());
        }
        Some(slot)
    }
}
