//! Whether what an outbox holds is whole and unchanged. It reads the bytes as they are and mends nothing.
//!
//! Checked, file by file and record by record: redb's own checksums (as a file is opened), each frame's CRC-32C, that
//! `seq` rises by one, that each record's `prev_hash` is the hash before it and its `hash` that of its contents, that a
//! segment's key names what is in it, that a file begins where the one before ended and an epoch where the last one
//! did, that a closed epoch ends with `gateway/closed`, and that every call that was open when a file was left is open in
//! the next one or has a record there.
//!
//! Not to be seen from here: records that were delivered and forgotten, and the end of the newest stream, where whoever
//! cut it rewrote the file as redb would.
//!
//! Memory is one segment, the open calls, and [`RECENT_MAX`] hashes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::generation::{Generation, Meta, Number, checked};
use super::{Error, Reader, Segment, stands_for_lost};
use crate::audit::chain::{self, Head};
use crate::audit::codec;
use crate::audit::record::{AuditRecord, Digest, Epoch, GatewayId, RequestId, Seq};

/// The method of the record that pruning leaves.
const PRUNED: &str = "gateway/pruned";

/// Hashes that are remembered, to compare the records that a failed commit left in two files. *Derived*: a commit takes
/// at most what is in the ring, and a megabyte of hashes is more than that at any ordinary size of a record.
const RECENT_MAX: usize = 16 * 1024;

/// The first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fault {
    /// The file's name.
    pub file: String,
    /// The epoch, where it is known.
    pub epoch: Option<Epoch>,
    /// The place, where there is one.
    pub seq: Option<Seq>,
    /// What is wrong.
    pub what: String,
}

/// One stream, as far as it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Checked {
    /// The epoch.
    pub epoch: Epoch,
    /// The first record that was checked; zero where there is none.
    pub first: Seq,
    /// The last one.
    pub last: Seq,
    /// Whether `gateway/closed` is its last record.
    pub closed: bool,
}

/// The last record before those that are here, as the oldest file names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Begin {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its place.
    pub seq: Seq,
    /// Its hash.
    pub hash: Digest,
    /// The place of the `gateway/pruned` record that says that what ends there was pruned, if there is one.
    pub pruned_by: Option<(Epoch, Seq)>,
}

/// What was checked, and what came of it.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Verified {
    /// Whose outbox it is.
    pub gateway_id: Option<GatewayId>,
    /// Files that were read.
    pub files: usize,
    /// Records that were checked.
    pub records: u64,
    /// Gap records in the place of lost ones: told, so no fault.
    pub lost: u64,
    /// Calls that are open, or were when the gateway died.
    pub open: usize,
    /// The last record before those that are here, where there was one: it was delivered and forgotten, or pruned.
    pub begins_behind: Option<Begin>,
    /// The streams, oldest first.
    pub streams: Vec<Checked>,
    /// The first fault; nothing behind it was checked.
    pub fault: Option<Fault>,
}

