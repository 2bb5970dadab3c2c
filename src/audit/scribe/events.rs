//! The gateway's own records: the beginning and the end of an epoch, the gaps in it, and what became of earlier ones.

use std::time::Duration;

use crate::audit::chain::{self, Head};
use crate::audit::outbox::Opening;
use crate::audit::outbox::damage::Damage;
use crate::audit::record::{Call, Digest, DigestKey, Entry, Epoch, Outcome, PolicyText, Status};
use crate::audit::ring::{Restored, UnrecordedCalls};
use crate::audit::tree::Tree;

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
pub(super) fn opened(opening: &Opening, config: &ConfigSummary, tree: &Tree) -> Entry {
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
        "log": tree.log,
        "first_index": tree.size(),
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

/// The records for damage in the outbox: as many as it takes to name everything that is lost.
pub(super) fn damaged(damage: &Damage) -> Vec<Entry> {
    let Damage { file, epochs, kept, lost, end_known, maybe_open, .. } = damage;
    let end = if *end_known { "" } else { "; more may be lost after the last one kept" };
    let of_epochs = epochs.map(|(first, last)| format!("; its epoch was one of {first} to {last}")).unwrap_or_default();
    let open = match maybe_open.len() {
        0 => String::new(),
        count => format!("; {count} calls may have been open, which can no longer be determined"),
    };
    let message = format!("outbox file {file} was damaged: {kept} records kept, {lost} lost{end}{of_epochs}{open}");
    let entry = |details| event(Status::Error, Some(message.clone()), Call::gateway_event("damage", &details));
    damage.details().into_iter().map(entry).collect()
}

/// The record that says where an earlier epoch ends, of which Postgres has more than was known when it ended.
pub(super) fn takeover(epoch: Epoch, end: Head) -> Entry {
    let details = serde_json::json!({ "epoch": epoch, "seq": end.seq, "hash": end.hash });
    let message = format!("epoch {epoch} ends at {} in Postgres, later than this gateway knew", end.seq);
    event(Status::Ok, Some(message), Call::gateway_event("takeover", &details))
}

/// The record of a database that went back, and of the delivery that resumed from kept records.
pub(super) fn restored(restored: Restored) -> Entry {
    let Restored { epoch, found, delivered } = restored;
    let details = serde_json::json!({
        "epoch": epoch,
        "seq": found.seq,
        "hash": found.hash,
        "delivered_seq": delivered.seq,
        "delivered_hash": delivered.hash,
    });
    let message = format!(
        "Postgres went back from {epoch}/{} to {epoch}/{}, as after a restore or a failover that lost transactions; the \
         records after it are delivered again",
        delivered.seq, found.seq
    );
    event(Status::Error, Some(message), Call::gateway_event("restored", &details))
}

/// The record of a call that was open when the gateway crashed.
pub(super) fn interrupted(call: Call) -> Entry {
    let message = "the gateway died while the call was open; whether the backend carried it out is unknown";
    event(Status::Interrupted, Some(message.to_owned()), call)
}
