//! The shipper's task: the loop over streams, batches and single records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{BatchLimits, BatchSize};
use super::fork::{self, Fork, ForkReason, check_link, missing, went_back};
use super::health::Health;
use super::note::Note;
use super::record_source::{CursorCheck, RecordSource, SourceError};
use super::repeated_failure::RepeatedFailure;
use super::state::ShipperState;
use crate::audit::chain::Head;
use crate::audit::meter::Meter;
use crate::audit::outbox::Reader;
use crate::audit::record::{AuditRecord, Epoch, GatewayId, Seq};
use crate::audit::ring::{Finding, Phase, Restored, Ring};
use crate::audit::sink::{ErrorClass, Sink};

/// Interval at which partitions are created ahead. *Chosen*: monthly partitions are created months ahead, so once a day
/// is often enough.
const PREPARE_EVERY: Duration = Duration::from_hours(24);

/// Delivers the records of ring and outbox to a sink.
#[derive(Debug)]
pub struct Shipper<S> {
    pub(super) ring: Arc<Ring>,
    pub(super) source: RecordSource,
    pub(super) meter: Arc<Meter>,
    pub(super) sink: S,
    pub(super) gateway_id: GatewayId,
    pub(super) epoch: Epoch,
    pub(super) size: BatchSize,
    pub(super) health: Health,
    /// Cancelled when delivery has to end, finished or not.
    deadline: CancellationToken,
    /// Refused records since the last delivered one. Counted over all batches: with little traffic, each batch is one
    /// record.
    pub(super) repeated_failure: RepeatedFailure,
    /// When the sink was prepared; `None` before the first time.
    pub(super) prepared: Option<Instant>,
    /// When the lease is renewed next.
    pub(super) lease_due: Instant,
    /// The note of the delivered head beside the outbox.
    note: Note,
    /// Earlier epochs whose end in Postgres is not settled, each with its last record as far as it is known.
    unsettled: BTreeMap<Epoch, Head>,
    /// The last delivered record of each epoch, as far as this gateway knows.
    delivered: BTreeMap<Epoch, Head>,
    /// The number of times that the database went back, as far as this process knows.
    times_back: u64,
}

impl<S: Sink> Shipper<S> {
    /// A shipper for the stream of `gateway_id` and `epoch`, and for the older streams in the outbox. Cancelling
    /// `deadline` ends it at once. Also returns the receiver of its state.
    pub fn new(
        (ring, reader, meter): (Arc<Ring>, Reader, Arc<Meter>),
        sink: S,
        (gateway_id, epoch): (GatewayId, Epoch),
        limits: BatchLimits,
        deadline: CancellationToken,
    ) -> (Self, watch::Receiver<ShipperState>) {
        let (state, watched) = watch::channel(ShipperState::Starting);
        let (unsettled, delivered) = (reader.unsettled(), reader.delivered());
        let shipper = Self {
            source: RecordSource::new(Arc::clone(&ring), reader, epoch, limits),
            ring,
            health: Health::new(Arc::clone(&meter), state),
            meter,
            sink,
            gateway_id,
            epoch,
            size: BatchSize::new(limits.records),
            deadline,
            repeated_failure: RepeatedFailure::default(),
            prepared: None,
            lease_due: Instant::now(),
            note: Note::new(epoch),
            unsettled,
            delivered,
            times_back: 0,
        };
        (shipper, watched)
    }

    /// Delivers until the epoch is closed and delivered completely, or until the deadline.
    pub async fn run(mut self) {
        let (deadline, state) = (self.deadline.clone(), self.health.state());
        // Dropping the future closes a connection in mid-statement; the cursor shows later whether it took effect.
        let work = tokio::spawn(async move { deadline.run_until_cancelled(self.ship_all()).await });
        if let Err(error) = work.await {
            tracing::error!(
                %error,
                "shipper panicked (a bug in Gatepost); records stay in the outbox until the gateway is restarted"
            );
            let error = format!("the shipper panicked, restart the gateway: {error}");
            state.send_replace(ShipperState::Held { error });
        }
    }

