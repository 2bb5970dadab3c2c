//! The notary's state, for alarms, metrics, status and console.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::audit::record::Timestamp;

/// A checkpoint that was signed, or that a place has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchored {
    /// The number of records in its tree.
    pub size: u64,
    /// When it was signed, stored or confirmed.
    pub at: Timestamp,
}

/// The state of one place that gets checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaceState {
    /// The last checkpoint that it took.
    pub last: Option<Anchored>,
    /// The last error, if it did not take the newest checkpoint.
    pub error: Option<String>,
}

/// The notary's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceState {
    /// When the notary began.
    pub since: Timestamp,
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

/// The notary's state, shared. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Status(Arc<Mutex<EvidenceState>>);

impl Status {
    /// The state of a notary that begins at `since` and sends checkpoints to `places`.
    pub(super) fn begun<'a>(since: Timestamp, anchor_max_age: Duration, places: impl Iterator<Item = &'a str>) -> Self {
        let places = places.map(|name| (name.to_owned(), PlaceState::default())).collect();
        let (signed, fault, contradiction) = (None, None, None);
        Self(Arc::new(Mutex::new(EvidenceState { since, anchor_max_age, signed, places, fault, contradiction })))
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
            let place = state.places.entry(place.to_owned()).or_default();
            match result {
                Ok(()) => *place = PlaceState { last: Some(Anchored { size, at: Timestamp::now() }), error: None },
                Err(error) => place.error = Some(error),
            }
        });
    }
}
