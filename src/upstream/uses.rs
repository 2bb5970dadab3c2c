//! The connections of one backend, counted, so that it can be stopped once none is in use.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The connections of one backend.
#[derive(Debug)]
pub(super) struct Uses {
    /// One token for each connection.
    pub(super) tracker: TaskTracker,
    /// Cancelled when another backend has taken its place, or it was removed: nothing new begins on its connections.
    pub(super) retired: CancellationToken,
}

/// One connection of a backend, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Use {
    retired: CancellationToken,
    _token: TaskTrackerToken,
}

impl Uses {
    /// Counts one more connection.
    pub(super) fn one(&self) -> Use {
        Use { retired: self.retired.clone(), _token: self.tracker.token() }
    }
}

impl Use {
    /// Returns whether the backend is not in use any more.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.is_cancelled()
    }
}