    async fn ship_all(&mut self) {
        loop {
            let looked_at = self.times_back;
            if self.ship_earlier().await == Err(ForkReason::ForeignWriter) {
                return;
            }
            // A database that went back has less of other epochs too, also of those that are not stored any more.
            if self.times_back != looked_at {
                continue;
            }
            // If the stream is forked, the alarm is already raised.
            if self.ship_stream(self.epoch).await != Err(ForkReason::WentBack) {
                return;
            }
        }
    }

    /// Delivers what is stored of earlier epochs, oldest first.
    async fn ship_earlier(&mut self) -> Result<(), ForkReason> {
        let (mut after, mut held) = (None, BTreeSet::new());
        loop {
            match self.source.next_epoch(after).await {
                Ok(stored) => {
                    let Some(epoch) = self.earliest(after, stored) else { break };
                    let is_stored = stored == Some(epoch);
                    let shipped = if is_stored || self.cursor(epoch).await.seq < self.delivered(epoch).seq {
                        self.ship_stream(epoch).await
                    } else {
                        Ok(())
                    };
                    // I4: a stream with missing records keeps its files, and does not block later streams.
                    match shipped {
                        Err(ForkReason::ForeignWriter) => return Err(ForkReason::ForeignWriter),
                        Err(_) => drop(held.insert(epoch)),
                        Ok(()) => {}
                    }
                    after = Some(epoch);
                }
                Err(error) => self.health.hold(&error.to_string()).await,
            }
        }
        for epoch in self.unsettled.keys().copied().collect::<Vec<_>>() {
            if !held.contains(&epoch) {
                self.settle(epoch).await.ok();
            }
        }
        Ok(())
    }

    /// The first epoch before the current one and after `after` to look at: the next one that is `stored`; the last
    /// one that was delivered, which shows whether the database went back; and if it did, all that were delivered.
    fn earliest(&self, after: Option<Epoch>, stored: Option<Epoch>) -> Option<Epoch> {
        let mut earlier = self.delivered.range(..self.epoch).map(|(epoch, _)| *epoch);
        let is_next = |epoch: &Epoch| after.is_none_or(|after| *epoch > after);
        let delivered = if self.times_back > 0 { earlier.find(is_next) } else { earlier.next_back().filter(is_next) };
        stored.filter(|epoch| *epoch < self.epoch).into_iter().chain(delivered).min()
    }

    /// The last delivered record of an epoch, as far as this gateway knows.
    fn delivered(&self, epoch: Epoch) -> Head {
        self.delivered.get(&epoch).copied().unwrap_or(Head::START)
    }

    /// Settles where an earlier epoch ends in Postgres, once everything is delivered that is stored of it.
    async fn settle(&mut self, epoch: Epoch) -> Result<(), ForkReason> {
        let Some(known) = self.unsettled.get(&epoch).copied() else { return Ok(()) };
        let cursor = self.cursor(epoch).await;
        let is_another = cursor.seq == known.seq && cursor.hash != known.hash;
        let fork = if cursor.seq < known.seq {
            let (from, to) = (cursor.seq.next(), known.seq);
            let what = format!("records {from} to {to} were delivered and are not in Postgres any more");
            if self.times_back == 0 {
                self.go_back();
            }
            Fork { what, reason: ForkReason::MissingRecords }
        } else if is_another && !self.source.reader().has_unknown_hash(epoch, cursor.seq) {
            let what = format!("Postgres has another record than this gateway delivered at seq {}", cursor.seq);
            Fork { what, reason: ForkReason::UnknownRecords }
        } else {
            // What this machine does not know, only the database vouches for. From now on this gateway does too.
            let end = Some(cursor).filter(|cursor| *cursor != known);
            if let Some(Head { seq, .. }) = end {
                tracing::warn!(%epoch, known = %known.seq, %seq, "Postgres has more of an earlier epoch; recording its end");
            }
            self.ring.report(Finding::Settled(epoch, end));
            self.unsettled.remove(&epoch);
            self.health.not_forked(epoch);
            return Ok(());
        };
        self.health.forked(epoch, self.epoch, &fork);
        Err(fork.reason)
    }

