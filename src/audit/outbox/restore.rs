//! Replacing a generation file that cannot be opened. The damaged file is kept unchanged in `quarantine/`, and a new
//! file with everything that could be read of it takes over its name.
//!
//! ```text
//! 1  read what can be read, see `scanned_file.rs`
//! 2  create quarantine/ and sync its name, link the file into it and sync that
//! 3  create the new file under its temporary name, then rename it over the damaged one
//! ```
//!
//! A crash at any point leaves the damaged file or the new one under the number, and loses nothing. Records between the
//! first and the last whole one, and up to the head that the next file contains, keep their seqs; stand-ins
//! (`gateway/gap`) replace lost records, see [`salvage`]. The meta table of the new file contains the [`Damage`], so
//! that the process that delivers the file records it first, even if the one that restored it ended before it did.

use std::path::Path;

use super::commit::Commit;
use super::damage::Damage;
use super::damage_log::{QUARANTINE_NAME, describe, quarantined_number};
use super::error::OutboxError;
use super::file_number::FileNumber;
use super::fs::Fs;
use super::generation::{Carried, FileMeta, Generation, catch_panic};
use super::salvage;
use super::scanned_file::{RecordBounds, ScannedFile};
use super::segment::Segment;
use super::stream_end::stream_end;
use crate::audit::chain::Head;
use crate::audit::lost::LostRun;
use crate::audit::record::{AuditRecord, Epoch, GatewayId, Seq, Timestamp};

/// The number of records that are restored in one commit. *Chosen*: about a segment of ordinary records.
const COMMIT_RECORDS: u64 = 1024;

/// The result of opening a file that may be damaged.
#[derive(Debug)]
pub(super) enum Restored {
    /// The file, or the new file that replaced it and a description of the damage.
    File(Generation, Option<Box<Damage>>),
    /// Nothing in the file can be read and nothing is known of it. It is in `quarantine/`, and still in the directory.
    Nothing(Box<Damage>),
}

/// Opens file `number` or, if it is damaged, replaces it. `next` is the meta table of the next file, if there is one.
///
/// # Errors
/// The file can be neither opened nor replaced. Nothing was changed, except that it may have a second name in
/// `quarantine/`.
pub(super) fn open(
    fs: &dyn Fs,
    dir: &Path,
    number: FileNumber,
    next: Option<&FileMeta>,
    gateway_id: Option<GatewayId>,
) -> Result<Restored, OutboxError> {
    let cause = match catch_panic(|| Generation::open(fs, dir, number).and_then(|file| file.meta().map(|_| file))) {
        Ok(Ok(generation)) => return Ok(Restored::File(generation, None)),
        Ok(Err(error)) if !error.is_damage() => return Err(error),
        Ok(Err(error)) => error.to_string(),
        Err(panicked) => panicked,
    };
    let scanned = ScannedFile::read(fs, dir, number)?;
    let (file, records) = (number.file_name(), scanned.count());
    tracing::error!(%cause, file, records, "outbox file is damaged; restoring the records that can be read");
    let mut damage = Damage {
        file: quarantine(fs, dir, number)?,
        epoch: None,
        epochs: None,
        kept: 0,
        lost: 0,
        end_known: false,
        runs: Vec::new(),
        maybe_open: scanned.maybe_open.clone(),
        cause,
    };
    let Some((gateway_id, epoch)) = scanned.owner(next, gateway_id) else {
        return Ok(Restored::Nothing(Box::new(damage)));
    };
    let bounds = scanned.bounds(epoch, end_before(fs, dir, number, epoch), next);
    let closed = scanned.closes(bounds.last)?;
    damage.epoch = Some(epoch);
    damage.end_known = bounds.end.is_some() || closed;
    // Counted before the records are restored, because the new file contains the description from its first commit on.
    damage.kept = scanned.count_between(bounds.first, bounds.last);
    damage.lost = (bounds.last.0 + 1).saturating_sub(bounds.first.0).saturating_sub(damage.kept);
    damage.runs = scanned.lost_runs(epoch, bounds);
    describe(fs, dir, &damage.file, &damage)?;
    let queued = scanned.is_queued();
    let damaged = Some(damage.clone());
    let (head, begun) = (bounds.after, Timestamp::now());
    let meta = FileMeta { gateway_id, epoch, begun, head, closed, queued, previous: None, damage: damaged };
    let begun: Vec<_> = scanned.intents.iter().map(|(id, frame)| (*id, frame.as_slice().into())).collect();
    let commit = Commit { begun: &begun, ..Commit::default() };
    // The watermarks are not taken over: they are unchecked, and the sink's own cursor is authoritative.
    let carried = Carried::default();
    let generation = Generation::create(fs, dir, number, &meta, &carried, &commit, |generation| {
        restore_records(&scanned, bounds, gateway_id, &damage.runs, generation, &number.path(dir))
    })?;
    Ok(Restored::File(generation, Some(Box::new(damage))))
}

