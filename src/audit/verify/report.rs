//! The result of verifying a trail.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::audit::record::{Epoch, GatewayId, Seq};

/// Streams that a report lists; the newest are kept. *Chosen*: a gateway that restarts every night needs three years to
/// fill it.
const STREAMS_MAX: usize = 1_000;

/// Most notes in a report. *Chosen*: one per gateway, for many gateways.
const NOTES_MAX: usize = 100;

/// A stream's gateway and epoch.
pub type StreamId = (GatewayId, Epoch);

/// The kind of a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// One or more positions have no record.
    Gap,
    /// A position has two records.
    Duplicate,
    /// A record is not linked to the one before it.
    Link,
    /// A record's contents do not match its hash.
    Changed,
    /// A record cannot be read.
    Unreadable,
    /// The end of a stream is missing.
    Tail,
    /// The cursor is missing, or is not at the last record.
    Cursor,
    /// A record of the gateway itself is at a position where it cannot be.
    Event,
    /// A count in a record of the gateway itself is wrong.
    Count,
    /// An epoch is missing.
    Epoch,
    /// The stream has a record format that this version does not know.
    Format,
}

impl FaultKind {
    /// The kind's word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Duplicate => "duplicate",
            Self::Link => "link",
            Self::Changed => "changed",
            Self::Unreadable => "unreadable",
            Self::Tail => "tail",
            Self::Cursor => "cursor",
            Self::Event => "event",
            Self::Count => "count",
            Self::Epoch => "epoch",
            Self::Format => "format",
        }
    }
}

/// One fault, and its position in the trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The kind of fault.
    pub kind: FaultKind,
    /// The stream's gateway.
    pub gateway_id: GatewayId,
    /// The stream's epoch.
    pub epoch: Epoch,
    /// The record's seq, if the fault is about one record.
    pub seq: Option<Seq>,
    /// The description.
    pub what: String,
}

/// The end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The last record is `gateway/closed`.
    Closed,
    /// Not closed, and the gateway has no later epoch: it is running, or it died.
    Open,
    /// Not closed, and the gateway has a later epoch: it died.
    Crashed,
}

/// The counts of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReport {
    /// The stream's gateway.
    pub gateway_id: GatewayId,
    /// The stream's epoch.
    pub epoch: Epoch,
    /// The last seq.
    pub last: Seq,
    /// Records, including quarantined ones.
    pub records: u64,
    /// Records in quarantine.
    pub quarantined: u64,
    /// Lost records, of which only the hash is left. A `gateway/gap` record replaces each.
    pub lost: u64,
    /// All `gateway/gap` records.
    pub gaps: u64,
    /// The end of the stream.
    pub ended: Ending,
}

impl StreamReport {
    /// The counts of an empty stream.
    #[must_use]
    pub fn new(gateway_id: GatewayId, epoch: Epoch) -> Self {
        let (last, ended) = (Seq::ZERO, Ending::Open);
        Self { gateway_id, epoch, last, records: 0, quarantined: 0, lost: 0, gaps: 0, ended }
    }
}

/// The result of a verification.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// True if there is no fault.
    pub whole: bool,
    /// Number of streams.
    pub streams_count: u64,
    /// Number of records in all streams.
    pub records: u64,
    /// Number of those records that are in quarantine.
    pub quarantined: u64,
    /// Number of records that were lost on a gateway's disk. A record reports each of them.
    pub lost: u64,
    /// Number of `gateway/gap` records.
    pub gaps: u64,
    /// Number of faults, listed or not.
    pub faults_count: u64,
    /// The first faults.
    pub faults: Vec<Fault>,
    /// Parts of the trail that could not be checked.
    pub notes: Vec<String>,
    /// The newest streams.
    pub streams: VecDeque<StreamReport>,
    #[serde(skip)]
    faults_max: usize,
}

impl Report {
    pub(super) fn new(faults_max: usize) -> Self {
        Self { whole: true, faults_max, ..Self::default() }
    }

    pub(super) fn fault(&mut self, kind: FaultKind, (gateway_id, epoch): StreamId, seq: Option<Seq>, what: String) {
        self.whole = false;
        self.faults_count += 1;
        // I6: all faults are counted, and only the first ones are listed.
        if self.faults.len() < self.faults_max {
            self.faults.push(Fault { kind, gateway_id, epoch, seq, what });
        }
    }

    pub(super) fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }

    pub(super) fn stream(&mut self, stream: StreamReport) {
        self.streams_count += 1;
        self.records += stream.records;
        self.quarantined += stream.quarantined;
        self.lost += stream.lost;
        self.gaps += stream.gaps;
        if let Some(before) = self.streams.back_mut()
            && before.gateway_id == stream.gateway_id
            && before.ended == Ending::Open
        {
            before.ended = Ending::Crashed;
        }
        self.streams.push_back(stream);
        if self.streams.len() > STREAMS_MAX {
            self.streams.pop_front();
        }
    }
}
