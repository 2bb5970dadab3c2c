//! Questions to an outbox and the lines of their answers.
//!
//! An answer is a sequence of [`Line`]s, so that it may be as long as the outbox and is never in memory as a whole. In
//! process, lines are values; on the admin socket each is one line of JSON, an object with one key that names its kind:
//! `{"record": {...}}`. `{"progress": {"records": N}}` says how many records were read so far; the socket also sends
//! `{"progress": {}}` after a long silence. What the command line prints as JSON are the contents of these objects.

use serde::{Deserialize, Serialize};

use super::read_log::TrailRead;
use super::record_ref::EpochSeq;
use super::status::PipelineStatus;
use crate::audit::outbox::prune::{LastPruned, PruneLimit, PrunePlan};
use crate::audit::outbox::verify::OutboxVerification;
use crate::audit::outbox::{self, RecordFrame};
use crate::audit::outbox_head::OutboxHead;
use crate::audit::query::Filter;
use crate::audit::record::{AuditRecord, Call, Epoch, Seq, Timestamp};
use crate::audit::verify::{Report, Selection, StreamHead};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Question {
    /// Contents of the outbox, and the status of the live gateway. Answer: one [`StatsAnswer`].
    Stats,
    /// The newest stored records that match, oldest first. Answer: [`AuditRecord`]s.
    Records {
        /// The records to return.
        #[serde(default)]
        filter: Box<Filter>,
    },
    /// All stored records that match, oldest first. Answer: [`AuditRecord`]s, then one [`ScanEnd`].
    Scan {
        /// The records to return; its limit is ignored.
        #[serde(default)]
        filter: Box<Filter>,
        /// Only records after this position.
        #[serde(default)]
        after: Option<EpochSeq>,
        /// Most records to return.
        #[serde(default)]
        limit: Option<u64>,
    },
    /// The ends of the stored streams, and where their delivery continues. Answer: [`OutboxHead`]s.
    OutboxHeads,
    /// Calls that are open, or were open when the gateway died. Answer: [`Call`]s.
    Intents,
    /// Records a read of the trail; only a live gateway can. The answer is empty.
    RecordRead {
        /// The read.
        read: Box<TrailRead>,
    },
    /// Checks that the stored streams are complete and unchanged. Answer: one [`Report`].
    CheckTrail {
        /// The rules of the check.
        request: Box<CheckRequest>,
    },
    /// The stored bytes of one record. Answer: one [`StoredFrame`], or nothing if the record is not stored.
    Frame {
        /// The record's position.
        position: EpochSeq,
    },
    /// Checks that all stored files are complete and unchanged. Answer: one [`OutboxVerification`].
    Verify,
    /// The files that pruning would remove. Answer: one [`PrunedFiles`], or nothing if no file is that old.
    Prunable {
        /// The files to remove.
        until: PruneLimit,
    },
    /// Records that old files are removed, and removes them. Only a live gateway can: to prune the directory of a dead
    /// one, the command opens it. Answer: one [`PrunedFiles`].
    Prune {
        /// The files to remove.
        until: PruneLimit,
        /// Also remove records that are still waiting for Postgres.
        awaited: bool,
    },
}

/// The rules by which the streams of an outbox are judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// Most faults, and most unproven parts, to list.
    pub findings_max: usize,
    /// The part to check; without times.
    pub selection: Selection,
    /// The heads in the file of `--expect`; `None` without a file.
    pub heads: Option<Vec<StreamHead>>,
    /// True if records after those heads raise the exit code.
    pub strict: bool,
    /// The age up to which a missing end is not a fault.
    pub settle_seconds: u64,
}

/// A line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Contents of the outbox.
    Stats(Box<StatsAnswer>),
    /// The end of a stored stream.
    OutboxHead(OutboxHead),
    /// A stored record.
    Record(Box<AuditRecord>),
    /// The end of a scan.
    ScanEnd(ScanEnd),
    /// An open call.
    Intent(Box<Call>),
    /// The result of checking the trail.
    TrailReport(Box<Report>),
    /// A record's stored bytes.
    Frame(StoredFrame),
    /// The result of verifying the files.
    Verified(Box<OutboxVerification>),
    /// Files that were pruned, or would be.
    Pruned(PrunedFiles),
    /// The answer is not finished.
    Progress(Progress),
    /// The question cannot be answered, or not to its end. The last line; on the socket only.
    Error(String),
    /// The answer is complete. The last line; on the socket only.
    End,
}

/// Contents of an outbox and the status of its gateway: the answer to [`Question::Stats`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatsAnswer {
    /// Its files and streams.
    #[serde(flatten)]
    pub files: outbox::OutboxStats,
    /// Records stored.
    pub stored: u64,
    /// Arrival of the oldest stored record.
    pub oldest: Option<Timestamp>,
    /// Status of the live gateway; `None` if none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<PipelineStatus>,
}

