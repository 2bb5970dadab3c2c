//! Leftovers: the undelivered records in slots that no process has. A running process delivers them.
//!
//! The lock decides which process does. One slot at a time is open for this, so that the others stay free for processes
//! that start meanwhile. A slot whose delivery is held is closed again, and left to the next process.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::gateway_error::GatewayError;
use super::{opening, pipeline, slots};
use crate::accept::AcceptFailures;
use crate::audit::outbox::fs::DiskFs;
use crate::audit::outbox::{OutboxError, Reader, lock};
use crate::audit::pipeline::Probe;
use crate::audit::shipper::ShipperState;
use crate::config::Config;
use crate::ops::admin::Admin;

/// Interval between looks at the slots. *Chosen*: records of a process that was killed wait no longer than this, and a
/// look at a slot that did not change reads no file.
const LOOK_INTERVAL: Duration = Duration::from_mins(1);

/// Interval between looks at the delivery of a slot. *Chosen*: short beside the minute.
const DELIVERY_INTERVAL: Duration = Duration::from_millis(250);

/// Delivers leftovers while a process of the directory runs.
#[derive(Debug)]
pub(super) struct Leftovers {
    config: Config,
    failures: AcceptFailures,
    /// The slots that need no look until another process opened them: the time when that was last.
    settled: HashMap<PathBuf, SystemTime>,
}

impl Leftovers {
    /// The leftovers in `audit.dir`; `failures` counts those of the admin sockets.
    pub(super) fn new(config: &Config, failures: AcceptFailures) -> Self {
        Self { config: config.clone(), failures, settled: HashMap::new() }
    }

    /// Delivers leftovers until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            for slot in slots::outboxes(&self.config.audit.dir).unwrap_or_default() {
                if let Err(error) = self.visit(&slot, &stop).await {
                    tracing::warn!(slot = %slot.display(), %error, "slot cannot be opened; its records stay there");
                }
                if stop.is_cancelled() {
                    return;
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_none() {
                return;
            }
        }
    }

    /// Delivers what is in `slot`, unless a process has it or nothing is left there.
    async fn visit(&mut self, slot: &Path, stop: &CancellationToken) -> Result<(), GatewayError> {
        let Ok(opened_at) = opened_at(slot) else { return Ok(()) };
        if slots::is_held(slot) || self.settled.get(slot) == Some(&opened_at) {
            return Ok(());
        }
        self.settled.insert(slot.to_owned(), opened_at);
        let path = slot.to_owned();
        let looked = tokio::task::spawn_blocking(move || has_leftovers(&path)).await.unwrap_or(Ok(false));
        // A file that another process is opening may be unreadable for a moment.
        if slots::is_held(slot) || !looked? {
            return Ok(());
        }
        match self.deliver(slot, stop).await {
            // Another process was faster.
            Err(GatewayError::Outbox(OutboxError::Locked { .. })) => Ok(()),
            delivered => delivered,
        }
    }

    /// Opens `slot`, delivers what is in it, and closes its stream. What cannot be delivered stays.
    async fn deliver(&mut self, slot: &Path, stop: &CancellationToken) -> Result<(), GatewayError> {
        // Until it has begun, nothing is changed.
        let started = Box::pin(pipeline::start_with(&self.config, |config| opening::of_outbox(config, slot, None)));
        let Some(pipeline) = stop.run_until_cancelled(started).await else { return Ok(()) };
        let pipeline = pipeline?;
        self.settled.extend(opened_at(slot).ok().map(|at| (slot.to_owned(), at)));
        let (probe, admin_stop) = (pipeline.probe(), CancellationToken::new());
        let admin = Admin::bind(slot, probe.clone(), self.failures.clone());
        let admin = admin.map_err(|source| GatewayError::Io { operation: "open the admin socket in a slot", source });
        let admin = admin.map(|admin| tokio::spawn(admin.run(admin_stop.clone())));
        let state = if admin.is_ok() { stop.run_until_cancelled(end_of_delivery(&probe)).await } else { None };
        drop(probe);
        let ship = if matches!(state, Some(None)) { self.config.postgres.drain_timeout } else { Duration::ZERO };
        let stopped = pipeline.stop(self.config.audit.store_timeout, ship).await;
        admin_stop.cancel();
        // The lock is released once the socket is closed too.
        admin?.await.ok();
        let (slot, last, delivered) = (slot.display(), stopped.last, stopped.delivered);
        if let Some(error) = state.flatten() {
            tracing::warn!(%slot, %error, "records in a slot cannot be delivered and stay there");
        } else {
            tracing::info!(%slot, %last, %delivered, "slot of an earlier process closed");
        }
        if stopped.lost == 0 { Ok(()) } else { Err(GatewayError::Lost(stopped.lost)) }
    }
}

/// Waits until everything is delivered, or an operator has to do something first; returns the error then. In an outage
/// it waits for the database.
async fn end_of_delivery(probe: &Probe) -> Option<String> {
    loop {
        let gauge = probe.gauge();
        match probe.shipper() {
            ShipperState::Held { error } | ShipperState::Forked { error } => return Some(error),
            _ if gauge.delivered >= gauge.stamped => return None,
            _ => tokio::time::sleep(DELIVERY_INTERVAL).await,
        }
    }
}

/// The time when a process last opened `slot`: it wrote its name into the lock then.
fn opened_at(slot: &Path) -> io::Result<SystemTime> {
    fs::metadata(slot.join(lock::LOCK_NAME))?.modified()
}

/// True if `slot` has records that are not known to be delivered, or calls that were open when its gateway died.
fn has_leftovers(slot: &Path) -> Result<bool, OutboxError> {
    let stats = Reader::offline(Arc::new(DiskFs), slot)?.stats()?;
    Ok(stats.undelivered() > 0 || stats.intents > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_slot_without_leftovers_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(lock::LOCK_NAME), "").unwrap();
        // To open it would be refused.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut leftovers = Leftovers::new(&Config::default(), AcceptFailures::default());
        leftovers.visit(dir.path(), &CancellationToken::new()).await.unwrap();
    }

    #[tokio::test]
    async fn a_slot_is_looked_at_once_until_another_process_opens_it() {
        let dir = tempfile::tempdir().unwrap();
        let slot = dir.path().join("1");
        fs::create_dir(&slot).unwrap();
        fs::write(slot.join(lock::LOCK_NAME), "").unwrap();
        fs::write(slot.join("outbox-000001.redb"), "not an outbox file").unwrap();
        let mut config = Config::default();
        dir.path().clone_into(&mut config.audit.dir);
        let (mut leftovers, stop) = (Leftovers::new(&config, AcceptFailures::default()), CancellationToken::new());
        assert!(leftovers.visit(&slot, &stop).await.is_err(), "it is read");
        assert!(leftovers.visit(&slot, &stop).await.is_ok(), "it is not read");
        let lock = fs::File::options().write(true).open(slot.join(lock::LOCK_NAME)).unwrap();
        lock.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
        lock.try_lock().unwrap();
        assert!(leftovers.visit(&slot, &stop).await.is_ok(), "its process runs");
        lock.unlock().unwrap();
        assert!(leftovers.visit(&slot, &stop).await.is_err(), "it is read again");
    }
}
