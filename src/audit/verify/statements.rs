//! The statements of gateways and of the registrar about other records, read before the walk over all records.
//!
//! A statement counts only if its record matches its own hash. That the record is in the chain is checked when the walk
//! passes it: a made-up statement is then a fault of its own.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::place::{Place, StreamId};
use super::retired::RetiredRuns;
use crate::audit::chain::{self, Head};
use crate::audit::lost::{self, DAMAGE_METHOD, LostRuns, TAKEOVER_METHOD};
use crate::audit::record::{AuditRecord, Digest, Epoch, GatewayId, Seq, StreamPosition};
use crate::audit::retired::{RETIRED_METHOD, Retired};

/// The methods of the records that make statements. *Spec*: docs/trail.md.
pub const STATEMENT_METHODS: [&str; 10] = [
    "gateway/opened",
    DAMAGE_METHOD,
    TAKEOVER_METHOD,
    RESTORED_METHOD,
    "trail/accepted",
    "trail/resolved",
    RETIRED_METHOD,
    "trail/hold",
    "trail/lifted",
    "trail/closed",
];

/// The method of the record that says that Postgres went back.
const RESTORED_METHOD: &str = "gateway/restored";

/// Most restored streams that are listed. *Chosen*: the epochs of a gateway that outlast one restore, several times.
const RESTORED_MAX: usize = 1_000;

/// The methods of decisions that excuse findings.
const EXCUSING: [&str; 2] = ["trail/accepted", "trail/resolved"];

/// Everything that is known before the walk.
#[derive(Debug, Default)]
pub struct Statements {
    openings: BTreeMap<StreamId, Opening>,
    /// The end of an epoch that a later takeover fixed.
    takeovers: BTreeMap<StreamId, Takeover>,
    lost: LostRuns,
    /// The last record before the beginning of a store-only outbox, according to `gateway/pruned`.
    pruned: Vec<(StreamId, Head)>,
    registrar: Option<GatewayId>,
    decisions: Vec<Decision>,
    retired: RetiredRuns,
    restored: Vec<RestoredStream>,
}

/// The statement that Postgres went back, and that the records up to the end were delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct RestoredEnds {
    epoch: Epoch,
    seq: Seq,
    delivered_seq: Seq,
}

/// The same, with the position of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RestoredStream {
    at: StreamPosition,
    ends: RestoredEnds,
}

/// The statement of an opening record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// The previous epoch; `None` if the record names none.
    pub(super) previous: Option<PreviousEpoch>,
    /// True if the gateway waits for its disk before it answers (level `stored`).
    pub(super) stored: bool,
}

/// The end of the previous epoch, as an opening record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreviousEpoch {
    pub(super) epoch: Epoch,
    pub(super) head: Head,
    pub(super) closed: bool,
}

/// The end of an epoch of level `queued`, as the gateway took it over from Postgres later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Takeover {
    pub(super) end: Head,
    /// The position of the statement.
    pub(super) at: StreamPosition,
}

/// The end of an epoch, as far as later records name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EpochEnd {
    /// The last record that the gateway knew when it opened the next epoch.
    pub(super) known: Head,
    /// True if the epoch ended there. Otherwise records may follow for which only the database vouches.
    pub(super) exact: bool,
    /// The end that was fixed later.
    pub(super) takeover: Option<Takeover>,
    /// True if a damaged file hides the end.
    pub(super) unknown: bool,
    /// The next epoch, whose opening record says so.
    pub(super) named_by: Epoch,
}

/// The decision in a record of the registrar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The record's position.
    pub position: StreamPosition,
    /// `trail/accepted` or `trail/resolved`.
    pub method: String,
    /// The word of the kind of fault or of unproven part that is accepted.
    pub kind: String,
    /// The place.
    #[serde(flatten)]
    pub place: Place,
    /// The reason.
    pub reason: String,
    /// The person who decided.
    pub by: String,
}

