//! What to do about a generation file that cannot be opened: it is kept untouched in `quarantine/`, and a new file with
//! everything that could be read of it takes its place and its number.
//!
//! ```text
//! 1  read what can be read, see [`found`](super::found)
//! 2  make quarantine/ and sync its name, link the file into it and sync that
//! 3  make the new file under its temporary name, then rename it over the damaged one
//! ```
//!
//! A crash at any point leaves the damaged file or the new one under the number, and nothing lost. Records between the
//! first and the last that were found, and up to where the next file says that this one ended, keep their place; those
//! that are lost become `gateway/gap` records, see [`salvage`]. The new file's meta table holds the [`Damage`], so that
//! the next epoch tells of it even where the process ends before it could.

use std::path::Path;

use super::damage::Damage;
use super::found::Found;
use super::fs::Fs;
use super::generation::{Generation, Meta, Number, checked, numbers};
use super::{Commit, Error, Segment, salvage};
use crate::audit::chain::Head;
use crate::audit::record::{AuditRecord, Epoch, GatewayId, Seq};

/// The directory of set-aside files, in the outbox directory.
pub const QUARANTINE_NAME: &str = "quarantine";

/// Records that are mended and written at once. *Chosen*: about a segment of ordinary records.
const RECORDS_AT_ONCE: u64 = 1024;

/// What there is under a number.
#[derive(Debug)]
pub(super) enum Opened {
    /// The file, or what took its place.
    File(Generation, Option<Box<Damage>>),
    /// Nothing in it can be read and nothing is known of it. It is in `quarantine/`, and still in its place.
    Nothing(Box<Damage>),
}

/// Opens file `number`, or a new one in its place where it is damaged. `follows` is the meta table of the file behind
/// it, where there is one.
///
/// # Errors
/// It can be neither opened nor replaced; nothing was changed but for its second name in `quarantine/`.
pub(super) fn open(
    fs: &dyn Fs,
    dir: &Path,
    number: Number,
    follows: Option<&Meta>,
    gateway_id: Option<GatewayId>,
) -> Result<Opened, Error> {
    let cause = match checked(|| Generation::open(fs, dir, number).and_then(|file| file.meta().map(|_| file))) {
        Ok(Ok(generation)) => return Ok(Opened::File(generation, None)),
        Ok(Err(error)) if !error.is_damage() => return Err(error),
        Ok(Err(error)) => error.to_string(),
        Err(panicked) => panicked,
    };
    let found = Found::read(fs, dir, number)?;
    let name = number.file_name();
    tracing::error!(%cause, name, frames = found.count(), "outbox file is damaged; what can be read is saved");
    let mut damage = Damage {
        file: set_aside(fs, dir, number)?,
        epoch: None,
        kept: 0,
        lost: 0,
        end_known: false,
        maybe_open: found.maybe_open.clone(),
        cause,
    };
    let Some((gateway_id, epoch)) = found.owner(follows, gateway_id) else {
        return Ok(Opened::Nothing(Box::new(damage)));
    };
    let bounds = found.bounds(epoch, end_before(fs, dir, number, epoch), follows);
    damage.epoch = Some(epoch);
    damage.end_known = bounds.end.is_some() || found.closes(bounds.last)?;
    // Counted first, since the new file tells of it from its first commit on.
    damage.kept = found.count_between(bounds.first, bounds.last);
    damage.lost = (bounds.last.0 + 1).saturating_sub(bounds.first.0).saturating_sub(damage.kept);
    let closed = found.closes(bounds.last)?;
    let meta = Meta { gateway_id, epoch, head: bounds.after, closed, previous: None, damage: Some(damage.clone()) };
    let begun: Vec<_> = found.intents.iter().map(|(id, frame)| (*id, frame.as_slice().into())).collect();
    let commit = Commit { begun: &begun, ..Commit::default() };
    // The watermarks are not taken over: what they say is not checked, and the sink's cursor knows better.
    let generation = Generation::create(fs, dir, number, &meta, &[], &commit, |generation| {
        let (mut head, mut from) = (bounds.after, bounds.first);
        while from <= bounds.last {
            let to = Seq((from.0 + RECORDS_AT_ONCE - 1).min(bounds.last.0));
            // One more than is written: it knows the hash of the one before it.
            let mut records = found.records((from, to.next()))?;
            let behind = records.remove(&to.next()).map(|record| record.position.prev_hash);
            let end = bounds.end.filter(|end| end.seq == to).map(|end| end.hash);
            let filled = salvage::fill(gateway_id, epoch, (from, to), head, &records, end.or(behind));
            head = filled.last().map_or(head, |record| Head::after(&record.position));
            generation.commit(&Commit { segments: &[segment(&filled, number, dir)?], ..Commit::default() })?;
            from = to.next();
        }
        Ok(())
    })?;
    Ok(Opened::File(generation, Some(Box::new(damage))))
}

