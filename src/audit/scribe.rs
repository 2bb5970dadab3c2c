//! The scribe: one OS thread that gives records their place and stores them.
//!
//! It takes all that arrived while it was busy: under load a commit is shared by everything that waited for the one
//! before. Those who were told by that one get a moment, a part of what it took, to join; nothing else is timed. It links each
//! record into the chain, encodes them into segments, and commits segments, intents and watermarks at once. Receipts are told after the commit, in the order in which calls arrived.
//!
//! At level `queued` it stamps and publishes at once, and stores only what is not delivered in time (*spilling*), until
//! the backlog is gone. Then the disk is idle.
//!
//! When the outbox cannot store, the scribe keeps what it took and tries again for as long as it takes; the ring fills
//! behind it and calls are refused. It gives up only when the shell says that time is over, and says what was lost.

mod events;
mod segments;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

pub use events::About;
use events::{closed, damaged, gap, interrupted, opened};

use super::chain::{self, Head};
use super::meter::Meter;
use super::outbox::{self, Commit, Opening, Outbox, Space};
use super::record::{AuditRecord, Epoch, GatewayId, PendingRecord, RequestId};
use super::ring::{self, Arrival, Capacity, Missed, Phase, Ring, Slot, Taken, Work};
use super::sync::Instant;

/// The part of the last commit's duration that the scribe waits at most for those whom it has just told, so that what
/// they do next shares one commit with what arrived meanwhile. Without it two halves of the callers take turns, and each
/// waits two commits a step. *Measured*: `benches/latency.rs` and `benches/store.rs`.
const GATHER_SHARE: u32 = 4;

/// Commits that do not wait for anybody after one for which fewer than half came back in time, as where their backends
/// take longer than a commit. *Chosen*: rare enough to cost nothing, often enough to notice that callers changed.
const GATHER_PAUSE: u32 = 16;

/// Pauses between tries of a failing outbox. *Chosen*: short enough that a freed disk is noticed at once.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Percentages of the quota at which an alarm is raised. *Spec*: docs/design.md, "Outbox".
const ALARM_PERCENTS: [u64; 3] = [75, 90, 100];

/// The part of the quota that refusals and outcomes may use beyond it. *Chosen*: as much as one generation file of a
/// small quota, see [`outbox`].
const REFUSALS_SHARE: u64 = 8;

/// What a record waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes through the outbox.
    Stored,
    /// Only what Postgres does not take within `spill_after`.
    Queued {
        /// The age at which the oldest undelivered record makes the ring spill.
        spill_after: Duration,
    },
}

/// The scribe, before its thread runs.
#[derive(Debug)]
pub struct Scribe {
    ring: Arc<Ring>,
    meter: Arc<Meter>,
    outbox: Outbox,
    mode: Mode,
    gateway_id: GatewayId,
    epoch: Epoch,
    /// The last record with a place.
    head: Head,
    /// The last record in the outbox.
    stored: Head,
    /// All of this epoch up to here was forgotten by the outbox.
    forgotten: Head,
    spilling: bool,
    /// The closing record was made.
    closed: bool,
    /// Open calls whose intents are in memory only (level `queued`).
    open: BTreeMap<RequestId, Arc<[u8]>>,
    /// Open calls whose intents are in the outbox.
    stored_intents: HashSet<RequestId>,
    watermarks: Vec<(Epoch, Head)>,
    space: Space,
    /// When the last commit failed, where none has succeeded since.
    failed: Option<Instant>,
    /// Commits to come that wait for nobody.
    hurries: u32,
    /// The segments of the next batch.
    segments: segments::Builder,
}

/// How a gateway's epoch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Records that only the ring had; 0 unless the outbox failed to the end.
    pub lost: usize,
    /// The last record of the epoch.
    pub last: Head,
}

/// What one commit stores and whom it concerns.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<Slot>,
    /// The records, where they are stored in any case.
    segments: segments::Builder,
    begun: Vec<(RequestId, Arc<[u8]>)>,
    ended: Vec<RequestId>,
    told: Vec<oneshot::Sender<()>>,
    taken: Taken,
}

/// How much of what the scribe has goes into a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Watermarks alone. Records stored along with them would have to be forgotten next, and so on: after a spill the
    /// disk would never be idle again.
    Watermarks,
    /// And the batch, and what was only queued before it.
    All,
    /// And the epoch is closed.
    Closing,
}

