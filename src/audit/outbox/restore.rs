//! What to do about a generation file that cannot be opened: it is kept untouched in `quarantine/`, and a new file with
//! everything that could be read of it takes its place and its number.
//!
//! ```text
//! 1  read what can be read: the tables, unchecked, where redb opens them; every whole frame in the bytes in any case
//! 2  link the file into quarantine/ and sync that directory
//! 3  make the new file under its temporary name, then rename it over the damaged one
//! ```
//!
//! A crash at any point leaves the damaged file or the new one under the number, and nothing lost. Records between the
//! first and the last that were found, and up to where the next file says that this one ended, keep their place; those
//! that are lost become `gateway/gap` records, see [`salvage`].

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::fs::Fs;
use super::generation::{Generation, Meta, Number};
use super::{Commit, Error, Segment, salvage};
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::record::{AuditRecord, Epoch, GatewayId, RequestId, Seq};

/// The directory of set-aside files, in the outbox directory.
pub const QUARANTINE_NAME: &str = "quarantine";

/// Records that are mended and written at once. *Chosen*: about a segment of ordinary records.
const RECORDS_AT_ONCE: u64 = 1024;

/// Places between found records that may be filled with gap records. *Chosen*: far more records than a file's worst
/// damaged megabyte held; a larger hole is left by records that were delivered and forgotten long ago.
const HOLE_MAX: u64 = 65_536;

/// A file that was damaged, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// Its name, now in `quarantine/`.
    pub file: String,
    /// The epoch of its records, where any could be read.
    pub epoch: Option<Epoch>,
    /// Records that were kept.
    pub kept: u64,
    /// Records that are lost, each replaced by a gap record.
    pub lost: u64,
    /// Whether it is known where its records ended. If not, more may be lost behind the last one kept.
    pub end_known: bool,
    /// Why it could not be opened.
    pub cause: String,
}

/// Opens file `number`, or a new one in its place where it is damaged. `follows` is the meta table of the file behind
/// it, where there is one.
///
/// # Errors
/// It can be neither opened nor replaced; nothing was changed. `Ok(None)`: nothing in it could be read and nothing is
/// known of it, so that it was moved away.
pub(super) fn open(
    fs: &dyn Fs,
    dir: &Path,
    number: Number,
    follows: Option<&Meta>,
    gateway_id: Option<GatewayId>,
) -> Result<(Option<Generation>, Option<Damage>), Error> {
    let cause = match checked(|| Generation::open(fs, dir, number).and_then(|file| file.meta().map(|_| file))) {
        Ok(Ok(generation)) => return Ok((Some(generation), None)),
        Ok(Err(error)) if !error.is_damage() => return Err(error),
        Ok(Err(error)) => error.to_string(),
        Err(panicked) => panicked,
    };
    let found = Found::read(fs, dir, number)?;
    let name = number.file_name();
    tracing::error!(%cause, name, frames = found.frames.len(), "outbox file is damaged; what can be read is saved");
    let kept_name = set_aside(fs, dir, number)?;
    let Some((gateway_id, meta)) = found.meta(follows, gateway_id) else {
        let path = number.path(dir);
        fs.remove(&path).map_err(|source| Error::Io { operation: "move to quarantine", path, source })?;
        let damage = Damage { file: kept_name, epoch: None, kept: 0, lost: 0, end_known: false, cause };
        return Ok((None, Some(damage)));
    };
    let (first, last, end) = found.bounds(&meta, follows);
    let mut damage = Damage {
        file: kept_name,
        epoch: Some(meta.epoch),
        kept: 0,
        lost: 0,
        end_known: end.is_some() || found.closes(last),
        cause,
    };
    let begun: Vec<_> = found.intents.iter().map(|(id, frame)| (*id, frame.as_slice().into())).collect();
    let commit = Commit { begun: &begun, ..Commit::default() };
    let generation = Generation::create(fs, dir, number, &meta, &found.delivered, &commit, |generation| {
        let mut head = Head::START;
        let mut from = first;
        while from <= last {
            let to = Seq((from.0 + RECORDS_AT_ONCE - 1).min(last.0));
            let records = found.records((from, to));
            damage.kept += records.len() as u64;
            let mut filled = salvage::fill(gateway_id, meta.epoch, (from, to), head, &records);
            if let Some((end, record)) = end.zip(filled.last_mut()).filter(|(end, record)| record.place.seq == end.seq)
            {
                record.place.hash = end.hash;
            }
            damage.lost += filled.len() as u64 - records.len() as u64;
            head = filled.last().map_or(head, |record| Head::after(&record.place));
            generation.commit(&Commit { segments: &[segment(&filled, number, dir)?], ..Commit::default() })?;
            from = to.next();
        }
        Ok(())
    })?;
    Ok((Some(generation), Some(damage)))
}

