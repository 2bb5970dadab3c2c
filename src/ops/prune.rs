//! Pruning of a running pipeline's outbox: recorded first, then done.
//!
//! The `gateway/pruned` record is stored before the first file is removed. If the process dies in between, the record
//! names files that still exist. The next pruning removes them and stores another record.

use std::time::{Duration, Instant};

use serde_json::json;

use super::protocol::PrunedFiles;
use super::read_log::os_user;
use crate::audit::UnavailableError;
use crate::audit::chain::Head;
use crate::audit::outbox::prune::PruneLimit;
use crate::audit::outbox::{self, Reader};
use crate::audit::pipeline::Probe;
use crate::audit::record::{Call, Epoch, RequestId, Seq};
use crate::audit::shipper::ShipperState;

/// Longest wait for the record to be stored. *Chosen*: the default of `audit.store_timeout`.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval between searches for the stored record. *Chosen*: a commit takes milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// An error of pruning. Unless it is one of the last two, nothing was pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// Records leave this outbox by delivery.
    #[error(
        "this gateway delivers to Postgres: delivered records leave its outbox by themselves, and the records in it are \
         not delivered yet; nothing was pruned"
    )]
    Delivers,
    /// The records to be removed wait for Postgres.
    #[error(
        "records of this outbox were delivered to Postgres before, so the records in it are waiting for delivery: set \
         postgres.url (or run gatepost outbox drain), or give --undelivered to remove them anyway; nothing was pruned"
    )]
    Awaited,
    /// No file is that old.
    #[error("no whole file of the outbox is that old; nothing was pruned")]
    NothingToPrune,
    /// The record cannot be stored, so nothing was removed.
    #[error("the pruning cannot be recorded ({source}); nothing was pruned; stop the gateway and prune its directory")]
    Unrecorded {
        /// The error.
        source: UnavailableError,
    },
    /// The record is not stored in time.
    #[error("the record of the pruning is not stored after {STORE_TIMEOUT:?}; nothing was pruned")]
    NotStored,
    /// A file cannot be read or removed.
    #[error(transparent)]
    Outbox(#[from] outbox::OutboxError),
    /// The thread that reads the outbox failed.
    #[error("cannot read the outbox: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Removes the files before `until` and returns them, after recording that user `uid` has them removed. `awaited`
/// permits this even if records of this outbox were ever delivered, so that those in it wait for Postgres.
///
/// # Errors
/// See [`PruneError`].
pub async fn prune(probe: &Probe, until: PruneLimit, awaited: bool, uid: u32) -> Result<PrunedFiles, PruneError> {
    // I4: if records are delivered, only delivery removes them from the outbox.
    if !matches!(probe.shipper(), ShipperState::StoreOnly) {
        return Err(PruneError::Delivers);
    }
    let reader = probe.reader().clone();
    let plan = tokio::task::spawn_blocking(move || reader.prunable(until)).await??.ok_or(PruneError::NothingToPrune)?;
    if plan.awaited && !awaited {
        return Err(PruneError::Awaited);
    }
    let pruned = PrunedFiles::from(&plan);
    let mut details = json!(pruned);
    if let Some(details) = details.as_object_mut() {
        let (epoch, seq) = pruned.first;
        details.insert("first".to_owned(), json!({ "epoch": epoch, "seq": seq }));
        details.insert("uid".to_owned(), json!(uid));
    }
    let event = Call::gateway_event("pruned", &details).with_caller(&os_user(uid));
    let (id, from) = (event.request_id, probe.gauge().stamped);
    probe.audit().record_event(event).await.map_err(|source| PruneError::Unrecorded { source })?;
    wait_until_stored(probe, id, from).await?;
    let reader = probe.reader().clone();
    tokio::task::spawn_blocking(move || reader.prune(&plan)).await??;
    tracing::warn!(
        records = pruned.records, files = pruned.files, last_epoch = %pruned.last.epoch, last_seq = %pruned.last.seq, uid,
        "outbox pruned"
    );
    Ok(pruned)
}

/// Waits until the record `id`, which comes after `from` in the current epoch, is stored. At level `queued` it may
/// still be in memory when `record_event` returns, and nothing may be removed before it is stored.
async fn wait_until_stored(probe: &Probe, id: RequestId, from: Seq) -> Result<(), PruneError> {
    let (_, epoch) = probe.stream();
    let deadline = Instant::now() + STORE_TIMEOUT;
    let mut head = Head { seq: from, ..Head::START };
    loop {
        let reader = probe.reader().clone();
        let (found, searched) = tokio::task::spawn_blocking(move || find(&reader, epoch, head, id)).await??;
        if found {
            return Ok(());
        }
        head = searched;
        if Instant::now() >= deadline {
            return Err(PruneError::NotStored);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Searches the epoch after `from` for the record `id`. Returns whether it is stored, and the end of the search.
fn find(reader: &Reader, epoch: Epoch, from: Head, id: RequestId) -> Result<(bool, Head), outbox::OutboxError> {
    let mut searched = from;
    loop {
        let records = reader.read(epoch, searched)?;
        if records.iter().any(|record| record.entry.call.request_id == id) {
            return Ok((true, searched));
        }
        match records.last().map(|last| Head::after(&last.position)) {
            Some(head) if head.seq > Seq::ZERO => searched = head,
            _ => return Ok((false, searched)),
        }
    }
}
