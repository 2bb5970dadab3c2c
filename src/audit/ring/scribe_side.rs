//! The ring as the scribe uses it: taking work items, publishing records, and reporting on the outbox.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::room::{AdmissionClass, BatchRoom, Room};
use super::slot::Slot;
use super::state::Ring;
use super::work::{Heartbeat, OutboxCapacity, Phase, Watermarks, Work};
use crate::audit::record::{AuditRecord, Seq};
use crate::audit::sync::Instant;

/// The time for which watermarks and unrecorded calls wait for work items with which they can share a commit. *Chosen*:
/// long enough that under a steady load they share one, and that refusals are counted together; short enough that an
/// idle outbox is small.
const SHARED_COMMIT_WAIT: Duration = Duration::from_millis(500);

impl Ring {
    /// Waits until there is work, for at most `patience` if it is given, and takes all of it.
    #[must_use]
    pub fn take(&self, patience: Option<Duration>) -> Work {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut shared_commit = None;
        let mut state = self.lock();
        let phase = state.phase;
        state.heartbeat.idle = true;
        loop {
            let phase_changed = state.phase != phase || matches!(state.phase, Phase::Closing | Phase::Finished);
            let wanted = state.turns_wanted > 0 || !state.findings.is_empty();
            if !state.items.is_empty() || phase_changed || wanted {
                break;
            }
            if shared_commit.is_none() && (!state.watermarks.is_empty() || state.unrecorded.is_some()) {
                shared_commit = Some(Instant::now() + SHARED_COMMIT_WAIT);
            }
            let Some(until) = deadline.into_iter().chain(shared_commit).min() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.heartbeat = Heartbeat { turns: state.heartbeat.turns + 1, idle: false };
        state.turns_wanted = 0;
        Work {
            items: std::mem::take(&mut state.items),
            room: BatchRoom(std::mem::take(&mut state.appended)),
            watermarks: std::mem::take(&mut state.watermarks),
            findings: std::mem::take(&mut state.findings),
            unrecorded: state.unrecorded.take(),
            phase: state.phase,
        }
    }

    /// Waits until `count` work items are there, for at most `patience`; returns the number that are there. Returns
    /// early if the phase changes. Takes nothing.
    pub fn gather(&self, count: usize, patience: Duration) -> usize {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        state.gather_count = count;
        while state.items.len() < count && state.phase == Phase::Open {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.gather_count = 0;
        state.items.len()
    }

    /// Waits for `pause` before the next attempt to use a failing outbox, and returns the phase. Returns early in phase
    /// [`Phase::Finished`].
    #[must_use]
    pub fn pause(&self, pause: Duration) -> Phase {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        state.heartbeat.turns += 1;
        while state.phase != Phase::Finished {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.phase
    }

    /// Puts records that have their positions into the window. `batch` is the room of the work items that they were
    /// made from.
    pub fn publish(&self, slots: Vec<Slot>, batch: BatchRoom) {
        let room = Slot::room_of(slots.iter());
        let mut state = self.lock();
        state.used = state.used.minus(batch.0).plus(room);
        if let Some(last) = slots.last() {
            state.shippable = last.record.position.seq;
        }
        let at = slots.partition_point(|slot| slot.record.position.seq <= state.stored);
        // The scribe calls `mark_stored` before it publishes, so usually all of them are stored and `room` is the sum.
        let cached = if at == slots.len() { room } else { Slot::room_of(slots.iter().take(at)) };
        state.cached = state.cached.plus(cached);
        state.window.extend(slots);
        // A shipper that lagged may have read them from the outbox and delivered them before they were published.
        let mut evicted = state.pop_delivered();
        let (_, more) = state.make_room(Room::default(), self.limits.for_class(AdmissionClass::Event));
        evicted.extend(more);
        drop(state);
        drop(evicted);
        self.room.notify_waiters();
        self.shippable.notify_one();
    }

    /// Records that the outbox has all records up to `seq`. Called before they are published, so that they may be
    /// evicted at once.
    pub fn mark_stored(&self, seq: Seq) {
        let mut state = self.lock();
        let [before, up_to] = [state.stored, seq.max(state.stored)]
            .map(|seq| state.window.partition_point(|slot| slot.record.position.seq <= seq));
        state.cached = state.cached.plus(Slot::room_of(state.window.range(before..up_to)));
        state.stored = state.stored.max(seq);
        state.outbox_failed = false;
        let mut kept = Vec::new();
        while state.unkept.front().is_some_and(|slot| slot.record.position.seq <= state.stored) {
            kept.extend(state.pop_unkept());
        }
        drop(state);
        drop(kept);
        self.room.notify_waiters();
    }

    /// Records how full the outbox is, and whether calls need it.
    pub fn set_capacity(&self, capacity: OutboxCapacity, required: bool) {
        let mut state = self.lock();
        state.capacity = capacity;
        state.outbox_required = required;
        drop(state);
        self.room.notify_waiters();
    }

    /// The watermarks that arrived since the last [`Ring::take`]. They stay in the ring for the next one.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        self.lock().watermarks.clone()
    }

    /// Records that the scribe has failed. No call begins any more.
    pub fn mark_scribe_failed(&self) {
        let mut state = self.lock();
        (state.scribe_failed, state.outbox_failed) = (true, true);
        drop(state);
        self.room.notify_waiters();
    }

    /// From now on, delivered records that are not stored stay until [`Ring::mark_stored`], or until room is needed.
    pub fn keep_delivered(&self) {
        self.lock().keeps = true;
    }

    /// The delivered records that are not stored and are to be kept, oldest first.
    #[must_use]
    pub fn unkept(&self) -> Vec<Arc<AuditRecord>> {
        self.lock().unkept.iter().map(|slot| Arc::clone(&slot.record)).collect()
    }

    /// The records that are not stored and are to be: delivered ones that are kept, then those that are not delivered,
    /// oldest first.
    #[must_use]
    pub fn unstored(&self) -> Vec<Arc<AuditRecord>> {
        // Under one lock: meanwhile the shipper may deliver some.
        let state = self.lock();
        let queued_only = state.window.range(state.queued_only_start()..);
        state.unkept.iter().chain(queued_only).map(|slot| Arc::clone(&slot.record)).collect()
    }

    /// Returns true if there are delivered records that are not stored.
    #[must_use]
    pub fn has_unkept(&self) -> bool {
        !self.lock().unkept.is_empty()
    }

    /// Records that the outbox cannot store, until the next [`Ring::mark_stored`].
    pub fn mark_outbox_failed(&self) {
        self.lock().outbox_failed = true;
    }

    /// The age of the oldest record that is neither stored nor delivered.
    #[must_use]
    pub fn oldest_queued_only(&self) -> Option<Duration> {
        let state = self.lock();
        state.window.get(state.queued_only_start()).map(|slot| slot.appended_at.elapsed())
    }

    /// Returns true if all records older than `age` are delivered.
    #[must_use]
    pub fn is_delivered_within(&self, age: Duration) -> bool {
        let state = self.lock();
        match state.window.front() {
            None => state.delivered == state.shippable,
            Some(slot) => slot.record.position.seq == state.delivered.next() && slot.appended_at.elapsed() < age,
        }
    }

    /// Returns true if the records in the window, together with the scribe's current batch, use more than half of the
    /// room that open calls leave. `records` is what the scribe made of the work items whose room is `batch`. Room that
    /// is reserved or not yet taken does not count, because spilling cannot free it.
    #[must_use]
    pub fn is_past_high_water(&self, records: &[Slot], batch: &BatchRoom) -> bool {
        let records = Slot::room_of(records.iter());
        let state = self.lock();
        let limit = Room { records: self.limits.records, bytes: self.limits.bytes }.minus(state.reserved);
        let window = state.used.minus(state.reserved).minus(state.appended).minus(batch.0).minus(state.unkept_room);
        let queued = window.plus(records);
        queued.records > limit.records / 2 || queued.bytes > limit.bytes / 2
    }
}
