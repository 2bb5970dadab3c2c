//! The shipper's task: the loop over streams, batches and single records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{BatchLimits, BatchSize};
use super::fork::{Fork, ForkReason};
use super::health::Health;
use super::note::Note;
use super::record_source::{CursorCheck, RecordSource, SourceError};
use super::repeated_failure::{RepeatedFailure, any_accepted};
use super::state::ShipperState;
use crate::audit::chain::Head;
use crate::audit::meter::Meter;
use crate::audit::outbox::Reader;
use crate::audit::record::{AuditRecord, Epoch, GatewayId, Seq};
use crate::audit::ring::{Phase, Ring};
use crate::audit::sink::{CursorUpdate, ErrorClass, Sink, SinkError};

/// Interval at which partitions are created ahead. *Chosen*: monthly partitions are created months ahead, so once a day
/// is often enough.
const PREPARE_EVERY: Duration = Duration::from_hours(24);

/// Interval at which the lease is renewed. *Chosen*: a gateway that is gone is noticed within minutes, and a thousand
/// gateways cost their database some tens of small transactions a second.
const LEASE_EVERY: Duration = Duration::from_secs(30);

/// Length of a lease. *Derived*: the function in the schema takes a third of it as the interval.
const LEASE: Duration = LEASE_EVERY.saturating_mul(3);

