//! What a check of the trail found.

use std::collections::VecDeque;

use serde::Serialize;

use super::StreamId;
use crate::audit::record::{Epoch, GatewayId, Seq};

/// Streams that a report lists, the newest ones. *Chosen*: a gateway restarted every night fills it in three years.
const STREAMS_MAX: usize = 1_000;

/// Notes that a report has at most. *Chosen*: one a gateway, of many gateways.
const NOTES_MAX: usize = 100;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Places without a record.
    Gap,
    /// A place with two records.
    Duplicate,
    /// A record that is not linked to the one before it.
    Link,
    /// A record whose contents do not have its hash.
    Changed,
    /// A record that cannot be read.
    Unreadable,
    /// The end of a stream is missing.
    Tail,
    /// The cursor is missing or stands elsewhere.
    Cursor,
    /// A record of the gateway itself that cannot stand where it does.
    Event,
    /// A count in a record of the gateway itself that is not right.
    Count,
    /// An epoch is missing.
    Epoch,
}

impl FaultKind {
    /// Its word, as in JSON.
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
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// The stream's gateway.
    pub gateway_id: GatewayId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The place, where there is one.
    pub seq: Option<Seq>,
    /// In words.
    pub what: String,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With `gateway/closed`.
    Closed,
    /// Without, and no later epoch of the gateway is known: it runs, or died.
    Open,
    /// Without, and a later epoch is known: it died.
    Crashed,
}

/// What one stream holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamReport {
    /// Its gateway.
    pub gateway_id: GatewayId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its last place.
    pub last: Seq,
    /// Its records, those in quarantine among them.
    pub records: u64,
    /// Records in quarantine.
    pub quarantined: u64,
    /// Records of which nothing but the hash is left; a `gateway/gap` record stands for each.
    pub lost: u64,
    /// All `gateway/gap` records.
    pub gaps: u64,
    /// How it ends.
    pub ended: Ending,
}

impl StreamReport {
    /// An empty stream.
    #[must_use]
    pub fn new(gateway_id: GatewayId, epoch: Epoch) -> Self {
        let (last, ended) = (Seq::ZERO, Ending::Open);
        Self { gateway_id, epoch, last, records: 0, quarantined: 0, lost: 0, gaps: 0, ended }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub whole: bool,
    /// Streams.
    pub streams_count: u64,
    /// Records in them.
    pub records: u64,
    /// Of those, in quarantine.
    pub quarantined: u64,
    /// Of those, lost on a gateway's disk, each with a record that says so.
    pub lost: u64,
    /// `gateway/gap` records.
    pub gaps: u64,
    /// Faults, listed or not.
    pub faults_count: u64,
    /// The first ones.
    pub faults: Vec<Fault>,
    /// What could not be checked in this trail.
    pub notes: Vec<String>,
    /// The streams that were checked last.
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
        // I6: all are counted, the first ones are listed.
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
