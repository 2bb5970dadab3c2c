//! Questions to an outbox, live or dead: the same answers, line by line as JSON.
//!
//! An answer is given away line by line and held nowhere, so that it may be as long as the outbox. Besides its own lines
//! it has lines `{"progress": {"records": N}}`, which show that the work goes on; the admin socket adds `{"progress": {}}` where
//! there is none for long.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::status::Trail;
use crate::audit::chain::Head;
use crate::audit::outbox::prune::PruneLimit;
use crate::audit::outbox::{OutboxError, Reader, RecordFrame};
use crate::audit::query::{Filter, RESULT_BYTES_MAX};
use crate::audit::record::{AuditRecord, Digest, Epoch, Seq};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Question {
    /// What the outbox holds, and what the live gateway is doing.
    Stats,
    /// The newest stored records that match, oldest first.
    Records {
        /// Which.
        #[serde(default)]
        filter: Box<Filter>,
    },
    /// All stored records that match, oldest first; then `{"at": {"epoch", "seq"}, "more": ...}`: how far it went, and
    /// whether the limit ended it. `filter.limit` is not heeded.
    Scan {
        /// Which.
        #[serde(default)]
        filter: Box<Filter>,
        /// Only those behind this epoch and seq.
        #[serde(default)]
        after: Option<(u64, u64)>,
        /// At most so many.
        #[serde(default)]
        limit: Option<u64>,
    },
    /// Calls that are open, or were when the gateway died.
    Intents,
    /// Records that the trail was read; only a live gateway can. The answer is empty.
    NoteRead {
        /// What was asked.
        read: Box<super::reads::Read>,
    },
    /// Whether the stored streams are whole and unchanged.
    CheckTrail {
        /// Faults that are listed at most.
        faults_max: usize,
    },
    /// The stored bytes of one record, `{"file", "offset", "hex"}`; nothing where it is not stored.
    Frame {
        /// Its epoch.
        epoch: u64,
        /// Its seq.
        seq: u64,
    },
    /// Whether all that is stored is whole and unchanged.
    Verify,
    /// What pruning would remove; nothing where no file is that old.
    Prunable {
        /// Which files.
        until: PruneLimit,
    },
    /// Records that old files are removed, and removes them; only a live gateway can, a dead one's directory is pruned by
    /// the one who opens it.
    Prune {
        /// Which files.
        until: PruneLimit,
        /// Also where what they hold waits for Postgres.
        awaited: bool,
    },
}

/// Takes a line; says whether to go on.
pub type Emit<'a> = &'a mut dyn FnMut(Value) -> ControlFlow<()>;

/// Answers `question` from `reader`; `live` is what the gateway does whose outbox it is, if it runs. Blocks. It takes
/// locks that calls wait for only for moments, since its thread may wait long for a processor.
///
/// # Errors
/// A file of the outbox cannot be read. Lines may have been given away before.
pub fn answer(question: &Question, reader: &Reader, live: Option<&Trail>, emit: Emit<'_>) -> Result<(), OutboxError> {
    match question {
        Question::Stats => give([stats(reader, live)?], emit),
        Question::Intents => give(reader.intents()?.iter().map(value), emit),
        Question::Records { filter } => {
            let records = records(reader, filter, emit)?;
            give(records.iter().map(value), emit);
        }
        // The admin socket has done it; a dead gateway cannot.
        Question::NoteRead { .. } | Question::Prune { .. } => {}
        Question::Prunable { until } => give(reader.prunable(*until)?.iter().map(value), emit),
        Question::CheckTrail { faults_max } => {
            let report = super::reads::check(reader, *faults_max, &mut |records| emit(progress(records)))?;
            give([value(&report)], emit);
        }
        Question::Scan { filter, after, limit } => scan(reader, filter, *after, *limit, emit)?,
        Question::Frame { epoch, seq } => {
            let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
            let shown = |RecordFrame { file, segment, offset, bytes }: RecordFrame| json!({ "file": file, "segment": segment, "offset": offset, "hex": hex(&bytes) });
            give(reader.frame(Epoch(*epoch), Seq(*seq))?.map(shown), emit);
        }
        Question::Verify => {
            let verified = reader.verify(&mut |records| emit(progress(records)))?;
            give([value(&verified)], emit);
        }
    }
    Ok(())
}

fn give(lines: impl IntoIterator<Item = Value>, emit: Emit<'_>) {
    for line in lines {
        if emit(line).is_break() {
            break;
        }
    }
}

fn progress(records: u64) -> Value {
    json!({ "progress": { "records": records } })
}

/// What is met on a walk over stored records.
enum Met {
    /// One that matches.
    Record(Box<AuditRecord>),
    /// So many were read by now.
    Seen(u64),
}

/// Takes what is met; says whether to go on.
type Visit<'a> = &'a mut dyn FnMut(Met) -> ControlFlow<()>;

