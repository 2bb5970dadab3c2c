//! The ring's lock, the state that it protects, and the signals between the ring's users.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use super::room::{RingLimits, Room};
use super::slot::Slot;
use super::work::{Finding, Heartbeat, OutboxCapacity, Phase, RingGauge, UnrecordedCalls, Watermarks, WorkItem};
use crate::audit::chain::Head;
use crate::audit::record::{Digest, Seq};
use crate::audit::sync::{Condvar, Mutex, MutexGuard, Notify};

/// The ring, shared by producers, scribe and shipper.
#[derive(Debug)]
pub struct Ring {
    pub(super) limits: RingLimits,
    state: Mutex<RingState>,
    /// Wakes the scribe: there is work, or the phase has changed.
    pub(super) work: Condvar,
    /// Wakes producers that wait for room.
    pub(super) room: Notify,
    /// Wakes the shipper: there are records to deliver, or the phase has changed.
    pub(super) shippable: Notify,
    /// Wakes the tasks that wait for a phase.
    phase_changed: Notify,
}

/// The state behind the ring's lock.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a state of its own")]
pub(super) struct RingState {
    pub(super) phase: Phase,
    /// Appended by producers and not yet taken by the scribe.
    pub(super) items: Vec<WorkItem>,
    pub(super) window: VecDeque<Slot>,
    /// Room for everything: reserved, in `items`, in the scribe's batch and in the window.
    pub(super) used: Room,
    /// The part of `used` that is reserved for records that are not appended yet.
    pub(super) reserved: Room,
    /// The part of `used` that `items` use.
    pub(super) appended: Room,
    /// Delivered records that the scribe has still to store, so that they are kept (level `queued`). They make room
    /// when it is needed.
    pub(super) unkept: VecDeque<Slot>,
    /// True if delivered records that are not stored become unkept ones.
    pub(super) keeps: bool,
    /// The part of `used` that `unkept` uses.
    pub(super) unkept_room: Room,
    /// The part of `used` that stored records in the window use. They are evicted when room is needed.
    pub(super) cached: Room,
    /// The number of producers that wait for room.
    pub(super) waiting_count: usize,
    /// The last record that is in the outbox.
    pub(super) stored: Seq,
    /// The last record that is in Postgres.
    pub(super) delivered: Seq,
    /// Its hash.
    pub(super) delivered_hash: Digest,
    /// The last record that the shipper may deliver.
    pub(super) shippable: Seq,
    /// Delivery watermarks that the scribe has not stored yet.
    pub(super) watermarks: Watermarks,
    /// Findings of the shipper that the scribe has not taken yet.
    pub(super) findings: Vec<Finding>,
    /// The number of requests for a turn of the scribe, which has something to do that is not in the ring.
    pub(super) turns_wanted: usize,
    /// The number of work items for which the scribe waits in [`Ring::gather`].
    pub(super) gather_count: usize,
    pub(super) unrecorded: Option<UnrecordedCalls>,
    pub(super) outbox_failed: bool,
    /// True if calls need the outbox. At level `queued` they do not while the scribe does not spill.
    pub(super) outbox_required: bool,
    /// The scribe has failed: nothing is taken any more.
    pub(super) scribe_failed: bool,
    pub(super) capacity: OutboxCapacity,
    pub(super) heartbeat: Heartbeat,
}

impl Ring {
    /// Creates a ring whose stream ends at `head`, with all records up to there stored.
    #[must_use]
    pub fn new(limits: RingLimits, head: Head) -> Arc<Self> {
        let state = RingState {
            phase: Phase::Open,
            items: Vec::new(),
            window: VecDeque::new(),
            used: Room::default(),
            reserved: Room::default(),
            appended: Room::default(),
            unkept: VecDeque::new(),
            keeps: false,
            unkept_room: Room::default(),
            cached: Room::default(),
            waiting_count: 0,
            stored: head.seq,
            delivered: Seq::ZERO,
            delivered_hash: Digest::ZERO,
            shippable: head.seq,
            watermarks: Watermarks::default(),
            findings: Vec::new(),
            turns_wanted: 0,
            gather_count: 0,
            unrecorded: None,
            outbox_failed: false,
            outbox_required: false,
            scribe_failed: false,
            capacity: OutboxCapacity::default(),
            heartbeat: Heartbeat::default(),
        };
        Arc::new(Self {
            limits,
            state: Mutex::new(state),
            work: Condvar::new(),
            room: Notify::new(),
            shippable: Notify::new(),
            phase_changed: Notify::new(),
        })
    }

