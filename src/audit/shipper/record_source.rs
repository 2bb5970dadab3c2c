//! The records that are shipped next, from the ring or from the outbox.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::batch::BatchLimits;
use crate::audit::chain::Head;
use crate::audit::lost::is_stand_in;
use crate::audit::outbox::{self, Reader};
use crate::audit::record::{AuditRecord, Digest, Epoch, Seq};
use crate::audit::ring::{Phase, Ring, WindowRead};

/// Reads consecutive records of a stream. The next segment of the outbox is read while the records before it are
/// delivered.
#[derive(Debug)]
pub(super) struct RecordSource {
    ring: Arc<Ring>,
    reader: Reader,
    /// The epoch that is being written, whose newest records are in the ring.
    current: Epoch,
    limits: BatchLimits,
    /// Records that were read from the outbox and are not delivered yet.
    ahead: VecDeque<Arc<AuditRecord>>,
    /// The segment after those records.
    reading: Option<SegmentRead>,
}

/// A segment that is being read on a blocking thread.
#[derive(Debug)]
struct SegmentRead {
    /// The position before the segment's first record.
    after: (Epoch, Head),
    records: JoinHandle<Result<Vec<AuditRecord>, outbox::OutboxError>>,
}

/// The reason why there is no answer to what comes next.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// The outbox cannot be read.
    #[error(transparent)]
    Outbox(#[from] outbox::OutboxError),
    /// The next record is lost, and the damage was found when the epoch was already closed, so that it cannot be
    /// recorded any more.
    #[error("damage was found after the epoch was closed")]
    Unrecorded,
}

/// The result of comparing a cursor with ring and outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CursorCheck {
    /// It is a position in this gateway's own stream.
    Own,
    /// The outbox has another record at that position, or the closing record of the epoch before it.
    Foreign,
    /// It is after the last record that was stored, at a level at which nothing is delivered that is not stored.
    Ahead,
}

impl RecordSource {
    pub(super) fn new(ring: Arc<Ring>, reader: Reader, current: Epoch, limits: BatchLimits) -> Self {
        Self { ring, reader, current, limits, ahead: VecDeque::new(), reading: None }
    }

    /// The records after `after`, at most one batch; `None` if there are none yet. If the first of them is lost, waits
    /// until its damage record is stored.
    pub(super) async fn next(
        &mut self,
        epoch: Epoch,
        after: Head,
    ) -> Result<Option<Vec<Arc<AuditRecord>>>, SourceError> {
        let Some(mut batch) = self.peek(epoch, after).await? else { return Ok(None) };
        let is_unrecorded = |record: &Arc<AuditRecord>| is_stand_in(record) && !self.reader.is_recorded(record);
        match batch.iter().position(is_unrecorded) {
            Some(0) => {
                self.wait_until_recorded(batch.first()).await?;
                batch.truncate(1);
            }
            Some(count) => batch.truncate(count),
            None => {}
        }
        Ok(Some(batch))
    }

    /// Waits until the damage record for the first record of a batch is stored.
    async fn wait_until_recorded(&self, first: Option<&Arc<AuditRecord>>) -> Result<(), SourceError> {
        let Some(first) = first else { return Ok(()) };
        self.ring.request_turn();
        tokio::select! {
            biased;
            () = self.reader.wait_until_recorded(first) => Ok(()),
            // The closing commit has recorded everything that was reported before it.
            () = self.ring.wait_for_phase(Phase::Closed) => Err(SourceError::Unrecorded),
        }
    }

