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
//! begun always fits. An eighth is kept for refusals. Stored records in the window are only a cache and make room when
//! it is needed; nothing else is ever evicted.
//!
//! Appending takes one short lock. There is no I/O and no await under it. The ring knows neither outbox nor Postgres.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::chain::Head;
use super::record::{AuditRecord, Call, ERROR_BYTES_MAX, Entry, Epoch, Seq, Timestamp};

/// Room for what a call's record holds beyond its intent, in bytes: the error message and the note of what was
/// normalised. *Derived* from [`ERROR_BYTES_MAX`] and the names of all fields.
const OUTCOME_BYTES: usize = ERROR_BYTES_MAX + 256;

/// How much the ring may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records and intents.
    pub records: usize,
    /// Their size in bytes.
    pub bytes: usize,
}

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

/// Where a gateway's life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Calls begin and end.
    Open,
    /// No call begins any more; the scribe empties the ring into the outbox and closes the epoch.
    Closing,
    /// All is stored, or can be no more; the shipper goes on.
    Closed,
    /// The scribe forgets what was delivered and ends.
    Finished,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    arrivals: Vec<Arrival>,
    window: VecDeque<Slot>,
    /// Reserved, arrived, held by the scribe or in the window.
    used: Room,
    /// All up to here is in the outbox.
    stored: Seq,
    /// All up to here is in Postgres.
    delivered: Seq,
    /// All up to here may be delivered.
    shippable: Seq,
    /// Watermarks that the scribe has not stored yet.
    watermarks: Vec<(Epoch, Head)>,
    missed: Option<Missed>,
    outbox_failed: bool,
}

/// Records and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Room {
    records: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    record: Arc<AuditRecord>,
    bytes: usize,
    arrived: Instant,
}

/// What producers append.
#[derive(Debug)]
pub enum Arrival {
    /// A call is about to be forwarded.
    Begin {
        /// The call.
        call: Box<Call>,
        /// Told when the intent is stored.
        stored: Option<oneshot::Sender<()>>,
    },
    /// A call has ended, was refused, or something happened to the gateway.
    End {
        /// The record without a place.
        entry: Box<Entry>,
        /// Whether its intent was begun before.
        begun: bool,
        /// Told when the record is stored.
        stored: Option<oneshot::Sender<()>>,
        /// When it was appended.
        arrived: Instant,
    },
}

/// Room in the ring that is held for something to come; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    ring: Arc<Ring>,
    room: Room,
}

/// Calls that could not be recorded one by one, since there was no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// How many.
    pub count: u64,
    /// The first one's arrival.
    pub first: Timestamp,
    /// The last one's arrival.
    pub last: Timestamp,
}

/// What the scribe takes at once.
#[derive(Debug)]
pub struct Work {
    /// All that arrived, in order.
    pub arrivals: Vec<Arrival>,
    /// Watermarks to store.
    pub watermarks: Vec<(Epoch, Head)>,
    /// Calls to account for.
    pub missed: Option<Missed>,
    /// The phase when it was taken.
    pub phase: Phase,
}

/// What the shipper finds at a place.
#[derive(Debug)]
pub enum Window {
    /// Records from that place on.
    Records(Vec<Arc<AuditRecord>>),
    /// That place is not in the window any more: the outbox has it.
    Older,
    /// Nothing there yet.
    Nothing,
}

/// How full and how far the ring is.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Gauge {
    /// Records and intents that are reserved, arrived or in the window.
    pub records: usize,
    /// Their size in bytes.
    pub bytes: usize,
    /// The last record with a place in the stream.
    pub stamped: Seq,
    /// The last stored one.
    pub stored: Seq,
    /// The last delivered one.
    pub delivered: Seq,
    /// Whether the outbox cannot store at the moment.
    pub outbox_failed: bool,
}

