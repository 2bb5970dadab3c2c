//! The notary's own records: which keys sign, and from time to time what is signed, so that silence shows.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::time::Instant;

use super::memory::Signed;
use super::status::{Anchored, EvidenceState};
use crate::audit::Audit;
use crate::audit::record::{Call, Epoch};
use crate::evidence::key::VerifierKey;
use crate::evidence::note::Note;

/// The time between two `gateway/checkpoint` records. *Spec*: `docs/evidence.md`.
const RECORD_INTERVAL: Duration = Duration::from_mins(10);

/// Records what the notary does.
#[derive(Debug)]
pub(super) struct Records {
    audit: Audit,
    /// When the last `gateway/checkpoint` was due; at first when the notary began.
    last: Instant,
    /// The keys that sign are on record.
    has_keys: bool,
}

impl Records {
    pub(super) fn new(audit: Audit) -> Self {
        Self { audit, last: Instant::now(), has_keys: false }
    }

    /// Records the state every [`RECORD_INTERVAL`].
    pub(super) async fn checkpoint(&mut self, log: Epoch, last: Option<&Signed>, state: &EvidenceState) {
        if self.last.elapsed() >= RECORD_INTERVAL {
            self.last = Instant::now();
            self.record(checkpoint(log, last, state)).await;
        }
    }

    /// Records the keys that sign the log, if they are not those that signed `last`. Returns false if it cannot.
    pub(super) async fn keys(&mut self, log: Epoch, keys: &[VerifierKey], last: Option<&Signed>) -> bool {
        let signed = last.and_then(|last| Note::parse(last.note.as_bytes()).ok());
        let known: Vec<_> = signed.iter().flat_map(Note::signatures).map(|line| (line.name(), line.id())).collect();
        self.has_keys |= keys.iter().map(|key| (key.name(), key.id())).eq(known);
        if !self.has_keys {
            let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
            let event = Call::gateway_event("key", &serde_json::json!({ "log": log, "keys": keys }));
            self.has_keys = self.record(event).await;
        }
        self.has_keys
    }

    async fn record(&self, event: Call) -> bool {
        let recorded = self.audit.record_event(event).await;
        if let Err(error) = &recorded {
            tracing::warn!(%error, "cannot record what the notary does; it is tried again");
        }
        recorded.is_ok()
    }
}

fn checkpoint(log: Epoch, last: Option<&Signed>, state: &EvidenceState) -> Call {
    let time = |last: &Anchored| serde_json::json!({ "size": last.size, "at": last.at.to_string() });
    let places = state.places.iter().map(|(name, place)| (name.clone(), place.last.as_ref().map(time).into()));
    let details = serde_json::json!({
        "log": log,
        "size": last.map(|last| last.head.size),
        "root": last.map(|last| BASE64_STANDARD.encode(last.head.root.0)),
        "places": places.collect::<serde_json::Map<_, _>>(),
        "fault": state.contradiction.as_ref().or(state.fault.as_ref()),
    });
    Call::gateway_event("checkpoint", &details)
}

#[cfg(test)]
mod tests;
