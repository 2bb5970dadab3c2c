//! Pruning: in a store-only deployment the operator has the oldest files removed, which nothing delivers.
//!
//! Whole files go, oldest first, never the newest one, so that what is left is one run of the stream from the cut on: its
//! first file says what the last record before it was, and `outbox verify` goes on from there. Whoever prunes records it
//! first (`gateway/pruned`), see `ops::prune`.

use std::io;

use serde::{Deserialize, Serialize};

use super::generation::{Meta, Number};
use super::{Error, Reader, salvage};
use crate::audit::chain::Head;
use crate::audit::record::{Digest, Epoch, Seq};

/// Which files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// Those whose last records all arrived before this moment, microseconds since 1970.
    Moment(i64),
    /// Those whose last record stands before this place.
    Place {
        /// Its epoch.
        epoch: Epoch,
        /// Its seq.
        seq: Seq,
    },
}

/// A record's place, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// The epoch.
    pub epoch: Epoch,
    /// The place in it.
    pub seq: Seq,
    /// The record's hash, from which the chain goes on.
    pub hash: Digest,
}

/// What is removed, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// Files.
    pub files: usize,
    /// Their size, bytes.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Epoch and seq of the first one.
    pub first: (Epoch, Seq),
    /// The last one.
    pub last: Last,
    /// Whether this outbox was ever delivered from: then what is in it waits for Postgres.
    pub awaited: bool,
    /// The last file that goes.
    #[serde(skip)]
    through: Number,
}

/// What is known of a file until the one behind it was looked at.
struct Candidate {
    number: Number,
    bytes: u64,
    epoch: Epoch,
    /// First and last seq, and the last record's hash.
    records: Option<(Seq, Seq, Digest)>,
}

impl Reader {
    /// What would be removed; `None` where no file with records is that old. Opens each such file, and changes nothing.
    ///
    /// # Errors
    /// A file cannot be read, also because it is damaged: the gateway's next start mends it.
    pub fn prunable(&self, until: Until) -> Result<Option<Cut>, Error> {
        let numbers = self.numbers();
        let Some(newest) = numbers.last().copied() else { return Ok(None) };
        let awaited = match self.file(newest)? {
            Some(file) => !file.delivered()?.is_empty(),
            None => false,
        };
        let (mut cut, mut candidate): (Option<Cut>, Option<Candidate>) = (None, None);
        for number in numbers {
            let Some(file) = self.file(number)? else { continue };
            let meta = file.meta()?;
            if let Some(before) = candidate.take() {
                cut = before.extend(cut, &meta, awaited);
            }
            if number == newest {
                break;
            }
            let mut records = None;
            if let Some((segment, (first, last))) = file.last_segment()?.zip(file.span()?) {
                // Where one rotted its gap record stands in, with the time of the one beside it.
                let end = salvage::whole(&segment, meta.gateway_id, Head::START, None);
                let old = match until {
                    Until::Moment(moment) => end.iter().all(|record| record.entry.call.timestamp.micros() < moment),
                    Until::Place { epoch, seq } => (meta.epoch, last) < (epoch, seq),
                };
                if !old {
                    break;
                }
                records = Some((first, last, end.last().map_or(Digest::ZERO, |record| record.position.hash)));
            }
            candidate = Some(Candidate { number, bytes: self.file_bytes(number), epoch: meta.epoch, records });
        }
        Ok(cut)
    }

    /// Removes what [`Reader::prunable`] found; returns how many files went. Where one cannot be removed those before it
    /// are gone, and the others stay: what is left is still one run.
    ///
    /// # Errors
    /// [`Error::Io`]: a file cannot be removed, or this reader's owner does not have the directory's lock.
    ///
    /// # Durability
    /// The files stay gone after a power loss once this has returned.
    pub fn prune(&self, cut: &Cut) -> Result<usize, Error> {
        if !self.owns() {
            let source = io::Error::new(io::ErrorKind::PermissionDenied, "the lock of its directory is not held");
            return Err(Error::Io { operation: "prune", path: self.path(cut.through), source });
        }
        let mut removed = 0;
        let numbers = self.numbers();
        // I4: the newest file never goes, whatever the cut says.
        let sealed = numbers.split_last().map(|(_, sealed)| sealed).unwrap_or_default();
        for number in sealed.iter().filter(|number| **number <= cut.through) {
            self.remove(*number).map_err(|source| Error::Io {
                operation: "remove",
                path: self.path(*number),
                source,
            })?;
            removed += 1;
        }
        self.sync()?;
        Ok(removed)
    }
}

impl Candidate {
    /// The cut with this file in it. `next` is the meta table of the file behind it, which says where this one ended.
    fn extend(self, cut: Option<Cut>, next: &Meta, awaited: bool) -> Option<Cut> {
        let told = if next.epoch == self.epoch {
            Some(next.head)
        } else {
            next.previous.filter(|(epoch, _)| *epoch == self.epoch).map(|(_, head)| head)
        };
        let told = told.filter(|head: &Head| head.seq > Seq::ZERO);
        let Some((first, last, hash)) = self.records else {
            // One without a record goes with those before it, if there are any.
            return cut.map(|cut| Cut {
                files: cut.files + 1,
                bytes: cut.bytes + self.bytes,
                through: self.number,
                ..cut
            });
        };
        let end = told.unwrap_or(Head { seq: last, hash });
        // A file may repeat what a failed commit left in the one before it.
        let behind = cut.filter(|cut| cut.last.epoch == self.epoch).map_or(Seq::ZERO, |cut| cut.last.seq);
        let records = (end.seq.0 + 1).saturating_sub(first.0.max(behind.0 + 1));
        let (files, bytes, before, begin) =
            cut.map_or((0, 0, 0, (self.epoch, first)), |cut| (cut.files, cut.bytes, cut.records, cut.first));
        Some(Cut {
            files: files + 1,
            bytes: bytes + self.bytes,
            records: before + records,
            first: begin,
            last: Last { epoch: self.epoch, seq: end.seq, hash: end.hash },
            awaited,
            through: self.number,
        })
    }
}
