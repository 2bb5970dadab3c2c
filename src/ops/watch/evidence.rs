//! The conditions of the alarms about evidence.

use std::time::Duration;

use crate::audit::record::Timestamp;
use crate::notary::EvidenceState;

/// Why nothing is signed now, if a state may pass.
pub(super) fn unsigned(state: &EvidenceState) -> Option<String> {
    state.fault.as_ref().map(|fault| format!("no checkpoint is signed: {fault}"))
}

/// The contradiction that ended the signing.
pub(super) fn contradicted(state: &EvidenceState) -> Option<String> {
    let text = state.contradiction.as_ref()?;
    Some(format!("a signed checkpoint is contradicted, and nothing is signed any more: {text}"))
}

/// The places that have not confirmed a checkpoint for too long.
pub(super) fn unanchored(state: &EvidenceState, now: Timestamp) -> Option<String> {
    let late = state.places.iter().filter_map(|(name, place)| {
        let since = place.last.map_or(state.since, |last| last.at);
        let age = Duration::from_micros(u64::try_from(now.micros().saturating_sub(since.micros())).unwrap_or_default());
        let error = place.error.as_deref().unwrap_or("no answer yet");
        let text = || format!("{name} has not confirmed a checkpoint for {} s ({error})", age.as_secs());
        (age > state.anchor_max_age).then(text)
    });
    let late: Vec<_> = late.collect();
    (!late.is_empty()).then(|| late.join("; "))
}
