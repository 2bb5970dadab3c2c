//! What can be read of a damaged generation file.
//!
//! Only whole frames are believed: each bears its own checksum, and says whose it is and where it stands. The tables are
//! read unchecked, where redb opens them at all; what they say of places is a hint, used where it adds a few lost records
//! at an edge and nowhere else, since one flipped bit in them may say anything.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use redb::StorageBackend;

use super::fs::Fs;
use super::generation::{Generation, Meta, Number, checked};
use super::{Error, salvage};
use crate::audit::chain::Head;
use crate::audit::codec::{self, BODY_BYTES_MAX, HEADER_BYTES};
use crate::audit::record::{AuditRecord, Epoch, GatewayId, RequestId, Seq};

/// Places between two found records that may be filled with gap records. *Chosen*: far more records than a damaged
/// megabyte held; a larger hole was left by records that were delivered and forgotten long ago.
const HOLE_MAX: u64 = 65_536;

/// Places at an edge that are taken for lost on the word of an unchecked table. *Chosen*: about the records of one
/// segment, which is what one damaged page costs.
const HINT_MAX: u64 = 1024;

/// Bytes that are looked through at once. *Chosen*: small against the gateway's memory, large against a frame.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// Bytes by which windows overlap. *Derived*: the longest frame stands whole in one of two.
const OVERLAP_BYTES: usize = HEADER_BYTES + BODY_BYTES_MAX;

/// What could be read.
#[derive(Debug)]
pub(super) struct Found {
    path: PathBuf,
    file: Box<dyn StorageBackend>,
    /// Where the whole frames stand: offset and length.
    frames: BTreeMap<Seq, (u64, usize)>,
    /// Whose most of them are.
    owner: Option<(GatewayId, Epoch)>,
    /// Meta table and span of the segments, unchecked.
    hints: (Option<Meta>, Option<(Seq, Seq)>),
    /// Intents of calls that were open.
    pub(super) intents: Vec<(RequestId, Vec<u8>)>,
    /// Calls whose intents lie about, of which nobody can tell whether they had ended.
    pub(super) maybe_open: Vec<RequestId>,
}

/// Where a file's records begin and end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The head before the first one, as far as it is known.
    pub(super) after: Head,
    pub(super) first: Seq,
    pub(super) last: Seq,
    /// The head at the last one, where the file behind tells it.
    pub(super) end: Option<Head>,
}

impl Found {
    /// # Errors
    /// The file cannot be read at all.
    pub(super) fn read(fs: &dyn Fs, dir: &Path, number: Number) -> Result<Self, Error> {
        let path = number.path(dir);
        let file = fs.open(&path).map_err(|source| Error::Io { operation: "read", path: path.clone(), source })?;
        let mut found = Self {
            path,
            file,
            frames: BTreeMap::new(),
            owner: None,
            hints: (None, None),
            intents: Vec::new(),
            maybe_open: Vec::new(),
        };
        let (ended, lying) = found.scan()?;
        // It may also panic, on any of these and when it is closed: redb then writes into its tables, and panics twice on
        // some damaged ones, which ends the process. So it is never closed: what a damaged file leaks is one handle and
        // the pages that were read, at most a small cache.
        let tables = checked(|| {
            let generation = ManuallyDrop::new(Generation::open_unchecked(fs, dir, number).ok()?);
            let meta = checked(|| generation.meta().ok()).ok().flatten();
            let span = checked(|| generation.span().ok().flatten()).ok().flatten();
            let intents = checked(|| generation.intents().ok()).ok().flatten();
            Some((meta, span, intents))
        });
        let (meta, span, intents) = tables.ok().flatten().unwrap_or_default();
        found.hints = (meta, span);
        let whole =
            |(id, frame): &(RequestId, Vec<u8>)| codec::decode_intent(frame).is_ok_and(|call| call.request_id == *id);
        match intents {
            // I2: a table that can be read says which calls were open, also where it is empty.
            Some(intents) => {
                found.intents = intents.into_iter().filter(whole).filter(|(id, _)| !ended.contains(id)).collect();
            }
            None => found.maybe_open = lying.difference(&ended).copied().collect(),
        }
        Ok(found)
    }

