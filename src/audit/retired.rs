//! Retired records: which ones the owner removed, and what is kept of them so that the rest can still be checked.
//!
//! A retired month is not one run of seqs: the time of a record is its arrival, and its seq is assigned at its end. A
//! decision (`trail/retired`) names runs of consecutive records of one stream, each with the hashes of both ends and of
//! the record before it: the chain leads over the run. Opening records and damage records that a kept record needs are
//! copied into the decision.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::chain;
use super::lost::{DAMAGE_METHOD, TAKEOVER_METHOD, is_stand_in};
use super::record::{AuditRecord, Digest, Epoch, GatewayId, PolicyText, Seq, StreamPosition};

/// The method of a decision to retire records.
pub const RETIRED_METHOD: &str = "trail/retired";

/// The methods of records that are copied.
const COPIED: [&str; 3] = ["gateway/opened", DAMAGE_METHOD, TAKEOVER_METHOD];

/// Most runs that one decision names; further ones are in further decisions. *Chosen*: some 100 KiB of a record.
const RUNS_MAX: usize = 256;

/// Most bytes of arguments of the records that one decision copies, unless one alone has more. *Derived*: far below
/// [`PARAMS_BYTES_MAX`](super::record::PARAMS_BYTES_MAX), also when every character is escaped twice.
const COPIES_BYTES: usize = 512 * 1024;

/// Most damaged records that are listed; all are counted. *Chosen*: as many as a person reads in a message.
const DAMAGED_MAX: usize = 5;

/// Consecutive records of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredRun {
    /// The first seq.
    pub first: Seq,
    /// The last seq.
    pub last: Seq,
    /// The hash of the record before the first one; zeros if it is the first of the stream.
    pub before: Digest,
    /// The hash of the first record.
    pub first_hash: Digest,
    /// The hash of the last record.
    pub last_hash: Digest,
}

/// The members of a `trail/retired` record about the records, beside those of every decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retired {
    /// The first month that was kept, for example `2026-08`.
    pub before: String,
    /// The number of records in the runs.
    pub records: u64,
    /// The runs.
    pub runs: Vec<RetiredRun>,
    /// Retired records without which kept ones could not be checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<AuditRecord>,
    /// The SHA-256 sum of the manifest of the export; `None` if there was none.
    pub export: Option<Digest>,
    /// The SHA-256 sum of the file of heads that covers the records.
    pub heads: Digest,
}

impl Retired {
    /// The decision in `record`; `None` if it has none, or its contents do not match its hash. Whether it is in the
    /// registrar's stream, the caller checks.
    #[must_use]
    pub fn of_record(record: &AuditRecord) -> Option<Self> {
        let AuditRecord { position, entry } = record;
        let details = entry.call.request_args.as_deref().filter(|_| entry.call.method == RETIRED_METHOD)?;
        serde_json::from_str(details).ok().filter(|_| chain::hash_matches(position, entry))
    }
}

/// The retired records of one stream.
#[derive(Clone, Debug, Default)]
struct RetiredStream {
    runs: Vec<RetiredRun>,
    copies: Vec<AuditRecord>,
    /// Statements of policies: the details of the stating record, and those of the records with the parts.
    stated: BTreeMap<Digest, String>,
    parts: BTreeMap<Digest, Vec<String>>,
}

/// A record that must not be retired as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRecord {
    /// The position.
    pub position: StreamPosition,
    /// The word of the kind of fault that `verify` reports.
    pub kind: &'static str,
}

/// The records of a trail that are about to be retired.
#[derive(Clone, Debug, Default)]
pub struct Retirement {
    streams: BTreeMap<(GatewayId, Epoch), RetiredStream>,
    policies: BTreeMap<Digest, String>,
    records: u64,
    quarantined: Vec<StreamPosition>,
    damaged: Vec<DamagedRecord>,
    damaged_count: u64,
}

