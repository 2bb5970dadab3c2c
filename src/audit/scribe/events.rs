//! The gateway's own records: how an epoch begins and ends, and what is missing in it.

use std::time::Duration;

use crate::audit::chain::Head;
use crate::audit::outbox::Opening;
use crate::audit::outbox::damage::Damage;
use crate::audit::record::{Call, Digest, Entry, Outcome, Status};
use crate::audit::ring::Missed;

/// What the opening record says of the configuration.
#[derive(Clone, Debug)]
pub struct About {
    /// `stored` or `queued`.
    pub level: &'static str,
    /// SHA-256 of the configuration.
    pub config_digest: Digest,
}

fn event(status: Status, message: Option<String>, call: Call) -> Entry {
    let outcome = Outcome { status, error_message: message, response_digest: None, response_bytes: None };
    Entry::new(call, outcome, Duration::ZERO)
}

pub(super) fn opened(opening: &Opening, about: &About) -> Entry {
    let previous = opening.previous;
    let crashed = previous.is_some_and(|previous| !previous.closed);
    let details = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "level": about.level,
        "config_digest": about.config_digest,
        "previous_epoch": previous.map(|previous| previous.epoch),
        "previous_seq": previous.map(|previous| previous.head.seq),
        "previous_hash": previous.map(|previous| previous.head.hash),
        "previous_closed": previous.map(|previous| previous.closed),
        "interrupted": opening.interrupted.len(),
    });
    let message = crashed
        .then(|| "the gateway did not close its last epoch; what it had only queued (level queued) is lost".to_owned());
    event(Status::Ok, message, Call::gateway_event("opened", &details))
}

pub(super) fn closed(head: Head) -> Entry {
    let details = serde_json::json!({ "records": head.seq.next() });
    event(Status::Ok, None, Call::gateway_event("closed", &details))
}

pub(super) fn gap(missed: Missed) -> Entry {
    let Missed { refused, unaudited, first, last } = missed;
    let details = serde_json::json!({ "refused": refused, "unaudited": unaudited, "first": first, "last": last });
    let continued = match unaudited {
        0 => String::new(),
        _ => format!(", and {unaudited} went on unaudited as audit.on_failure allows"),
    };
    let message = format!("for want of audit room {refused} calls were refused unrecorded{continued}");
    event(Status::AuditUnavailable, Some(message), Call::gateway_event("gap", &details))
}

pub(super) fn damaged(damage: &Damage) -> Entry {
    let Damage { file, kept, lost, end_known, maybe_open, .. } = damage;
    let end = if *end_known { "" } else { "; more may be lost behind the last one kept" };
    let open = match maybe_open.len() {
        0 => String::new(),
        count => format!("; {count} calls may have been open, and nobody can tell any more"),
    };
    let message = format!("outbox file {file} was damaged: {kept} records kept, {lost} lost{end}{open}");
    let details = serde_json::to_value(damage).unwrap_or_default();
    event(Status::Error, Some(message), Call::gateway_event("gap", &details))
}

pub(super) fn interrupted(call: Call) -> Entry {
    let message = "the gateway died while the call was open; whether the backend carried it out is unknown";
    event(Status::Interrupted, Some(message.to_owned()), call)
}
