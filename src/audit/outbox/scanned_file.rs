//! Reading what can be read of a damaged generation file.
//!
//! Only whole frames are trusted: each has a checksum of its own, and names its gateway, epoch and seq. The tables are
//! read unchecked, if redb opens them at all. Positions that they contain are used only as a hint, to add a few lost
//! records at the first or the last record, because one flipped bit in a table can produce any position.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use redb::StorageBackend;

use super::error::OutboxError;
use super::file_number::FileNumber;
use super::fs::Fs;
use super::generation::{FileMeta, Generation, catch_panic};
use super::salvage::{self, Neighbour};
use crate::audit::chain::Head;
use crate::audit::codec::{self, BODY_BYTES_MAX, HEADER_BYTES};
use crate::audit::lost::LostRun;
use crate::audit::record::{AuditRecord, Epoch, GatewayId, RequestId, Seq};

/// The number of missing records between two whole ones up to which they are replaced by stand-ins. *Chosen*: far
/// more records than a damaged megabyte contained; a larger hole is left by records that were delivered and removed.
const HOLE_MAX: u64 = 65_536;

/// The number of records at the first or the last record that are taken for lost because an unchecked table says so.
/// *Chosen*: about the records of one segment, which is what one damaged page costs.
const HINT_MAX: u64 = 1024;

/// The bytes that are searched at once. *Derived*: twice the longest frame, so that each step gets ahead by one.
const WINDOW_BYTES: usize = 2 * OVERLAP_BYTES;

/// The overlap of two windows in bytes. *Derived*: the longest frame is whole in one of the two.
const OVERLAP_BYTES: usize = HEADER_BYTES + BODY_BYTES_MAX;

/// A damaged file, and the whole frames in it.
#[derive(Debug)]
pub(super) struct ScannedFile {
    path: PathBuf,
    file: Box<dyn StorageBackend>,
    /// The positions of the whole record frames of `owner`: offset and length.
    frames: BTreeMap<Seq, (u64, usize)>,
    /// The gateway and epoch of most whole frames.
    owner: Option<(GatewayId, Epoch)>,
    /// The meta table, and the seqs of the first and last record in the segment table, both unchecked.
    hints: (Option<FileMeta>, Option<(Seq, Seq)>),
    /// The intents of calls that were open.
    pub(super) intents: Vec<(RequestId, Vec<u8>)>,
    /// Calls whose intents were found outside a readable table. It is unknown whether they had ended.
    pub(super) maybe_open: Vec<RequestId>,
}

/// The first and the last record of a damaged file.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordBounds {
    /// The head before the first record, as far as it is known.
    pub(super) after: Head,
    pub(super) first: Seq,
    pub(super) last: Seq,
    /// The head at the last record, if the next file contains it.
    pub(super) end: Option<Head>,
}

/// The calls in the whole frames of a file, wherever these are.
#[derive(Default)]
struct ScannedCalls {
    /// Calls that have a record.
    ended: BTreeSet<RequestId>,
    /// Calls that have an intent.
    begun: BTreeSet<RequestId>,
}

impl ScannedFile {
    /// Reads file `number`.
    ///
    /// # Errors
    /// The file cannot be read at all.
    pub(super) fn read(fs: &dyn Fs, dir: &Path, number: FileNumber) -> Result<Self, OutboxError> {
        let path = number.path(dir);
        let file = fs.open(&path).map_err(OutboxError::io("read", &path))?;
        let mut scanned = Self {
            path,
            file,
            frames: BTreeMap::new(),
            owner: None,
            hints: (None, None),
            intents: Vec::new(),
            maybe_open: Vec::new(),
        };
        let ScannedCalls { ended, begun } = scanned.scan()?;
        // redb may panic in any of these reads. It may also panic when the database is closed: it then writes its
        // tables, and on some damaged ones it panics twice, which aborts the process. So the database is never closed;
        // a damaged file leaks one file handle and the pages that were read, at most a small cache.
        let tables = catch_panic(|| {
            let generation = ManuallyDrop::new(Generation::open_unchecked(fs, dir, number).ok()?);
            let meta = catch_panic(|| generation.meta().ok()).ok().flatten();
            let span = catch_panic(|| generation.span().ok().flatten()).ok().flatten();
            let intents = catch_panic(|| generation.intents().ok()).ok().flatten();
            Some((meta, span, intents))
        });
        let (meta, span, intents) = tables.ok().flatten().unwrap_or_default();
        scanned.hints = (meta, span);
        let is_whole =
            |(id, frame): &(RequestId, Vec<u8>)| codec::decode_intent(frame).is_ok_and(|call| call.request_id == *id);
        match intents {
            // I2: a table that can be read determines which calls were open, even if it is empty.
            Some(intents) => {
                scanned.intents = intents.into_iter().filter(is_whole).filter(|(id, _)| !ended.contains(id)).collect();
            }
            None => scanned.maybe_open = begun.difference(&ended).copied().collect(),
        }
        Ok(scanned)
    }

