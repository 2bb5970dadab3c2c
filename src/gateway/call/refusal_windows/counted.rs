//! The refusals that were counted in one window, and their record.

use serde_json::json;

use crate::audit::record::{Call, Caller, Outcome, Status, Timestamp};

use super::refused::{Network, RefusalKey, RefusedRequest};

/// The event in the record of counted refusals: the record's method is `gateway/refusals`.
const EVENT: &str = "refusals";

/// Most names in a record. *Chosen*: they show what a principal was after; the count shows how often.
const NAMES_MAX: usize = 8;

/// Longest name in a record, in bytes. *Chosen*: the longest names of common servers have 60.
const NAME_BYTES_MAX: usize = 64;

/// Longest reason in a record, in bytes. *Chosen*: the gateway's reasons are shorter; some repeat a name of the caller.
const REASON_BYTES_MAX: usize = 256;

/// The refusals that were counted in one window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CountedRefusals {
    caller: Caller,
    network: Option<Network>,
    status: Status,
    backend: Option<String>,
    /// The reason of the first refusal.
    reason: String,
    /// The first names that a principal used. Other callers leave none: they could write anything.
    names: Vec<String>,
    /// `true` if the window is of callers that have no window of their own.
    is_of_others: bool,
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

impl CountedRefusals {
    /// The first refusal that is counted in the window of `key`.
    pub(crate) fn begin(key: &RefusalKey, refused: &RefusedRequest<'_>) -> Self {
        let (network, is_of_others) = match key {
            RefusalKey::Stranger { network, .. } => (*network, false),
            RefusalKey::Principal { .. } => (None, false),
            RefusalKey::Others { .. } => (None, true),
        };
        let (caller, backend) = match key {
            RefusalKey::Stranger { .. } | RefusalKey::Others { is_stranger: true, .. } => (Caller::anonymous(), None),
            RefusalKey::Principal { backend, .. } => (refused.caller.clone(), backend.clone()),
            RefusalKey::Others { is_stranger: false, .. } => {
                (Caller { subject: "gatepost".to_owned(), ..Caller::anonymous() }, None)
            }
        };
        let now = Timestamp::now();
        let reason = if is_of_others { "" } else { cut(refused.reason, REASON_BYTES_MAX) }.to_owned();
        let status = refused.status;
        let mut counted = Self {
            caller,
            network,
            status,
            backend,
            reason,
            names: Vec::new(),
            is_of_others,
            count: 0,
            first: now,
            last: now,
        };
        counted.add(refused);
        counted
    }

    /// Counts one more refusal.
    pub(crate) fn add(&mut self, refused: &RefusedRequest<'_>) {
        self.count += 1;
        self.last = Timestamp::now();
        if refused.is_stranger() || self.is_of_others || self.names.len() >= NAMES_MAX {
            return;
        }
        let name = cut(refused.tool.unwrap_or(refused.method), NAME_BYTES_MAX);
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
    }

    /// The call and the outcome of the window's record.
    pub(crate) fn record(&self) -> (Call, Outcome) {
        let mut details = json!({ "count": self.count, "first": self.first, "last": self.last });
        if let Some(details) = details.as_object_mut().filter(|_| !self.names.is_empty()) {
            details.insert("names".to_owned(), json!(self.names));
        }
        let mut call = Call::gateway_event(EVENT, &details).with_caller(&self.caller);
        call = call.with_target(self.backend.as_deref(), None);
        call.client_addr = self.network.map(|network| network.to_string().into());
        let reason = if self.is_of_others { "further callers" } else { &self.reason };
        let message = format!("{} more requests refused without a record of their own: {reason}", self.count);
        (call, Outcome::failed(self.status, message))
    }

    /// The number of refusals.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The times of the first and of the last refusal.
    pub(crate) fn times(&self) -> (Timestamp, Timestamp) {
        (self.first, self.last)
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
