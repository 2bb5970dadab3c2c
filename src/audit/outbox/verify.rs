//! Verification: whether an outbox is complete and unchanged. It reads the bytes as they are and repairs nothing.
//!
//! It checks, file by file and record by record:
//!
//! * redb's own checksums, as each file is opened, and each frame's CRC-32C;
//! * that `seq` rises by one, that each `prev_hash` is the hash of the record before, and each `hash` that of the
//!   contents;
//! * that the key of a segment agrees with its records;
//! * that a file begins at the record at which the previous one ended, and an epoch at the end of the previous epoch;
//! * that a closed epoch ends with `gateway/closed`;
//! * that files, epochs and records which are not there were delivered or pruned, or that a damage record explains it;
//! * that a record which claims to replace a lost one is named by a damage record;
//! * that every call that was open at the end of a file is open in the next one or has a record there.
//!
//! It cannot see two things: records that were delivered and removed, and a cut at the end of the newest stream by an
//! attacker who rewrote the file as redb would.
//!
//! It needs memory for one segment, the open calls, and [`RECENT_MAX`] hashes.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

pub use report::{CheckedStream, LostPlaces, OutboxFault, OutboxVerification, TrailStart};

use super::absent::Absent;
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::generation::{FileMeta, Generation, catch_panic};
use super::reader::Reader;
use super::segment::Segment;
use crate::audit::chain::{self, Head};
use crate::audit::codec;
use crate::audit::lost::is_stand_in;
use crate::audit::record::{AuditRecord, Digest, Epoch, RequestId, Seq};

/// The method of the record of a pruning.
const PRUNED: &str = "gateway/pruned";

/// The number of hashes that are kept to compare records that a failed commit left in two files. *Derived*: a commit
/// contains at most the records in the ring, and half a megabyte of hashes covers them at any ordinary record size.
const RECENT_MAX: usize = 16 * 1024;

/// The reason for which a verification ends early.
enum StopReason {
    Fault(OutboxFault),
    Error(OutboxError),
    /// The caller's progress function cancelled it.
    Cancelled,
}

impl From<OutboxError> for StopReason {
    fn from(error: OutboxError) -> Self {
        Self::Error(error)
    }
}

impl Reader {
    /// Checks everything that is stored. `progress` gets the number of records after each segment, and may cancel.
    ///
    /// # Errors
    /// A file cannot be read at all, for a reason other than damage. Damage is an [`OutboxFault`].
    pub fn verify(&self, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<OutboxVerification, OutboxError> {
        let mut verification = Verification {
            reader: self,
            result: OutboxVerification::default(),
            at: None,
            pending: BTreeMap::new(),
            recent: BTreeMap::new(),
            absent: Absent::new(self),
            complete: true,
        };
        match verification.files(progress).and_then(|()| verification.check_beginning()) {
            Ok(()) | Err(StopReason::Cancelled) => {}
            Err(StopReason::Fault(fault)) => verification.result.fault = Some(fault),
            Err(StopReason::Error(error)) => return Err(error),
        }
        Ok(verification.result)
    }
}

/// The last record that was checked.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    number: FileNumber,
    epoch: Epoch,
    seq: Seq,
    /// The hash of the record; `None` if the records up to it were removed after their delivery.
    hash: Option<Digest>,
    /// The highest seq so far. It is higher than `seq` if a file repeats records that a failed commit left in the
    /// previous one.
    highest: Seq,
}

struct Verification<'a> {
    reader: &'a Reader,
    result: OutboxVerification,
    at: Option<Checkpoint>,
    /// Calls that were open at the end of a file, with that file.
    pending: BTreeMap<RequestId, FileNumber>,
    /// The hashes of the last records.
    recent: BTreeMap<Seq, Digest>,
    /// Explanations for what is not there.
    absent: Absent<'a>,
    /// True if the current file still contains everything that was ever stored in it.
    complete: bool,
}