/// The meta table of file `number`, where it can be read.
pub(super) fn meta(fs: &dyn Fs, dir: &Path, number: Number) -> Option<Meta> {
    checked(|| Generation::open(fs, dir, number).and_then(|file| file.meta()).ok()).ok().flatten()
}

/// Runs `work`; a panic of redb in it is an error like others, since a damaged file may cause one.
fn checked<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panicked| {
        let text = panicked.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panicked.downcast_ref::<&str>().copied());
        format!("redb panicked: {}", text.unwrap_or("without a message"))
    })
}

/// Keeps the file in `quarantine/` under a name of its own; returns that name.
fn set_aside(fs: &dyn Fs, dir: &Path, number: Number) -> Result<String, Error> {
    let (from, quarantine) = (number.path(dir), dir.join(QUARANTINE_NAME));
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { operation, path, source }
    };
    fs.create_dir(&quarantine).map_err(io("create directory", &quarantine))?;
    let names: BTreeSet<_> = fs.list(&quarantine).map_err(io("list", &quarantine))?.into_iter().collect();
    // One name more than there are files is always free.
    let mut free = (1..=names.len() + 1).map(|copy| format!("{}.{copy}", number.file_name()));
    let name = free.find(|name| !names.contains(name)).unwrap_or_else(|| number.file_name());
    let to = quarantine.join(&name);
    fs.link(&from, &to).map_err(io("keep", &to))?;
    fs.sync_dir(&quarantine).map_err(io("sync", &quarantine))?;
    Ok(name)
}

fn segment(records: &[AuditRecord], number: Number, dir: &Path) -> Result<Segment, Error> {
    let mut frames = Vec::new();
    for record in records {
        codec::encode_record(record, &mut frames).map_err(|source| Error::Frame {
            path: number.path(dir),
            what: format!("record at seq {}", record.place.seq),
            source,
        })?;
    }
    let place = |record: Option<&AuditRecord>| record.map(|record| record.place);
    let (first, last) = (place(records.first()), place(records.last()));
    Ok(Segment {
        epoch: first.map_or(Epoch(0), |place| place.epoch),
        first: first.map_or(Seq::ZERO, |place| place.seq),
        last: last.map_or(Seq::ZERO, |place| place.seq),
        frames,
    })
}

/// What could be read of a damaged file.
#[derive(Debug, Default)]
struct Found {
    bytes: Vec<u8>,
    /// Where the whole frames stand.
    frames: BTreeMap<Seq, usize>,
    /// Whose they are.
    owner: Option<(GatewayId, Epoch)>,
    meta: Option<Meta>,
    span: Option<(Seq, Seq)>,
    delivered: Vec<(Epoch, Head)>,
    intents: Vec<(RequestId, Vec<u8>)>,
}