    /// The records after `after`, as [`next`](Self::next) returns them, but without a wait: they may be lost records
    /// that must not be delivered yet.
    pub(super) async fn peek(
        &mut self,
        epoch: Epoch,
        after: Head,
    ) -> Result<Option<Vec<Arc<AuditRecord>>>, outbox::OutboxError> {
        let from = after.seq.next();
        if epoch == self.current {
            match self.ring.read_from(from, self.limits.records, self.limits.bytes) {
                WindowRead::Records(records) => return Ok(Some(records)),
                WindowRead::Nothing => return Ok(None),
                WindowRead::Older => {}
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
        Ok(Some(batch).filter(|batch| !batch.is_empty()))
    }

    /// Forgets `count` records that were delivered.
    pub(super) fn advance(&mut self, count: usize) {
        for _ in 0..count {
            self.ahead.pop_front();
        }
    }

    /// Forgets all records that were read ahead.
    pub(super) fn clear(&mut self) {
        self.ahead.clear();
    }

    /// The oldest epoch in the outbox that is later than `after`.
    pub(super) async fn next_epoch(&self, after: Option<Epoch>) -> Result<Option<Epoch>, outbox::OutboxError> {
        let reader = self.reader.clone();
        let next = joined(tokio::task::spawn_blocking(move || reader.next_epoch(after))).await;
        self.pass_damage_on();
        next
    }

    /// Compares a cursor of the current epoch, of which `delivered` was delivered, with ring and outbox.
    pub(super) async fn check_current(
        &mut self,
        cursor: Head,
        delivered: Head,
    ) -> Result<CursorCheck, outbox::OutboxError> {
        let before = Head { seq: Seq(cursor.seq.0.saturating_sub(1)), hash: Digest::ZERO };
        let batch = self.peek(self.current, before).await?;
        self.clear();
        let found = batch.as_ref().and_then(|batch| batch.first()).filter(|first| first.position.seq == cursor.seq);
        // Records that are no longer kept cannot be compared. The next record that is kept shows whether it follows.
        let is_own = found.map_or(cursor.seq < delivered.seq, |record| record.position.hash == cursor.hash);
        Ok(if is_own { CursorCheck::Own } else { CursorCheck::Foreign })
    }

    /// A reader of the outbox.
    pub(super) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Compares the cursor of an earlier epoch with the outbox. At level `queued` a cursor may be ahead of an epoch
    /// that was not closed, because records that were delivered from the ring were never written to the outbox.
    pub(super) async fn check(&self, epoch: Epoch, cursor: Head) -> Result<CursorCheck, outbox::OutboxError> {
        let before = Head { seq: Seq(cursor.seq.0.saturating_sub(1)), hash: Digest::ZERO };
        if let Some(record) = self.read(epoch, before).await?.first() {
            let another = record.position.seq == cursor.seq && record.position.hash != cursor.hash;
            let may_differ = || is_stand_in(record) && self.reader.has_unknown_hash(epoch, cursor.seq);
            return Ok(if another && !may_differ() { CursorCheck::Foreign } else { CursorCheck::Own });
        }
        let (mut after, mut closed) = (Head::START, false);
        while let Some(last) = self.read(epoch, after).await?.pop() {
            (after, closed) = (Head::after(&last.position), last.entry.call.method == "gateway/closed");
        }
        let reader = self.reader.clone();
        let explained = tokio::task::spawn_blocking(move || reader.may_be_delivered(epoch, cursor.seq));
        Ok(match (closed, joined(explained).await?) {
            (true, _) => CursorCheck::Foreign,
            (false, true) => CursorCheck::Own,
            (false, false) => CursorCheck::Ahead,
        })
    }

    /// Wakes the scribe if damage was found that it has to record.
    fn pass_damage_on(&self) {
        if self.reader.has_damage_to_record() {
            self.ring.request_turn();
        }
    }

    /// Reads segments of the outbox until there is a full batch, or no segment is left.
    async fn fill(&mut self, epoch: Epoch, after: Head) -> Result<(), outbox::OutboxError> {
        // I6: at most a batch and a segment, and one more segment that is being read.
        while self.ahead.len() < self.limits.records && self.ahead_bytes() < self.limits.bytes {
            self.read_ahead(epoch, after);
            let Some(SegmentRead { records, .. }) = self.reading.take() else { break };
            let records = joined(records).await;
            self.pass_damage_on();
            match records {
                Ok(records) if records.is_empty() => break,
                Ok(records) => self.ahead.extend(records.into_iter().map(Arc::new)),
                Err(error) if self.ahead.is_empty() => return Err(error),
                // The records before the error are delivered first; the next read returns the error again.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Begins to read the segment after the records that were read.
    fn read_ahead(&mut self, epoch: Epoch, after: Head) {
        let after = self.ahead.back().map_or(after, |record| Head::after(&record.position));
        if self.reading.as_ref().is_none_or(|reading| reading.after != (epoch, after)) {
            let reader = self.reader.clone();
            let records = tokio::task::spawn_blocking(move || reader.read(epoch, after));
            self.reading = Some(SegmentRead { after: (epoch, after), records });
        }
    }

    fn ahead_bytes(&self) -> usize {
        self.ahead.iter().map(|record| record.entry.size_bytes()).sum()
    }

    async fn read(&self, epoch: Epoch, after: Head) -> Result<Vec<AuditRecord>, outbox::OutboxError> {
        let reader = self.reader.clone();
        joined(tokio::task::spawn_blocking(move || reader.read(epoch, after))).await
    }
}

/// The result of a blocking read. A panic in it continues here.
async fn joined<T>(read: JoinHandle<Result<T, outbox::OutboxError>>) -> Result<T, outbox::OutboxError> {
    read.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}