    /// Returns true if the unchecked meta table says that the epoch ran at level `queued`.
    pub(super) fn is_queued(&self) -> bool {
        self.hints.0.as_ref().is_some_and(|meta| meta.queued)
    }

    /// Finds every whole frame.
    fn scan(&mut self) -> Result<ScannedCalls, OutboxError> {
        let length = self.file.len().map_err(OutboxError::io("read", &self.path))?;
        let mut calls = ScannedCalls::default();
        let mut owners: BTreeMap<(GatewayId, Epoch), BTreeMap<Seq, (u64, usize)>> = BTreeMap::new();
        let mut at = 0;
        while at < length {
            let bytes = self.bytes(at, WINDOW_BYTES, length)?;
            for (offset, size, record) in salvage::scan(&bytes) {
                let position = record.position;
                let frames = owners.entry((position.gateway_id, position.epoch)).or_default();
                frames.entry(position.seq).or_insert((at + offset as u64, size));
                calls.ended.insert(record.entry.call.request_id);
            }
            calls.begun.extend(salvage::scan_intents(&bytes));
            at += (WINDOW_BYTES - OVERLAP_BYTES) as u64;
        }
        if let Some((owner, frames)) = owners.into_iter().max_by_key(|(_, frames)| frames.len()) {
            (self.owner, self.frames) = (Some(owner), frames);
        }
        Ok(calls)
    }

