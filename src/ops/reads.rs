//! What `gatepost audit` asks of an outbox besides its records, and the record of its asking.

use std::io;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::audit::chain::Head;
use crate::audit::outbox::{OutboxError, Reader};
use crate::audit::pipeline::Probe;
use crate::audit::query::Filter;
use crate::audit::record::{Call, Caller};
use crate::audit::verify::{Checker, Origin, Report, TrailRecord};

/// Most faults that an answer lists. *Chosen*: more are no longer read by a person.
pub const FAULTS_MAX: usize = 10_000;

/// One reading of the trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// `query`, `show`, `tail` or `verify`.
    pub command: String,
    /// `postgres` or `outbox`.
    pub from: String,
    /// What was asked for, where that was records.
    pub filter: Option<Filter>,
    /// How many records are shown, or were checked.
    pub rows: u64,
}

/// Records `read` as `gateway/read` in the live gateway's own stream, by the user at the other end of `stream`, whom the
/// kernel names.
///
/// # Errors
/// The kernel does not, or the record did not reach the configured level.
pub async fn note(probe: &Probe, stream: &UnixStream, read: &Read) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    note_by(probe, &os_user(uid), ("uid", json!(uid)), read).await
}

/// Records `read` as `gateway/read` by `caller`; `by` is what else is known of who or what read.
///
/// # Errors
/// The record did not reach the configured level: then nothing is to be shown.
pub async fn note_by(probe: &Probe, caller: &Caller, by: (&str, Value), read: &Read) -> io::Result<()> {
    // What is not set says nothing.
    let mut filter = serde_json::to_value(&read.filter).map_err(io::Error::other)?;
    if let Some(fields) = filter.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let Read { command, from, rows, .. } = read;
    let (key, value) = by;
    let details = json!({ "command": command, "from": from, "filter": filter, "rows": rows, key: value });
    let event = Call::gateway_event("read", &details).with_caller(caller);
    probe.audit().record_event(event).await.map_err(io::Error::other)
}

/// A user of the system as a caller, by name where the uid has one.
#[must_use]
pub fn os_user(uid: u32) -> Caller {
    let name = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    let subject = name.unwrap_or_else(|| format!("uid {uid}"));
    Caller { subject, issuer: Some("os".to_owned()), ..Caller::anonymous() }
}

/// Checks the stored streams. `told` hears how many records were seen, and says whether to go on.
///
/// # Errors
/// A file of the outbox cannot be read.
pub fn check(
    reader: &Reader,
    faults_max: usize,
    told: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Report, OutboxError> {
    let mut checker = Checker::new(Origin::Outbox, faults_max.min(FAULTS_MAX));
    let stats = reader.stats()?;
    if let Some(gateway_id) = stats.gateway_id {
        for stream in &stats.streams {
            // The hash at this place is not asked for.
            checker.add_cursor((gateway_id, stream.epoch), Head { seq: stream.delivered, ..Head::START });
        }
    }
    let (mut after, mut seen) = (None, 0);
    while let Some(epoch) = reader.next_epoch(after)? {
        let mut head = Head::START;
        loop {
            let records = reader.read(epoch, head)?;
            let Some(last) = records.last() else { break };
            head = Head::after(&last.position);
            seen += records.len() as u64;
            for record in records {
                checker.check(&TrailRecord {
                    position: record.position,
                    content: Ok(record.entry),
                    quarantined: false,
                });
            }
            if told(seen).is_break() {
                return Ok(checker.finish());
            }
        }
        after = Some(epoch);
    }
    Ok(checker.finish())
}
