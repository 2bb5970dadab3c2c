//! Telling bad rows from a bad schema.

use std::sync::Arc;

use crate::audit::record::AuditRecord;
use crate::audit::sink::{ErrorClass, Sink, SinkError};

/// Consecutive records that may be quarantined for the same SQLSTATE before the schema is suspected. *Chosen*: a burst
/// of similar bad calls is plausible up to about this number; a broken column fails every row.
const SAME_FAILURES_MAX: usize = 16;

/// Later records that are tried. *Chosen*: a few statements; one accepted record is enough.
const DRY_RUNS_MAX: usize = 8;

/// Counts consecutive records that fail with the same SQLSTATE.
#[derive(Debug, Default)]
pub(super) struct RepeatedFailure {
    sqlstate: Option<String>,
    count: usize,
}

impl RepeatedFailure {
    /// Counts one failure. Returns whether there are now so many that the schema may be at fault.
    pub(super) fn add(&mut self, error: &SinkError) -> bool {
        if self.sqlstate != error.sqlstate {
            *self = Self { sqlstate: error.sqlstate.clone(), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count > SAME_FAILURES_MAX
    }
}

/// Returns true if the sink would accept one of `later`, so that the schema is not at fault. Tries a few records over
/// the whole slice, from the last one backwards, because a run of bad records may be long.
///
/// # Errors
/// Any error of the sink but class `Row`.
pub(super) async fn any_accepted<S: Sink>(sink: &mut S, later: &[Arc<AuditRecord>]) -> Result<bool, SinkError> {
    let step = later.len().div_ceil(DRY_RUNS_MAX).max(1);
    for record in later.iter().rev().step_by(step) {
        match sink.dry_run(record).await {
            Ok(()) => return Ok(true),
            Err(error) if error.class == ErrorClass::Row => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