    /// Delivers one stream: an older one to its end, the current one until it is closed. If it is forked and nothing
    /// else may be shipped, looks at it again until it is not, or until the gateway stops.
    async fn ship_stream(&mut self, epoch: Epoch) -> Result<(), ForkReason> {
        loop {
            let Err(fork) = self.ship_from_cursor(epoch).await else { return Ok(()) };
            let is_found = fork.reason == ForkReason::MissingRecords && self.times_back == 0;
            if fork.reason == ForkReason::WentBack || is_found {
                self.go_back();
            }
            if fork.reason == ForkReason::WentBack && epoch < self.epoch {
                continue;
            }
            if matches!(fork.reason, ForkReason::UnrecordedDamage | ForkReason::WentBack) {
                return Err(fork.reason);
            }
            if self.health.forked(epoch, self.epoch, &fork) || self.ring.phase() >= Phase::Closed {
                return Err(fork.reason);
            }
            tokio::select! {
                () = self.health.wait_to_look() => {}
                () = self.ring.wait_for_phase(Phase::Closed) => {}
            }
        }
    }

    /// Looks at forked streams of older epochs again, if it is time.
    async fn look_at_forked(&mut self) {
        if self.health.next_look().is_none_or(|at| Instant::now() < at) {
            return;
        }
        for epoch in self.health.take_forked() {
            if Box::pin(self.ship_stream(epoch)).await.is_ok() && self.settle(epoch).await.is_ok() {
                self.health.not_forked(epoch);
            }
        }
    }

    async fn ship_from_cursor(&mut self, epoch: Epoch) -> Result<(), Fork> {
        // The age of the backlog has to be known even if Postgres does not answer.
        let delivered = self.delivered(epoch);
        if let Ok(Some(batch)) = self.source.peek(epoch, delivered).await {
            batch.first().inspect(|record| self.meter.set_oldest(record));
        }
        let mut head = self.cursor(epoch).await;
        self.source.clear();
        if head.seq > Seq::ZERO {
            self.check_cursor(epoch, head).await?;
        }
        let mut went_back = (head.seq < delivered.seq).then_some(delivered);
        if went_back.is_none() && head.seq > Seq::ZERO {
            self.delivered.insert(epoch, head);
            self.ring.mark_delivered(epoch, head, epoch == self.epoch);
        }
        let mut is_just_read = true;
        loop {
            if self.prepared.is_none_or(|at| at.elapsed() > PREPARE_EVERY) {
                self.prepare().await;
            }
            if self.lease_due <= Instant::now() {
                self.renew_lease().await;
                if epoch == self.epoch && !is_just_read {
                    self.check_idle(epoch, head).await?;
                }
            }
            is_just_read = false;
            if epoch == self.epoch {
                let looked_at = self.times_back;
                self.look_at_forked().await;
                if self.times_back != looked_at {
                    // All epochs are looked at again, this one last.
                    return Err(fork::went_back(head, head));
                }
            }
            match self.source.next(epoch, head).await {
                Ok(Some(batch)) => {
                    if let Some(delivered) = went_back.take() {
                        self.resume(epoch, (head, delivered), &batch)?;
                    }
                    let reached = self.deliver(head, &batch).await?;
                    if reached != head {
                        self.meter.delivered.add(reached.seq.0.saturating_sub(head.seq.0));
                        head = reached;
                        self.delivered.insert(epoch, head);
                        self.ring.mark_delivered(epoch, head, epoch == self.epoch);
                        self.note.delivered(&self.source, epoch, head);
                        self.not_forked(epoch);
                    }
                }
                Ok(None) => {
                    if self.ends_at(epoch, head, went_back)? {
                        return Ok(());
                    }
                    self.wait_for_records(epoch, head).await;
                }
                Err(SourceError::Outbox(error)) => self.health.hold(&error.to_string()).await,
                Err(SourceError::Unrecorded) => {
                    let what = "lost records were found while the gateway stops; the next start records and ships them";
                    tracing::warn!(%epoch, after = %head.seq, "{what}");
                    return Err(Fork { what: what.to_owned(), reason: ForkReason::UnrecordedDamage });
                }
            }
        }
    }

