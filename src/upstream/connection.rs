//! One conversation with a backend, whatever carries it.

use std::sync::Arc;

use tokio_util::sync::DropGuard;

use crate::mcp::protocol::Era;

use super::CallError;
use super::http::Remote;
use super::message::{self, Request, Response};
use super::stdio::ChildConnection;

/// What a client says when it has heard the answer to `initialize`.
const INITIALIZED: &str = "notifications/initialized";

/// One conversation with a backend: a child process, or an HTTP session.
#[derive(Debug)]
pub struct UpstreamConnection {
    alias: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A child; it is ended when its guard is dropped, where the conversation has a child of its own.
    Child { link: Arc<ChildConnection>, limits: super::Timeouts, own: Option<DropGuard> },
    /// An HTTP backend.
    Remote(Arc<Remote>),
}

impl UpstreamConnection {
    pub(super) fn child(
        alias: &str,
        link: Arc<ChildConnection>,
        limits: super::Timeouts,
        own: Option<DropGuard>,
    ) -> Self {
        Self { alias: alias.to_owned(), kind: Kind::Child { link, limits, own } }
    }

    pub(super) fn remote(alias: &str, remote: Arc<Remote>) -> Self {
        Self { alias: alias.to_owned(), kind: Kind::Remote(remote) }
    }

    /// The backend's alias.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// Whether others use it too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match &self.kind {
            Kind::Child { own, .. } => own.is_none(),
            Kind::Remote(remote) => !remote.is_session(),
        }
    }

    /// The era that is spoken here.
    #[must_use]
    pub fn era(&self) -> Era {
        match &self.kind {
            Kind::Child { link, .. } => link.era(),
            Kind::Remote(remote) => remote.era(),
        }
    }

    /// Whether it can be used no more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match &self.kind {
            Kind::Child { link, .. } => link.has_ended(),
            Kind::Remote(remote) => remote.has_ended(),
        }
    }

    /// Waits until it can be used no more.
    pub async fn ended(&self) {
        match &self.kind {
            Kind::Child { link, .. } => link.ended().await,
            Kind::Remote(remote) => remote.ended().await,
        }
    }

    /// Makes one request and waits for its response.
    pub(super) async fn request(&self, request: &Request<'_>) -> Result<Response, CallError> {
        match &self.kind {
            Kind::Child { link, limits, own } => link.request(request, *limits, own.is_none()).await,
            Kind::Remote(remote) => remote.request(request).await,
        }
    }

    /// Passes on a notification of the client's. A request cannot pass here, since it gets no id.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn notify(&self, method: &str, params: Option<&str>) -> Result<(), CallError> {
        if method == INITIALIZED && self.era() == Era::Modern {
            return Ok(()); // There is nothing to initialize there, and a strict server refuses what it does not know.
        }
        self.send(message::write(None, method, params)).await
    }

    /// Passes on a client's response to a request of the backend's: `message` is a whole response.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn respond(&self, message: String) -> Result<(), CallError> {
        self.send(message).await
    }

    async fn send(&self, message: String) -> Result<(), CallError> {
        match &self.kind {
            Kind::Child { link, .. } => link.send(message).await,
            Kind::Remote(remote) => remote.send(message).await,
        }
    }

    /// Opens the stream on which the backend sends what belongs to no request, where it has one.
    pub fn listen(&self) {
        if let Kind::Remote(remote) = &self.kind {
            remote.listen();
        }
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        if let Kind::Remote(remote) = &self.kind {
            remote.close();
        }
    }
}
