//! Questions to an outbox, live or dead: the same answers, line by line as JSON.
//!
//! An answer is given away line by line and held nowhere, so that it may be as long as the outbox. Besides its own lines
//! it has lines `{"progress": {"records": N}}`, which show that the work goes on.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::chain::Head;
use crate::audit::outbox::prune::Until;
use crate::audit::outbox::{Error, Frame, Reader};
use crate::audit::pipeline::Probe;
use crate::audit::query::{ANSWER_BYTES_MAX, Filter};
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
        until: Until,
    },
    /// Records that old files are removed, and removes them; only a live gateway can, a dead one's directory is pruned by
    /// the one who opens it.
    Prune {
        /// Which files.
        until: Until,
        /// Also where what they hold waits for Postgres.
        awaited: bool,
    },
}

/// Takes a line; says whether to go on.
pub type Emit<'a> = &'a mut dyn FnMut(Value) -> ControlFlow<()>;

/// Answers `question` from `reader`; `live` is the gateway whose outbox it is, if it runs. Blocks.
///
/// # Errors
/// A file of the outbox cannot be read. Lines may have been given away before.
pub fn answer(question: &Question, reader: &Reader, live: Option<&Probe>, emit: Emit<'_>) -> Result<(), Error> {
    match question {
        Question::Stats => give([stats(reader, live)?], emit),
        Question::Intents => give(reader.intents()?.iter().map(value), emit),
        Question::Records { filter } => {
            let records = newest(reader, filter, emit)?;
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
            let shown = |Frame { file, segment, offset, bytes }: Frame| json!({ "file": file, "segment": segment, "offset": offset, "hex": hex(&bytes) });
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

/// The newest records in the outbox that match, oldest first.
fn newest(reader: &Reader, filter: &Filter, emit: Emit<'_>) -> Result<VecDeque<AuditRecord>, Error> {
    let (mut found, mut bytes, mut seen) = (VecDeque::new(), 0, 0);
    let begin = filter.after.map(|(epoch, seq)| (Epoch(epoch), Head { seq: Seq(seq), ..Head::START }));
    let mut after = begin.map(|(epoch, _)| Epoch(epoch.0.saturating_sub(1)));
    while let Some(epoch) = reader.next_epoch(after)? {
        let mut head = begin.filter(|begin| begin.0 == epoch).map_or(Head::START, |(_, head)| head);
        loop {
            let records = reader.read(epoch, head)?;
            let Some(last) = records.last() else { break };
            head = Head::after(&last.place);
            seen += records.len() as u64;
            for record in records.into_iter().filter(|record| filter.matches(record)) {
                // I6: an answer is bounded by count and by bytes; the newest ones stay.
                bytes += record.entry.size_bytes();
                if begin.is_some() && (found.len() >= filter.limit() || bytes > ANSWER_BYTES_MAX && !found.is_empty()) {
                    return Ok(found);
                }
                found.push_back(record);
                while found.len() > filter.limit() || (bytes > ANSWER_BYTES_MAX && found.len() > 1) {
                    bytes -= found.pop_front().map_or(0, |record: AuditRecord| record.entry.size_bytes());
                }
            }
            if emit(progress(seen)).is_break() {
                return Ok(VecDeque::new());
            }
        }
        after = Some(epoch);
    }
    Ok(found)
}

fn scan(
    reader: &Reader,
    filter: &Filter,
    after: Option<(u64, u64)>,
    limit: Option<u64>,
    emit: Emit<'_>,
) -> Result<(), Error> {
    let (mut at, mut given, mut seen) = (after, 0, 0);
    let end = |at: Option<(u64, u64)>, more: bool| {
        let (epoch, seq) = at.unwrap_or_default();
        json!({ "at": { "epoch": epoch, "seq": seq }, "more": more })
    };
    // The epoch of the cursor itself is asked for as the one behind its forerunner.
    let mut before = after.and_then(|(epoch, _)| epoch.checked_sub(1)).map(Epoch);
    while let Some(epoch) = reader.next_epoch(before)? {
        let from = after.filter(|(known, _)| *known == epoch.0).map_or(Seq::ZERO, |(_, seq)| Seq(seq));
        let mut head = Head { seq: from, hash: Digest::ZERO };
        loop {
            let records = reader.read(epoch, head)?;
            let Some(last) = records.last() else { break };
            head = Head::after(&last.place);
            seen += records.len() as u64;
            for record in records {
                if filter.matches(&record) {
                    if limit.is_some_and(|limit| given >= limit) {
                        give([end(at, true)], emit);
                        return Ok(());
                    }
                    given += 1;
                    if emit(value(&record)).is_break() {
                        return Ok(());
                    }
                }
                at = Some((epoch.0, record.place.seq.0));
            }
            if emit(progress(seen)).is_break() {
                return Ok(());
            }
        }
        before = Some(epoch);
    }
    give([end(at, false)], emit);
    Ok(())
}

fn stats(reader: &Reader, live: Option<&Probe>) -> Result<Value, Error> {
    let stats = reader.stats()?;
    let stored: u64 = stats.streams.iter().map(|stream| (stream.last.0 + 1).saturating_sub(stream.first.0)).sum();
    let oldest = oldest(reader)?;
    let mut stats = value(&stats);
    if let Some(object) = stats.as_object_mut() {
        object.insert("stored".to_owned(), json!(stored));
        object.insert("oldest".to_owned(), json!(oldest));
    }
    if let (Some(probe), Some(object)) = (live, stats.as_object_mut()) {
        let (gateway_id, epoch) = probe.stream();
        object.insert("gateway_id".to_owned(), value(&gateway_id));
        object.insert("epoch".to_owned(), value(&epoch));
        object.insert("ring".to_owned(), value(&probe.gauge()));
        object.insert("postgres".to_owned(), value(&probe.shipper()));
    }
    Ok(stats)
}

/// When the oldest record that is stored came.
fn oldest(reader: &Reader) -> Result<Option<Value>, Error> {
    let Some(epoch) = reader.next_epoch(None)? else { return Ok(None) };
    Ok(reader.read(epoch, Head::START)?.first().map(|record| value(&record.entry.call.timestamp)))
}

fn value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