/// Why a walk ends before the end.
enum Stop {
    Fault(Fault),
    Error(Error),
    Asked,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Reader {
    /// Checks all that is stored. `progress` hears the count of records after each segment, and may end it.
    ///
    /// # Errors
    /// A file cannot be read at all, for a reason that is no damage. Damage is a [`Fault`].
    pub fn verify(&self, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Verified, Error> {
        let mut walk = Walk {
            reader: self,
            done: Verified::default(),
            at: None,
            pending: BTreeMap::new(),
            recent: BTreeMap::new(),
            whole: true,
        };
        match walk.files(progress) {
            Ok(()) | Err(Stop::Asked) => {}
            Err(Stop::Fault(fault)) => walk.done.fault = Some(fault),
            Err(Stop::Error(error)) => return Err(error),
        }
        Ok(walk.done)
    }
}

/// Where the walk is.
#[derive(Clone, Copy, Debug)]
struct At {
    number: Number,
    epoch: Epoch,
    seq: Seq,
    /// The last record's hash; `None` behind records that were forgotten.
    hash: Option<Digest>,
    /// The highest seq met; more than `seq` where a file repeats what a failed commit left in the one before.
    highest: Seq,
}

struct Walk<'a> {
    reader: &'a Reader,
    done: Verified,
    at: Option<At>,
    /// Calls that were open when a file was left, with that file.
    pending: BTreeMap<RequestId, Number>,
    recent: BTreeMap<Seq, Digest>,
    /// Whether all that this file ever held is still in it.
    whole: bool,
}

impl Walk<'_> {
    fn files(&mut self, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<(), Stop> {
        for number in self.reader.numbers() {
            let opened = checked(|| {
                let Some(file) = self.reader.file(number)? else { return Ok(None) };
                Ok::<_, Error>(Some((file.meta()?, file)))
            });
            let (meta, file) = match opened {
                Ok(Ok(Some(opened))) => opened,
                // All in it was delivered since the files were listed.
                Ok(Ok(None)) => continue,
                Ok(Err(error)) if !error.is_damage() => return Err(error.into()),
                Ok(Err(error)) => return Err(fault(number, None, None, error.to_string())),
                Err(panicked) => return Err(fault(number, None, None, panicked)),
            };
            self.begin(number, &meta)?;
            let read = checked(|| self.file(number, &meta, &file, progress));
            read.map_err(|panicked| fault(number, Some(meta.epoch), None, panicked))??;
            self.done.files += 1;
        }
        Ok(())
    }

    /// The file begins where the one before ended.
    fn begin(&mut self, number: Number, meta: &Meta) -> Result<(), Stop> {
        let broken = |seq, what| Err(fault(number, Some(meta.epoch), seq, what));
        if self.done.gateway_id.is_some_and(|known| known != meta.gateway_id) {
            return broken(None, format!("it is of gateway {}, the files before are not", meta.gateway_id.0));
        }
        self.done.gateway_id = Some(meta.gateway_id);
        self.whole = true;
        let fresh =
            At { number, epoch: meta.epoch, seq: meta.head.seq, hash: Some(meta.head.hash), highest: meta.head.seq };
        let Some(at) = self.at else {
            let before = if meta.head.seq > Seq::ZERO { Some((meta.epoch, meta.head)) } else { meta.previous };
            let before = before.filter(|(_, head)| head.seq > Seq::ZERO);
            self.done.begins_behind =
                before.map(|(epoch, Head { seq, hash })| Begin { epoch, seq, hash, pruned_by: None });
            self.stream(fresh);
            return Ok(());
        };
        if meta.epoch < at.epoch {
            return broken(None, format!("its epoch is {}, that of the file before is {}", meta.epoch, at.epoch));
        }
        if meta.epoch > at.epoch {
            if let Some((_, head)) = meta.previous.filter(|(epoch, _)| *epoch == at.epoch) {
                self.joins(at, head, number)?;
                if head.seq < at.highest {
                    let what = format!(
                        "epoch {} goes on to {}, epoch {} says that it ended here",
                        at.epoch, at.highest, meta.epoch
                    );
                    return Err(fault(at.number, Some(at.epoch), Some(head.seq), what));
                }
            }
            self.stream(fresh);
            return Ok(());
        }
        self.joins(at, meta.head, number)?;
        self.at = Some(At { highest: at.highest, ..fresh });
        Ok(())
    }

    fn stream(&mut self, fresh: At) {
        self.recent.clear();
        let (first, last) = (Seq::ZERO, Seq::ZERO);
        self.done.streams.push(Checked { epoch: fresh.epoch, first, last, closed: false });
        self.at = Some(fresh);
    }

    /// What was read up to `at` agrees with `head`, which a later file says is the last record before it.
    fn joins(&self, at: At, head: Head, number: Number) -> Result<(), Stop> {
        let known = if head.seq == at.seq { at.hash } else { self.recent.get(&head.seq).copied() };
        if known.is_some_and(|hash| hash != head.hash) {
            let what = format!("its hash is not the one that {} was begun behind", number.file_name());
            return Err(fault(at.number, Some(at.epoch), Some(head.seq), what));
        }
        if head.seq > at.highest && !self.forgotten(at, head.seq)? {
            let what = format!("the end is cut: {} was begun behind {}", number.file_name(), head.seq);
            return Err(fault(at.number, Some(at.epoch), Some(at.highest), what));
        }
        Ok(())
    }

    /// Whether the records behind `at` to `to` were delivered, or their files unlinked since the walk began.
    fn forgotten(&self, at: At, to: Seq) -> Result<bool, Error> {
        let listed = self.reader.numbers();
        if !listed.contains(&at.number) {
            return Ok(true);
        }
        let Some(newest) = listed.last() else { return Ok(true) };
        // A damaged newest file says nothing here and is named in its turn.
        let Ok(Ok(Some(file))) = checked(|| self.reader.file(*newest)) else { return Ok(false) };
        Ok(file.delivered()?.iter().any(|(epoch, head)| *epoch == at.epoch && head.seq >= to))
    }

    fn file(
        &mut self,
        number: Number,
        meta: &Meta,
        file: &Generation,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), Stop> {
        // Before the records: a call that ends meanwhile is in both, and then no fault.
        let open = file.intents()?;
        let mut key = None;
        while let Some(segment) = file.next_segment(key)? {
            key = Some((segment.epoch, segment.first));
            self.segment(number, meta, &segment)?;
            if progress(self.done.records).is_break() {
                return Err(Stop::Asked);
            }
        }
        let delivered = file.delivered()?;
        self.whole &= delivered.iter().all(|(epoch, head)| *epoch != meta.epoch || head.seq <= meta.head.seq);
        let mut ids = BTreeSet::new();
        for (id, frame) in &open {
            match codec::decode_intent(frame) {
                Ok(call) if call.request_id == *id => ids.insert(*id),
                Ok(call) => {
                    let what = format!("the intent of call {} is kept under {id}", call.request_id);
                    return Err(fault(number, Some(meta.epoch), None, what));
                }
                Err(error) => return Err(fault(number, Some(meta.epoch), None, format!("intent {id}: {error}"))),
            };
        }
        let ended = self.pending.iter().find(|(id, _)| !ids.contains(*id));
        if let Some((id, left)) = ended.filter(|_| self.whole) {
            let what =
                format!("call {id} was open in {} and has neither a record nor an intent here", left.file_name());
            return Err(fault(number, Some(meta.epoch), None, what));
        }
        self.done.open = ids.len();
        self.pending = ids.into_iter().map(|id| (id, number)).collect();
        let closed = self.done.streams.last().is_some_and(|stream| stream.closed);
        if let Some(at) = self.at.filter(|_| meta.closed && !closed && self.whole) {
            let what = "the end is cut: the epoch was closed, and its last record is not gateway/closed";
            return Err(fault(number, Some(meta.epoch), Some(at.highest), what.to_owned()));
        }
        Ok(())
    }

    fn segment(&mut self, number: Number, meta: &Meta, segment: &Segment) -> Result<(), Stop> {
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
                let what = format!("record {} stands where {expected} should, in segment {first}", record.position.seq);
                return broken(expected, what);
            }
            self.record(number, meta, &record)?;
            expected = expected.next();
        }
        if expected != last.next() {
            return broken(expected, format!("segment {first} should go to {last} and ends before {expected}"));
        }
        Ok(())
    }

    /// Where this record says that what is before the first one here was pruned, it has to name the same hash.
    fn pruned(&mut self, number: Number, record: &AuditRecord) -> Result<(), Stop> {
        let (Some(begin), Some((epoch, seq, hash))) = (self.done.begins_behind.as_mut(), cut_of(record)) else {
            return Ok(());
        };
        if (epoch, seq) != (begin.epoch, begin.seq) {
            return Ok(());
        }
        if hash != begin.hash.to_string() {
            let what = format!("it says that {epoch}/{seq} was pruned, with another hash than the trail begins behind");
            return Err(fault(number, Some(record.position.epoch), Some(record.position.seq), what));
        }
        begin.pruned_by = Some((record.position.epoch, record.position.seq));
        Ok(())
    }

    fn record(&mut self, number: Number, meta: &Meta, record: &AuditRecord) -> Result<(), Stop> {
        let (position, entry) = (&record.position, &record.entry);
        let broken = |what: String| Err(fault(number, Some(meta.epoch), Some(position.seq), what));
        let Some(mut at) = self.at else { return Ok(()) };
        if position.gateway_id != meta.gateway_id || position.epoch != meta.epoch {
            return broken(format!("the record is of gateway {} and epoch {}", position.gateway_id.0, position.epoch));
        }
        if position.seq <= at.seq {
            return broken("a record with this seq came before: it is there twice".to_owned());
        }
        if position.seq > at.seq.next() {
            if !self.forgotten(at, Seq(position.seq.0 - 1))? {
                return broken(format!("records {} to {} are missing before it", at.seq.next(), position.seq.0 - 1));
            }
            (at.hash, self.whole) = (None, false);
        }
        if at.hash.is_some_and(|hash| hash != position.prev_hash) {
            return broken("the chain is broken: its prev_hash is not the hash of the record before".to_owned());
        }
        if stands_for_lost(record) {
            self.done.lost += 1;
        } else if !chain::holds(position, entry) {
            return broken("the record was changed: its hash is not that of its contents".to_owned());
        }
        if position.seq <= at.highest && self.recent.get(&position.seq).is_some_and(|hash| *hash != position.hash) {
            return broken("a different record with this seq is in the file before: it is there twice".to_owned());
        }
        if entry.call.method == PRUNED {
            self.pruned(number, record)?;
        }
        self.pending.remove(&entry.call.request_id);
        if let Some(stream) = self.done.streams.last_mut() {
            if stream.first == Seq::ZERO {
                stream.first = position.seq;
            }
            stream.last = position.seq;
            stream.closed = entry.call.method == "gateway/closed";
        }
        self.done.records += u64::from(position.seq > at.highest);
        self.recent.insert(position.seq, position.hash);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_first();
        }
        let highest = at.highest.max(position.seq);
        self.at = Some(At { number, seq: position.seq, hash: Some(position.hash), highest, ..at });
        Ok(())
    }
}

/// What a `gateway/pruned` record says of the last record that was removed.
fn cut_of(record: &AuditRecord) -> Option<(Epoch, Seq, String)> {
    let details: serde_json::Value = serde_json::from_str(record.entry.call.request_args.as_deref()?).ok()?;
    let last = details.get("last")?;
    let number = |key: &str| last.get(key).and_then(serde_json::Value::as_u64);
    Some((Epoch(number("epoch")?), Seq(number("seq")?), last.get("hash")?.as_str()?.to_owned()))
}

fn fault(number: Number, epoch: Option<Epoch>, seq: Option<Seq>, what: String) -> Stop {
    Stop::Fault(Fault { file: number.file_name(), epoch, seq, what })
}
