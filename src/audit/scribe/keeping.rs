//! When delivered records are stored because they are kept, and when those go that were kept for long enough.

use std::time::Duration;

use crate::audit::sync::Instant;

/// Interval between commits of records that were delivered before they were stored, and are to be kept (level
/// `queued`). *Spec*: `docs/outbox.md`, at most one such commit a second.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// Interval between looks for delivered records that were kept long enough. *Chosen*: exact enough for a time of hours,
/// and costs nothing.
pub(super) const EXPIRE_EVERY: Duration = Duration::from_mins(1);

/// The times of the last such turns.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    kept_at: Option<Instant>,
    expired_at: Option<Instant>,
}

impl Keeping {
    /// The time until delivered records may be stored.
    pub(super) fn until_kept(&self) -> Duration {
        self.kept_at.map_or(Duration::ZERO, |at| KEEP_EVERY.saturating_sub(at.elapsed()))
    }

    /// Notes that delivered records are stored now.
    pub(super) fn kept(&mut self) {
        self.kept_at = Some(Instant::now());
    }

    /// Returns true if it is time to look for records that were kept for long enough, and notes that.
    pub(super) fn expires(&mut self) -> bool {
        let is_due = self.expired_at.is_none_or(|at| at.elapsed() >= EXPIRE_EVERY);
        if is_due {
            self.expired_at = Some(Instant::now());
        }
        is_due
    }
}