/// Delivers the records of ring and outbox to a sink.
#[derive(Debug)]
pub struct Shipper<S> {
    ring: Arc<Ring>,
    source: RecordSource,
    meter: Arc<Meter>,
    sink: S,
    gateway_id: GatewayId,
    epoch: Epoch,
    size: BatchSize,
    health: Health,
    /// Cancelled when delivery has to end, finished or not.
    deadline: CancellationToken,
    /// Refused records since the last delivered one. Counted over all batches: with little traffic, each batch is one
    /// record.
    repeated_failure: RepeatedFailure,
    /// When the sink was prepared; `None` before the first time.
    prepared: Option<Instant>,
    /// When the lease is renewed next.
    lease_due: Instant,
    /// The note of the delivered head beside the outbox.
    note: Note,
    /// Earlier epochs whose end in Postgres is not settled, each with its last record as far as it is known.
    unsettled: BTreeMap<Epoch, Head>,
    /// The end of what this process delivered of the current epoch.
    delivered: Head,
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
        let unsettled = reader.unsettled();
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
            delivered: Head::START,
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
        let (mut after, mut held) = (None, BTreeSet::new());
        loop {
            match self.source.next_epoch(after).await {
                Ok(Some(epoch)) if epoch < self.epoch => {
                    // I4: a stream with missing records keeps its files, and does not block later streams.
                    match self.ship_stream(epoch).await {
                        Err(ForkReason::ForeignWriter) => return,
                        Err(_) => drop(held.insert(epoch)),
                        Ok(()) => {}
                    }
                    after = Some(epoch);
                }
                Ok(_) => break,
                Err(error) => self.health.hold(&error.to_string()).await,
            }
        }
        for epoch in self.unsettled.keys().copied().collect::<Vec<_>>() {
            if !held.contains(&epoch) {
                self.settle(epoch).await.ok();
            }
        }
        // If the stream is forked, the alarm is already raised.
        self.ship_stream(self.epoch).await.ok();
    }

    /// Settles where an earlier epoch ends in Postgres, once everything is delivered that is stored of it.
    async fn settle(&mut self, epoch: Epoch) -> Result<(), ForkReason> {
        let Some(known) = self.unsettled.get(&epoch).copied() else { return Ok(()) };
        let cursor = self.cursor(epoch).await;
        let is_another = cursor.seq == known.seq && cursor.hash != known.hash;
        let fork = if cursor.seq < known.seq {
            let (from, to) = (cursor.seq.next(), known.seq);
            let what = format!("records {from} to {to} were delivered and are not in Postgres any more");
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
            self.ring.settle(epoch, end);
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
            if fork.reason == ForkReason::UnrecordedDamage {
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
        if let Ok(Some(batch)) = self.source.peek(epoch, Head::START).await {
            batch.first().inspect(|record| self.meter.set_oldest(record));
        }
        let mut head = self.cursor(epoch).await;
        self.source.clear();
        if head.seq > Seq::ZERO {
            self.check_cursor(epoch, head).await?;
            self.ring.mark_delivered(epoch, head, epoch == self.epoch);
        }
        loop {
            if self.prepared.is_none_or(|at| at.elapsed() > PREPARE_EVERY) {
                self.prepare().await;
            }
            if self.lease_due <= Instant::now() {
                self.renew_lease().await;
            }
            if epoch == self.epoch {
                self.look_at_forked().await;
            }
            match self.source.next(epoch, head).await {
                Ok(Some(batch)) => {
                    let reached = self.deliver(head, &batch).await?;
                    if reached != head {
                        self.meter.delivered.add(reached.seq.0.saturating_sub(head.seq.0));
                        head = reached;
                        if epoch == self.epoch {
                            self.delivered = head;
                        }
                        self.ring.mark_delivered(epoch, head, epoch == self.epoch);
                        self.note.delivered(&self.source, epoch, head);
                        self.not_forked(epoch);
                    }
                }
                Ok(None) => {
                    self.meter.clear_oldest();
                    let ended = epoch < self.epoch || self.ring.phase() >= Phase::Closed;
                    let gauge = self.ring.gauge();
                    if epoch == self.epoch && head.seq > gauge.stamped {
                        let what = format!("Postgres has seq {}, but this epoch ends at {}", head.seq, gauge.stamped);
                        return Err(Fork::foreign_writer(what));
                    }
                    if epoch == self.epoch && head.seq < self.delivered.seq {
                        return Err(missing(head, self.delivered.seq.next()));
                    }
                    self.not_forked(epoch);
                    if ended && (epoch < self.epoch || head.seq >= gauge.stamped) {
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
            let found = if epoch < self.epoch {
                self.source.check(epoch, cursor).await
            } else if cursor == self.delivered {
                Ok(CursorCheck::Own)
            } else {
                // After a fork was resolved, the cursor may be at a record that was delivered again.
                let contains = self.source.contains(epoch, cursor).await;
                contains.map(|contains| if contains { CursorCheck::Own } else { CursorCheck::Foreign })
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

    /// Delivers consecutive records after `head`. Returns the stream's new head.
    async fn deliver(&mut self, mut head: Head, batch: &[Arc<AuditRecord>]) -> Result<Head, Fork> {
        let (mut rest, mut size) = (batch, self.size.current());
        while let Some((first, later)) = rest.split_first() {
            self.meter.set_oldest(first);
            check_link(head, first)?;
            let (attempt, _) = rest.split_at(size.min(rest.len()));
            let begun = Instant::now();
            let result = self.sink.deliver(attempt).await;
            head = match result {
                Ok(CursorUpdate::Moved) => {
                    self.meter.observe_delivery(attempt.len(), begun.elapsed());
                    self.health.succeeded();
                    self.size.succeeded(attempt.len());
                    self.repeated_failure = RepeatedFailure::default();
                    attempt.last().map_or(head, |record| Head::after(&record.position))
                }
                Ok(CursorUpdate::Unchanged) => self.resolve_outcome(head, rest).await?,
                // I9: a record that Postgres refuses is found by halving, and quarantined at its position.
                Err(error) if error.class == ErrorClass::Row && attempt.len() > 1 => {
                    size = attempt.len().div_ceil(2);
                    continue;
                }
                Err(error) if error.class == ErrorClass::Row => {
                    if self.repeated_failure.add(&error) {
                        // I9: bad rows do not block good ones, however many there are.
                        match any_accepted(&mut self.sink, later).await {
                            Ok(true) => {}
                            Ok(false) => {
                                let error =
                                    format!("many records in a row fail alike, so the schema is at fault: {error}");
                                self.health.hold(&error).await;
                                // Retried together with newer records, which may show that the rows are at fault.
                                return Ok(head);
                            }
                            Err(error) => {
                                self.health.wait(&error).await;
                                continue;
                            }
                        }
                    }
                    self.quarantine(head, rest, &error).await?
                }
                Err(error) => {
                    if error.class == ErrorClass::TooMuch {
                        self.size.shrink(attempt.len());
                    }
                    self.health.wait(&error).await;
                    // The reply may have been lost after the commit.
                    self.resolve_outcome(head, rest).await?
                }
            };
            let delivered = rest.iter().take_while(|record| record.position.seq <= head.seq).count();
            rest = rest.split_at(delivered).1;
            self.source.advance(delivered);
            // After a quarantined record, the rest is tried as a whole again.
            size = self.size.current();
        }
        Ok(head)
    }

    /// Quarantines the first record of `rest`.
    async fn quarantine(&mut self, head: Head, rest: &[Arc<AuditRecord>], error: &SinkError) -> Result<Head, Fork> {
        let Some(record) = rest.first() else { return Ok(head) };
        let position = record.position;
        let request_id = record.entry.call.request_id;
        tracing::error!(seq = %position.seq, %request_id, %error, "Postgres refused a record; quarantining it");
        match self.sink.quarantine(record, error).await {
            Ok(CursorUpdate::Moved) => {
                self.meter.quarantined.add(1);
                Ok(Head::after(&position))
            }
            // I5: a batch that timed out may have been committed since, and then the cursor is after this record.
            Ok(CursorUpdate::Unchanged) => self.resolve_outcome(head, rest).await,
            Err(error) => {
                self.health.wait(&error).await;
                self.resolve_outcome(head, rest).await
            }
        }
    }

    /// Reads the cursor after a delivery whose outcome is unknown. Returns the stream's head.
    async fn resolve_outcome(&mut self, head: Head, sent: &[Arc<AuditRecord>]) -> Result<Head, Fork> {
        let Some(position) = sent.first().map(|record| record.position) else { return Ok(head) };
        let cursor = self.cursor(position.epoch).await;
        let ours = cursor == head || sent.iter().any(|record| Head::after(&record.position) == cursor);
        if !ours {
            return Err(Fork::foreign_cursor(cursor));
        }
        if cursor != head {
            self.health.succeeded();
        }
        Ok(cursor)
    }

    async fn cursor(&mut self, epoch: Epoch) -> Head {
        loop {
            if self.prepared.is_none() {
                self.prepare().await;
            }
            match self.sink.cursor(self.gateway_id, epoch).await {
                Ok(head) => return head,
                Err(error) => self.health.wait(&error).await,
            }
        }
    }

    /// Renews the lease. Delivery does not depend on it: what prevents it is reported when delivery fails.
    async fn renew_lease(&mut self) {
        self.lease_due = Instant::now() + LEASE_EVERY;
        match self.sink.renew_lease(self.gateway_id, self.epoch, LEASE).await {
            Ok(silent) => self.meter.set_silent_gateways(silent),
            Err(error) => tracing::debug!(%error, "could not renew the lease; trying again in 30 s"),
        }
    }

    /// Prepares the sink. The first time, until it succeeds. Later failures do not block delivery: they concern
    /// partitions that are needed only in the future.
    async fn prepare(&mut self) {
        while let Err(error) = self.sink.prepare(self.gateway_id).await {
            if self.prepared.is_some() {
                tracing::error!(%error, "could not create upcoming partitions; delivery continues, retrying in 24h");
                break;
            }
            self.health.wait(&error).await;
        }
        self.prepared = Some(Instant::now());
    }
}

/// Checks that the record that is delivered next follows the head.
fn check_link(head: Head, first: &AuditRecord) -> Result<(), Fork> {
    let position = first.position;
    if position.seq != head.seq.next() {
        return Err(missing(head, position.seq));
    }
    if position.prev_hash != head.hash {
        let what = format!("the record before seq {} has another hash in Postgres", position.seq);
        return Err(Fork::foreign_writer(what));
    }
    Ok(())
}

/// The fork at a cursor that is at `head`, while the next record that this gateway has is at `next`.
fn missing(head: Head, next: Seq) -> Fork {
    let (from, to) = (head.seq.next(), next.0.saturating_sub(1));
    let what = format!("records {from} to {to} are in neither outbox nor Postgres");
    Fork { what, reason: ForkReason::MissingRecords }
}