/// The end of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanEnd {
    /// The last record that was read, whether it matched or not.
    pub at: EpochSeq,
    /// True if the limit ended the scan.
    pub more: bool,
}

/// A record's stored bytes and where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFrame {
    /// The file's name.
    pub file: String,
    /// Key of the segment: the seq of its first record.
    pub segment: Seq,
    /// Offset in the segment, in bytes.
    pub offset: usize,
    /// The bytes in hexadecimal.
    pub hex: String,
}

/// Files that were pruned, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedFiles {
    /// Number of files.
    pub files: usize,
    /// Their size, in bytes.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Epoch and seq of the first record.
    pub first: (Epoch, Seq),
    /// The last record.
    pub last: LastPruned,
    /// True if records of this outbox were ever delivered, so that those in it wait for Postgres.
    pub awaited: bool,
}

/// Progress of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Records read so far; `None` after a long silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
}

impl Line {
    /// The line after so many records.
    #[must_use]
    pub fn progress(records: u64) -> Self {
        Self::Progress(Progress { records: Some(records) })
    }
}

impl From<RecordFrame> for StoredFrame {
    fn from(RecordFrame { file, segment, offset, bytes }: RecordFrame) -> Self {
        Self { file, segment, offset, hex: hex::encode(bytes) }
    }
}

impl From<&PrunePlan> for PrunedFiles {
    fn from(plan: &PrunePlan) -> Self {
        let PrunePlan { files, bytes, records, first, last, awaited, .. } = *plan;
        Self { files, bytes, records, first, last, awaited }
    }
}

/// A line that does not belong to the answer to the question.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the answer has an unexpected line; the gateway may be of another version of Gatepost than this command")]
pub struct UnexpectedLineError;

macro_rules! contents {
    ($($variant:ident: $type:ty, $unpack:expr;)*) => {
        $(impl TryFrom<Line> for $type {
            type Error = UnexpectedLineError;

            fn try_from(line: Line) -> Result<Self, Self::Error> {
                match line {
                    Line::$variant(contents) => Ok($unpack(contents)),
                    _ => Err(UnexpectedLineError),
                }
            }
        })*
    };
}

contents! {
    Stats: StatsAnswer, |stats: Box<StatsAnswer>| *stats;
    OutboxHead: OutboxHead, std::convert::identity;
    Record: AuditRecord, |record: Box<AuditRecord>| *record;
    ScanEnd: ScanEnd, std::convert::identity;
    Intent: Call, |call: Box<Call>| *call;
    TrailReport: Report, |report: Box<Report>| *report;
    Frame: StoredFrame, std::convert::identity;
    Verified: OutboxVerification, |verified: Box<OutboxVerification>| *verified;
    Pruned: PrunedFiles, std::convert::identity;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ops::sample;

    #[test]
    fn a_record_is_the_same_after_it_passed_the_socket() {
        let record = sample::record(1, 2, "t\u{202e}");
        let line = serde_json::to_string(&Line::Record(Box::new(record.clone()))).unwrap();
        assert!(line.starts_with(r#"{"record":{"gateway_id":"#), "{line}");
        let back: AuditRecord = serde_json::from_str::<Line>(&line).unwrap().try_into().unwrap();
        assert_eq!(back, record);
        assert!(ScanEnd::try_from(serde_json::from_str::<Line>(&line).unwrap()).is_err());
    }

    #[test]
    fn every_latency_is_the_same_after_it_passed_the_socket() {
        let mut record = sample::record(1, 2, "echo");
        for micros in (1..2_000_000).step_by(997) {
            record.entry.latency_ms = Duration::from_micros(micros).as_secs_f64() * 1000.0;
            let line = serde_json::to_string(&Line::Record(Box::new(record.clone()))).unwrap();
            let back: AuditRecord = serde_json::from_str::<Line>(&line).unwrap().try_into().unwrap();
            assert_eq!(back.entry.latency_ms.to_bits(), record.entry.latency_ms.to_bits(), "{micros}");
        }
    }

    #[test]
    fn the_lines_that_are_not_contents_are_short() {
        let text = |line: &Line| serde_json::to_string(line).unwrap();
        assert_eq!(text(&Line::progress(5)), r#"{"progress":{"records":5}}"#);
        assert_eq!(text(&Line::Progress(Progress { records: None })), r#"{"progress":{}}"#);
        assert_eq!(text(&Line::Error("no".to_owned())), r#"{"error":"no"}"#);
        assert_eq!(text(&Line::End), r#""end""#);
    }
}
