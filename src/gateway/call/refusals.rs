//! Recording of refusals: each gets a record of its own, or is counted in the record of its window.
//!
//! A refusal for whose record there is no room is counted as well. The counts of a window for whose record there is no
//! room go into a `gateway/gap` record, which always has room. So the single records and the counts in the trail add up
//! to the refusals that were made. Only a crash loses counts: those of the open windows.

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::audit::record::{Call, Outcome};
use crate::audit::{Audit, Released, UnavailableError};

use super::refusal_windows::{CountedRefusals, RefusalDecision, RefusalWindows, RefusedRequest};

/// Records refusals.
#[derive(Debug)]
pub(crate) struct Refusals(Mutex<RefusalWindows>);

/// A refusal that is in the trail, or will be.
#[derive(Debug)]
pub(crate) enum RecordedRefusal<T> {
    /// The refusal has a record of its own.
    Single(Released<T>),
    /// The refusal was counted.
    Counted,
}

impl Refusals {
    /// Counts the refusals of one kind after the first `singles_max` of a window.
    pub(crate) fn new(singles_max: u32) -> Self {
        Self(Mutex::new(RefusalWindows::new(singles_max)))
    }

    /// Records a refusal. `record` makes its own record and the answer that waits for it, if it gets one.
    ///
    /// # Errors
    /// [`UnavailableError`]: the refusal was neither recorded nor counted, or its record stays in the ring.
    pub(crate) async fn record<T>(
        &self,
        audit: &Audit,
        refused: &RefusedRequest<'_>,
        record: impl FnOnce() -> (Call, Outcome, T),
    ) -> Result<RecordedRefusal<T>, UnavailableError> {
        let decide = || self.0.lock().observe(refused, Instant::now());
        if audit.is_enabled() && decide() == RefusalDecision::Counted {
            return Ok(RecordedRefusal::Counted);
        }
        let (call, outcome, answer) = record();
        // I2: a refusal ends in exactly one record, or in exactly one count. I1: its reply waits for the record.
        if let Some(released) = audit.record_refusal(call, outcome, answer).await? {
            return Ok(RecordedRefusal::Single(released));
        }
        let is_counted = self.0.lock().count(refused, Instant::now());
        is_counted.then_some(RecordedRefusal::Counted).ok_or(UnavailableError::Closed)
    }

    /// Records the windows that have ended.
    pub(crate) async fn record_ended(&self, audit: &Audit) {
        let ended = self.0.lock().take_ended(Instant::now());
        record_all(audit, ended).await;
    }

    /// Records all windows. Refusals after this are not counted any more.
    pub(crate) async fn record_last(&self, audit: &Audit) {
        let last = self.0.lock().take_last();
        record_all(audit, last).await;
    }
}

async fn record_all(audit: &Audit, windows: Vec<CountedRefusals>) {
    futures_util::future::join_all(windows.iter().map(|window| record_window(audit, window))).await;
}

/// Records one window, or adds its count to the next gap record.
async fn record_window(audit: &Audit, window: &CountedRefusals) {
    let (call, outcome) = window.record();
    let recorded = match audit.record_refusal(call, outcome, ()).await {
        Ok(None) => {
            let (first, last) = window.times();
            audit.count_refusals(window.count(), first, last)
        }
        // A record that was not stored in time is still in the ring, and will be stored from there.
        Ok(Some(_)) | Err(UnavailableError::NotStored { .. }) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = recorded {
        tracing::error!(%error, refusals = window.count(), "counted refusals cannot be recorded; their count is lost");
    }
}
