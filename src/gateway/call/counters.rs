//! Metrics of calls: their number by backend and status, and their latency.
//!
//! The counters are atomics. Their labels are the configured aliases and the statuses, so that their number is bounded
//! (I6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::audit::meter::{Counter, Histogram};
use crate::audit::record::Status;

/// The call metrics of a gateway.
#[derive(Debug)]
pub struct CallCounters {
    backends: RwLock<BTreeMap<String, Arc<BackendCounters>>>,
    refusals: [Counter; Status::ALL.len()],
}

/// The call metrics of one backend.
#[derive(Debug)]
pub struct BackendCounters {
    calls: [Counter; Status::ALL.len()],
    /// The time from the arrival of a call to its response, including auditing.
    pub latency: Histogram,
}

impl CallCounters {
    pub(crate) fn new(aliases: impl IntoIterator<Item = String>) -> Self {
        let counters = Self { backends: RwLock::default(), refusals: Default::default() };
        counters.set_backends(aliases);
        counters
    }

    /// Counts for these backends. Those that are counted already continue; those of others are dropped.
    pub(crate) fn set_backends(&self, aliases: impl IntoIterator<Item = String>) {
        let zero = || Arc::new(BackendCounters { calls: Default::default(), latency: Histogram::for_long_times() });
        let mut backends = self.backends.write();
        let mut old = std::mem::take(&mut *backends);
        backends.extend(aliases.into_iter().map(|alias| {
            let counters = old.remove(&alias).unwrap_or_else(zero);
            (alias, counters)
        }));
    }

    /// Counts a call of `backend` that ended.
    pub(crate) fn called(&self, backend: &str, status: Status, took: Duration) {
        if let Some(counters) = self.backends.read().get(backend) {
            count(&counters.calls, status);
            counters.latency.observe_duration(took);
        }
    }

    /// Counts a refused message.
    pub(crate) fn refused(&self, status: Status) {
        count(&self.refusals, status);
    }

    /// The metrics of each backend, by its alias.
    #[must_use]
    pub fn backends(&self) -> Vec<(String, Arc<BackendCounters>)> {
        self.backends.read().iter().map(|(alias, counters)| (alias.clone(), Arc::clone(counters))).collect()
    }

    /// The number of refused messages by status, without the statuses that did not occur.
    pub fn refusals(&self) -> impl Iterator<Item = (Status, u64)> {
        nonzero(&self.refusals)
    }
}

impl BackendCounters {
    /// The number of ended calls by status, without the statuses that did not occur.
    pub fn calls(&self) -> impl Iterator<Item = (Status, u64)> {
        nonzero(&self.calls)
    }
}

fn count(counters: &[Counter; Status::ALL.len()], status: Status) {
    if let Some((_, counter)) = Status::ALL.iter().zip(counters).find(|(known, _)| **known == status) {
        counter.add(1);
    }
}

fn nonzero(counters: &[Counter; Status::ALL.len()]) -> impl Iterator<Item = (Status, u64)> {
    Status::ALL
        .into_iter()
        .zip(counters)
        .map(|(status, counter)| (status, counter.get()))
        .filter(|(_, count)| *count > 0)
}