    /// Advances to a later phase. Does nothing if the ring has already reached it.
    pub fn advance_phase(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = state.phase.max(phase);
        drop(state);
        self.work.notify_all();
        self.room.notify_waiters();
        self.shippable.notify_waiters();
        self.shippable.notify_one();
        self.phase_changed.notify_waiters();
    }

    /// Waits until the ring reaches `phase`.
    pub async fn wait_for_phase(&self, phase: Phase) {
        loop {
            let mut changed = std::pin::pin!(self.phase_changed.notified());
            changed.as_mut().enable();
            if self.phase() >= phase {
                return;
            }
            changed.await;
        }
    }

    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// The ring's fill level and positions.
    #[must_use]
    pub fn gauge(&self) -> RingGauge {
        let state = self.lock();
        RingGauge {
            records: state.used.records,
            bytes: state.used.bytes,
            cached_records: state.cached.records + state.unkept_room.records,
            cached_bytes: state.cached.bytes + state.unkept_room.bytes,
            stamped: state.shippable,
            stored: state.stored,
            delivered: state.delivered,
            delivered_hash: state.delivered_hash,
            outbox_failed: state.outbox_failed,
            outbox: state.capacity,
        }
    }

    /// The scribe's heartbeat, for a watchdog that compares two of them.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        let state = self.lock();
        Heartbeat { idle: state.heartbeat.idle && state.items.is_empty(), ..state.heartbeat }
    }

    /// The number of records that would be lost if the process ended now.
    #[must_use]
    pub fn queued_only_count(&self) -> usize {
        let state = self.lock();
        let floor = state.stored.max(state.delivered);
        let window = state.window.iter().filter(|slot| slot.record.position.seq > floor).count();
        let ends = state.items.iter().filter(|item| matches!(item, WorkItem::End { .. })).count();
        window + ends + usize::from(state.unrecorded.is_some())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, RingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RingState {
    /// Evicts delivered and stored records until `room` fits within `limits`; returns whether it fits, and the evicted
    /// records. The caller drops them without the lock, since freeing a record takes a dozen deallocations.
    pub(super) fn make_room(&mut self, room: Room, limits: RingLimits) -> (bool, Vec<Slot>) {
        let mut evicted = Vec::new();
        while !self.used.plus(room).fits(limits) {
            if let Some(unkept) = self.pop_unkept() {
                evicted.push(unkept);
                continue;
            }
            if self.window.front().is_none_or(|slot| slot.record.position.seq > self.stored) {
                return (false, evicted);
            }
            evicted.extend(self.pop_front());
        }
        (true, evicted)
    }

    /// Returns reserved room to the ring.
    pub(super) fn give_back(&mut self, reserved: Room) {
        self.used = self.used.minus(reserved);
        self.reserved = self.reserved.minus(reserved);
    }

    /// Removes the delivered records from the window and returns those that need not be kept.
    pub(super) fn pop_delivered(&mut self) -> Vec<Slot> {
        let delivered = self.window.partition_point(|slot| slot.record.position.seq <= self.delivered);
        let mut popped: Vec<_> = (0..delivered).filter_map(|_| self.pop_front()).collect();
        if self.keeps {
            let stored = self.stored;
            for slot in popped.extract_if(.., |slot| slot.record.position.seq > stored) {
                self.used = self.used.plus(slot.room());
                self.unkept_room = self.unkept_room.plus(slot.room());
                self.unkept.push_back(slot);
            }
        }
        popped
    }

    /// Removes the oldest delivered record that is not stored yet.
    pub(super) fn pop_unkept(&mut self) -> Option<Slot> {
        let slot = self.unkept.pop_front()?;
        self.used = self.used.minus(slot.room());
        self.unkept_room = self.unkept_room.minus(slot.room());
        Some(slot)
    }

    fn pop_front(&mut self) -> Option<Slot> {
        let slot = self.window.pop_front()?;
        self.used = self.used.minus(slot.room());
        if slot.record.position.seq <= self.stored {
            self.cached = self.cached.minus(slot.room());
        }
        Some(slot)
    }

    /// The index in the window of the first record that is neither stored nor delivered.
    pub(super) fn queued_only_start(&self) -> usize {
        let floor = self.stored.max(self.delivered);
        self.window.partition_point(|slot| slot.record.position.seq <= floor)
    }
}
