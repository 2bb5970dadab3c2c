//! The tasks of one backend's connections.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::CallError;

/// Runs work of a backend in tasks, until the backend is stopped.
#[derive(Clone, Debug)]
pub struct BackendTasks {
    pub(super) tracker: TaskTracker,
    /// Cancelled when the gateway stops, or the backend was replaced or removed and is not in use any more.
    pub(super) stop: CancellationToken,
}

impl BackendTasks {
    /// Runs `work` in a task, so that it completes even if the caller is dropped. It ends when the gateway stops.
    ///
    /// # Errors
    /// The error of `work`, or [`CallError::Stopped`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, CallError>> + Send + 'static,
    ) -> Result<T, CallError> {
        let stop = self.stop.clone();
        let work = async move { stop.run_until_cancelled(work).await.unwrap_or(Err(CallError::Stopped)) };
        self.tracker.spawn(work).await.unwrap_or(Err(CallError::Died))
    }
}
