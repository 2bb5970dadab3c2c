//! The shipper: one async task that delivers every stream, oldest epoch first, each record once and in order.
//!
//! For each stream it reads the sink's cursor and goes on from there, so it needs no memory of its own: a reply that
//! was lost, a restart, a second delivery all end in "the cursor is already there". Records come from the ring while
//! it still holds the next one, else from the outbox.
//!
//! Errors are sorted by the sink. *Transient*: the same batch again, for ever, with growing pauses; where it may have
//! been *too much* for the server, half of it, and batches grow back slowly. *Operator*: held
//! and tried again slowly. *Row*: the batch is halved until one record is left, and that one goes to quarantine in its
//! place; where many records fail alike, and later ones would too, it is the schema, and the stream is held. A cursor that is ahead of this stream,
//! or has another hash, is a *fork*: somebody else writes under this gateway's id. That stream is not shipped, nothing of
//! it is lost or overwritten, and the alarm stands until an operator acts. Where it is an older epoch's, the next ones go
//! on; it is looked at again at the next start.

mod alike;
mod size;
mod state;
mod trouble;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::chain::Head;
use super::meter::Meter;
use super::outbox::{self, Reader};
use super::record::{AuditRecord, Digest, Epoch, GatewayId, Seq};
use super::ring::{Phase, Ring, Window};
use super::sink::{CursorUpdate, ErrorClass, Sink, SinkError};
use crate::retry::{Backoff, RetryPolicy};
use alike::Alike;
use size::Size;
use state::Forks;
pub use state::ShipperState;

/// How often partitions are made ahead. *Chosen*: monthly partitions are made months ahead, so once a day is plenty.
const PREPARE_EVERY: Duration = Duration::from_hours(24);

/// Retries of a transient error. *Chosen*: a server that restarts is found within seconds, and one that is down gets a
/// dozen attempts a minute.
const TRANSIENT_RETRY: RetryPolicy = RetryPolicy::new(Duration::from_millis(50), Duration::from_secs(5));

/// Retries of an error that an operator has to fix. *Chosen*: the fix is noticed within half a minute.
const OPERATOR_RETRY: RetryPolicy = RetryPolicy::new(Duration::from_secs(1), Duration::from_secs(30));

/// How large a batch may be.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Rows.
    pub records: usize,
    /// Bytes of text.
    pub bytes: usize,
}

/// Delivers what ring and outbox hold.
#[derive(Debug)]
pub struct Shipper<S> {
    ring: Arc<Ring>,
    reader: Reader,
    meter: Arc<Meter>,
    sink: S,
    gateway_id: GatewayId,
    epoch: Epoch,
    limits: BatchLimits,
    size: Size,
    state: watch::Sender<ShipperState>,
    forks: Forks,
    /// Cancelled when delivery has to end, finished or not.
    deadline: CancellationToken,
    /// Records read from the outbox and not delivered yet.
    ahead: VecDeque<Arc<AuditRecord>>,
    /// The segment behind those, which is read while they are delivered.
    reading: Option<Reading>,
    /// Refused records since the last one that was delivered, over all batches: a quiet gateway's hold one each.
    alike: Alike,
    prepared: Option<Instant>,
    transient: Backoff,
    operator: Backoff,
}

/// A segment that is being read on a thread for blocking work.
#[derive(Debug)]
struct Reading {
    /// What the records come behind.
    behind: (Epoch, Head),
    records: JoinHandle<Result<Vec<AuditRecord>, outbox::Error>>,
}

/// Why a stream is not shipped any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forked {
    /// Somebody else writes under this gateway's id: nothing of it is shipped, since its next epochs may be theirs too.
    Foreign,
    /// Records before the next one are in neither place, as where a database was restored: other epochs are shipped.
    Missing,
}

/// What stands at the next place of a stream.
enum Next {
    Batch(Vec<Arc<AuditRecord>>),
    /// Nothing yet.
    Nothing,
}

impl<S: Sink> Shipper<S> {
    /// A shipper for `ring` and `reader`, with their `meter`, which are of `gateway_id` and `epoch`. `deadline` ends it at once.
    pub fn new(
        (ring, reader, meter): (Arc<Ring>, Reader, Arc<Meter>),
        sink: S,
        (gateway_id, epoch): (GatewayId, Epoch),
        limits: BatchLimits,
        deadline: CancellationToken,
    ) -> (Self, watch::Receiver<ShipperState>) {
        let (state, watched) = watch::channel(ShipperState::Starting);
        let (transient, operator) = (Backoff::new(TRANSIENT_RETRY), Backoff::new(OPERATOR_RETRY));
        let (ahead, alike, prepared) = (VecDeque::new(), Alike::default(), None);
        let shipper = Self {
            ring,
            reader,
            meter,
            sink,
            gateway_id,
            epoch,
            limits,
            size: Size::new(limits.records),
            state,
            forks: Forks::default(),
            deadline,
            ahead,
            reading: None,
            alike,
            prepared,
            transient,
            operator,
        };
        (shipper, watched)
    }

