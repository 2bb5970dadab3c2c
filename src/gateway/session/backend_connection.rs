//! A session's connection to one backend.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::upstream::UpstreamConnection;

/// The connection to one backend: opened on first use, and again after it has ended.
#[derive(Debug, Default)]
pub(crate) struct BackendConnection {
    /// Locked while the connection is being opened.
    pub(super) opening: Arc<tokio::sync::Mutex<()>>,
    /// The connection that was opened last. Readers never wait for one that is being opened.
    pub(super) current: Mutex<Option<Arc<UpstreamConnection>>>,
}

impl BackendConnection {
    /// The connection, if it can be used.
    pub(super) fn usable(&self) -> Option<Arc<UpstreamConnection>> {
        self.current.lock().clone().filter(|connection| !connection.has_ended())
    }
}
