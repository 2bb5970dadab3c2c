//! Telling bad rows from a bad schema.

use std::sync::Arc;

use crate::audit::record::AuditRecord;
use crate::audit::sink::{ErrorClass, Sink, SinkError};

/// Records that may be quarantined one after another for the same SQLSTATE before it is asked whether the schema is to
/// blame. *Chosen*: a burst of alike bad calls is plausible up to about here; a broken column fails every row.
const ALIKE_MAX: usize = 16;

/// Later records that are asked about. *Chosen*: a few statements; one that passes is enough.
const PROBES_MAX: usize = 8;

/// Counts records that fail one after another with the same code.
#[derive(Debug, Default)]
pub(super) struct Alike {
    sqlstate: Option<String>,
    count: usize,
}

impl Alike {
    /// Counts one more; says whether there are so many that the schema may be to blame.
    pub(super) fn are_many(&mut self, error: &SinkError) -> bool {
        if self.sqlstate != error.sqlstate {
            *self = Self { sqlstate: error.sqlstate.clone(), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count > ALIKE_MAX
    }
}

/// Whether one of `later` would be taken, so that the schema is not to blame. Asked about from the last one on, a few
/// over their whole length: a run of bad ones may be long.
///
/// # Errors
/// The sink did not tell.
pub(super) async fn any_passes<S: Sink>(sink: &mut S, later: &[Arc<AuditRecord>]) -> Result<bool, SinkError> {
    let step = later.len().div_ceil(PROBES_MAX).max(1);
    for record in later.iter().rev().step_by(step) {
        match sink.dry_run(record).await {
            Ok(()) => return Ok(true),
            Err(error) if error.class == ErrorClass::Row => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