/// Commits the records within `bounds` to `generation`, with the stand-ins of `runs` for the lost ones.
fn restore_records(
    scanned: &ScannedFile,
    bounds: RecordBounds,
    gateway_id: GatewayId,
    runs: &[LostRun],
    generation: &Generation,
    path: &Path,
) -> Result<(), OutboxError> {
    let (mut head, mut from) = (bounds.after, bounds.first);
    while from <= bounds.last {
        let to = Seq((from.0 + COMMIT_RECORDS - 1).min(bounds.last.0));
        let filled = salvage::fill(gateway_id, (from, to), Some(head), &scanned.records((from, to))?, runs);
        head = filled.last().map_or(head, |record| Head::after(&record.position));
        generation.commit(&Commit { segments: &[segment(&filled, path)?], ..Commit::default() })?;
        from = to.next();
    }
    Ok(())
}

/// The meta table of file `number`, if it can be read.
pub(super) fn meta(fs: &dyn Fs, dir: &Path, number: FileNumber) -> Option<FileMeta> {
    catch_panic(|| Generation::open(fs, dir, number).and_then(|file| file.meta()).ok()).ok().flatten()
}

/// The head of `epoch` before file `number`, from the previous file, if that can be read. With it, records that were
/// lost between the two files are not taken for delivered ones.
fn end_before(fs: &dyn Fs, dir: &Path, number: FileNumber, epoch: Epoch) -> Option<Head> {
    let before = FileNumber::list(fs, dir).ok()?.into_iter().rev().find(|before| *before < number)?;
    let end = || {
        let generation = Generation::open(fs, dir, before).ok()?;
        let meta = generation.meta().ok()?;
        // Numbers are consecutive: if the file directly before belongs to an older epoch, this one is the first of its
        // own.
        let first_of_epoch = meta.epoch < epoch && FileNumber(before.0 + 1) == number;
        if meta.epoch == epoch { stream_end(&generation, &meta).ok() } else { first_of_epoch.then_some(Head::START) }
    };
    catch_panic(end).ok().flatten()
}

/// The highest number among the files in `quarantine/`; zero if there is none.
pub(super) fn last_quarantined_number(fs: &dyn Fs, dir: &Path) -> FileNumber {
    let names = fs.list(&dir.join(QUARANTINE_NAME)).unwrap_or_default();
    names.iter().filter_map(|name| quarantined_number(name)).max().unwrap_or(FileNumber(0))
}

/// Gives the file a second name in `quarantine/`; returns that name. Does nothing if an earlier attempt has already
/// done so.
fn quarantine(fs: &dyn Fs, dir: &Path, number: FileNumber) -> Result<String, OutboxError> {
    let (from, quarantine) = (number.path(dir), dir.join(QUARANTINE_NAME));
    fs.create_dir(&quarantine).map_err(OutboxError::io("create directory", &quarantine))?;
    // Before the new file replaces this one: otherwise a power loss could keep the new file and lose this one's name.
    fs.sync_dir(dir).map_err(OutboxError::io("sync", dir))?;
    let mut names = fs.list(&quarantine).map_err(OutboxError::io("list", &quarantine))?;
    names.retain(|name| quarantined_number(name).is_some());
    let identity = fs.identity(&from).map_err(OutboxError::io("look at", &from))?;
    let is_same_file = |name: &&String| fs.identity(&quarantine.join(name)).is_ok_and(|other| other == identity);
    let name = if let Some(name) = names.iter().find(is_same_file) {
        name.clone()
    } else {
        // Among one name more than there are files, one is always free.
        let mut candidates = (1..=names.len() + 1).map(|copy| format!("{}.{copy}", number.file_name()));
        let name = candidates.find(|name| !names.contains(name)).unwrap_or_else(|| number.file_name());
        let to = quarantine.join(&name);
        fs.link(&from, &to).map_err(OutboxError::io("keep", &to))?;
        name
    };
    // Also if an earlier attempt made the link: it may have ended before the sync.
    fs.sync_dir(&quarantine).map_err(OutboxError::io("sync", &quarantine))?;
    Ok(name)
}

/// The segment of `records`, which goes into the file at `path`.
fn segment(records: &[AuditRecord], path: &Path) -> Result<Segment, OutboxError> {
    let first = records.first().map_or((Epoch(0), Seq::ZERO), |first| (first.position.epoch, first.position.seq));
    let mut segment = Segment::begin(first.0, first.1, 0);
    for record in records {
        segment.push(record).map_err(|source| OutboxError::BrokenFrame {
            path: path.to_owned(),
            what: format!("record at seq {}", record.position.seq),
            source,
        })?;
    }
    Ok(segment)
}