impl Scribe {
    /// Begins the epoch: its opening record, and an `interrupted` record for every call that was open when the last one
    /// died, are stored with the epoch itself.
    ///
    /// # Errors
    /// The outbox cannot be written; nothing was begun.
    pub fn begin(
        opening: Opening,
        limits: ring::Limits,
        outbox_bytes_max: u64,
        mode: Mode,
        about: &About,
    ) -> Result<Self, outbox::Error> {
        let (gateway_id, epoch) = (opening.gateway_id, opening.epoch);
        let mut entries = vec![opened(&opening, about)];
        entries.extend(opening.damages.iter().map(damaged));
        // I2: a call that the crash cut off ends here, in its one record.
        entries.extend(opening.interrupted.iter().cloned().map(interrupted));
        let mut head = Head::START;
        let mut records = Vec::new();
        for entry in entries {
            let position = chain::link(gateway_id, epoch, head, &entry);
            head = Head::after(&position);
            records.push(Slot::new(Arc::new(AuditRecord { position, entry }), Instant::now()));
        }
        let segments = segments::of(records.iter().map(|slot| slot.record.as_ref()));
        let first = Commit { segments: &segments, head: Some(head), ..Commit::default() };
        let (meter, begun, damages) = (Arc::new(Meter::default()), Instant::now(), opening.damages.len());
        let outbox = opening.begin(&first, outbox_bytes_max)?;
        meter.observe_commit(records.len(), begun.elapsed());
        meter.set_aside.add(damages as u64);
        let space = outbox.space();
        let ring = Ring::new(limits, Head::START);
        ring.stored(head.seq);
        ring.publish(records, Taken::default());
        ring.set_capacity(capacity(space), mode == Mode::Stored);
        Ok(Self {
            ring,
            meter,
            outbox,
            mode,
            gateway_id,
            epoch,
            head,
            stored: head,
            forgotten: Head::START,
            spilling: false,
            closed: false,
            open: BTreeMap::new(),
            stored_intents: HashSet::new(),
            watermarks: Vec::new(),
            space,
            failed: None,
            hurries: 0,
            segments: segments::Builder::default(),
        })
    }

