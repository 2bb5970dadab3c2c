//! Opening a connection: `initialize` of a legacy session, and again when the backend no longer knows the session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::HeaderValue;

use crate::mcp::json::Object;
use crate::mcp::protocol::{Era, LEGACY_LATEST};
use crate::mcp::shared_text::SharedText;
use crate::upstream::error::CallError;
use crate::upstream::message::{self, Request, Response, ServerMessageHandler};
use crate::upstream::oauth::CallerToken;
use crate::upstream::offer::Greeting;

use super::connection::{HttpConnection, Session};
use super::endpoint::Endpoint;
use super::era::is_rejection;

impl Endpoint {
    /// A connection for stateless requests, on behalf of a `caller` or of the gateway.
    pub(in crate::upstream) fn stateless_connection(
        self: &Arc<Self>,
        caller: Option<&Arc<CallerToken>>,
    ) -> HttpConnection {
        let connection = HttpConnection::new(self, Era::Modern, SharedText::default(), caller, None);
        // A caller's own is not known before its handshake: until then the backend may offer it everything.
        if caller.is_none() {
            *connection.greeting.lock() = self.greeting().unwrap_or_default();
        }
        connection
    }

    /// Opens a legacy session, on behalf of a `caller` or of the gateway. Returns it with the answer to `initialize`.
    /// The caller sends `notifications/initialized`.
    ///
    /// # Errors
    /// [`CallError`], or the error that the backend answered with.
    pub(in crate::upstream) async fn open_session(
        self: &Arc<Self>,
        initialize_params: &SharedText,
        caller: Option<&Arc<CallerToken>>,
        listener: Option<Arc<dyn ServerMessageHandler>>,
    ) -> Result<(Arc<HttpConnection>, Response), CallError> {
        let connection = Arc::new(HttpConnection::new(self, Era::Legacy, initialize_params.clone(), caller, listener));
        let response = connection.initialize(caller).await?;
        Ok((connection, response))
    }
}

impl HttpConnection {
    async fn initialize(self: &Arc<Self>, caller: Option<&Arc<CallerToken>>) -> Result<Response, CallError> {
        let request = Request::new("initialize", Some(self.initialize_params.clone())).on_behalf_of(caller);
        self.request_without_session(&request).await
    }

    /// Initializes the session again, unless another request has done so since `seen` was read. `caller` is the token
    /// of the request that needs it.
    pub(super) async fn renew_session(
        self: &Arc<Self>,
        seen: &Session,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<(), CallError> {
        let _lock = self.initialize_lock.lock().await;
        if self.session() != *seen {
            return Ok(());
        }
        tracing::info!(backend = self.endpoint.alias, "the backend no longer knows the session; initializing it again");
        let reason = match self.initialize(caller).await {
            Ok(Response::Result(_)) => {
                self.send(message::write(None, "notifications/initialized", None), caller).await?;
                if self.listen_requested.load(Ordering::Acquire) {
                    self.start_listening(true); // The previous stream ended with its session.
                }
                return Ok(());
            }
            Ok(Response::Error { error, .. }) => error,
            Err(CallError::Http { status }) if is_rejection(status) => format!("HTTP status {status}"),
            Err(error) => return Err(error),
        };
        self.abandon();
        Err(CallError::Down { reason: format!("it refused to initialize the session again: {reason}") })
    }

    /// Stores the session that a successful `initialize` has opened.
    pub(super) fn store_session(&self, id: Option<HeaderValue>, answer: &Response) {
        let Response::Result(result) = answer else { return };
        let version = result.string("protocolVersion");
        let version = HeaderValue::from_str(version.as_deref().unwrap_or(LEGACY_LATEST)).ok();
        *self.session.lock() = Session { id, version };
        *self.declared_lists.lock() = message::announced_list_changes(result);
        self.keep_greeting(result);
    }

    /// Keeps the answer to a handshake. A backend may greet each caller in another way, so it belongs to the
    /// connection; that to the gateway's own handshake is also the endpoint's.
    pub(in crate::upstream) fn keep_greeting(&self, result: &Object<'_>) {
        let greeting = Arc::new(Greeting::of(result));
        if !self.is_on_behalf() && !self.is_client_session() {
            self.endpoint.set_greeting(&greeting);
        }
        *self.greeting.lock() = greeting;
    }
}