    /// Returns true if the stream ends at `head`, after which there is no record. `went_back` is what was delivered
    /// before, if that was more.
    fn ends_at(&mut self, epoch: Epoch, head: Head, went_back: Option<Head>) -> Result<bool, Fork> {
        self.meter.clear_oldest();
        let ended = epoch < self.epoch || self.ring.phase() >= Phase::Closed;
        let gauge = self.ring.gauge();
        if epoch == self.epoch && head.seq > gauge.stamped {
            let what = format!("Postgres has seq {}, but this epoch ends at {}", head.seq, gauge.stamped);
            return Err(Fork::foreign_writer(what));
        }
        if let Some(delivered) = went_back {
            return Err(missing(head, delivered.seq.next()));
        }
        self.not_forked(epoch);
        Ok(ended && (epoch < self.epoch || head.seq >= gauge.stamped))
    }

    /// Lowers the alarm about a stream that is shipped, unless its end has still to be settled.
    fn not_forked(&mut self, epoch: Epoch) {
        if !self.unsettled.contains_key(&epoch) {
            self.health.not_forked(epoch);
        }
    }

    /// Waits until there is a record after `head`, the epoch is closed, or it is time to look at forked streams. Notes
    /// the delivered head meanwhile.
    async fn wait_for_records(&mut self, epoch: Epoch, head: Head) {
        let look = async {
            match self.health.next_look() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.ring.wait_for_shippable_after(head.seq) => {}
            () = look => {}
            () = tokio::time::sleep_until(self.lease_due) => {}
            () = self.note.is_due() => self.note.delivered(&self.source, epoch, head),
        }
    }

    /// Checks that the cursor that was read at the start is a position in this gateway's own stream.
    async fn check_cursor(&mut self, epoch: Epoch, cursor: Head) -> Result<(), Fork> {
        // I4: records before a foreign cursor were not delivered, and must not be removed from the outbox for it.
        loop {
            let delivered = self.delivered(epoch);
            let found = if cursor == delivered {
                Ok(CursorCheck::Own)
            } else if epoch < self.epoch {
                self.source.check(epoch, cursor).await
            } else {
                self.source.check_current(cursor, delivered).await
            };
            match found {
                Ok(CursorCheck::Own) => return Ok(()),
                Ok(CursorCheck::Foreign) => return Err(Fork::foreign_cursor(cursor)),
                Ok(CursorCheck::Ahead) => {
                    return Err(Fork { reason: ForkReason::UnknownRecords, ..Fork::foreign_cursor(cursor) });
                }
                Err(error) => self.health.hold(&error.to_string()).await,
            }
        }
    }

    /// Looks whether Postgres still has what was delivered. Without this, a database that went back would be noticed
    /// only when the next record is delivered.
    async fn check_idle(&mut self, epoch: Epoch, head: Head) -> Result<(), Fork> {
        let found = match self.sink.cursor(self.gateway_id, epoch).await {
            Ok(found) => found,
            Err(error) if error.class == ErrorClass::Operator => {
                self.wait(&error).await;
                let found = self.cursor(epoch).await;
                self.health.succeeded();
                found
            }
            // The next delivery shows whether it lasts.
            Err(_) => return Ok(()),
        };
        if found.seq < head.seq {
            return Err(went_back(found, head));
        }
        if found == head { Ok(()) } else { Err(Fork::foreign_cursor(found)) }
    }

    /// Notes that the database went back. It may have less of every epoch.
    fn go_back(&mut self) {
        self.times_back += 1;
        // I4: no room is made by what it may not have any more.
        self.ring.go_back();
    }

    /// Resumes the delivery of a stream after `found`, although it was delivered up to `delivered` before. `batch` is
    /// what is kept after `found`.
    fn resume(
        &mut self,
        epoch: Epoch,
        (found, delivered): (Head, Head),
        batch: &[Arc<AuditRecord>],
    ) -> Result<(), Fork> {
        if self.times_back == 0 {
            self.go_back();
        }
        let linked = batch.first().map_or(Ok(()), |first| check_link(found, first));
        if linked.is_ok() {
            let (seq, delivered_seq) = (found.seq, delivered.seq);
            tracing::error!(
                %epoch, %seq, %delivered_seq,
                "Postgres has less than was delivered (restored, or failed over); delivering the kept records again"
            );
            self.meter.restored.add(1);
            self.delivered.insert(epoch, found);
            self.ring.report(Finding::Restored(Restored { epoch, found, delivered }));
        }
        // I4: what is after it is not delivered any more, and stays.
        self.ring.mark_delivered(epoch, found, epoch == self.epoch);
        linked
    }
}
