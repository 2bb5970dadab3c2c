//! The scribe: one OS thread that gives records their position in the stream and stores them.
//!
//! It takes everything that arrived while it was busy, so under load all callers that waited for one commit share the
//! next one. It links each record into the hash chain, encodes the records into segments, and stores segments, intents
//! and watermarks in one commit. After the commit it signals the waiting callers, in the order in which they arrived.
//! Then it waits briefly (a fraction of the commit's duration) for those callers to append their next item, so that the
//! next commit includes them. There is no other timer on this path.
//!
//! At level `queued` it publishes records at once, and stores only those that are not delivered in time (*spilling*),
//! until the backlog is delivered. Without a backlog it does not use the disk.
//!
//! If the outbox cannot store, the scribe retries until it can. Meanwhile the ring fills and calls are refused. It
//! stops retrying only in phase [`Phase::Finished`], and then reports how many records are lost.

mod batch;
mod capacity;
mod events;
mod growing_tree;
mod keeping;
mod mode;
mod segments;
mod urgent;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use batch::{Batch, Extent};
pub use events::ConfigSummary;
pub use growing_tree::StoredTree;
use keeping::{EXPIRE_EVERY, Keeping};
pub use mode::{EpochReport, Mode};

use super::chain::{self, Head};
use super::meter::Meter;
use super::outbox::{self, Commit, FoundDamage, Opening, Outbox, OutboxError, Space};
use super::record::{AuditRecord, Epoch, GatewayId, PendingRecord, RequestId};
use super::ring::{BatchRoom, Finding, Phase, Ring, RingLimits, Slot, UnrecordedCalls, Watermarks, Work, WorkItem};
use super::sync::Instant;

/// The scribe waits for the callers that it has just signalled for at most the last commit's duration divided by this.
/// Their next items then share a commit with the items that arrived during the last one; without the wait, two halves
/// of the callers take turns and each step takes two commits. *Measured*: `benches/latency.rs` and `benches/store.rs`.
const GATHER_SHARE: u32 = 4;

/// The number of commits without such a wait, after a wait in which fewer than half of the callers came back. That
/// happens if the backends take longer than a commit. *Chosen*: rare enough that the waits cost nothing, often enough
/// to notice that the load has changed.
const GATHER_PAUSE: u32 = 16;

/// The pause between attempts to use a failing outbox. *Chosen*: a disk that has room again is noticed at once, and two
/// attempts a second do not load a failing one.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The scribe. [`Scribe::run`] is the body of its thread.
#[derive(Debug)]
pub struct Scribe {
    ring: Arc<Ring>,
    meter: Arc<Meter>,
    outbox: Outbox,
    mode: Mode,
    gateway_id: GatewayId,
    epoch: Epoch,
    /// The last record with a position.
    head: Head,
    /// The last record in the outbox.
    stored: Head,
    /// The last record of this epoch that the outbox knows to be delivered.
    removed: Head,
    spilling: bool,
    /// The closing record is made.
    closed: bool,
    /// The intents of open calls that are in memory only (level `queued`).
    queued_intents: BTreeMap<RequestId, Arc<[u8]>>,
    /// The open calls whose intents are in the outbox.
    stored_intents: HashSet<RequestId>,
    watermarks: Watermarks,
    space: Space,
    /// The time at which the last commit failed, if none has succeeded since.
    failed_at: Option<Instant>,
    /// The times at which kept records are stored and removed.
    keeping: Keeping,
    /// The number of commits that are still to come without a wait for callers.
    gather_pause: u32,
    /// The segments of the next batch.
    segments: segments::Builder,
    /// Records that are stored at once, whatever the level.
    urgent: urgent::Urgent,
    tree: growing_tree::GrowingTree,
}