    /// Finds every whole frame; returns the calls that have a record here, and those that have an intent.
    fn scan(&mut self) -> Result<(BTreeSet<RequestId>, BTreeSet<RequestId>), Error> {
        let length = self.file.len().map_err(|source| self.unreadable(source))?;
        let (mut ended, mut lying) = (BTreeSet::new(), BTreeSet::new());
        let mut owners: BTreeMap<(GatewayId, Epoch), BTreeMap<Seq, (u64, usize)>> = BTreeMap::new();
        let mut at = 0;
        while at < length {
            let bytes = self.bytes(at, WINDOW_BYTES, length)?;
            for (offset, size, record) in salvage::scan(&bytes) {
                let position = record.position;
                let places = owners.entry((position.gateway_id, position.epoch)).or_default();
                places.entry(position.seq).or_insert((at + offset as u64, size));
                ended.insert(record.entry.call.request_id);
            }
            lying.extend(salvage::scan_intents(&bytes));
            at += (WINDOW_BYTES - OVERLAP_BYTES) as u64;
        }
        if let Some((owner, frames)) = owners.into_iter().max_by_key(|(_, frames)| frames.len()) {
            (self.owner, self.frames) = (Some(owner), frames);
        }
        Ok((ended, lying))
    }

    fn bytes(&self, at: u64, count: usize, length: u64) -> Result<Vec<u8>, Error> {
        let count = usize::try_from(length.saturating_sub(at)).unwrap_or(usize::MAX).min(count);
        let mut bytes = vec![0; count];
        self.file.read(at, &mut bytes).map_err(|source| self.unreadable(source))?;
        Ok(bytes)
    }

    fn unreadable(&self, source: std::io::Error) -> Error {
        Error::Io { operation: "read", path: self.path.clone(), source }
    }

    /// How many whole records there are.
    pub(super) fn count(&self) -> usize {
        self.frames.len()
    }

    /// How many whole records there are from one place to another.
    pub(super) fn count_between(&self, first: Seq, last: Seq) -> u64 {
        if first > last { 0 } else { self.frames.range(first..=last).count() as u64 }
    }

    /// Whose the file is; `None` where nobody can tell.
    pub(super) fn owner(&self, follows: Option<&Meta>, known: Option<GatewayId>) -> Option<(GatewayId, Epoch)> {
        self.owner.or_else(|| {
            let follows = follows?;
            let previous = follows.previous.map(|(epoch, _)| epoch);
            let epoch = if follows.head.seq > Seq::ZERO { Some(follows.epoch) } else { previous };
            known.or(Some(follows.gateway_id)).zip(epoch)
        })
    }

    /// Where the records of `epoch` begin and end. `before` is the head at which the file before this one ended, where
    /// that is known.
    pub(super) fn bounds(&self, epoch: Epoch, before: Option<Head>, follows: Option<&Meta>) -> Bounds {
        let newest = self.frames.keys().next_back().copied();
        let end = follows.and_then(|follows| match follows.previous {
            _ if follows.epoch == epoch => Some(follows.head),
            Some((previous, head)) if previous == epoch => Some(head),
            _ => None,
        });
        let end = end.filter(|end| newest.is_none_or(|newest| end.seq >= newest));
        let Some(newest) = newest else {
            // Not one record is left: one gap record stands for the end, if there was one.
            let last = end.map_or(Seq::ZERO, |end| end.seq);
            let near = |head: &Head| head.seq < last && last.0 - head.seq.0 <= HOLE_MAX;
            return match before.filter(near) {
                Some(after) => Bounds { after, first: after.seq.next(), last, end },
                None => Bounds { after: Head::START, first: last.max(Seq(1)), last, end },
            };
        };
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
        let hinted = span.map(|(_, last)| last).filter(|last| near(last.0.saturating_sub(newest.0)));
        let closed = self.closes(newest).unwrap_or(false);
        let last = match end {
            Some(end) => end.seq,
            None if closed => newest,
            None => hinted.unwrap_or(newest),
        };
        Bounds { after, first: first.max(Seq(1)), last, end }
    }

    /// The whole records from one place to another.
    pub(super) fn records(&self, (from, to): (Seq, Seq)) -> Result<BTreeMap<Seq, AuditRecord>, Error> {
        let mut records = BTreeMap::new();
        for (seq, (offset, size)) in self.frames.range(from..=to) {
            let bytes = self.bytes(*offset, *size, offset + *size as u64)?;
            if let Ok((record, _)) = codec::decode_record(&bytes) {
                records.insert(*seq, record);
            }
        }
        Ok(records)
    }

    /// Whether the record at `last` was found and closes the epoch.
    pub(super) fn closes(&self, last: Seq) -> Result<bool, Error> {
        Ok(self.records((last, last))?.values().any(|record| record.entry.call.method == "gateway/closed"))
    }
}
