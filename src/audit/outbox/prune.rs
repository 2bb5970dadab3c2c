//! Pruning: in a deployment without Postgres the operator removes the oldest files, which are never delivered.
//!
//! Pruning removes whole files, oldest first, and never the newest one, so the remaining files are one unbroken part of
//! the stream. The first of them names the last record before it, from which `outbox verify` continues. The caller
//! records the pruning (`gateway/pruned`) before it removes files, see `ops::prune`.

use std::io;

use serde::{Deserialize, Serialize};

use super::error::OutboxError;
use super::file_number::FileNumber;
use super::generation::FileMeta;
use super::reader::Reader;
use super::salvage;
use super::stream_end::head_before;
use crate::audit::chain::Head;
use crate::audit::record::{Digest, Epoch, Seq};

/// The limit up to which files are pruned. Its JSON form is part of the admin socket's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PruneLimit {
    /// Files whose last record arrived before this time, in microseconds since 1970 UTC.
    #[serde(rename = "moment")]
    Time(i64),
    /// Files whose last record is before this position.
    #[serde(rename = "place")]
    Position {
        /// The epoch.
        epoch: Epoch,
        /// The seq in that epoch.
        seq: Seq,
    },
}

/// The last record that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPruned {
    /// The epoch of the record.
    pub epoch: Epoch,
    /// The seq of the record.
    pub seq: Seq,
    /// The hash of the record, from which the chain continues.
    pub hash: Digest,
}

/// The files and records that a pruning removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PrunePlan {
    /// The number of files.
    pub files: usize,
    /// The size of the files in bytes.
    pub bytes: u64,
    /// The number of records in the files.
    pub records: u64,
    /// The epoch and seq of the first record.
    pub first: (Epoch, Seq),
    /// The last record.
    pub last: LastPruned,
    /// True if this outbox has ever delivered to Postgres. If so, the records are waiting for delivery.
    pub awaited: bool,
    /// The last file that is removed.
    #[serde(skip)]
    through: FileNumber,
}

/// A file that may be removed. The next file determines where its records end.
struct Candidate {
    number: FileNumber,
    bytes: u64,
    epoch: Epoch,
    /// The seqs of the first and the last record, and the hash of the last one.
    records: Option<(Seq, Seq, Digest)>,
}

impl Reader {
    /// The files and records that pruning up to `limit` removes; `None` if no file with records is that old. Opens each
    /// of the files, and changes nothing.
    ///
    /// # Errors
    /// A file cannot be read. If it is damaged, the next start of the gateway restores it.
    pub fn prunable(&self, limit: PruneLimit) -> Result<Option<PrunePlan>, OutboxError> {
        let numbers = self.numbers();
        let Some(newest) = numbers.last().copied() else { return Ok(None) };
        let awaited = match self.file(newest)? {
            Some(file) => !file.delivered()?.is_empty(),
            None => false,
        };
        let (mut plan, mut candidate): (Option<PrunePlan>, Option<Candidate>) = (None, None);
        for number in numbers {
            let Some(file) = self.file(number)? else { continue };
            let meta = file.meta()?;
            if let Some(previous) = candidate.take() {
                plan = previous.extend(plan, &meta, awaited);
            }
            if number == newest {
                break;
            }
            let mut records = None;
            if let Some((segment, (first, last))) = file.last_segment()?.zip(file.span()?) {
                // A damaged record is replaced by a stand-in with the time of the record next to it.
                let before = head_before(&file, &meta, &segment)?;
                let end = salvage::records(&segment, meta.gateway_id, before, None).records;
                let old = match limit {
                    PruneLimit::Time(time) => end.iter().all(|record| record.entry.call.timestamp.micros() < time),
                    PruneLimit::Position { epoch, seq } => (meta.epoch, last) < (epoch, seq),
                };
                if !old {
                    break;
                }
                records = Some((first, last, end.last().map_or(Digest::ZERO, |record| record.position.hash)));
            }
            candidate = Some(Candidate { number, bytes: self.file_bytes(number), epoch: meta.epoch, records });
        }
        Ok(plan)
    }

    /// Removes the files of `plan`, oldest first; returns their number. If a file cannot be removed, it and the files
    /// after it stay, so that the remaining files are still an unbroken part of the stream.
    ///
    /// # Errors
    /// [`OutboxError::Io`]: a file cannot be removed, or this process does not hold the directory's lock.
    ///
    /// # Durability
    /// Once this has returned, the files stay removed after a power loss.
    pub fn prune(&self, plan: &PrunePlan) -> Result<usize, OutboxError> {
        if !self.is_owner() {
            let source = io::Error::new(io::ErrorKind::PermissionDenied, "the lock of its directory is not held");
            return Err(OutboxError::io("prune", &self.path(plan.through))(source));
        }
        let mut removed = 0;
        let numbers = self.numbers();
        // I4: the newest file is never removed, whatever the plan says.
        let sealed = numbers.split_last().map(|(_, sealed)| sealed).unwrap_or_default();
        for number in sealed.iter().filter(|number| **number <= plan.through) {
            self.remove(*number).map_err(OutboxError::io("remove", &self.path(*number)))?;
            removed += 1;
        }
        self.sync_dir()?;
        Ok(removed)
    }
}

impl Candidate {
    /// Adds this file to `plan`. `next` is the meta table of the next file, which says where this one ends.
    fn extend(self, plan: Option<PrunePlan>, next: &FileMeta, awaited: bool) -> Option<PrunePlan> {
        let end = if next.epoch == self.epoch {
            Some(next.head)
        } else {
            next.previous.filter(|(epoch, _)| *epoch == self.epoch).map(|(_, head)| head)
        };
        let end = end.filter(|head: &Head| head.seq > Seq::ZERO);
        let Some((first, last, hash)) = self.records else {
            // A file without a record is removed together with the files before it, if there are any.
            return plan.map(|plan| PrunePlan {
                files: plan.files + 1,
                bytes: plan.bytes + self.bytes,
                through: self.number,
                ..plan
            });
        };
        let end = end.unwrap_or(Head { seq: last, hash });
        // A file may repeat records that a failed commit left in the previous one.
        let counted = plan.filter(|plan| plan.last.epoch == self.epoch).map_or(Seq::ZERO, |plan| plan.last.seq);
        let records = (end.seq.0 + 1).saturating_sub(first.0.max(counted.0 + 1));
        let (files, bytes, before, begin) =
            plan.map_or((0, 0, 0, (self.epoch, first)), |plan| (plan.files, plan.bytes, plan.records, plan.first));
        Some(PrunePlan {
            files: files + 1,
            bytes: bytes + self.bytes,
            records: before + records,
            first: begin,
            last: LastPruned { epoch: self.epoch, seq: end.seq, hash: end.hash },
            awaited,
            through: self.number,
        })
    }
}
