//! The result of verifying a trail.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::kind::{FaultKind, UnprovenKind};
use super::place::Place;
use super::retired::RetiredSummary;
use super::source::Source;
use super::statements::Decision;
use crate::audit::record::{Epoch, GatewayId, Seq, StreamPosition};
use crate::counts::plural;

/// Streams that a report lists; the newest are kept. *Chosen*: a gateway that restarts every night needs three years to
/// fill it.
const STREAMS_MAX: usize = 1_000;

/// Most decisions of the registrar that a report lists. *Chosen*: more than a person reads; all are counted.
const DECISIONS_MAX: usize = 1_000;

/// Something in the trail that its gateways did not record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The check that found it.
    pub kind: FaultKind,
    /// The place.
    #[serde(flatten)]
    pub place: Place,
    /// The description: what is wrong, and what that means, in one clause.
    pub what: String,
}

/// Something that nothing in the trail proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unproven {
    /// The reason.
    pub kind: UnprovenKind,
    /// The place.
    #[serde(flatten)]
    pub place: Place,
    /// The description, in one sentence.
    pub what: String,
    /// True if it raises the exit code.
    pub counts: bool,
}

/// A decision of the owner about faults or unproven parts, and whether it counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedDecision {
    /// The decision.
    #[serde(flatten)]
    pub decision: Decision,
    /// True if the registrar's stream is confirmed up to it, so that it counts.
    pub confirmed: bool,
    /// Number of findings that it excuses, or would excuse.
    pub excuses: u64,
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

/// The judgement on a trail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No fault, and every end is confirmed.
    Proven,
    /// No fault, but something is not proven.
    NotProven,
    /// At least one fault.
    #[default]
    Faulty,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The judgement.
    pub verdict: Verdict,
    /// The trail that was checked.
    pub source: Option<Source>,
    /// Number of streams.
    pub streams_count: u64,
    /// Number of records in all streams.
    pub records: u64,
    /// Number of those records that are in quarantine.
    pub quarantined: u64,
    /// Number of records that were lost on a gateway's disk. A damage record names each of them.
    pub lost: u64,
    /// Number of `gateway/gap` records.
    pub gaps: u64,
    /// Number of records that are not there because confirmed decisions retired them.
    #[serde(default)]
    pub retired: u64,
    /// Number of faults, listed or not, without those that a confirmed decision excuses.
    pub faults_count: u64,
    /// The first faults.
    pub faults: Vec<Fault>,
    /// Number of unproven parts that raise the exit code, listed or not.
    pub unproven_count: u64,
    /// The first unproven parts.
    pub unproven: Vec<Unproven>,
    /// The first decisions of the registrar.
    pub decisions: Vec<ListedDecision>,
    /// Number of records that are confirmed: at or before a head from outside.
    pub confirmed: u64,
    /// The newest streams.
    pub streams: VecDeque<StreamReport>,
    #[serde(skip)]
    findings_max: usize,
}

impl StreamReport {
    /// The counts of an empty stream.
    #[must_use]
    pub fn new(gateway_id: GatewayId, epoch: Epoch) -> Self {
        let (last, ended) = (Seq::ZERO, Ending::Open);
        Self { gateway_id, epoch, last, records: 0, quarantined: 0, lost: 0, gaps: 0, ended }
    }
}

impl Report {
    /// An empty report that lists at most so many faults, and as many unproven parts.
    #[must_use]
    pub fn new(findings_max: usize) -> Self {
        Self { findings_max, ..Self::default() }
    }

    /// Adds a fault. One that continues the last one in its stream is merged with it.
    pub(super) fn fault(&mut self, kind: FaultKind, place: Place, what: String) {
        if let Some(last) = self.faults.last_mut()
            && (last.kind, &last.what) == (kind, &what)
            && last.place.is_continued_by(&place)
        {
            last.place.last = place.last;
            return;
        }
        self.faults_count += 1;
        // I6: all faults are counted, and only the first ones are listed.
        if self.faults.len() < self.findings_max {
            self.faults.push(Fault { kind, place, what });
        }
    }

    /// Adds an unproven part that raises the exit code. One that continues the last one in its stream is merged.
    pub(super) fn unproven(&mut self, kind: UnprovenKind, place: Place, what: String) {
        self.push_unproven(Unproven { kind, place, what, counts: true });
    }