    /// Delivers until the epoch is closed and all of it is delivered, or the deadline comes.
    pub async fn run(mut self) {
        let (deadline, state) = (self.deadline.clone(), self.state.clone());
        // Dropping the work closes a connection in the middle of a statement; the cursor tells later what it did.
        let work = tokio::spawn(async move { deadline.run_until_cancelled(self.ship_all()).await });
        if let Err(error) = work.await {
            tracing::error!(%error, "the shipper failed: a fault of Gatepost; records wait in the outbox for a restart");
            state.send_replace(ShipperState::Held {
                error: format!("the shipper failed, restart the gateway: {error}"),
            });
        }
    }

    async fn ship_all(&mut self) {
        let mut after = None;
        loop {
            match self.next_epoch(after).await {
                Ok(Some(epoch)) if epoch < self.epoch => {
                    // I4: one with a hole keeps its files, and is not in the way of those behind it.
                    if self.ship(epoch).await == Err(Forked::Foreign) {
                        return;
                    }
                    after = Some(epoch);
                }
                Ok(_) => break,
                Err(error) => self.hold(&error.to_string()).await,
            }
        }
        // Where it is forked the alarm stands already.
        self.ship(self.epoch).await.ok();
    }

    /// Delivers one stream: an older one to its end, this epoch's until it is closed.
    async fn ship(&mut self, epoch: Epoch) -> Result<(), Forked> {
        // How old the backlog is has to be known also where Postgres does not answer.
        if let Ok(Next::Batch(batch)) = self.next(epoch, Head::START).await {
            batch.first().inspect(|record| self.meter.set_oldest(&record.entry));
        }
        let mut head = self.cursor(epoch).await;
        self.ahead.clear();
        if head.seq > Seq::ZERO {
            self.vouch(epoch, head).await?;
            self.ring.delivered(epoch, head, epoch == self.epoch);
        }
        loop {
            if self.prepared.is_none_or(|at| at.elapsed() > PREPARE_EVERY) {
                self.prepare().await;
            }
            match self.next(epoch, head).await {
                Ok(Next::Batch(batch)) => {
                    let reached = self.deliver(head, &batch).await?;
                    if reached != head {
                        self.meter.delivered.add(reached.seq.0.saturating_sub(head.seq.0));
                        head = reached;
                        self.ring.delivered(epoch, head, epoch == self.epoch);
                    }
                }
                Ok(Next::Nothing) => {
                    self.meter.clear_oldest();
                    let ended = epoch < self.epoch || self.ring.phase() >= Phase::Closed;
                    let gauge = self.ring.gauge();
                    if epoch == self.epoch && head.seq > gauge.stamped {
                        let what = format!("Postgres has {}, this epoch ends at {}", head.seq, gauge.stamped);
                        self.fork(epoch, &what, Forked::Foreign).await?;
                    }
                    if ended && (epoch < self.epoch || head.seq >= gauge.stamped) {
                        return Ok(());
                    }
                    self.ring.shippable_behind(head.seq).await;
                }
                Err(error) => self.hold(&error.to_string()).await,
            }
        }
    }

    /// The next records after a delivered one, from the ring or from the outbox.
    async fn next(&mut self, epoch: Epoch, after: Head) -> Result<Next, outbox::Error> {
        let from = after.seq.next();
        if epoch == self.epoch {
            match self.ring.read_from(from, self.limits.records, self.limits.bytes) {
                Window::Records(records) => return Ok(Next::Batch(records)),
                Window::Nothing => return Ok(Next::Nothing),
                Window::Older => {}
            }
        }
        if self.ahead.front().is_none_or(|record| record.position.epoch != epoch || record.position.seq != from) {
            self.ahead.clear();
        }
        self.fill(epoch, after).await?;
        self.read_ahead(epoch, after);
        let mut bytes = 0;
        let fits = |record: &&Arc<AuditRecord>| {
            let first = bytes == 0;
            bytes += record.entry.size_bytes();
            first || bytes <= self.limits.bytes
        };
        let batch: Vec<_> = self.ahead.iter().take(self.limits.records).take_while(fits).cloned().collect();
        Ok(if batch.is_empty() { Next::Nothing } else { Next::Batch(batch) })
    }

