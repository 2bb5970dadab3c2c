//! The notary's state, for alarms, metrics, status and console.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::audit::record::Timestamp;
use crate::audit::sink::checkpoints::AnchorKind;

/// A checkpoint that was signed, or that a place has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchored {
    /// The number of records in its tree.
    pub size: u64,
    /// When it was signed, stored or confirmed.
    pub at: Timestamp,
}

/// The state of one place that gets checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceState {
    /// The kind of anchor; `None` for Postgres.
    pub kind: Option<AnchorKind>,
    /// The shortest time between two confirmations.
    pub interval: Duration,
    /// The last checkpoint that it took.
    pub last: Option<Anchored>,
    /// When it took the last one, or when the notary began. Its age counts from here, whatever the clock is set to.
    pub silent_since: Instant,
    /// The last error, if it did not take the newest checkpoint.
    pub error: Option<String>,
}

impl PlaceState {
    /// A place that gets checkpoints from now on.
    #[must_use]
    pub fn new(kind: Option<AnchorKind>, interval: Duration) -> Self {
        Self { kind, interval, last: None, silent_since: Instant::now(), error: None }
    }
}

/// The notary's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceState {
    /// The age of a place's last confirmation that is a reason for an alarm.
    pub anchor_max_age: Duration,
    /// The last signed checkpoint.
    pub signed: Option<Anchored>,
    /// Postgres and the anchors, by name.
    pub places: BTreeMap<String, PlaceState>,
    /// The reason why nothing can be signed now.
    pub fault: Option<String>,
    /// The contradiction to a signed checkpoint, after which nothing is signed any more.
    pub contradiction: Option<String>,
}

impl EvidenceState {
    /// The reason why nothing is signed now, if it may pass.
    #[must_use]
    pub fn unsigned(&self) -> Option<String> {
        self.fault.as_ref().map(|fault| format!("no checkpoint is signed: {fault}"))
    }

    /// The contradiction that ended the signing.
    #[must_use]
    pub fn contradicted(&self) -> Option<String> {
        let text = self.contradiction.as_ref()?;
        Some(format!("a signed checkpoint is contradicted, and nothing is signed any more: {text}"))
    }

    /// The places that have not confirmed a checkpoint for too long.
    #[must_use]
    pub fn unanchored(&self) -> Option<String> {
        let late = self.places.iter().filter_map(|(name, place)| {
            let age = place.silent_since.elapsed();
            let error = place.error.as_deref().unwrap_or("no answer yet");
            let text = || format!("{name} has not confirmed a checkpoint for {} s ({error})", age.as_secs());
            (age > self.anchor_max_age.saturating_add(place.interval)).then(text)
        });
        let late: Vec<_> = late.collect();
        (!late.is_empty()).then(|| late.join("; "))
    }

    /// Returns true if one of the above is so, or nothing was signed since the start.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let is_signing = self.fault.is_none() && self.contradiction.is_none() && self.signed.is_some();
        !is_signing || self.unanchored().is_some()
    }
}

/// The notary's state, shared. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Status(Arc<Mutex<EvidenceState>>);

impl Status {
    /// The state of a notary that begins now and sends checkpoints to `places`.
    pub(super) fn begun<'a>(anchor_max_age: Duration, places: impl Iterator<Item = (&'a str, PlaceState)>) -> Self {
        let places = places.map(|(name, place)| (name.to_owned(), place)).collect();
        let (signed, fault, contradiction) = (None, None, None);
        Self(Arc::new(Mutex::new(EvidenceState { anchor_max_age, signed, places, fault, contradiction })))
    }

    /// The state now.
    #[must_use]
    pub fn get(&self) -> EvidenceState {
        self.0.lock().clone()
    }

    /// Changes the state.
    pub(super) fn change(&self, change: impl FnOnce(&mut EvidenceState)) {
        change(&mut self.0.lock());
    }

    /// Notes what became of the checkpoint of `size` records at a place.
    pub(super) fn note(&self, place: &str, size: u64, result: Result<(), String>) {
        self.change(|state| {
            let Some(place) = state.places.get_mut(place) else { return };
            match result {
                Ok(()) => {
                    (place.last, place.error) = (Some(Anchored { size, at: Timestamp::now() }), None);
                    place.silent_since = Instant::now();
                }
                Err(error) => place.error = Some(error),
            }
        });
    }
}
