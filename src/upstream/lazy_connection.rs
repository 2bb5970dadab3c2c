//! A connection to a backend that is opened on first use, and again after it has ended.

use std::sync::Arc;

use parking_lot::Mutex;

use super::backend_tasks::BackendTasks;
use super::connection::UpstreamConnection;
use super::error::CallError;

/// A connection that is opened on first use, and again after it has ended.
#[derive(Debug, Default)]
pub struct LazyConnection {
    /// Locked while the connection is being opened.
    opening: Arc<tokio::sync::Mutex<()>>,
    /// The connection that was opened last. Readers never wait for one that is being opened.
    current: Mutex<Option<Arc<UpstreamConnection>>>,
}

impl LazyConnection {
    /// The connection that was opened last.
    #[must_use]
    pub fn current(&self) -> Option<Arc<UpstreamConnection>> {
        self.current.lock().clone()
    }

    /// Replaces the connection by one that was opened otherwise.
    pub fn set(&self, connection: Arc<UpstreamConnection>) {
        *self.current.lock() = Some(connection);
    }

    /// The connection. If there is none that works, the future that `open` returns opens it in one of `tasks`.
    /// `on_visible` is called with one that was opened, once [`LazyConnection::current`] returns it.
    ///
    /// # Errors
    /// The error of `open`.
    ///
    /// # Cancel safety
    /// Opening continues when the caller stops waiting, and the next caller finds the connection: a backend may take
    /// longer to start than one request waits.
    pub async fn get<O>(
        self: &Arc<Self>,
        tasks: &BackendTasks,
        open: impl FnOnce() -> O,
        on_visible: impl FnOnce(&UpstreamConnection) + Send + 'static,
    ) -> Result<Arc<UpstreamConnection>, CallError>
    where
        O: Future<Output = Result<Arc<UpstreamConnection>, CallError>> + Send + 'static,
    {
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        // Made and boxed only here: the future of every call would have room for it, and each call would copy it.
        Box::pin(self.open(tasks, open(), on_visible)).await
    }

    async fn open(
        self: &Arc<Self>,
        tasks: &BackendTasks,
        open: impl Future<Output = Result<Arc<UpstreamConnection>, CallError>> + Send + 'static,
        on_visible: impl FnOnce(&UpstreamConnection) + Send + 'static,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        let guard = Arc::clone(&self.opening).lock_owned().await;
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        let cell = Arc::clone(self);
        let opening = async move {
            let _guard = guard;
            let connection = open.await?;
            // One to a backend that was replaced meanwhile is for this request only.
            if !connection.has_ended() {
                cell.set(Arc::clone(&connection));
                on_visible(&connection);
            }
            Ok(connection)
        };
        tasks.run(opening).await
    }

    /// The connection that was opened last, if it has not ended.
    #[must_use]
    pub fn usable(&self) -> Option<Arc<UpstreamConnection>> {
        self.current().filter(|connection| !connection.has_ended())
    }
}