    /// Reads segments of the outbox until they make a full batch, or there are no more.
    async fn fill(&mut self, epoch: Epoch, after: Head) -> Result<(), outbox::Error> {
        // I6: at most a batch and a segment, and one more segment that is being read.
        while self.ahead.len() < self.limits.records && self.ahead_bytes() < self.limits.bytes {
            self.read_ahead(epoch, after);
            let Some(Reading { records, .. }) = self.reading.take() else { break };
            let read = records.await;
            match read.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic())) {
                Ok(records) if records.is_empty() => break,
                Ok(records) => self.ahead.extend(records.into_iter().map(Arc::new)),
                Err(error) if self.ahead.is_empty() => return Err(error),
                // What was read before it goes first; then the error comes again.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Begins to read the segment behind those that were read, while they are delivered.
    fn read_ahead(&mut self, epoch: Epoch, after: Head) {
        let after = self.ahead.back().map_or(after, |record| Head::after(&record.position));
        if self.reading.as_ref().is_none_or(|reading| reading.behind != (epoch, after)) {
            let reader = self.reader.clone();
            let records = tokio::task::spawn_blocking(move || reader.read(epoch, after));
            self.reading = Some(Reading { behind: (epoch, after), records });
        }
    }

    fn ahead_bytes(&self) -> usize {
        self.ahead.iter().map(|record| record.entry.size_bytes()).sum()
    }

    async fn read(&mut self, epoch: Epoch, after: Head) -> Result<Vec<AuditRecord>, outbox::Error> {
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || reader.read(epoch, after)).await;
        read.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }

    /// Whether a cursor that is found at the start stands in this gateway's own stream; if not, it is a fork.
    async fn vouch(&mut self, epoch: Epoch, cursor: Head) -> Result<(), Forked> {
        // I4: records behind somebody else's cursor were not delivered, and must not be forgotten for it.
        loop {
            let found = if epoch == self.epoch {
                // Nothing of this epoch was delivered by anybody who may.
                Ok(true)
            } else {
                self.contradicted(epoch, cursor).await
            };
            match found {
                Ok(false) => return Ok(()),
                Ok(true) => {
                    let (seq, hash) = (cursor.seq, cursor.hash);
                    let what = format!("Postgres has seq {seq} with hash {hash}, which is not ours");
                    self.fork(epoch, &what, Forked::Foreign).await?;
                }
                Err(error) => self.hold(&error.to_string()).await,
            }
        }
    }

    /// Whether the outbox has another record at the cursor, or a closed epoch that ends before it. At level `queued` a
    /// cursor may be ahead of an epoch that was not closed: what was delivered from the ring never came here.
    async fn contradicted(&mut self, epoch: Epoch, cursor: Head) -> Result<bool, outbox::Error> {
        let before = Head { seq: Seq(cursor.seq.0.saturating_sub(1)), hash: Digest::ZERO };
        if let Some(record) = self.read(epoch, before).await?.first() {
            let another = record.position.seq == cursor.seq && record.position.hash != cursor.hash;
            return Ok(another && !outbox::stands_for_lost(record));
        }
        let (mut after, mut closed) = (Head::START, false);
        while let Some(last) = self.read(epoch, after).await?.pop() {
            (after, closed) = (Head::after(&last.position), last.entry.call.method == "gateway/closed");
        }
        Ok(closed)
    }