    /// Adds an unproven part that is only mentioned.
    pub(super) fn mention(&mut self, kind: UnprovenKind, place: Place, what: String) {
        self.push_unproven(Unproven { kind, place, what, counts: false });
    }

    fn push_unproven(&mut self, unproven: Unproven) {
        if let Some(last) = self.unproven.last_mut()
            && (last.kind, &last.what) == (unproven.kind, &unproven.what)
            && last.place.is_continued_by(&unproven.place)
        {
            last.place.last = unproven.place.last;
            return;
        }
        self.unproven_count += u64::from(unproven.counts);
        if self.unproven.len() < self.findings_max {
            self.unproven.push(unproven);
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

    /// Reports what was retired: by confirmed decisions it is mentioned, by others it is a fault.
    pub(super) fn add_retired(&mut self, summary: RetiredSummary) {
        let RetiredSummary { confirmed, begins, others, place } = summary;
        let (decisions, records) = confirmed;
        self.retired = records;
        if let Some(before) = begins {
            let (records, decisions) = (plural(records, "record"), plural(decisions, "decision"));
            let what = format!("{records} retired, by {decisions} of the owner: this trail begins at {before}");
            self.mention(UnprovenKind::Retired, Place::ALL, what);
        }
        if let Some(place) = place {
            let (decisions, records) = others;
            let is = if records == 1 { "is" } else { "are" };
            let (records, decisions) = (plural(records, "record"), plural(decisions, "decision"));
            let what = format!(
                "{records} {is} missing, and only {decisions} here, which no head confirms, say that the owner retired \
                 them: review these, then keep gatepost audit heads for --expect"
            );
            self.fault(FaultKind::Retired, place, what);
        }
    }

    /// Applies the decisions of the registrar: a confirmed one excuses the findings of its kind at its place; another
    /// one is only listed, with the count that it would excuse. `is_confirmed` says whether the registrar's stream is
    /// confirmed up to a position.
    pub(super) fn decide(&mut self, decisions: &[Decision], is_confirmed: impl Fn(&StreamPosition) -> bool) {
        for decision in decisions {
            let confirmed = is_confirmed(&decision.position);
            let covers_fault = |fault: &Fault| decision.covers(fault.kind.as_str(), &fault.place);
            let covers_unproven = |unproven: &Unproven| decision.covers(unproven.kind.as_str(), &unproven.place);
            let faults = self.faults.iter().filter(|fault| covers_fault(fault)).count() as u64;
            let unproven: u64 = self.unproven.iter().filter(|unproven| covers_unproven(unproven)).count() as u64;
            if confirmed {
                self.faults.retain(|fault| !covers_fault(fault));
                self.faults_count -= faults;
                let counted = self.unproven.iter().filter(|unproven| unproven.counts && covers_unproven(unproven));
                self.unproven_count -= counted.count() as u64;
                self.unproven.retain(|unproven| !covers_unproven(unproven));
            }
            if self.decisions.len() < DECISIONS_MAX {
                let excuses = faults + unproven;
                self.decisions.push(ListedDecision { decision: decision.clone(), confirmed, excuses });
            }
        }
    }

    /// True if the trail was read from Postgres.
    #[must_use]
    pub fn is_of_postgres(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.store == "postgres")
    }

    /// Judges what was found so far.
    pub(super) fn judge(&mut self) {
        self.verdict = match (self.faults_count, self.unproven_count) {
            (0, 0) => Verdict::Proven,
            (0, _) => Verdict::NotProven,
            _ => Verdict::Faulty,
        };
    }

    /// Adds faults of the tables that the trail was read from, and of anything else that was checked besides the
    /// records, and judges again.
    pub fn add_faults(&mut self, faults: impl IntoIterator<Item = (FaultKind, Place, String)>) {
        for (kind, place, what) in faults {
            self.fault(kind, place, what);
        }
        self.judge();
    }

    /// The same for unproven parts that raise the exit code.
    pub fn add_unproven(&mut self, unproven: impl IntoIterator<Item = (UnprovenKind, Place, String)>) {
        for (kind, place, what) in unproven {
            self.unproven(kind, place, what);
        }
        self.judge();
    }

    /// The same for unproven parts that are only mentioned.
    pub fn add_mentions(&mut self, mentions: impl IntoIterator<Item = (UnprovenKind, Place, String)>) {
        for (kind, place, what) in mentions {
            self.mention(kind, place, what);
        }
    }
}
