//! The record of each read of the trail: `gateway/read`, in the live gateway's own stream.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::pipeline::Probe;
use crate::audit::query::Filter;
use crate::audit::record::{Call, Caller};

/// One read of the trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrailRead {
    /// The command.
    pub command: ReadCommand,
    /// The store that was read.
    pub from: TrailSource,
    /// The filter; `None` if the whole trail was checked.
    pub filter: Option<Filter>,
    /// Records that are shown, or were checked.
    pub rows: u64,
}

/// A command that reads the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadCommand {
    /// A search.
    Query,
    /// Counts of the records that a search finds.
    Count,
    /// Everything about one call.
    Show,
    /// The newest records.
    Tail,
    /// The newest records, then each new one.
    #[serde(rename = "tail --follow")]
    TailFollow,
    /// A comparison of texts with a record's digests.
    Match,
    /// The key of a record's digests was revealed.
    #[serde(rename = "match --reveal-key")]
    RevealKey,
    /// A record with its proof.
    Prove,
    /// A certificate of a range.
    Certify,
    /// The last record of each stream.
    Heads,
    /// A check of the whole trail.
    Verify,
    /// An export: one record when it begins, with no rows, and one at its end.
    Export,
}

/// A store that the trail is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrailSource {
    /// Postgres.
    Postgres,
    /// An outbox.
    Outbox,
}

/// The way in which a read reached the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOrigin {
    /// The admin socket, by this user of the system.
    Uid(u32),
    /// The console.
    Console,
}

/// Records `read` by `caller` as `gateway/read`.
///
/// # Errors
/// The record did not reach the configured level: then nothing may be shown.
pub async fn record_read(probe: &Probe, caller: &Caller, origin: ReadOrigin, read: &TrailRead) -> io::Result<()> {
    // Members of the filter that are not set are left out.
    let mut filter = serde_json::to_value(&read.filter).map_err(io::Error::other)?;
    if let Some(fields) = filter.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let (key, value) = match origin {
        ReadOrigin::Uid(uid) => ("uid", json!(uid)),
        ReadOrigin::Console => ("via", Value::from("console")),
    };
    let TrailRead { command, from, rows, .. } = read;
    let details = json!({ "command": command, "from": from, "filter": filter, "rows": rows, key: value });
    let event = Call::gateway_event("read", &details).with_caller(caller);
    probe.audit().record_event(event).await.map_err(io::Error::other)
}

/// The caller of a user of the system: the user's name, or the uid if it has none.
#[must_use]
pub fn os_user(uid: u32) -> Caller {
    let name = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    let subject = name.unwrap_or_else(|| format!("uid {uid}"));
    Caller { subject, issuer: Some("os".to_owned()), ..Caller::anonymous() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_recorded_read_stay_the_same() {
        let read = TrailRead { command: ReadCommand::TailFollow, from: TrailSource::Postgres, filter: None, rows: 3 };
        let json = json!({ "command": "tail --follow", "from": "postgres", "filter": null, "rows": 3 });
        assert_eq!(serde_json::to_value(&read).unwrap(), json);
        assert_eq!(serde_json::from_value::<TrailRead>(json).unwrap(), read);
        let words = [ReadCommand::Query, ReadCommand::Show, ReadCommand::Tail, ReadCommand::Heads, ReadCommand::Verify];
        assert_eq!(json!(words), json!(["query", "show", "tail", "heads", "verify"]));
        assert_eq!(json!(ReadCommand::Export), json!("export"));
    }
}
