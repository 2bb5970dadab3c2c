//! How many calls there were, by backend and by how they ended, and what they took. Counted in plain atomics; the labels
//! are the configured aliases and the fixed words of statuses, so their number is bounded (I6).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::audit::meter::{Counter, Histogram};
use crate::audit::record::Status;

/// The counts of one gateway.
#[derive(Debug)]
pub struct CallCounters {
    backends: BTreeMap<String, OfBackend>,
    refusals: [Counter; Status::ALL.len()],
}

/// The counts of one backend.
#[derive(Debug)]
pub struct OfBackend {
    calls: [Counter; Status::ALL.len()],
    /// From a call's arrival at the pipeline to its answer's leave, auditing included.
    pub latency: Histogram,
}

impl CallCounters {
    pub(crate) fn new<'a>(aliases: impl Iterator<Item = &'a str>) -> Self {
        let counts = || OfBackend { calls: Default::default(), latency: Histogram::for_long_times() };
        Self { backends: aliases.map(|alias| (alias.to_owned(), counts())).collect(), refusals: Default::default() }
    }

    /// A call of `backend` has ended.
    pub(crate) fn called(&self, backend: &str, status: Status, took: Duration) {
        if let Some(of_backend) = self.backends.get(backend) {
            count(&of_backend.calls, status);
            of_backend.latency.observe_duration(took);
        }
    }

    /// A message was refused.
    pub(crate) fn refused(&self, status: Status) {
        count(&self.refusals, status);
    }

    /// The backends by alias.
    pub fn backends(&self) -> impl Iterator<Item = (&str, &OfBackend)> {
        self.backends.iter().map(|(alias, of_backend)| (alias.as_str(), of_backend))
    }

    /// How many messages were refused, by status; those that nothing was refused with are left out.
    pub fn refusals(&self) -> impl Iterator<Item = (Status, u64)> {
        counted(&self.refusals)
    }
}

impl OfBackend {
    /// How many calls ended, by status; those that none ended with are left out.
    pub fn calls(&self) -> impl Iterator<Item = (Status, u64)> {
        counted(&self.calls)
    }
}

fn count(counters: &[Counter; Status::ALL.len()], status: Status) {
    if let Some((_, counter)) = Status::ALL.iter().zip(counters).find(|(known, _)| **known == status) {
        counter.add(1);
    }
}

fn counted(counters: &[Counter; Status::ALL.len()]) -> impl Iterator<Item = (Status, u64)> {
    Status::ALL
        .into_iter()
        .zip(counters)
        .map(|(status, counter)| (status, counter.get()))
        .filter(|(_, count)| *count > 0)
}