    /// Delivers consecutive records after `head`; returns the stream's new head.
    async fn deliver(&mut self, mut head: Head, batch: &[Arc<AuditRecord>]) -> Result<Head, Forked> {
        let (mut rest, mut size) = (batch, self.size.now());
        while let Some((first, later)) = rest.split_first() {
            self.meter.set_oldest(&first.entry);
            self.check(head, first).await?;
            let (try_now, _) = rest.split_at(size.min(rest.len()));
            let begun = Instant::now();
            let result = self.sink.deliver(try_now).await;
            head = match result {
                Ok(CursorUpdate::Moved) => {
                    self.meter.observe_delivery(&first.entry, try_now.len(), begun.elapsed());
                    self.succeeded();
                    self.size.succeeded(try_now.len());
                    self.alike = Alike::default();
                    try_now.last().map_or(head, |record| Head::after(&record.position))
                }
                Ok(CursorUpdate::Unchanged) => self.resolve(head, rest).await?,
                // I9: what Postgres refuses is found by halving, and set aside in its place.
                Err(error) if error.class == ErrorClass::Row && try_now.len() > 1 => {
                    size = try_now.len().div_ceil(2);
                    continue;
                }
                Err(error) if error.class == ErrorClass::Row => {
                    if self.alike.are_many(&error) {
                        // I9: bad rows are not in the way of good ones, however many there are.
                        match alike::any_passes(&mut self.sink, later).await {
                            Ok(true) => {}
                            Ok(false) => {
                                self.hold(&format!("many records fail alike, so it is the schema: {error}")).await;
                                // Tried again with what came since, which may tell that it is the rows.
                                return Ok(head);
                            }
                            Err(error) => {
                                self.wait(&error).await;
                                continue;
                            }
                        }
                    }
                    self.quarantine(head, rest, &error).await?
                }
                Err(error) => {
                    if error.class == ErrorClass::TooMuch {
                        self.size.was_too_much(try_now.len());
                    }
                    self.wait(&error).await;
                    // The reply may have been lost after the commit.
                    self.resolve(head, rest).await?
                }
            };
            let done = rest.iter().take_while(|record| record.position.seq <= head.seq).count();
            rest = rest.split_at(done).1;
            for _ in 0..done {
                self.ahead.pop_front();
            }
            // Behind a quarantined record the rest is tried whole again.
            size = self.size.now();
        }
        Ok(head)
    }

    /// Sets the first record of `rest` aside.
    async fn quarantine(&mut self, head: Head, rest: &[Arc<AuditRecord>], error: &SinkError) -> Result<Head, Forked> {
        let Some(record) = rest.first() else { return Ok(head) };
        let position = record.position;
        tracing::error!(seq = %position.seq, request_id = %record.entry.call.request_id, %error, "record quarantined");
        match self.sink.quarantine(record, error).await {
            Ok(CursorUpdate::Moved) => {
                self.meter.quarantined.add(1);
                Ok(Head::after(&position))
            }
            // I5: a batch that was given up may have been committed since, and then the cursor stands behind this one.
            Ok(CursorUpdate::Unchanged) => self.resolve(head, rest).await,
            Err(error) => {
                self.wait(&error).await;
                self.resolve(head, rest).await
            }
        }
    }

    /// Where the stream stands after a delivery whose outcome is unknown: the cursor is asked.
    async fn resolve(&mut self, head: Head, sent: &[Arc<AuditRecord>]) -> Result<Head, Forked> {
        let Some(position) = sent.first().map(|record| record.position) else { return Ok(head) };
        loop {
            let cursor = self.cursor(position.epoch).await;
            let ours = cursor == head || sent.iter().any(|record| Head::after(&record.position) == cursor);
            if ours {
                if cursor != head {
                    self.succeeded();
                }
                return Ok(cursor);
            }
            let what =
                format!("Postgres has seq {} with hash {}, which is not this gateway's", cursor.seq, cursor.hash);
            self.fork(position.epoch, &what, Forked::Foreign).await?;
        }
    }

    /// What is delivered next has to follow the head.
    async fn check(&mut self, head: Head, first: &AuditRecord) -> Result<(), Forked> {
        let position = first.position;
        while position.seq != head.seq.next() || position.prev_hash != head.hash {
            let (what, why) = if position.seq == head.seq.next() {
                (format!("the record before seq {} has another hash in Postgres", position.seq), Forked::Foreign)
            } else {
                let (from, to) = (head.seq.next(), position.seq.0.saturating_sub(1));
                (format!("records {from} to {to} are in neither outbox nor Postgres"), Forked::Missing)
            };
            self.fork(position.epoch, &what, why).await?;
        }
        Ok(())
    }

    async fn cursor(&mut self, epoch: Epoch) -> Head {
        loop {
            if self.prepared.is_none() {
                self.prepare().await;
            }
            match self.sink.cursor(self.gateway_id, epoch).await {
                Ok(head) => return head,
                Err(error) => self.wait(&error).await,
            }
        }
    }

    /// The first time until it succeeds. Later ones only look ahead: what cannot be prepared is not in the way of what is
    /// delivered today.
    async fn prepare(&mut self) {
        while let Err(error) = self.sink.prepare().await {
            if self.prepared.is_some() {
                tracing::error!(%error, "Postgres was not prepared for what comes; delivery goes on, tried again in a day");
                break;
            }
            self.wait(&error).await;
        }
        self.prepared = Some(Instant::now());
    }

    async fn next_epoch(&mut self, after: Option<Epoch>) -> Result<Option<Epoch>, outbox::Error> {
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || reader.next_epoch(after)).await;
        read.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }
}