impl Verification<'_> {
    fn files(&mut self, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), StopReason> {
        let mut before = FileNumber(0);
        for number in self.reader.numbers() {
            self.check_number(before, number)?;
            before = number;
            let opened = catch_panic(|| {
                let Some(file) = self.reader.file(number)? else { return Ok(None) };
                Ok::<_, OutboxError>(Some((file.meta()?, file)))
            });
            let (meta, file) = match opened {
                Ok(Ok(Some(opened))) => opened,
                // All its records were delivered after the files were listed.
                Ok(Ok(None)) => continue,
                Ok(Err(error)) if !error.is_damage() => return Err(error.into()),
                Ok(Err(error)) => return Err(fault(number, None, None, error.to_string())),
                Err(panicked) => return Err(fault(number, None, None, panicked)),
            };
            self.begin(number, &meta)?;
            let read = catch_panic(|| self.file(number, &meta, &file, progress));
            read.map_err(|panicked| fault(number, Some(meta.epoch), None, panicked))??;
            self.result.files += 1;
        }
        Ok(())
    }

    /// Checks that a file begins at the record at which the previous one ended.
    fn begin(&mut self, number: FileNumber, meta: &FileMeta) -> Result<(), StopReason> {
        let broken = |seq, what| Err(fault(number, Some(meta.epoch), seq, what));
        if self.result.gateway_id.is_some_and(|known| known != meta.gateway_id) {
            return broken(
                None,
                format!("the file belongs to gateway {}, the files before it do not", meta.gateway_id.0),
            );
        }
        self.result.gateway_id = Some(meta.gateway_id);
        self.result.restored |= meta.damage.is_some();
        self.complete = true;
        let Head { seq, hash } = meta.head;
        let fresh = Checkpoint { number, epoch: meta.epoch, seq, hash: Some(hash), highest: seq };
        let Some(at) = self.at else {
            let before = if meta.head.seq > Seq::ZERO { Some((meta.epoch, meta.head)) } else { meta.previous };
            let before = before.filter(|(_, head)| head.seq > Seq::ZERO);
            self.result.begins_behind =
                before.map(|(epoch, Head { seq, hash })| TrailStart { epoch, seq, hash, pruned_by: None });
            self.stream(fresh);
            return Ok(());
        };
        if meta.epoch < at.epoch {
            return broken(
                None,
                format!("the file's epoch is {}, but the previous file's is {}", meta.epoch, at.epoch),
            );
        }
        if meta.epoch > at.epoch {
            self.check_previous_epoch(at, number, meta)?;
            self.stream(fresh);
            return Ok(());
        }
        self.check_join(at, meta.head, number)?;
        self.at = Some(Checkpoint { highest: at.highest, ..fresh });
        Ok(())
    }

    /// Checks that no file is missing between two, or before the first. Nothing is removed from a store-only outbox but
    /// by pruning, which begins at the oldest file and is checked at the end, and by a damage record.
    fn check_number(&self, before: FileNumber, number: FileNumber) -> Result<(), StopReason> {
        let missing = (before.0 + 1..number.0).map(FileNumber);
        let missing: Vec<_> = missing.filter(|missing| !self.absent.was_unreadable(*missing)).take(2).collect();
        let [first, ..] = missing[..] else { return Ok(()) };
        if before == FileNumber(0) || !self.absent.is_store_only() || self.reader.numbers().first() > Some(&before) {
            return Ok(());
        }
        let and_more = if missing.len() > 1 { " and others are" } else { " is" };
        let what = format!("{}{and_more} missing before it; nothing was ever delivered from here", first.file_name());
        Err(fault(number, None, None, what))
    }

    /// Checks that a new epoch continues from the epoch of the file before it, or from one that was delivered or lost.
    fn check_previous_epoch(&self, at: Checkpoint, number: FileNumber, meta: &FileMeta) -> Result<(), StopReason> {
        let broken = |what| Err(fault(number, Some(meta.epoch), None, what));
        let explains = |first, last| self.absent.explains_epochs(meta.gateway_id, first, last);
        let Some((epoch, head)) = meta.previous else {
            // A file that replaces a damaged one does not know the epoch before its own.
            if meta.damage.is_some() {
                return Ok(());
            }
            return broken(format!("it names no epoch before its own, but the file before it has epoch {}", at.epoch));
        };
        if epoch < at.epoch {
            return broken(format!("it continues from epoch {epoch}, but the file before it has epoch {}", at.epoch));
        }
        if !explains(epoch.next(), Epoch(meta.epoch.0.saturating_sub(1))) {
            return broken(format!("the epochs between {epoch} and {} are missing", meta.epoch));
        }
        if epoch > at.epoch {
            let is_explained = self.absent.may_be_delivered(epoch, head.seq) || explains(at.epoch.next(), epoch);
            let what = format!("epoch {epoch}, which ended at {}, is missing, and was not delivered", head.seq);
            return if is_explained { Ok(()) } else { broken(what) };
        }
        self.check_join(at, head, number)?;
        if head.seq < at.highest {
            let what = format!(
                "epoch {} continues to {}, but according to epoch {} it ended here",
                at.epoch, at.highest, meta.epoch
            );
            return Err(fault(at.number, Some(at.epoch), Some(head.seq), what));
        }
        Ok(())
    }

    /// Checks that what came before the first record was pruned, delivered or lost.
    fn check_beginning(&self) -> Result<(), StopReason> {
        let (Some(first), Some(gateway_id)) = (self.reader.numbers().first().copied(), self.result.gateway_id) else {
            return Ok(());
        };
        let missing = |what: String| Err(fault(first, None, None, what));
        match self.result.begins_behind {
            Some(TrailStart { pruned_by: Some(_), .. }) => Ok(()),
            Some(TrailStart { epoch, seq, .. }) => {
                let is_explained = self.absent.may_be_delivered(epoch, seq)
                    || self.absent.has_unknown_end(gateway_id, epoch)
                    || self.result.restored;
                let what = format!(
                    "the trail begins after {epoch}/{seq}; these records were not delivered, and no gateway/pruned \
                     record says that they were pruned"
                );
                if is_explained { Ok(()) } else { missing(what) }
            }
            None if !self.absent.is_store_only() => Ok(()),
            None => match (1..first.0).map(FileNumber).find(|number| !self.absent.was_unreadable(*number)) {
                Some(number) => missing(format!("{} is missing before it", number.file_name())),
                None => Ok(()),
            },
        }
    }

    /// Begins a new stream at `fresh`.
    fn stream(&mut self, fresh: Checkpoint) {
        self.recent.clear();
        let (first, last) = (Seq::ZERO, Seq::ZERO);
        self.result.streams.push(CheckedStream { epoch: fresh.epoch, first, last, closed: false });
        self.at = Some(fresh);
    }

    /// Checks that the records up to `at` agree with `head`, the last record before a later file according to that
    /// file.
    fn check_join(&self, at: Checkpoint, head: Head, number: FileNumber) -> Result<(), StopReason> {
        let known = if head.seq == at.seq { at.hash } else { self.recent.get(&head.seq).copied() };
        if known.is_some_and(|hash| hash != head.hash) {
            let what = format!("its hash is not the one after which {} was begun", number.file_name());
            return Err(fault(at.number, Some(at.epoch), Some(head.seq), what));
        }
        if head.seq > at.highest && !self.was_removed(at, head.seq)? {
            let what = format!("the end is cut: {} was begun after {}", number.file_name(), head.seq);
            return Err(fault(at.number, Some(at.epoch), Some(at.highest), what));
        }
        Ok(())
    }

    /// Returns true if the records after `at` up to `to` were delivered, or their files unlinked since the verification
    /// began.
    fn was_removed(&self, at: Checkpoint, to: Seq) -> Result<bool, OutboxError> {
        let listed = self.reader.numbers();
        if !listed.contains(&at.number) {
            return Ok(true);
        }
        let Some(newest) = listed.last() else { return Ok(true) };
        // If the newest file is damaged it proves nothing here, and the fault is found when its turn comes.
        let Ok(Ok(Some(file))) = catch_panic(|| self.reader.file(*newest)) else { return Ok(false) };
        Ok(file.delivered()?.iter().any(|(epoch, head)| *epoch == at.epoch && head.seq >= to))
    }

    /// Checks the records and intents of a file.
    fn file(
        &mut self,
        number: FileNumber,
        meta: &FileMeta,
        file: &Generation,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), StopReason> {
        // Read before the records: a call that ends in between then has both, which is not a fault.
        let open = file.intents()?;
        let mut key = None;
        while let Some(segment) = file.next_segment(key)? {
            key = Some((segment.epoch, segment.first));
            self.segment(number, meta, &segment)?;
            if progress(self.result.records).is_break() {
                return Err(StopReason::Cancelled);
            }
        }
        let delivered = file.delivered()?;
        self.complete &= delivered.iter().all(|(epoch, head)| *epoch != meta.epoch || head.seq <= meta.head.seq);
        let mut ids = BTreeSet::new();
        for (id, frame) in &open {
            match codec::decode_intent(frame) {
                Ok(call) if call.request_id == *id => ids.insert(*id),
                Ok(call) => {
                    let what = format!("the intent of call {} is stored under the key {id}", call.request_id);
                    return Err(fault(number, Some(meta.epoch), None, what));
                }
                Err(error) => return Err(fault(number, Some(meta.epoch), None, format!("intent {id}: {error}"))),
            };
        }
        let ended = self.pending.iter().find(|(id, _)| !ids.contains(*id));
        if let Some((id, left)) = ended.filter(|_| self.complete) {
            let what =
                format!("call {id} was open in {} and has neither a record nor an intent here", left.file_name());
            return Err(fault(number, Some(meta.epoch), None, what));
        }
        self.result.open = ids.len();
        self.pending = ids.into_iter().map(|id| (id, number)).collect();
        let closed = self.result.streams.last().is_some_and(|stream| stream.closed);
        if let Some(at) = self.at.filter(|_| meta.closed && !closed && self.complete) {
            let what = "the end is cut: the epoch was closed, but its last record is not gateway/closed";
            return Err(fault(number, Some(meta.epoch), Some(at.highest), what.to_owned()));
        }
        Ok(())
    }

    /// Checks that a segment's key agrees with its records, and checks each record.
    fn segment(&mut self, number: FileNumber, meta: &FileMeta, segment: &Segment) -> Result<(), StopReason> {
        let Segment { epoch, first, .. } = segment;
        let (last, frames) = (segment.last(), segment.frames());
        let broken = |seq, what| Err(fault(number, Some(*epoch), Some(seq), what));
        if *epoch != meta.epoch {
            return broken(*first, format!("a segment of epoch {epoch} in a file of epoch {}", meta.epoch));
        }
        let (mut offset, mut expected) = (0, *first);
        while let Some(rest) = frames.get(offset..).filter(|rest| !rest.is_empty()) {
            let (record, length) = match codec::decode_record(rest) {
                Ok(decoded) => decoded,
                Err(error) => return broken(expected, format!("byte {offset} of segment {first}: {error}")),
            };
            offset += length;
            if record.position.seq != expected {
                let what = format!("record {} is in the place of {expected}, in segment {first}", record.position.seq);
                return broken(expected, what);
            }
            self.record(number, meta, &record)?;
            expected = expected.next();
        }
        if expected != last.next() {
            return broken(expected, format!("segment {first} should end at {last} but ends before {expected}"));
        }
        Ok(())
    }

    /// If this record says that the records before the first one in the outbox were pruned, it must contain the same
    /// hash.
    fn pruned(&mut self, number: FileNumber, record: &AuditRecord) -> Result<(), StopReason> {
        let (Some(begin), Some((epoch, seq, hash))) = (self.result.begins_behind.as_mut(), last_pruned(record)) else {
            return Ok(());
        };
        // If the process died while it removed files, some of those that the record names are still there.
        if (epoch, seq) < (begin.epoch, begin.seq) {
            return Ok(());
        }
        if (epoch, seq) == (begin.epoch, begin.seq) && hash != begin.hash.to_string() {
            let what = format!(
                "it says that {epoch}/{seq} was pruned, but the outbox begins after a record with another hash"
            );
            return Err(fault(number, Some(record.position.epoch), Some(record.position.seq), what));
        }
        begin.pruned_by = Some((record.position.epoch, record.position.seq));
        Ok(())
    }

    /// Checks a record against the one before it.
    fn record(&mut self, number: FileNumber, meta: &FileMeta, record: &AuditRecord) -> Result<(), StopReason> {
        let (position, entry) = (&record.position, &record.entry);
        let broken = |what: String| Err(fault(number, Some(meta.epoch), Some(position.seq), what));
        let Some(mut at) = self.at else { return Ok(()) };
        if position.gateway_id != meta.gateway_id || position.epoch != meta.epoch {
            return broken(format!(
                "the record belongs to gateway {} and epoch {}",
                position.gateway_id.0, position.epoch
            ));
        }
        if position.seq <= at.seq {
            return broken("a record with this seq was already found: it is there twice".to_owned());
        }
        if position.seq > at.seq.next() {
            // A file that replaces a damaged one may not know where it began.
            let begins_unknown = meta.damage.is_some() && at.seq == meta.head.seq;
            if !begins_unknown && !self.was_removed(at, Seq(position.seq.0 - 1))? {
                return broken(format!("records {} to {} are missing before it", at.seq.next(), position.seq.0 - 1));
            }
            (at.hash, self.complete) = (None, false);
        }
        if at.hash.is_some_and(|hash| hash != position.prev_hash) {
            return broken("the chain is broken: its prev_hash is not the hash of the record before it".to_owned());
        }
        if is_stand_in(record) {
            if !self.absent.explains(record) {
                return broken(
                    "it claims that a record was lost, and no gateway/damage record names its place".to_owned(),
                );
            }
            self.result.lose(position);
        } else if !chain::hash_matches(position, entry) {
            return broken("the record was changed: its hash is not that of its contents".to_owned());
        }
        if position.seq <= at.highest && self.recent.get(&position.seq).is_some_and(|hash| *hash != position.hash) {
            return broken("a different record with this seq is in the previous file: it is there twice".to_owned());
        }
        if entry.call.method == PRUNED {
            self.pruned(number, record)?;
        }
        self.pending.remove(&entry.call.request_id);
        if let Some(stream) = self.result.streams.last_mut() {
            if stream.first == Seq::ZERO {
                stream.first = position.seq;
            }
            stream.last = position.seq;
            stream.closed = entry.call.method == "gateway/closed";
        }
        self.result.records += u64::from(position.seq > at.highest);
        self.recent.insert(position.seq, position.hash);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_first();
        }
        let highest = at.highest.max(position.seq);
        self.at = Some(Checkpoint { number, seq: position.seq, hash: Some(position.hash), highest, ..at });
        Ok(())
    }
}

/// The last record that was removed, according to a `gateway/pruned` record.
fn last_pruned(record: &AuditRecord) -> Option<(Epoch, Seq, String)> {
    let details: serde_json::Value = serde_json::from_str(record.entry.call.request_args.as_deref()?).ok()?;
    let last = details.get("last")?;
    let number = |key: &str| last.get(key).and_then(serde_json::Value::as_u64);
    Some((Epoch(number("epoch")?), Seq(number("seq")?), last.get("hash")?.as_str()?.to_owned()))
}

fn fault(number: FileNumber, epoch: Option<Epoch>, seq: Option<Seq>, what: String) -> StopReason {
    StopReason::Fault(OutboxFault { file: number.file_name(), epoch, seq, what })
}
