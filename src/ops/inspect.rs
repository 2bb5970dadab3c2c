//! Questions to an outbox, live or dead: the same answers, line by line as JSON.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audit::chain::Head;
use crate::audit::outbox::{Error, Reader};
use crate::audit::pipeline::Probe;
use crate::audit::query::{ANSWER_BYTES_MAX, Filter};
use crate::audit::record::{AuditRecord, Epoch, Seq};

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
}

/// Answers `question` from `reader`; `live` is the gateway whose outbox it is, if it runs. Blocks.
///
/// # Errors
/// A file of the outbox cannot be read.
pub fn answer(question: &Question, reader: &Reader, live: Option<&Probe>) -> Result<Vec<Value>, Error> {
    Ok(match question {
        Question::Stats => vec![stats(reader, live)?],
        Question::Intents => reader.intents()?.iter().map(json).collect(),
        // The admin socket has recorded it; a dead gateway cannot.
        Question::NoteRead { .. } => Vec::new(),
        Question::CheckTrail { faults_max } => vec![json(&super::reads::check(reader, *faults_max)?)],
        Question::Records { filter } => records(reader, filter)?.iter().map(json).collect(),
    })
}

/// The newest records in the outbox that match, oldest first.
///
/// # Errors
/// A file of the outbox cannot be read.
pub fn records(reader: &Reader, filter: &Filter) -> Result<VecDeque<AuditRecord>, Error> {
    let (mut found, mut bytes) = (VecDeque::new(), 0);
    let begin = filter.after.map(|(epoch, seq)| (Epoch(epoch), Head { seq: Seq(seq), ..Head::START }));
    let mut after = begin.map(|(epoch, _)| Epoch(epoch.0.saturating_sub(1)));
    while let Some(epoch) = reader.next_epoch(after)? {
        let mut head = begin.filter(|begin| begin.0 == epoch).map_or(Head::START, |(_, head)| head);
        loop {
            let records = reader.read(epoch, head)?;
            let Some(last) = records.last() else { break };
            head = Head::after(&last.place);
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
        }
        after = Some(epoch);
    }
    Ok(found)
}

fn stats(reader: &Reader, live: Option<&Probe>) -> Result<Value, Error> {
    let mut stats = json(&reader.stats()?);
    if let (Some(probe), Some(object)) = (live, stats.as_object_mut()) {
        let (gateway_id, epoch) = probe.stream();
        object.insert("gateway_id".to_owned(), json(&gateway_id));
        object.insert("epoch".to_owned(), json(&epoch));
        object.insert("ring".to_owned(), json(&probe.gauge()));
        object.insert("postgres".to_owned(), json(&probe.shipper()));
    }
    Ok(stats)
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