impl Found {
    fn read(fs: &dyn Fs, dir: &Path, number: Number) -> Result<Self, Error> {
        let path = number.path(dir);
        let io = |source| Error::Io { operation: "read", path: path.clone(), source };
        let file = fs.open(&path).map_err(io)?;
        let length = usize::try_from(file.len().map_err(io)?).unwrap_or(usize::MAX);
        let mut found = Self { bytes: vec![0; length], ..Self::default() };
        file.read(0, &mut found.bytes).map_err(io)?;
        let mut ended = BTreeSet::new();
        for (offset, record) in salvage::scan(&found.bytes) {
            let place = record.place;
            let owner = *found.owner.get_or_insert((place.gateway_id, place.epoch));
            if owner == (place.gateway_id, place.epoch) {
                found.frames.entry(place.seq).or_insert(offset);
            }
            ended.insert(record.entry.call.request_id);
        }
        // Unchecked, redb often still finds its way; what it says is only used where it decodes. It may also panic, on
        // any of these and when it is closed.
        let tables = checked(|| {
            let generation = Generation::open_unchecked(fs, dir, number).ok()?;
            let meta = checked(|| generation.meta().ok()).ok().flatten();
            let span = checked(|| generation.span().ok().flatten()).ok().flatten();
            let delivered = checked(|| generation.delivered().ok()).ok().flatten();
            let intents = checked(|| generation.intents().ok()).ok().flatten();
            Some((meta, span, delivered, intents))
        });
        if let Ok(Some((meta, span, delivered, intents))) = tables {
            (found.meta, found.span) = (meta, span);
            (found.delivered, found.intents) = (delivered.unwrap_or_default(), intents.unwrap_or_default());
        }
        if found.intents.is_empty() {
            // Frames of calls that ended may still lie about: those that have a record here are left out.
            found.intents = salvage::scan_intents(&found.bytes).collect();
        }
        found.intents.retain(|(id, frame)| !ended.contains(id) && codec::decode_intent(frame).is_ok());
        Ok(found)
    }

    /// Whose the file is and how it begins; `None` where nobody can tell.
    fn meta(&self, follows: Option<&Meta>, known: Option<GatewayId>) -> Option<(GatewayId, Meta)> {
        if let Some(meta) = &self.meta {
            return Some((meta.gateway_id, meta.clone()));
        }
        let (gateway_id, epoch) = self.owner.or_else(|| {
            let follows = follows?;
            let previous = follows.previous.map(|(epoch, _)| epoch);
            let epoch = if follows.head.seq > Seq::ZERO { Some(follows.epoch) } else { previous };
            known.or(Some(follows.gateway_id)).zip(epoch)
        })?;
        let last = self.frames.keys().next_back().copied().unwrap_or(Seq::ZERO);
        let closed = self.closes(last);
        Some((gateway_id, Meta { gateway_id, epoch, head: Head::START, closed, previous: None }))
    }

    /// First and last place, and the head at the end of the file where the file behind it tells.
    fn bounds(&self, meta: &Meta, follows: Option<&Meta>) -> (Seq, Seq, Option<Head>) {
        let end = follows.and_then(|follows| match follows.previous {
            _ if follows.epoch == meta.epoch => Some(follows.head),
            Some((epoch, head)) if epoch == meta.epoch => Some(head),
            _ => None,
        });
        let last_frame = self.frames.keys().next_back().copied();
        let last = last_frame.max(self.span.map(|(_, last)| last)).max(end.map(|end| end.seq)).unwrap_or(Seq::ZERO);
        let mut first = last.next();
        for seq in self.frames.keys().rev() {
            if first.0 - seq.0 > HOLE_MAX {
                break;
            }
            first = *seq;
        }
        let first = self.span.map_or(first, |(span, _)| span).max(Seq(1));
        // Where not one record is left but it is known that there were some, one gap record stands for the end.
        (if first > last { last.max(Seq(1)) } else { first }, last, end.filter(|end| end.seq == last))
    }

    /// The whole records from one place to another.
    fn records(&self, (from, to): (Seq, Seq)) -> BTreeMap<Seq, AuditRecord> {
        let decode = |(seq, offset): (&Seq, &usize)| {
            let (record, _) = codec::decode_record(self.bytes.get(*offset..)?).ok()?;
            Some((*seq, record))
        };
        self.frames.range(from..=to).filter_map(decode).collect()
    }

    /// Whether the record at `last` was found and closes the epoch.
    fn closes(&self, last: Seq) -> bool {
        self.records((last, last)).values().any(|record| record.entry.call.method == "gateway/closed")
    }
}
