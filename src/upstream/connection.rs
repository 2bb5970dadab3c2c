//! One conversation with a backend, over either transport.

use std::sync::Arc;

use tokio_util::sync::DropGuard;

use crate::mcp::json::Object;
use crate::mcp::protocol::Era;

use super::error::CallError;
use super::http::HttpConnection;
use super::message::{self, Request, Response};
use super::oauth::CallerToken;
use super::offer::Greeting;
use super::stdio::ChildConnection;
use super::timeouts::Timeouts;
use super::uses::Use;

/// The notification that a client sends after the answer to `initialize`.
const INITIALIZED: &str = "notifications/initialized";

/// One conversation with a backend: with a child process, or over HTTP.
#[derive(Debug)]
pub struct UpstreamConnection {
    alias: String,
    backend_use: Use,
    transport: TransportConnection,
}

#[derive(Debug)]
enum TransportConnection {
    /// A child process.
    Child { child: Arc<ChildConnection>, timeouts: Timeouts, holder: ChildHolder },
    /// A session at an HTTP backend, or stateless requests to it.
    Http(Arc<HttpConnection>),
}

/// The holder of a child process, which ends when its guard is dropped. The supervisor of the shared child has none.
#[derive(Debug)]
pub(super) struct ChildHolder {
    is_session: bool,
    _guard: Option<DropGuard>,
}

impl ChildHolder {
    /// One session of a client.
    pub(super) fn session(guard: DropGuard) -> Self {
        Self { is_session: true, _guard: Some(guard) }
    }

    /// One principal, whose clients may use equal progress tokens.
    pub(super) fn principal(guard: DropGuard) -> Self {
        Self { is_session: false, _guard: Some(guard) }
    }

    /// The backend's supervisor, for all clients.
    pub(super) fn supervisor() -> Self {
        Self { is_session: false, _guard: None }
    }
}

impl UpstreamConnection {
    /// A connection to a child process.
    pub(super) fn stdio(
        alias: &str,
        backend_use: Use,
        child: Arc<ChildConnection>,
        timeouts: Timeouts,
        holder: ChildHolder,
    ) -> Self {
        Self { alias: alias.to_owned(), backend_use, transport: TransportConnection::Child { child, timeouts, holder } }
    }

    /// A connection to an HTTP backend.
    pub(super) fn http(alias: &str, backend_use: Use, connection: Arc<HttpConnection>) -> Self {
        Self { alias: alias.to_owned(), backend_use, transport: TransportConnection::Http(connection) }
    }

    /// The backend's alias.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// The era that the backend speaks on this connection.
    #[must_use]
    pub fn era(&self) -> Era {
        match &self.transport {
            TransportConnection::Child { child, .. } => child.era(),
            TransportConnection::Http(connection) => connection.era(),
        }
    }

    /// The backend's answer to the handshake of this connection.
    #[must_use]
    pub fn greeting(&self) -> Arc<Greeting> {
        match &self.transport {
            TransportConnection::Child { child, .. } => child.greeting(),
            TransportConnection::Http(connection) => connection.greeting(),
        }
    }

    /// Keeps the answer to a handshake that was made after the connection was opened.
    pub(super) fn keep_greeting(&self, result: &Object<'_>) {
        if let TransportConnection::Http(connection) = &self.transport {
            connection.keep_greeting(result);
        }
    }

    /// Returns whether the connection cannot be used any more, or should not: its backend was replaced.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        if self.backend_use.is_retired() {
            return true;
        }
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
            TransportConnection::Child { child, timeouts, holder } => {
                child.request(request, *timeouts, !holder.is_session).await
            }
            TransportConnection::Http(connection) => tokio::select! {
                biased;
                answer = connection.request(request) => answer,
                () = self.backend_use.stopped() => Err(CallError::Replaced),
            },
        }
    }

    /// Returns true if it is used on behalf of a caller.
    #[must_use]
    pub fn is_on_behalf(&self) -> bool {
        matches!(&self.transport, TransportConnection::Http(connection) if connection.is_on_behalf())
    }

    /// Forwards a notification of a client. It cannot be used for a request, because it assigns no id. `caller` is the
    /// client's token, if the connection is used on its behalf.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn notify(
        &self,
        method: &str,
        params: Option<&str>,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<(), CallError> {
        if method == INITIALIZED && self.era() == Era::Modern {
            return Ok(()); // The stateless era has no handshake, and a strict server rejects unknown notifications.
        }
        self.send(message::write(None, method, params), caller).await
    }

    /// Forwards a client's response to a request of the backend. `message` is the whole response, and `caller` is the
    /// client's token, if the connection is used on its behalf; `None`: the client did not respond.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn respond(&self, message: String, caller: Option<&Arc<CallerToken>>) -> Result<(), CallError> {
        self.send(message, caller).await
    }

    async fn send(&self, message: String, caller: Option<&Arc<CallerToken>>) -> Result<(), CallError> {
        match &self.transport {
            TransportConnection::Child { child, .. } => child.send(message).await,
            TransportConnection::Http(connection) => connection.send(message, caller).await,
        }
    }

    /// Starts to read the stream of messages that belong to no request, if the backend has such a stream. `caller` is
    /// the token of the client that begins to listen, if the connection is used on its behalf.
    pub fn listen(&self, caller: Option<&Arc<CallerToken>>) {
        if let TransportConnection::Http(connection) = &self.transport {
            connection.take_up(caller);
            connection.listen();
        }
    }

    /// A reload may not accept the known token of the caller any more: what belongs to no message of the caller waits
    /// for the token of the next one.
    pub fn forget_caller(&self) {
        if let TransportConnection::Http(connection) = &self.transport {
            connection.forget_caller();
        }
    }

    /// The session of its client has ended. Requests that are open continue; nothing else does.
    pub fn release(&self) {
        if let TransportConnection::Http(connection) = &self.transport {
            connection.release();
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