impl Decision {
    /// Returns true if the decision is about findings of this kind at this place.
    #[must_use]
    pub(super) fn covers(&self, kind: &str, place: &Place) -> bool {
        let is_resolved = self.method == "trail/resolved";
        // Missing rows are a gap or a tail, and a head among them is missing too.
        let is_missing = is_resolved && self.kind == "gap" && ["tail", "expected"].contains(&kind);
        let is_kind = self.kind == kind || is_resolved && kind == "resolved" || is_missing;
        let same_stream = self.place.gateway_id == place.gateway_id && self.place.epoch == place.epoch;
        let within = match (place.first, place.last) {
            (Some(first), Some(last)) => {
                self.place.first.is_some_and(|from| from <= first) && self.place.last.is_some_and(|to| to >= last)
            }
            // A finding about a whole stream is accepted by a decision about the whole stream.
            _ => {
                self.place.first.is_none_or(|from| from <= Seq(1))
                    && self.place.last.is_none_or(|to| to == Seq(u64::MAX))
            }
        };
        // Without an epoch it would excuse whatever comes: records after a head, gateways without one.
        is_kind && same_stream && within && place.epoch.is_some()
    }
}

impl Statements {
    /// Sets the gateway id of the registrar, whose stream has only `trail/...` records.
    pub fn set_registrar(&mut self, registrar: GatewayId) {
        self.registrar = Some(registrar);
    }

    /// Adds the statement of a record, if it makes one.
    pub fn add(&mut self, record: &AuditRecord) {
        let AuditRecord { position, entry } = record;
        let stream = (position.gateway_id, position.epoch);
        let Some(details) = details(record) else { return };
        if !chain::hash_matches(position, entry) {
            return;
        }
        match entry.call.method.as_str() {
            "gateway/opened" if position.seq == Seq(1) => {
                let stored = details.get("level").and_then(Value::as_str) == Some("stored");
                self.openings.insert(stream, Opening { previous: previous_epoch(&details), stored });
            }
            DAMAGE_METHOD => self.lost.add_record(record),
            TAKEOVER_METHOD => {
                let Some((epoch, end)) = lost::takeover(record) else { return };
                let takeover = Takeover { end, at: *position };
                let known = self.takeovers.entry((stream.0, epoch)).or_insert(takeover);
                // The last one decides.
                if (known.at.epoch, known.at.seq) < (position.epoch, position.seq) {
                    *known = takeover;
                }
            }
            RESTORED_METHOD => {
                if let Ok(ends) = serde_json::from_value(details)
                    && self.restored.len() < RESTORED_MAX
                {
                    self.restored.push(RestoredStream { at: *position, ends });
                }
            }
            "gateway/pruned" => {
                let end = details.get("last").and_then(|last| serde_json::from_value(last.clone()).ok());
                let Some(PrunedEnd { epoch, seq, hash }) = end else { return };
                self.pruned.push(((stream.0, epoch), Head { seq, hash }));
            }
            method if method.starts_with("trail/") && self.registrar == Some(stream.0) => {
                let Some(decision) = decision(record, &details) else { return };
                if method == RETIRED_METHOD
                    && let (Some(gateway_id), Some(epoch)) = (decision.place.gateway_id, decision.place.epoch)
                    && let Ok(retired) = serde_json::from_value(details)
                {
                    self.add_retired((gateway_id, epoch), *position, &retired);
                }
                // No other method excuses anything.
                if EXCUSING.contains(&method) {
                    self.decisions.push(decision);
                }
            }
            _ => {}
        }
    }

    /// Adds the statements of retired records, of which the decision has copies.
    fn add_retired(&mut self, stream: StreamId, decision: StreamPosition, retired: &Retired) {
        for copy in &retired.copies {
            let position = copy.position;
            let is_own = (position.gateway_id, position.epoch) == stream;
            if is_own && copy.entry.call.method.starts_with("gateway/") {
                self.add(copy);
            }
        }
        self.retired.add(stream, decision, retired);
    }

    /// The streams, and the first seqs, of the places that decisions accept.
    #[must_use]
    pub fn accepted_places(&self) -> BTreeSet<(StreamId, Seq)> {
        let place = |decision: &Decision| {
            let Place { gateway_id, epoch, first, .. } = decision.place;
            Some(((gateway_id?, epoch?), first?))
        };
        self.decisions.iter().filter_map(place).collect()
    }

    /// The registrar's stream, if it has decisions that may excuse something.
    #[must_use]
    pub fn deciding_registrar(&self) -> Option<StreamId> {
        let has_decisions = !self.decisions.is_empty() || self.retired.records() > 0;
        self.registrar.filter(|_| has_decisions).map(|registrar| (registrar, Epoch(1)))
    }