/// The newest records in the outbox that match, oldest first; with `filter.after` the oldest behind that place.
fn records(reader: &Reader, filter: &Filter, emit: Emit<'_>) -> Result<VecDeque<AuditRecord>, OutboxError> {
    let (mut found, mut bytes) = (VecDeque::new(), 0);
    let mut visit = |met| {
        let record = match met {
            Met::Seen(records) => return emit(progress(records)),
            Met::Record(record) => *record,
        };
        // I6: an answer is bounded by count and by bytes; at least one record is given.
        bytes += record.entry.size_bytes();
        if bytes > RESULT_BYTES_MAX && !found.is_empty() {
            return ControlFlow::Break(());
        }
        if filter.after.is_some() {
            found.push_back(record);
        } else {
            found.push_front(record);
        }
        if found.len() < filter.limit() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match filter.after {
        Some(_) => walk(reader, filter, filter.after, &mut visit).map(drop)?,
        None => walk_back(reader, filter, &mut visit)?,
    }
    Ok(found)
}

/// All records that match behind the place `after`, oldest first; then where it ended.
fn scan(
    reader: &Reader,
    filter: &Filter,
    after: Option<(u64, u64)>,
    limit: Option<u64>,
    emit: Emit<'_>,
) -> Result<(), OutboxError> {
    let (mut given, mut more) = (0, false);
    let mut visit = |met| match met {
        Met::Seen(records) => emit(progress(records)),
        Met::Record(_) if limit.is_some_and(|limit| given >= limit) => {
            more = true;
            ControlFlow::Break(())
        }
        Met::Record(record) => {
            given += 1;
            emit(value(&record))
        }
    };
    let (epoch, seq) = walk(reader, filter, after, &mut visit)?.unwrap_or_default();
    give([json!({ "at": { "epoch": epoch, "seq": seq }, "more": more })], emit);
    Ok(())
}

/// Meets the records that match behind the place `after`, from the oldest on. Gives the place of the last one read, whether
/// it matched or not, without the one that ended it.
fn walk(
    reader: &Reader,
    filter: &Filter,
    after: Option<(u64, u64)>,
    visit: Visit<'_>,
) -> Result<Option<(u64, u64)>, OutboxError> {
    let (mut at, mut seen) = (after, 0);
    // The epoch of the place itself is asked for as the one behind its forerunner.
    let mut before = after.and_then(|(epoch, _)| epoch.checked_sub(1)).map(Epoch);
    while let Some(epoch) = reader.next_epoch(before)? {
        let from = after.filter(|(known, _)| *known == epoch.0).map_or(Seq::ZERO, |(_, seq)| Seq(seq));
        let mut head = Head { seq: from, hash: Digest::ZERO };
        loop {
            let records = reader.read(epoch, head)?;
            let Some(last) = records.last() else { break };
            head = Head::after(&last.position);
            seen += records.len() as u64;
            for record in records {
                let place = (epoch.0, record.position.seq.0);
                if filter.matches(&record) && visit(Met::Record(Box::new(record))).is_break() {
                    return Ok(at);
                }
                at = Some(place);
            }
            if visit(Met::Seen(seen)).is_break() {
                return Ok(at);
            }
        }
        before = Some(epoch);
    }
    Ok(at)
}

/// Meets the records that match from the newest back. Where a place is asked for, it reads that alone.
fn walk_back(reader: &Reader, filter: &Filter, visit: Visit<'_>) -> Result<(), OutboxError> {
    let (first, behind) = match (filter.epoch, filter.seq) {
        (None, _) => ((0, 0), (u64::MAX, u64::MAX)),
        (Some(epoch), None) => ((epoch, 0), (epoch, u64::MAX)),
        (Some(epoch), Some(seq)) => ((epoch, seq), (epoch, seq.saturating_add(1))),
    };
    let (mut before, mut seen) = (filter.before.map_or(behind, |key| behind.min((key.epoch, key.seq))), 0);
    while before > first {
        let records = reader.read_before((Epoch(before.0), Seq(before.1)))?;
        let Some(oldest) = records.first() else { break };
        before = (oldest.position.epoch.0, oldest.position.seq.0);
        seen += records.len() as u64;
        for record in records.into_iter().rev().filter(|record| filter.matches(record)) {
            if visit(Met::Record(Box::new(record))).is_break() {
                return Ok(());
            }
        }
        if visit(Met::Seen(seen)).is_break() {
            break;
        }
    }
    Ok(())
}

fn stats(reader: &Reader, live: Option<&Trail>) -> Result<Value, OutboxError> {
    let stats = reader.stats()?;
    let stored: u64 = stats.streams.iter().map(|stream| (stream.last.0 + 1).saturating_sub(stream.first.0)).sum();
    let oldest = oldest(reader)?;
    let mut stats = value(&stats);
    if let Some(object) = stats.as_object_mut() {
        object.insert("stored".to_owned(), json!(stored));
        object.insert("oldest".to_owned(), json!(oldest));
    }
    if let (Some(live), Some(object)) = (live, stats.as_object_mut()) {
        object.insert("live".to_owned(), value(live));
    }
    Ok(stats)
}

/// When the oldest record that is stored came.
fn oldest(reader: &Reader) -> Result<Option<Value>, OutboxError> {
    let Some(epoch) = reader.next_epoch(None)? else { return Ok(None) };
    Ok(reader.read(epoch, Head::START)?.first().map(|record| value(&record.entry.call.timestamp)))
}

fn value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