impl Scribe {
    /// Begins the epoch. Its opening record, and an `interrupted` record for every call that was open when the previous
    /// epoch ended in a crash, are stored in the same commit as the epoch itself.
    ///
    /// # Errors
    /// The outbox cannot be written; nothing was begun.
    pub fn begin(
        mut opening: Opening,
        limits: RingLimits,
        outbox_bytes_max: u64,
        mode: Mode,
        config: &ConfigSummary,
    ) -> Result<Self, OutboxError> {
        let (gateway_id, epoch) = (opening.gateway_id, opening.epoch);
        opening.queued = mode != Mode::Stored;
        let mut tree = growing_tree::GrowingTree::of(&opening);
        let mut entries = vec![events::opened(&opening, config, &opening.tree)];
        entries.extend(events::policy(config));
        entries.extend(opening.damages.iter().flat_map(|found| events::damaged(&found.damage)));
        // I2: a call that a crash interrupted ends here, in its one record.
        entries.extend(opening.interrupted.iter().cloned().map(events::interrupted));
        let mut head = Head::START;
        let mut records = Vec::new();
        for entry in entries {
            let position = chain::link(gateway_id, epoch, head, &entry);
            head = Head::after(&position);
            tree.push(&position);
            records.push(Slot::new(Arc::new(AuditRecord { position, entry }), Instant::now()));
        }
        let segments = segments::of(records.iter().map(|slot| slot.record.as_ref()));
        let first = Commit { segments: &segments, head: Some(head), tree: Some(tree.made()), ..Commit::default() };
        let damages = opening.damages.iter().filter(|found| found.is_new).count();
        let (meter, begun) = (Arc::new(Meter::default()), Instant::now());
        let outbox = opening.begin(&first, outbox_bytes_max)?;
        tree.mark_stored();
        meter.observe_commit(records.len(), begun.elapsed());
        meter.set_aside.add(damages as u64);
        let space = outbox.space();
        let ring = Ring::new(limits, Head::START);
        ring.mark_stored(head.seq);
        ring.publish(records, BatchRoom::default());
        ring.set_capacity(capacity::of(space), mode == Mode::Stored);
        if mode != Mode::Stored && outbox.keeps() {
            ring.keep_delivered();
        }
        Ok(Self {
            ring,
            meter,
            outbox,
            mode,
            gateway_id,
            epoch,
            head,
            stored: head,
            removed: Head::START,
            spilling: false,
            closed: false,
            queued_intents: BTreeMap::new(),
            stored_intents: HashSet::new(),
            watermarks: Watermarks::default(),
            space,
            failed_at: None,
            keeping: Keeping::default(),
            gather_pause: 0,
            segments: segments::Builder::default(),
            urgent: urgent::Urgent::default(),
            tree,
        })
    }