    /// Reads up to `count` bytes at `at` of a file that has `length` bytes.
    fn bytes(&self, at: u64, count: usize, length: u64) -> Result<Vec<u8>, OutboxError> {
        let count = usize::try_from(length.saturating_sub(at)).unwrap_or(usize::MAX).min(count);
        let mut bytes = vec![0; count];
        self.file.read(at, &mut bytes).map_err(OutboxError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// The number of whole records.
    pub(super) fn count(&self) -> usize {
        self.frames.len()
    }

    /// The number of whole records from `first` to `last`.
    pub(super) fn count_between(&self, first: Seq, last: Seq) -> u64 {
        if first > last { 0 } else { self.frames.range(first..=last).count() as u64 }
    }

    /// The gateway and epoch of the file; `None` if they cannot be determined. `next` is the meta table of the next
    /// file, `known` the gateway that owns the directory.
    pub(super) fn owner(&self, next: Option<&FileMeta>, known: Option<GatewayId>) -> Option<(GatewayId, Epoch)> {
        self.owner.or_else(|| {
            let next = next?;
            let previous = next.previous.map(|(epoch, _)| epoch);
            let epoch = if next.head.seq > Seq::ZERO { Some(next.epoch) } else { previous };
            known.or(Some(next.gateway_id)).zip(epoch)
        })
    }

    /// The first and the last record of `epoch` that this file contained. `before` is the head at the end of the
    /// previous file, if it is known, and `next` the meta table of the next file.
    pub(super) fn bounds(&self, epoch: Epoch, before: Option<Head>, next: Option<&FileMeta>) -> RecordBounds {
        let newest = self.frames.keys().next_back().copied();
        let end = next.and_then(|next| match next.previous {
            _ if next.epoch == epoch => Some(next.head),
            Some((previous, head)) if previous == epoch => Some(head),
            _ => None,
        });
        let end = end.filter(|end| newest.is_none_or(|newest| end.seq >= newest));
        let Some(newest) = newest else { return bounds_without_records(before, end) };
        let (after, first) = self.start(newest, before);
        let near = |distance: u64| (1..=HINT_MAX).contains(&distance);
        let hinted = self.hints.1.map(|(_, last)| last).filter(|last| near(last.0.saturating_sub(newest.0)));
        let closed = self.closes(newest).unwrap_or(false);
        let last = match end {
            Some(end) => end.seq,
            None if closed => newest,
            None => hinted.unwrap_or(newest),
        };
        RecordBounds { after, first: first.max(Seq(1)), last, end }
    }

    /// The seq of the first record, and the head before it as far as it is known.
    fn start(&self, newest: Seq, before: Option<Head>) -> (Head, Seq) {
        let mut oldest = newest;
        for seq in self.frames.keys().rev() {
            if oldest.0 - seq.0 > HOLE_MAX {
                break;
            }
            oldest = *seq;
        }
        let (meta, span) = &self.hints;
        let near = |distance: u64| (1..=HINT_MAX).contains(&distance);
        let meta = meta.as_ref().filter(|meta| self.owner == Some((meta.gateway_id, meta.epoch)));
        let before = before.filter(|head| head.seq < oldest && oldest.0 - head.seq.0 <= HOLE_MAX);
        let begun = before.or(meta.map(|meta| meta.head)).filter(|head| head.seq < oldest);
        let first = match (span, begun) {
            (_, Some(head)) if before.is_some() => head.seq.next(),
            (Some((first, _)), _) if near(oldest.0.saturating_sub(first.0)) => *first,
            (None, Some(head)) if near(oldest.0 - head.seq.0 - 1) => head.seq.next(),
            _ => oldest,
        };
        let after = begun.filter(|head| head.seq.next() == first).unwrap_or(Head::START);
        (after, first)
    }

    /// The lost records within `bounds`.
    pub(super) fn lost_runs(&self, epoch: Epoch, bounds: RecordBounds) -> Vec<LostRun> {
        let RecordBounds { after, first, last, end } = bounds;
        if first > last {
            return Vec::new();
        }
        let found = self.frames.range(first..=last).map(|(seq, _)| *seq);
        let neighbour = |seq| self.records((seq, seq)).ok()?.remove(&seq).map(|record| Neighbour::of(&record));
        let end = end.filter(|end| end.seq == last).map(|end| end.hash);
        salvage::lost_runs(epoch, (first, last), Some(after), found, neighbour, end)
    }

    /// The whole records from `first` to `last`.
    pub(super) fn records(&self, (first, last): (Seq, Seq)) -> Result<BTreeMap<Seq, AuditRecord>, OutboxError> {
        let mut records = BTreeMap::new();
        for (seq, (offset, size)) in self.frames.range(first..=last) {
            let bytes = self.bytes(*offset, *size, offset + *size as u64)?;
            if let Ok((record, _)) = codec::decode_record(&bytes) {
                records.insert(*seq, record);
            }
        }
        Ok(records)
    }

    /// Returns true if the record at `last` is whole and closes the epoch.
    pub(super) fn closes(&self, last: Seq) -> Result<bool, OutboxError> {
        Ok(self.records((last, last))?.values().any(|record| record.entry.call.method == "gateway/closed"))
    }
}

/// The bounds of a file without a whole record: from `before` on if that is near the end, and otherwise only the last
/// record, if the end is known.
fn bounds_without_records(before: Option<Head>, end: Option<Head>) -> RecordBounds {
    let last = end.map_or(Seq::ZERO, |end| end.seq);
    let near = |head: &Head| head.seq < last && last.0 - head.seq.0 <= HOLE_MAX;
    match before.filter(near) {
        Some(after) => RecordBounds { after, first: after.seq.next(), last, end },
        None => RecordBounds { after: Head::START, first: last.max(Seq(1)), last, end },
    }
}
