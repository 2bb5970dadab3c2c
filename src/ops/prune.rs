//! Pruning the outbox of a running pipeline: recorded first, then done.
//!
//! The `gateway/pruned` record is stored before the first file goes. Where the process dies between the two, the record
//! names what is still there; pruning again does it, and leaves a record of its own.

use std::time::{Duration, Instant};

use serde_json::json;

use super::reads::os_user;
use crate::audit::UnavailableError;
use crate::audit::chain::Head;
use crate::audit::outbox::prune::{PruneLimit, PrunePlan};
use crate::audit::outbox::{self, Reader};
use crate::audit::pipeline::Probe;
use crate::audit::record::{Call, Epoch, RequestId, Seq};
use crate::audit::shipper::ShipperState;

/// How long the record may take to be stored. *Chosen*: as `audit.store_timeout`'s default.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked for. *Chosen*: a commit takes milliseconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Why nothing, or not all, was pruned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Records leave this outbox by being delivered.
    #[error(
        "this gateway delivers to Postgres: its outbox empties itself as records are delivered, and what is in it is \
         not delivered yet; nothing was pruned"
    )]
    Delivers,
    /// What would be removed waits for Postgres.
    #[error(
        "records of this outbox were delivered to Postgres before, so those in it wait for that: set postgres.url (or \
         run gatepost outbox drain), or say --undelivered to remove them all the same; nothing was pruned"
    )]
    Awaited,
    /// No file is that old.
    #[error("no whole file of the outbox is that old; nothing was pruned")]
    Nothing,
    /// The record cannot be stored, so nothing was removed.
    #[error(
        "the pruning cannot be recorded ({source}), so nothing was pruned; with the gateway stopped, prune the \
         directory"
    )]
    Unrecorded {
        /// Why not.
        source: UnavailableError,
    },
    /// It is not stored yet.
    #[error("the pruning was recorded, but the record is not stored after {STORE_TIMEOUT:?}; nothing was pruned")]
    NotStored,
    /// A file cannot be read or removed.
    #[error(transparent)]
    Outbox(#[from] outbox::OutboxError),
    /// The reading failed.
    #[error("cannot read the outbox: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Records that user `uid` has the files before `until` removed, and removes them; returns what went. `awaited` allows it
/// where this outbox was delivered from before.
///
/// # Errors
/// See [`Error`].
pub async fn prune(probe: &Probe, until: PruneLimit, awaited: bool, uid: u32) -> Result<PrunePlan, Error> {
    // I4: where records are delivered, the outbox forgets them by that and by nothing else.
    if !matches!(probe.shipper(), ShipperState::StoreOnly) {
        return Err(Error::Delivers);
    }
    let reader = probe.reader().clone();
    let cut = tokio::task::spawn_blocking(move || reader.prunable(until)).await??.ok_or(Error::Nothing)?;
    if cut.awaited && !awaited {
        return Err(Error::Awaited);
    }
    let mut details = json!(cut);
    if let Some(details) = details.as_object_mut() {
        let (epoch, seq) = cut.first;
        details.insert("first".to_owned(), json!({ "epoch": epoch, "seq": seq }));
        details.insert("uid".to_owned(), json!(uid));
    }
    let event = Call::gateway_event("pruned", &details).with_caller(&os_user(uid));
    let (id, (_, epoch), from) = (event.request_id, probe.stream(), probe.gauge().stamped);
    probe.audit().record_event(event).await.map_err(|source| Error::Unrecorded { source })?;
    // At level `queued` it is not stored yet, and until then nothing may go.
    let deadline = Instant::now() + STORE_TIMEOUT;
    let mut at = Head { seq: from, ..Head::START };
    loop {
        let reader = probe.reader().clone();
        let (stored, reached) = tokio::task::spawn_blocking(move || find(&reader, epoch, at, id)).await??;
        if stored {
            break;
        }
        at = reached;
        if Instant::now() >= deadline {
            return Err(Error::NotStored);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let reader = probe.reader().clone();
    tokio::task::spawn_blocking(move || reader.prune(&cut)).await??;
    tracing::warn!(
        records = cut.records, files = cut.files, last_epoch = %cut.last.epoch, last_seq = %cut.last.seq, uid,
        "the outbox was pruned"
    );
    Ok(cut)
}

/// Whether the record with this id stands behind `at`; how far the epoch was looked through.
fn find(reader: &Reader, epoch: Epoch, at: Head, id: RequestId) -> Result<(bool, Head), outbox::OutboxError> {
    let mut reached = at;
    loop {
        let records = reader.read(epoch, reached)?;
        if records.iter().any(|record| record.entry.call.request_id == id) {
            return Ok((true, reached));
        }
        match records.last().map(|last| Head::after(&last.position)) {
            Some(head) if head.seq > Seq::ZERO => reached = head,
            _ => return Ok((false, reached)),
        }
    }
}