    /// The ring that this scribe empties.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring)
    }

    /// The counters and timers of this scribe.
    #[must_use]
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// A reader of the outbox that this scribe writes.
    #[must_use]
    pub fn reader(&self) -> outbox::Reader {
        self.outbox.reader()
    }

    /// The stream that this scribe writes: the gateway and its epoch.
    #[must_use]
    pub fn stream(&self) -> (GatewayId, Epoch) {
        (self.gateway_id, self.epoch)
    }

    /// The tree over the records of this scribe that a crash cannot lose.
    #[must_use]
    pub fn stored_tree(&self) -> StoredTree {
        self.tree.stored(&self.ring)
    }

    /// Runs until the ring is [`Phase::Finished`].
    #[must_use]
    pub fn run(mut self) -> EpochReport {
        loop {
            let Work { items, room, watermarks, findings, unrecorded, phase } = self.ring.take(self.patience());
            let begun = Instant::now();
            self.merge_watermarks(watermarks);
            // Also if the phase skipped `Closing`: the ring's records are stored, and the epoch is closed.
            let closing = phase >= Phase::Closing && !std::mem::replace(&mut self.closed, phase >= Phase::Closing);
            let mut batch = self.stamp(items, unrecorded);
            if closing || !self.closed {
                self.add_own_events(findings, closing, &mut batch);
            }
            batch.room = room;
            self.tree.publish(self.watermarks.of(self.epoch).map(|head| head.seq));
            let extent = match (closing, self.must_store(&batch)) {
                (true, _) => Some(Extent::Closing),
                (false, true) => Some(Extent::All),
                (false, false) if self.must_keep() => Some(Extent::Kept),
                (false, false) => self.has_delivered_records().then_some(Extent::Watermarks),
            };
            let extent = extent.filter(|extent| *extent == Extent::Closing || !self.may_skip(&batch));
            if !matches!(extent, Some(Extent::Closing | Extent::All)) {
                // No caller waits for these intents: they stay in memory until the ring spills.
                self.queued_intents.extend(batch.begun.drain(..));
            }
            if let Some(extent) = extent {
                if let Err(lost) = self.store(&mut batch, extent) {
                    return EpochReport { lost, last: self.head };
                }
            } else {
                self.ring.publish(std::mem::take(&mut batch.records), batch.room);
            }
            if !self.space.has_room() {
                self.outbox.remove_delivered(&[]);
                self.update_space();
            } else if self.outbox.keeps() && self.keeping.expires() {
                self.outbox.expire();
                self.update_space();
            }
            let (signalled, took) = (batch.receipts.len(), begun.elapsed());
            for (receipt, position) in batch.receipts {
                // I1: a receipt is signalled after the commit that contains its record. Its caller may be gone.
                receipt.send(position).ok();
            }
            self.gather(signalled, took / GATHER_SHARE);
            match phase {
                Phase::Closing => self.ring.advance_phase(Phase::Closed),
                Phase::Finished => return EpochReport { lost: 0, last: self.head },
                Phase::Open | Phase::Closed => {}
            }
        }
    }

    /// Waits for the `signalled` callers to append their next items, unless they were slow to do so recently.
    fn gather(&mut self, signalled: usize, patience: Duration) {
        if self.gather_pause > 0 {
            self.gather_pause -= 1;
        } else if signalled > 1 && self.ring.gather(signalled, patience) < signalled / 2 {
            self.gather_pause = GATHER_PAUSE;
        }
    }

    /// Returns true if the commit may be left out: the last one failed a moment ago, and no caller waits for this one.
    fn may_skip(&self, batch: &Batch) -> bool {
        let failed = self.failed_at.is_some_and(|at| at.elapsed() < RETRY_PAUSE);
        failed && matches!(self.mode, Mode::Queued { .. }) && !self.ends_stored_intent(batch)
    }

    /// Returns true if the batch ends a call whose intent is in the outbox.
    fn ends_stored_intent(&self, batch: &Batch) -> bool {
        batch.ended.iter().any(|id| self.stored_intents.contains(id))
    }

    /// The time to wait for work items: at level `queued` until the oldest record must be spilled, and only briefly if
    /// the outbox is full or failed, since calls wait for it to recover.
    fn patience(&self) -> Option<Duration> {
        let spill = match self.mode {
            Mode::Queued { spill_after } if !self.spilling => {
                self.ring.oldest_queued_only().map(|age| spill_after.saturating_sub(age))
            }
            _ => None,
        };
        if !self.space.has_room() || self.failed_at.is_some() {
            return Some(RETRY_PAUSE);
        }
        let expire = self.outbox.keeps().then_some(EXPIRE_EVERY);
        let keep = self.ring.has_unkept().then(|| self.keeping.until_kept());
        spill.into_iter().chain(expire).chain(keep).min()
    }

    /// Returns true if this batch, and the records that were queued only before it, must be stored now.
    fn must_store(&mut self, batch: &Batch) -> bool {
        let Mode::Queued { spill_after } = self.mode else {
            return !batch.records.is_empty() || !batch.begun.is_empty() || !self.urgent.is_empty();
        };
        let overdue = self.ring.oldest_queued_only().is_some_and(|age| age >= spill_after);
        if !self.spilling && (overdue || self.ring.is_past_high_water(&batch.records, &batch.room)) {
            tracing::warn!("Postgres is not keeping up; spilling records to the outbox");
            self.spilling = true;
        } else if self.spilling && self.ring.is_delivered_within(spill_after / 2) {
            tracing::info!("Postgres has caught up; records are no longer spilled");
            self.spilling = false;
        }
        // An intent leaves the outbox in the commit that contains the call's record, before Postgres can have the
        // record: after a crash between the two, the call would get an `interrupted` record as well.
        self.spilling || self.ends_stored_intent(batch) || !self.urgent.is_empty()
    }

    /// Returns true if it is time to store records that were delivered from the ring and are kept.
    fn must_keep(&self) -> bool {
        self.keeping.until_kept().is_zero() && self.ring.has_unkept()
    }

    /// Returns true if the outbox does not know yet that records in it are delivered, or not delivered any more.
    fn has_delivered_records(&self) -> bool {
        let is_new = |(epoch, head): &(Epoch, Head)| {
            let is_later = self.removed.seq < self.stored.seq && head.seq > self.removed.seq;
            // Earlier if the database was restored: what is after it must stay.
            *epoch != self.epoch || is_later || head.seq < self.removed.seq
        };
        self.watermarks.heads.iter().any(is_new)
    }

    fn merge_watermarks(&mut self, newer: Watermarks) {
        if newer.went_back {
            self.outbox.go_back();
        }
        self.watermarks.merge(newer);
    }

    /// Turns work items into a batch, and gives the records their positions.
    fn stamp(&mut self, items: Vec<WorkItem>, unrecorded: Option<UnrecordedCalls>) -> Batch {
        let mut batch = Batch { segments: std::mem::take(&mut self.segments), ..Batch::default() };
        for item in items {
            match item {
                WorkItem::Begin { request_id, frame, stored } => {
                    batch.begun.push((request_id, frame));
                    batch.receipts.extend(stored.map(|stored| (stored, None)));
                }
                WorkItem::End { record, begun, stored, appended_at } => {
                    if begun {
                        batch.ended.push(record.entry().call.request_id);
                    }
                    self.link(record, appended_at, &mut batch);
                    let position = batch.records.last().map(|slot| slot.record.position);
                    batch.receipts.extend(stored.map(|stored| (stored, position)));
                }
            }
        }
        if let Some(unrecorded) = unrecorded {
            self.link(events::gap(unrecorded).into(), Instant::now(), &mut batch);
        }
        // A call that began and ended in the same batch does not need its intent.
        if !batch.begun.is_empty() && !batch.ended.is_empty() {
            let ended: HashSet<_> = batch.ended.iter().collect();
            batch.begun.retain(|(id, _)| !ended.contains(id));
        }
        if !self.queued_intents.is_empty() {
            for id in &batch.ended {
                self.queued_intents.remove(id);
            }
        }
        batch
    }

    /// Adds the records of the gateway itself that come last in a batch.
    fn add_own_events(&mut self, findings: Vec<Finding>, closing: bool, batch: &mut Batch) {
        for FoundDamage { damage, is_new } in self.outbox.take_damages() {
            self.meter.set_aside.add(u64::from(is_new));
            let first = self.head.seq.next();
            for entry in events::damaged(&damage) {
                self.link(entry.into(), Instant::now(), batch);
            }
            self.urgent.add_damage(damage, (first, self.head.seq));
        }
        for finding in findings {
            match finding {
                Finding::Settled(epoch, end) => {
                    if let Some(end) = end {
                        self.link(events::takeover(epoch, end).into(), Instant::now(), batch);
                    }
                    self.urgent.settle(epoch);
                }
                Finding::Restored(restored) => {
                    self.link(events::restored(restored).into(), Instant::now(), batch);
                    self.urgent.add_restored();
                }
            }
        }
        if closing {
            self.link(events::closed(self.head).into(), Instant::now(), batch);
        }
    }

    fn link(&mut self, record: PendingRecord, appended_at: Instant, batch: &mut Batch) {
        let position = chain::link(self.gateway_id, self.epoch, self.head, record.entry());
        self.head = Head::after(&position);
        self.meter.made(position);
        self.tree.push(&position);
        let record = record.at(position);
        if self.mode == Mode::Stored {
            // Encoded at once, while the record is in this core's cache.
            batch.segments.push(&record);
        }
        batch.records.push(Slot::new(record, appended_at));
    }

    /// Reports the outbox's fill level to the ring, and logs it when it crosses a limit.
    fn update_space(&mut self) {
        let (before, now) = (self.space, self.outbox.space());
        capacity::log_change(before, now);
        self.space = now;
        // At level `queued` a full outbox affects no call while Postgres takes everything from the ring.
        self.ring.set_capacity(capacity::of(now), self.mode == Mode::Stored || self.spilling);
    }

    /// Commits what `extent` says, then publishes the batch. `Err` is the number of lost records.
    fn store(&mut self, batch: &mut Batch, extent: Extent) -> Result<(), usize> {
        let stores_batch = matches!(extent, Extent::All | Extent::Closing);
        let (segments, records, head) = match extent {
            Extent::Watermarks => (Vec::new(), 0, self.stored),
            Extent::Kept => {
                self.keeping.kept();
                let kept = self.ring.unkept();
                let head = kept.last().map_or(self.stored, |last| Head::after(&last.position));
                (segments::of(kept.iter().map(AsRef::as_ref)), kept.len(), head)
            }
            Extent::All | Extent::Closing => {
                let (segments, records) = self.segments_to_store(batch);
                (segments, records, self.head)
            }
        };
        let ended: Vec<_> = batch.ended.iter().copied().filter(|id| self.stored_intents.contains(id)).collect();
        let mut begun = Instant::now();
        while let Err(error) = self.outbox.commit(&Commit {
            segments: &segments,
            head: (!segments.is_empty()).then_some(head),
            begun: &batch.begun,
            ended: &ended,
            delivered: &self.watermarks.heads,
            keeps: false,
            settled: if stores_batch { self.urgent.settled() } else { &[] },
            tree: stores_batch.then(|| self.tree.made()),
            closes: extent == Extent::Closing,
        }) {
            self.meter.commits_failed.add(1);
            tracing::error!(%error, records = batch.records.len(), "outbox cannot store; retrying until it can");
            self.ring.mark_outbox_failed();
            self.failed_at = Some(Instant::now());
            if matches!(self.mode, Mode::Queued { .. }) && extent != Extent::Closing && ended.is_empty() {
                // No caller waits for this commit. Meanwhile a healthy Postgres takes everything from the ring.
                self.queued_intents.extend(batch.begun.drain(..));
                self.ring.publish(std::mem::take(&mut batch.records), batch.room);
                return Ok(());
            }
            if self.ring.pause(RETRY_PAUSE) == Phase::Finished {
                // The records that were queued only before this batch are still in the ring.
                return Err(batch.records.len() + self.ring.queued_only_count());
            }
            // Unlinking delivered files needs no commit: on a full disk this makes the room.
            // I4: older watermarks are not stored after newer ones.
            self.merge_watermarks(self.ring.watermarks());
            self.outbox.remove_delivered(&self.watermarks.heads);
            begun = Instant::now();
        }
        self.meter.observe_commit(records, begun.elapsed());
        self.failed_at = None;
        self.update_space();
        self.removed = self.watermarks.of(self.epoch).unwrap_or(self.removed);
        self.watermarks = Watermarks::default();
        self.stored_intents.extend(batch.begun.drain(..).map(|(id, _)| id));
        for id in ended {
            self.stored_intents.remove(&id);
        }
        self.stored = if segments.is_empty() { self.stored } else { head };
        if stores_batch {
            self.tree.mark_stored();
        }
        self.ring.mark_stored(self.stored.seq);
        if stores_batch && !self.urgent.is_empty() {
            // What Postgres has is as safe as what is stored.
            let safe = self.stored.seq.max(self.ring.gauge().delivered);
            for (damage, records) in self.urgent.stored(safe) {
                self.outbox.mark_recorded(&damage, records);
            }
        }
        self.ring.publish(std::mem::take(&mut batch.records), batch.room);
        Ok(())
    }

    /// The segments of the batch, of the records that were queued only before it and of delivered ones that are kept,
    /// with the number of records. Adds the intents that were in memory only to the batch.
    fn segments_to_store(&mut self, batch: &mut Batch) -> (Vec<outbox::Segment>, usize) {
        let new = batch.records.iter().map(|slot| &slot.record);
        let stored = if self.mode == Mode::Stored {
            let made = std::mem::take(&mut batch.segments).finish();
            self.segments = segments::Builder::like(&made);
            (made, new.len())
        } else {
            let older = self.ring.unstored();
            let records = older.len() + new.len();
            (segments::of(older.iter().chain(new).map(AsRef::as_ref)), records)
        };
        batch.begun.extend(std::mem::take(&mut self.queued_intents));
        stored
    }
}