    /// The places at which the database went back: the range of records that were delivered again, and what happened.
    pub(super) fn restored(&self) -> impl Iterator<Item = (Place, String)> {
        self.restored.iter().map(|RestoredStream { at, ends: RestoredEnds { epoch, seq, delivered_seq } }| {
            let what = format!(
                "the database went back to {epoch}/{seq} (restored, or failed over); these records were delivered again \
                 from what the gateway keeps, as gateway/restored at {}/{} says",
                at.epoch, at.seq
            );
            (Place::seqs((at.gateway_id, *epoch), seq.next(), *delivered_seq), what)
        })
    }

    pub(super) fn retired(&self) -> &RetiredRuns {
        &self.retired
    }

    pub(super) fn retired_mut(&mut self) -> &mut RetiredRuns {
        &mut self.retired
    }

    /// The number of records that were retired, according to decisions.
    #[must_use]
    pub fn retired_records(&self) -> u64 {
        self.retired.records()
    }

    pub(super) fn opening(&self, stream: StreamId) -> Option<Opening> {
        self.openings.get(&stream).copied()
    }

    /// The end of an epoch, as the next opening record of the gateway names it.
    pub(super) fn end_of(&self, stream: StreamId) -> Option<EpochEnd> {
        let later = (stream.0, stream.1.next())..=(stream.0, Epoch(u64::MAX));
        let ((_, named_by), opening) = self.openings.range(later).next()?;
        let previous = opening.previous.filter(|previous| previous.epoch == stream.1)?;
        let stored = self.opening(stream).is_some_and(|opening| opening.stored);
        let unknown = self.lost.has_unknown_end(stream.0, stream.1);
        let takeover = self.takeovers.get(&stream).copied();
        let exact = previous.closed || stored && !unknown;
        Some(EpochEnd { known: previous.head, exact, takeover, unknown, named_by: *named_by })
    }

    /// Returns true if damage explains that no record names the ends of the gateway's epochs from `first` to the one
    /// before `next`.
    pub(super) fn explains_epochs(&self, gateway_id: GatewayId, first: Epoch, next: Epoch) -> bool {
        self.lost.explains_epochs(gateway_id, first, Epoch(next.0.saturating_sub(1)))
    }

    /// Returns true if a record says that the records of an outbox up to `end` were pruned.
    pub(super) fn was_pruned(&self, stream: StreamId, end: Head) -> bool {
        self.pruned.contains(&(stream, end))
    }

    /// Returns true if a damage record names the record as lost, and `record` is what takes its place.
    pub(super) fn explains_loss(&self, record: &AuditRecord) -> bool {
        self.lost.explains(record)
    }

    /// Returns true if what is before the stand-in `record` is bound to it.
    pub(super) fn binds(&self, record: &AuditRecord) -> bool {
        self.lost.binds(record)
    }

    pub(super) fn registrar(&self) -> Option<GatewayId> {
        self.registrar
    }

    pub(super) fn is_registrar(&self, gateway_id: GatewayId) -> bool {
        self.registrar == Some(gateway_id)
    }

    pub(super) fn decisions(&self) -> &[Decision] {
        &self.decisions
    }
}

/// The member `last` of a `gateway/pruned` record.
#[derive(Deserialize)]
struct PrunedEnd {
    epoch: Epoch,
    seq: Seq,
    hash: Digest,
}

/// The arguments of a record as JSON.
fn details(record: &AuditRecord) -> Option<Value> {
    serde_json::from_str(record.entry.call.request_args.as_deref()?).ok()
}

fn previous_epoch(details: &Value) -> Option<PreviousEpoch> {
    let number = |key: &str| details.get(key).and_then(Value::as_u64);
    let hash: Digest = details.get("previous_hash").and_then(|hash| serde_json::from_value(hash.clone()).ok())?;
    Some(PreviousEpoch {
        epoch: Epoch(number("previous_epoch")?),
        head: Head { seq: Seq(number("previous_seq")?), hash },
        closed: details.get("previous_closed").and_then(Value::as_bool)?,
    })
}

fn decision(record: &AuditRecord, details: &Value) -> Option<Decision> {
    let text = |key: &str| details.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |key: &str| details.get(key).and_then(Value::as_u64);
    let gateway = serde_json::from_value(details.get("gateway")?.clone()).ok()?;
    let place = Place {
        gateway_id: Some(gateway),
        epoch: number("epoch").map(Epoch),
        first: number("first").map(Seq),
        last: number("last").map(Seq),
    };
    let method = record.entry.call.method.to_string();
    Some(Decision {
        position: record.position,
        method,
        kind: text("kind"),
        place,
        reason: text("reason"),
        by: text("by"),
    })
}