    /// The ring that this scribe empties.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring)
    }

    /// What this scribe counts and times.
    #[must_use]
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// A reader of the outbox that this scribe writes.
    #[must_use]
    pub fn reader(&self) -> outbox::Reader {
        self.outbox.reader()
    }

    /// This epoch of this gateway.
    #[must_use]
    pub fn stream(&self) -> (GatewayId, Epoch) {
        (self.gateway_id, self.epoch)
    }

    /// Runs until the ring is [`Phase::Finished`].
    #[must_use]
    pub fn run(mut self) -> Report {
        loop {
            let Work { arrivals, taken, watermarks, missed, phase } = self.ring.take(self.patience());
            let begun = Instant::now();
            self.remember(watermarks);
            // Also where the shell did not wait for it: what the ring has is stored, and the epoch closed.
            let closing = phase >= Phase::Closing && !std::mem::replace(&mut self.closed, phase >= Phase::Closing);
            let mut batch = self.stamp(arrivals, missed, closing);
            batch.taken = taken;
            let extent = match (closing, self.must_store(&batch)) {
                (true, _) => Some(Extent::Closing),
                (false, true) => Some(Extent::All),
                (false, false) => self.has_to_forget().then_some(Extent::Watermarks),
            };
            let extent = extent.filter(|extent| *extent == Extent::Closing || !self.may_skip(&batch));
            if !matches!(extent, Some(Extent::Closing | Extent::All)) {
                // Intents that nothing waits for stay in memory until the ring spills.
                self.open.extend(batch.begun.drain(..));
            }
            if let Some(extent) = extent {
                if let Err(lost) = self.store(&mut batch, extent) {
                    return Report { lost, last: self.head };
                }
            } else {
                self.ring.publish(std::mem::take(&mut batch.records), batch.taken);
            }
            if !self.space.has_room() {
                self.outbox.forget(&[]);
                self.look_at_space();
            }
            let (told, took) = (batch.told.len(), begun.elapsed());
            for receipt in batch.told {
                // I1: a receipt is told after the commit that holds its record. Nobody may be waiting any more.
                receipt.send(()).ok();
            }
            self.gather(told, took / GATHER_SHARE);
            match phase {
                Phase::Closing => self.ring.turn(Phase::Closed),
                Phase::Finished => return Report { lost: 0, last: self.head },
                Phase::Open | Phase::Closed => {}
            }
        }
    }

    /// Waits a moment for the `told`, where they came back in time of late.
    fn gather(&mut self, told: usize, patience: Duration) {
        if self.hurries > 0 {
            self.hurries -= 1;
        } else if told > 1 && self.ring.gather(told, patience) < told / 2 {
            self.hurries = GATHER_PAUSE;
        }
    }

    /// Whether a commit may be left out, since the last one failed a moment ago and nothing has to wait for this one.
    fn may_skip(&self, batch: &Batch) -> bool {
        let failed = self.failed.is_some_and(|at| at.elapsed() < RETRY_PAUSE);
        failed && matches!(self.mode, Mode::Queued { .. }) && !self.ends_stored(batch)
    }

    /// Whether the batch ends a call whose intent is in the outbox.
    fn ends_stored(&self, batch: &Batch) -> bool {
        batch.ended.iter().any(|id| self.stored_intents.contains(id))
    }

    /// How long to wait for arrivals: at level `queued` until the oldest record is due to be spilled, and not for ever
    /// where the outbox is full or failed, since calls wait for it.
    fn patience(&self) -> Option<Duration> {
        let spill = match self.mode {
            Mode::Queued { spill_after } if !self.spilling => {
                self.ring.oldest_only_queued().map(|age| spill_after.saturating_sub(age))
            }
            _ => None,
        };
        if !self.space.has_room() || self.failed.is_some() {
            return Some(RETRY_PAUSE);
        }
        spill
    }

    /// Whether this batch and what was only queued before it go through the outbox now.
    fn must_store(&mut self, batch: &Batch) -> bool {
        let Mode::Queued { spill_after } = self.mode else {
            return !batch.records.is_empty() || !batch.begun.is_empty();
        };
        let overdue = self.ring.oldest_only_queued().is_some_and(|age| age >= spill_after);
        if !self.spilling && (overdue || self.ring.past_high_water(&batch.records, &batch.taken)) {
            tracing::warn!("Postgres is behind: records are spilled to the outbox");
            self.spilling = true;
        } else if self.spilling && self.ring.delivered_within(spill_after / 2) {
            tracing::info!("Postgres has caught up: records are no longer spilled");
            self.spilling = false;
        }
        // An intent in the outbox goes in the commit that holds its record, before Postgres can have it: a crash
        // between the two would add an `interrupted` record to a call that has one.
        self.spilling || self.ends_stored(batch)
    }

    /// Whether the outbox holds records that were delivered.
    fn has_to_forget(&self) -> bool {
        let holds = |(epoch, head): &(Epoch, Head)| {
            *epoch != self.epoch || (self.forgotten.seq < self.stored.seq && head.seq > self.forgotten.seq)
        };
        self.watermarks.iter().any(holds)
    }

    fn remember(&mut self, watermarks: Vec<(Epoch, Head)>) {
        for (epoch, head) in watermarks {
            self.watermarks.retain(|(known, _)| *known != epoch);
            self.watermarks.push((epoch, head));
        }
    }

    /// Gives places to records and sorts what arrived.
    fn stamp(&mut self, arrivals: Vec<Arrival>, missed: Option<Missed>, closing: bool) -> Batch {
        let mut batch = Batch { segments: std::mem::take(&mut self.segments), ..Batch::default() };
        for arrival in arrivals {
            match arrival {
                Arrival::Begin { request_id, frame, stored } => {
                    batch.begun.push((request_id, frame));
                    batch.told.extend(stored);
                }
                Arrival::End { record, begun, stored, arrived } => {
                    batch.told.extend(stored);
                    if begun {
                        batch.ended.push(record.entry().call.request_id);
                    }
                    self.link(record, arrived, &mut batch);
                }
            }
        }
        if let Some(missed) = missed {
            self.link(gap(missed).into(), Instant::now(), &mut batch);
        }
        if closing || !self.closed {
            for damage in self.outbox.damages() {
                self.meter.set_aside.add(1);
                self.link(damaged(&damage).into(), Instant::now(), &mut batch);
            }
        }
        if closing {
            self.link(closed(self.head).into(), Instant::now(), &mut batch);
        }
        // A call that began and ended in one batch needs no intent.
        if !batch.begun.is_empty() && !batch.ended.is_empty() {
            let ended: HashSet<_> = batch.ended.iter().collect();
            batch.begun.retain(|(id, _)| !ended.contains(id));
        }
        if !self.open.is_empty() {
            for id in &batch.ended {
                self.open.remove(id);
            }
        }
        batch
    }

    fn link(&mut self, record: PendingRecord, arrived: Instant, batch: &mut Batch) {
        let position = chain::link(self.gateway_id, self.epoch, self.head, record.entry());
        self.head = Head::after(&position);
        let record = record.at(position);
        if self.mode == Mode::Stored {
            // At once, while the record is in the cache of this core.
            batch.segments.push(&record);
        }
        batch.records.push(Slot::new(record, arrived));
    }

    /// Tells the ring whether calls may begin, and people how full the outbox is.
    fn look_at_space(&mut self) {
        let (before, now) = (self.space, self.outbox.space());
        for percent in ALARM_PERCENTS {
            if before.percent() < percent && now.percent() >= percent {
                tracing::error!(used = now.used_bytes, max = now.max_bytes, "the outbox is {percent} % full");
            }
        }
        if now.has_room() && !before.has_room() {
            tracing::info!(used = now.used_bytes, max = now.max_bytes, "the outbox has room again");
        }
        self.space = now;
        // At level `queued` a full outbox is in nobody's way while Postgres takes everything from the ring.
        self.ring.set_capacity(capacity(now), self.mode == Mode::Stored || self.spilling);
    }

    /// Commits as much as `extent` says, then publishes the batch. `Err` gives what was lost.
    fn store(&mut self, batch: &mut Batch, extent: Extent) -> Result<(), usize> {
        let (mut segments, mut records) = (Vec::new(), 0);
        if extent != Extent::Watermarks {
            let arrived = batch.records.iter().map(|slot| &slot.record);
            (segments, records) = if self.mode == Mode::Stored {
                let made = std::mem::take(&mut batch.segments).finish();
                self.segments = segments::Builder::like(&made);
                (made, arrived.len())
            } else {
                let older = self.ring.only_queued();
                let records = older.len() + arrived.len();
                (segments::of(older.iter().chain(arrived).map(AsRef::as_ref)), records)
            };
            batch.begun.extend(std::mem::take(&mut self.open));
        }
        let ended: Vec<_> = batch.ended.iter().copied().filter(|id| self.stored_intents.contains(id)).collect();
        let commit = Commit {
            segments: &segments,
            head: (!segments.is_empty()).then_some(self.head),
            begun: &batch.begun,
            ended: &ended,
            delivered: &self.watermarks,
            closes: extent == Extent::Closing,
        };
        let mut begun = Instant::now();
        while let Err(error) = self.outbox.commit(&commit) {
            self.meter.commits_failed.add(1);
            tracing::error!(%error, records = batch.records.len(), "outbox cannot store; tried again until it can");
            self.ring.outbox_failed();
            self.failed = Some(Instant::now());
            if matches!(self.mode, Mode::Queued { .. }) && extent != Extent::Closing && ended.is_empty() {
                // Nothing waits for this commit: a Postgres that is well takes everything from the ring meanwhile.
                self.open.extend(batch.begun.drain(..));
                self.ring.publish(std::mem::take(&mut batch.records), batch.taken);
                return Ok(());
            }
            if self.ring.pause(RETRY_PAUSE) == Phase::Finished {
                // What was only queued before this batch is still in the ring.
                return Err(batch.records.len() + self.ring.only_in_memory());
            }
            // Files that are delivered meanwhile are unlinked without a commit: on a full disk that makes the room.
            self.outbox.forget(&self.ring.watermarks());
            begun = Instant::now();
        }
        self.meter.observe_commit(records, begun.elapsed());
        self.failed = None;
        self.look_at_space();
        if let Some((_, head)) = self.watermarks.iter().find(|(epoch, _)| *epoch == self.epoch) {
            self.forgotten = *head;
        }
        self.watermarks.clear();
        self.stored_intents.extend(batch.begun.drain(..).map(|(id, _)| id));
        for id in ended {
            self.stored_intents.remove(&id);
        }
        if !segments.is_empty() {
            self.stored = self.head;
        }
        self.ring.stored(self.stored.seq);
        self.ring.publish(std::mem::take(&mut batch.records), batch.taken);
        Ok(())
    }
}

fn capacity(space: Space) -> Capacity {
    Capacity {
        used_bytes: space.used_bytes,
        max_bytes: space.max_bytes,
        full: !space.has_room(),
        over: space.used_bytes >= space.max_bytes.saturating_add(space.max_bytes / REFUSALS_SHARE),
    }
}