impl Retirement {
    /// Adds the next record, in the order of positions. `is_excused` says whether the owner accepted a fault of this
    /// kind at this record.
    pub fn add(
        &mut self,
        record: &AuditRecord,
        is_quarantined: bool,
        is_excused: impl Fn(&'static str, &StreamPosition) -> bool,
    ) {
        let AuditRecord { position, entry } = record;
        self.records += 1;
        if is_quarantined {
            self.quarantined.push(*position);
        }
        let stream = self.streams.entry((position.gateway_id, position.epoch)).or_default();
        let mut damage = None;
        match stream.runs.last_mut().filter(|run| run.last.next() == position.seq) {
            Some(run) if run.last_hash == position.prev_hash => {
                (run.last, run.last_hash) = (position.seq, position.hash);
            }
            other => {
                damage = other.map(|_| "link");
                let (first, before, hash) = (position.seq, position.prev_hash, position.hash);
                stream.runs.push(RetiredRun { first, last: first, before, first_hash: hash, last_hash: hash });
            }
        }
        if !chain::hash_matches(position, entry) && !is_stand_in(record) {
            damage = Some("changed");
        } else {
            stream.keep(record);
        }
        if let Some(kind) = damage.filter(|kind| !is_excused(kind, position)) {
            self.damaged_count += 1;
            if self.damaged.len() < DAMAGED_MAX {
                self.damaged.push(DamagedRecord { position: *position, kind });
            }
        }
        self.resolve_policies(position, record);
    }

    /// Keeps a policy once all of its text was seen.
    fn resolve_policies(&mut self, position: &StreamPosition, record: &AuditRecord) {
        let Some(digest) = record.entry.call.policy_digest.filter(|digest| !self.policies.contains_key(digest)) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&(position.gateway_id, position.epoch)) else { return };
        let call = &record.entry.call;
        match (call.method.as_str(), &call.request_args) {
            ("gateway/opened" | "gateway/config", Some(details)) => {
                stream.stated.insert(digest, details.clone());
            }
            ("gateway/policy", Some(part)) => stream.parts.entry(digest).or_default().push(part.clone()),
            _ => return,
        }
        let Some(stated) = stream.stated.get(&digest) else { return };
        let parts: Vec<&str> = stream.parts.get(&digest).into_iter().flatten().map(String::as_str).collect();
        if let Some(policy) = PolicyText::from_details(digest, stated, &parts) {
            self.policies.insert(digest, PolicyText::new(&policy).text().to_owned());
            stream.stated.remove(&digest);
            stream.parts.remove(&digest);
        }
    }

    /// The number of records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The number of records in quarantine among them, by their positions.
    #[must_use]
    pub fn quarantined(&self) -> &[StreamPosition] {
        &self.quarantined
    }

    /// The first records that do not match their hash or their predecessor, and the number of all.
    #[must_use]
    pub fn damaged(&self) -> (&[DamagedRecord], u64) {
        (&self.damaged, self.damaged_count)
    }

    /// The gateways.
    #[must_use]
    pub fn gateways(&self) -> BTreeSet<GatewayId> {
        self.streams.keys().map(|(gateway_id, _)| *gateway_id).collect()
    }

    /// The streams, each with its last record.
    pub fn ends(&self) -> impl Iterator<Item = (GatewayId, Epoch, chain::Head)> {
        self.streams.iter().filter_map(|((gateway_id, epoch), stream)| {
            let last = stream.runs.last()?;
            Some((*gateway_id, *epoch, chain::Head { seq: last.last, hash: last.last_hash }))
        })
    }

    /// The policies whose texts are only in these records, or also elsewhere.
    #[must_use]
    pub fn policies(&self) -> &BTreeMap<Digest, String> {
        &self.policies
    }

    /// The decisions: at least one for each stream. `kept` has the first epoch of each gateway of which records are
    /// kept, or may still arrive; `base` has the members that are the same in all.
    #[must_use]
    pub fn decisions(&self, kept: &BTreeMap<GatewayId, Epoch>, base: &Retired) -> Vec<(GatewayId, Epoch, Retired)> {
        let mut decisions = Vec::new();
        for ((gateway_id, epoch), stream) in &self.streams {
            let is_needed = kept.get(gateway_id).is_some_and(|first| epoch >= first);
            let mut copies = if is_needed { stream.copies.clone() } else { Vec::new() }.into_iter().peekable();
            let mut runs = stream.runs.chunks(RUNS_MAX);
            loop {
                let runs = runs.next().unwrap_or_default().to_vec();
                let (mut some, mut bytes) = (Vec::new(), 0);
                while let Some(next) = copies.peek()
                    && (some.is_empty() || bytes + next.entry.size_bytes() <= COPIES_BYTES)
                {
                    bytes += next.entry.size_bytes();
                    some.extend(copies.next());
                }
                if runs.is_empty() && some.is_empty() {
                    break;
                }
                let records = runs.iter().map(|run| run.last.0 - run.first.0 + 1).sum();
                decisions.push((*gateway_id, *epoch, Retired { records, runs, copies: some, ..base.clone() }));
            }
        }
        decisions
    }
}

impl RetiredStream {
    /// Copies a record that says something about others.
    fn keep(&mut self, record: &AuditRecord) {
        if COPIED.contains(&record.entry.call.method.as_str()) {
            self.copies.push(record.clone());
        }
    }
}
