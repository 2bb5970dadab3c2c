//! The level at which the scribe begins, and its report at the end.

use std::time::Duration;

use crate::audit::chain::Head;

/// When records go through the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All records go through the outbox.
    Stored,
    /// Only the records that Postgres does not take within `spill_after` go through the outbox.
    Queued {
        /// The age of the oldest undelivered record at which the scribe starts to spill.
        spill_after: Duration,
    },
}

/// The end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochReport {
    /// The number of lost records, which only the ring had. It is 0 unless the outbox failed until the end.
    pub lost: usize,
    /// The last record of the epoch.
    pub last: Head,
}
