//! One conversation with a backend, over either transport.

use std::sync::Arc;

use tokio_util::sync::DropGuard;

use crate::mcp::protocol::Era;

use super::error::CallError;
use super::http::HttpConnection;
use super::message::{self, Request, Response};
use super::stdio::ChildConnection;
use super::timeouts::Timeouts;

/// The notification that a client sends after the answer to `initialize`.
const INITIALIZED: &str = "notifications/initialized";

/// One conversation with a backend: with a child process, or over HTTP.
#[derive(Debug)]
pub struct UpstreamConnection {
    alias: String,
    transport: TransportConnection,
}

#[derive(Debug)]
enum TransportConnection {
    /// A child process. The child of a session ends when its guard is dropped; the shared child has no guard.
    Child { child: Arc<ChildConnection>, timeouts: Timeouts, session_guard: Option<DropGuard> },
    /// A session at an HTTP backend, or stateless requests to it.
    Http(Arc<HttpConnection>),
}

impl UpstreamConnection {
    /// A connection to a child process. `session_guard` ends the child of a session.
    pub(super) fn stdio(
        alias: &str,
        child: Arc<ChildConnection>,
        timeouts: Timeouts,
        session_guard: Option<DropGuard>,
    ) -> Self {
        Self { alias: alias.to_owned(), transport: TransportConnection::Child { child, timeouts, session_guard } }
    }

    /// A connection to an HTTP backend.
    pub(super) fn http(alias: &str, connection: Arc<HttpConnection>) -> Self {
        Self { alias: alias.to_owned(), transport: TransportConnection::Http(connection) }
    }

    /// The backend's alias.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// Returns whether the connection is shared, rather than of one client's session.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match &self.transport {
            TransportConnection::Child { session_guard, .. } => session_guard.is_none(),
            TransportConnection::Http(connection) => !connection.is_client_session(),
        }
    }

    /// The era that the backend speaks on this connection.
    #[must_use]
    pub fn era(&self) -> Era {
        match &self.transport {
            TransportConnection::Child { child, .. } => child.era(),
            TransportConnection::Http(connection) => connection.era(),
        }
    }

    /// Returns whether the connection cannot be used any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match &self.transport {
            TransportConnection::Child { child, .. } => child.has_ended(),
            TransportConnection::Http(connection) => connection.has_ended(),
        }
    }

    /// Waits until the connection cannot be used any more.
    pub async fn ended(&self) {
        match &self.transport {
            TransportConnection::Child { child, .. } => child.ended().await,
            TransportConnection::Http(connection) => connection.ended().await,
        }
    }

    /// Makes one request and waits for its response.
    pub(super) async fn request(&self, request: &Request<'_>) -> Result<Response, CallError> {
        match &self.transport {
            TransportConnection::Child { child, timeouts, session_guard } => {
                child.request(request, *timeouts, session_guard.is_none()).await
            }
            TransportConnection::Http(connection) => connection.request(request).await,
        }
    }

    /// Forwards a notification of a client. It cannot be used for a request, because it assigns no id.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn notify(&self, method: &str, params: Option<&str>) -> Result<(), CallError> {
        if method == INITIALIZED && self.era() == Era::Modern {
            return Ok(()); // The stateless era has no handshake, and a strict server rejects unknown notifications.
        }
        self.send(message::write(None, method, params)).await
    }

    /// Forwards a client's response to a request of the backend. `message` is the whole response.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn respond(&self, message: String) -> Result<(), CallError> {
        self.send(message).await
    }

    async fn send(&self, message: String) -> Result<(), CallError> {
        match &self.transport {
            TransportConnection::Child { child, .. } => child.send(message).await,
            TransportConnection::Http(connection) => connection.send(message).await,
        }
    }

    /// Starts to read the stream of messages that belong to no request, if the backend has such a stream.
    pub fn listen(&self) {
        if let TransportConnection::Http(connection) = &self.transport {
            connection.listen();
        }
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        if let TransportConnection::Http(connection) = &self.transport {
            connection.close();
        }
    }
}
