//! The ends of the use of a backend: it was replaced or removed, or roles do not reach it any more.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::conversations::Owner;
use super::uses::Use;

/// A backend that one request uses. While there is one, a replaced backend is not stopped, for a limited time.
#[derive(Debug)]
pub struct UsedBackend {
    backend: Arc<Backend>,
    _use: Use,
}

impl UsedBackend {
    pub(super) fn new(backend: Arc<Backend>) -> Self {
        let of_request = backend.uses.one();
        Self { backend, _use: of_request }
    }
}

impl Deref for UsedBackend {
    type Target = Arc<Backend>;

    fn deref(&self) -> &Arc<Backend> {
        &self.backend
    }
}

impl Backend {
    /// Ends its use: another one has taken its place, or it was removed. Connections that are in use have `drain` to
    /// end; then its processes are stopped.
    pub(super) async fn retire(self: Arc<Self>, drain: Duration) {
        self.announce();
        self.conversations.end_where(|_| true);
        let unused = async {
            *self.shared_session.lock().await = None;
            self.uses.tracker.close();
            self.uses.tracker.wait().await;
        };
        tokio::select! {
            () = unused => {}
            () = tokio::time::sleep(drain) => {
                tracing::warn!(backend = self.alias, timeout = ?drain, "stopping a replaced backend that is still in use");
            }
            () = self.tasks.stop.cancelled() => {}
        }
        self.tasks.stop.cancel();
    }

    /// Cancelled when another backend has taken its place, or it was removed.
    pub(super) fn retired(&self) -> CancellationToken {
        self.uses.retired.clone()
    }

    /// Ends the conversations of callers without a session for which `is_kept` is false. Forgets all tokens on behalf
    /// of callers.
    pub(super) fn end_unreachable_conversations(&self, is_kept: impl Fn(&Owner) -> bool) {
        let ended = self.conversations.end_where(|owner| !is_kept(owner));
        self.forget_exchanged(true);
        if ended > 0 {
            tracing::info!(backend = self.alias, ended, "ended conversations of callers that may not use the backend");
        }
    }
}
