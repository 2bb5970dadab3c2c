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
    /// Cancelled when nothing at it may continue.
    pub(super) stop: CancellationToken,
}

/// One connection of a backend, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Use {
    retired: CancellationToken,
    stop: CancellationToken,
    _token: TaskTrackerToken,
}

impl Uses {
    /// Counts one more connection.
    pub(super) fn one(&self) -> Use {
        Use { retired: self.retired.clone(), stop: self.stop.clone(), _token: self.tracker.token() }
    }
}

impl Use {
    /// Waits until nothing at the backend may continue.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Returns whether the backend is not in use any more.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.is_cancelled()
    }
}