/// The meta table of file `number`, where it can be read.
pub(super) fn meta(fs: &dyn Fs, dir: &Path, number: Number) -> Option<Meta> {
    checked(|| Generation::open(fs, dir, number).and_then(|file| file.meta()).ok()).ok().flatten()
}

/// The head of `epoch` before file `number`, as the file before it tells, where that one can be read. Records that were
/// lost between the two are not taken for delivered ones.
fn end_before(fs: &dyn Fs, dir: &Path, number: Number, epoch: Epoch) -> Option<Head> {
    let before = numbers(fs, dir).ok()?.into_iter().rev().find(|before| *before < number)?;
    let end = || {
        let generation = Generation::open(fs, dir, before).ok()?;
        let meta = generation.meta().ok()?;
        // Files have consecutive numbers: behind one of an older epoch, this is the first of its own.
        let first_of_epoch = meta.epoch < epoch && Number(before.0 + 1) == number;
        if meta.epoch == epoch {
            super::head_of(&generation, &meta).ok()
        } else {
            first_of_epoch.then_some(Head::START)
        }
    };
    checked(end).ok().flatten()
}

/// The highest number among the files in `quarantine/`; zero where there is none.
pub(super) fn last_number(fs: &dyn Fs, dir: &Path) -> Number {
    let names = fs.list(&dir.join(QUARANTINE_NAME)).unwrap_or_default();
    let number = |name: &String| Number::from_file_name(name.rsplit_once('.').map_or(name, |(file, _)| file));
    names.iter().filter_map(number).max().unwrap_or(Number(0))
}

/// Keeps the file in `quarantine/` under a name of its own; returns that name. A file that an earlier try put there is
/// not put there again.
fn set_aside(fs: &dyn Fs, dir: &Path, number: Number) -> Result<String, Error> {
    let (from, quarantine) = (number.path(dir), dir.join(QUARANTINE_NAME));
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { operation, path, source }
    };
    fs.create_dir(&quarantine).map_err(io("create directory", &quarantine))?;
    // Before the new file takes the place: a power loss must not keep that and lose the way to this one.
    fs.sync_dir(dir).map_err(io("sync", dir))?;
    let names = fs.list(&quarantine).map_err(io("list", &quarantine))?;
    let identity = fs.identity(&from).map_err(io("look at", &from))?;
    let is_there = |name: &&String| fs.identity(&quarantine.join(name)).is_ok_and(|other| other == identity);
    let name = if let Some(name) = names.iter().find(is_there) {
        name.clone()
    } else {
        // One name more than there are files is always free.
        let mut free = (1..=names.len() + 1).map(|copy| format!("{}.{copy}", number.file_name()));
        let name = free.find(|name| !names.contains(name)).unwrap_or_else(|| number.file_name());
        let to = quarantine.join(&name);
        fs.link(&from, &to).map_err(io("keep", &to))?;
        name
    };
    // Also where an earlier try left it: it may have died before this.
    fs.sync_dir(&quarantine).map_err(io("sync", &quarantine))?;
    Ok(name)
}

fn segment(records: &[AuditRecord], number: Number, dir: &Path) -> Result<Segment, Error> {
    let first = records.first().map_or((Epoch(0), Seq::ZERO), |first| (first.position.epoch, first.position.seq));
    let mut segment = Segment::begin(first.0, first.1, 0);
    for record in records {
        segment.push(record).map_err(|source| Error::Frame {
            path: number.path(dir),
            what: format!("record at seq {}", record.position.seq),
            source,
        })?;
    }
    Ok(segment)
}