/// There was no room in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The ring is full.
    Full,
    /// The gateway is stopping.
    Closed,
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
            stored: head.seq,
            delivered: Seq::ZERO,
            shippable: head.seq,
            watermarks: Vec::new(),
            missed: None,
            outbox_failed: false,
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

    /// Waits up to `timeout` for the room of `call`'s intent and record.
    ///
    /// # Errors
    /// [`NoRoom`]; the call is counted as missed.
    ///
    /// # Cancel safety
    /// Nothing is reserved where the future is dropped.
    pub async fn reserve_call(self: &Arc<Self>, call: &Call, timeout: Duration) -> Result<Reservation, NoRoom> {
        let bytes = call.size_bytes();
        let room = Room { records: 2, bytes: 2 * bytes + OUTCOME_BYTES };
        // I6: an eighth of the ring is kept for refusals.
        let limits = Limits { records: self.limits.records / 8 * 7, bytes: self.limits.bytes / 8 * 7 };
        self.reserve(room, limits, timeout, call.timestamp).await
    }

    /// Waits up to `timeout` for the room of a record that was not begun.
    ///
    /// # Errors
    /// [`NoRoom`]; the call is counted as missed.
    pub async fn reserve_refusal(self: &Arc<Self>, entry: &Entry, timeout: Duration) -> Result<Reservation, NoRoom> {
        let room = Room { records: 1, bytes: entry.size_bytes() };
        self.reserve(room, self.limits, timeout, entry.call.timestamp).await
    }

    /// Appends an intent, which takes its part of `reservation`; the rest stays for the record.
    pub fn begin(&self, reservation: &mut Reservation, call: Call, stored: Option<oneshot::Sender<()>>) {
        let bytes = call.size_bytes();
        reservation.room.records -= 1;
        reservation.room.bytes -= bytes;
        self.append(Arrival::Begin { call: Box::new(call), stored });
    }

    /// Appends a record and gives back what it does not need of `reservation`.
    pub fn end(&self, mut reservation: Reservation, entry: Entry, begun: bool, stored: Option<oneshot::Sender<()>>) {
        reservation.room.records = reservation.room.records.saturating_sub(1);
        reservation.room.bytes = reservation.room.bytes.saturating_sub(entry.size_bytes());
        self.append(Arrival::End { entry: Box::new(entry), begun, stored, arrived: Instant::now() });
    }

    /// For the scribe: waits until there is work, at most `patience` where given, and takes all of it.
    #[must_use]
    pub fn take(&self, patience: Option<Duration>) -> Work {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut state = self.lock();
        let phase = state.phase;
        loop {
            let outdated = state.phase != phase || matches!(state.phase, Phase::Closing | Phase::Finished);
            if !state.arrivals.is_empty() || outdated {
                break;
            }
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                // Watermarks are worth a commit of their own only when nothing else comes for a while.
                None if !state.watermarks.is_empty() => WATERMARK_PATIENCE,
                None => Duration::MAX,
            };
            let had_watermarks = !state.watermarks.is_empty();
            let timed_out;
            (state, timed_out) = if left == Duration::MAX {
                (self.work.wait(state).unwrap_or_else(PoisonError::into_inner), false)
            } else {
                let (state, timeout) = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
                (state, timeout.timed_out())
            };
            if timed_out && (deadline.is_some() || had_watermarks) {
                break;
            }
        }
        Work {
            arrivals: std::mem::take(&mut state.arrivals),
            watermarks: std::mem::take(&mut state.watermarks),
            missed: state.missed.take(),
            phase: state.phase,
        }
    }

    /// For the scribe: waits `pause` between tries of a failing outbox; returns early where the phase is `Finished`.
    #[must_use]
    pub fn pause(&self, pause: Duration) -> Phase {
        let until = Instant::now() + pause;
        let mut state = self.lock();
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
    pub fn publish(&self, records: impl IntoIterator<Item = (Arc<AuditRecord>, Instant)>, taken: Taken) {
        let slot = |(record, arrived): (Arc<AuditRecord>, _)| {
            let bytes = record.entry.size_bytes();
            Slot { record, bytes, arrived }
        };
        let slots: Vec<Slot> = records.into_iter().map(slot).collect();
        let mut room = Room::default();
        slots.iter().for_each(|slot| room = room.and(Room { records: 1, bytes: slot.bytes }));
        let mut state = self.lock();
        state.used.records = state.used.records.saturating_sub(taken.0.records);
        state.used.bytes = state.used.bytes.saturating_sub(taken.0.bytes);
        state.used = state.used.and(room);
        if let Some(last) = slots.last() {
            state.shippable = last.record.place.seq;
        }
        state.window.extend(slots);
        drop(state);
        self.room.notify_waiters();
        self.shippable.notify_one();
    }

    /// For the scribe: all up to `seq` is in the outbox.
    pub fn stored(&self, seq: Seq) {
        let mut state = self.lock();
        state.stored = state.stored.max(seq);
        state.outbox_failed = false;
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
        let at = state.window.partition_point(|slot| slot.record.place.seq <= floor);
        state.window.range(at..).map(|slot| Arc::clone(&slot.record)).collect()
    }

    /// For the scribe: how long ago the oldest record arrived that is in no outbox and not delivered.
    #[must_use]
    pub fn oldest_only_queued(&self) -> Option<Duration> {
        let state = self.lock();
        let floor = state.stored.max(state.delivered);
        let at = state.window.partition_point(|slot| slot.record.place.seq <= floor);
        state.window.get(at).map(|slot| slot.arrived.elapsed())
    }

    /// For the scribe: whether all is delivered but for records younger than `age`.
    #[must_use]
    pub fn delivered_within(&self, age: Duration) -> bool {
        let state = self.lock();
        match state.window.front() {
            None => state.delivered == state.shippable,
            Some(slot) => slot.record.place.seq == state.delivered.next() && slot.arrived.elapsed() < age,
        }
    }

    /// For the shipper: records from `from` on, at most so many and so large together, but at least one.
    #[must_use]
    pub fn read_from(&self, from: Seq, records_max: usize, bytes_max: usize) -> Window {
        let state = self.lock();
        if from > state.shippable {
            return Window::Nothing;
        }
        let Some(front) = state.window.front().map(|slot| slot.record.place.seq) else { return Window::Older };
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
            while state.window.front().is_some_and(|slot| slot.record.place.seq <= head.seq) {
                delivered.extend(state.pop_front());
            }
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
            stamped: state.shippable,
            stored: state.stored,
            delivered: state.delivered,
            outbox_failed: state.outbox_failed,
        }
    }

    /// Whether more than half of the room is used by what could not make room for others.
    #[must_use]
    pub fn past_high_water(&self) -> bool {
        let state = self.lock();
        state.used.records > self.limits.records / 2 || state.used.bytes > self.limits.bytes / 2
    }

    /// Records that would be lost if the process ended now.
    #[must_use]
    pub fn only_in_memory(&self) -> usize {
        let state = self.lock();
        let floor = state.stored.max(state.delivered);
        let window = state.window.iter().filter(|slot| slot.record.place.seq > floor).count();
        let ends = state.arrivals.iter().filter(|arrival| matches!(arrival, Arrival::End { .. })).count();
        window + ends + usize::from(state.missed.is_some())
    }

    async fn reserve(
        self: &Arc<Self>,
        room: Room,
        limits: Limits,
        timeout: Duration,
        arrived: Timestamp,
    ) -> Result<Reservation, NoRoom> {
        let wait = async {
            loop {
                let mut notified = std::pin::pin!(self.room.notified());
                notified.as_mut().enable();
                match self.try_reserve(room, limits) {
                    Err(NoRoom::Full) => notified.await,
                    done => return done,
                }
            }
        };
        let result = match self.try_reserve(room, limits) {
            Err(NoRoom::Full) => tokio::time::timeout(timeout, wait).await.unwrap_or(Err(NoRoom::Full)),
            done => done,
        };
        if result.is_err() {
            self.miss(arrived);
        }
        result
    }

    fn try_reserve(self: &Arc<Self>, room: Room, limits: Limits) -> Result<Reservation, NoRoom> {
        // Dropped after the lock is given back: a record is a dozen allocations.
        let mut evicted = Vec::new();
        let mut state = self.lock();
        if state.phase != Phase::Open {
            return Err(NoRoom::Closed);
        }
        // I6: the ring never holds more than its limits.
        while !state.used.and(room).within(limits) {
            // Only what is stored as well makes room; nothing else is ever evicted.
            if state.window.front().is_none_or(|slot| slot.record.place.seq > state.stored) {
                return Err(NoRoom::Full);
            }
            evicted.extend(state.pop_front());
        }
        state.used = state.used.and(room);
        drop(state);
        Ok(Reservation { ring: Arc::clone(self), room })
    }

    fn miss(&self, arrived: Timestamp) {
        let mut state = self.lock();
        let missed = state.missed.get_or_insert(Missed { count: 0, first: arrived, last: arrived });
        missed.count += 1;
        missed.last = arrived;
    }

    fn append(&self, arrival: Arrival) {
        let mut state = self.lock();
        // After the epoch is closed nothing may follow. A call that is still open keeps its stored intent and becomes
        // `interrupted` at the next start; its receipt is dropped here, so nobody takes it for stored.
        if state.phase == Phase::Open {
            // The scribe takes all at once, so it waits only where there is nothing: one call of the kernel a batch.
            let first = state.arrivals.is_empty();
            state.arrivals.push(arrival);
            drop(state);
            if first {
                self.work.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the scribe waits before it stores watermarks alone. *Chosen*: long enough that a steady stream of calls
/// carries them along for nothing, short enough that an idle outbox is small.
const WATERMARK_PATIENCE: Duration = Duration::from_millis(500);

/// The room used by what the scribe has taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken(Room);

impl Taken {
    /// Adds one intent or record.
    pub fn add(&mut self, bytes: usize) {
        self.0 = self.0.and(Room { records: 1, bytes });
    }
}

impl State {
    fn pop_front(&mut self) -> Option<Slot> {
        let slot = self.window.pop_front()?;
        self.used.records = self.used.records.saturating_sub(1);
        self.used.bytes = self.used.bytes.saturating_sub(slot.bytes);
        Some(slot)
    }
}

impl Room {
    fn and(self, other: Self) -> Self {
        Self { records: self.records + other.records, bytes: self.bytes + other.bytes }
    }

    fn within(self, limits: Limits) -> bool {
        self.records <= limits.records && self.bytes <= limits.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.ring.lock();
        state.used.records = state.used.records.saturating_sub(self.room.records);
        state.used.bytes = state.used.bytes.saturating_sub(self.room.bytes);
        drop(state);
        self.ring.room.notify_waiters();
    }
}
