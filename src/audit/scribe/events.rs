//! The gateway's own records: the beginning and the end of an epoch, and the gaps in it.

use std::time::Duration;

use crate::audit::chain::{self, Head};
use crate::audit::outbox::Opening;
use crate::audit::outbox::damage::Damage;
use crate::audit::record::{Call, Digest, DigestKey, Entry, Outcome, PolicyText, Status};
use crate::audit::ring::UnrecordedCalls;

/// The configuration, as the opening record states it.
#[derive(Clone, Debug)]
pub struct ConfigSummary {
    /// The audit level: `stored` or `queued`.
    pub level: &'static str,
    /// The digest of the configuration, by the digest key.
    pub config_digest: Digest,
    /// The key of the digests in records. The record states its id only.
    pub digest_key: DigestKey,
    /// The policy in force.
    pub policy: PolicyText,
}

fn event(status: Status, message: Option<String>, call: Call) -> Entry {
    let outcome = Outcome { error_message: message, ..Outcome::of(status) };
    Entry::new(call, outcome, Duration::ZERO)
}

/// The first record of an epoch. That of a long policy continues in [`policy`].
pub(super) fn opened(opening: &Opening, config: &ConfigSummary) -> Entry {
    let previous = opening.previous;
    let crashed = previous.is_some_and(|previous| !previous.closed);
    let mut details = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "format": chain::FORMAT,
        "level": config.level,
        "config_digest": config.config_digest,
        "digest_key_id": config.digest_key.id(),
        "previous_epoch": previous.map(|previous| previous.epoch),
        "previous_seq": previous.map(|previous| previous.head.seq),
        "previous_hash": previous.map(|previous| previous.head.hash),
        "previous_closed": previous.map(|previous| previous.closed),
        "interrupted": opening.interrupted.len(),
    });
    if let Some(details) = details.as_object_mut() {
        config.policy.state_in(details);
    }
    let message = crashed.then(|| {
        "the gateway did not close its previous epoch; records that were only queued (level queued) are lost".to_owned()
    });
    let call = Call::gateway_event("opened", &details).with_definitions(Some(config.policy.digest()), None);
    event(Status::Ok, message, call)
}

/// The records of a policy that does not fit into the first one.
pub(super) fn policy(config: &ConfigSummary) -> impl Iterator<Item = Entry> {
    config.policy.events().map(|part| event(Status::Ok, None, part))
}

/// The last record of an epoch, whose last record so far is `head`.
pub(super) fn closed(head: Head) -> Entry {
    let details = serde_json::json!({ "records": head.seq.next() });
    event(Status::Ok, None, Call::gateway_event("closed", &details))
}

/// The record for calls that have no record of their own.
pub(super) fn gap(calls: UnrecordedCalls) -> Entry {
    let UnrecordedCalls { refused, unaudited, first, last } = calls;
    let details = serde_json::json!({ "refused": refused, "unaudited": unaudited, "first": first, "last": last });
    let continued = match unaudited {
        0 => String::new(),
        _ => format!(", and {unaudited} continued unaudited, as audit.on_failure allows"),
    };
    let message =
        format!("no room in the audit ring or outbox: {refused} requests were refused without a record{continued}");
    event(Status::AuditUnavailable, Some(message), Call::gateway_event("gap", &details))
}

/// The record for a damaged outbox file.
pub(super) fn damaged(damage: &Damage) -> Entry {
    let Damage { file, kept, lost, end_known, maybe_open, .. } = damage;
    let end = if *end_known { "" } else { "; more may be lost after the last one kept" };
    let open = match maybe_open.len() {
        0 => String::new(),
        count => format!("; {count} calls may have been open, which can no longer be determined"),
    };
    let message = format!("outbox file {file} was damaged: {kept} records kept, {lost} lost{end}{open}");
    let details = serde_json::to_value(damage).unwrap_or_default();
    event(Status::Error, Some(message), Call::gateway_event("gap", &details))
}

/// The record of a call that was open when the gateway crashed.
pub(super) fn interrupted(call: Call) -> Entry {
    let message = "the gateway died while the call was open; whether the backend carried it out is unknown";
    event(Status::Interrupted, Some(message.to_owned()), call)
}
