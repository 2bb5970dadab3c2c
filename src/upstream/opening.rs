//! The connections to a backend: they are opened here, and used by callers or by the gateway.

use std::sync::Arc;

use tokio::time::Instant;

use crate::mcp::json;
use crate::mcp::protocol::LEGACY_LATEST;
use crate::mcp::shared_text::SharedText;

use super::backend::{Backend, Transport};
use super::connection::{ChildHolder, UpstreamConnection};
use super::error::CallError;
use super::http::{Endpoint, is_rejection};
use super::message::{self, DISCOVER, Request, Response, ServerMessageHandler, discover_params};
use super::oauth::CallerToken;
use super::stdio::ChildConnection;

impl Backend {
    /// The gateway's own connection: to a stateless backend for all callers, otherwise for lists and their changes.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or not within the timeout of a call.
    pub async fn shared(&self) -> Result<Arc<UpstreamConnection>, CallError> {
        self.in_time(Instant::now(), self.open_shared()).await
    }

    pub(super) async fn open_shared(&self) -> Result<Arc<UpstreamConnection>, CallError> {
        let _opening = self.uses.one();
        let endpoint = match &self.transport {
            Transport::Stdio(stdio) => {
                let child = stdio.shared_child().await?;
                return Ok(self.child_connection(child, ChildHolder::supervisor()));
            }
            Transport::Http(endpoint) => endpoint,
        };
        if endpoint.speaks_modern(None).await? {
            return Ok(self.stateless(endpoint, None));
        }
        let mut shared = self.shared_session.lock().await;
        if let Some(connection) = shared.as_ref().filter(|connection| !connection.has_ended()) {
            return Ok(Arc::clone(connection));
        }
        *shared = None;
        self.list_changes.set_tools(None);
        let listener = Arc::clone(&self.list_changes) as Arc<dyn ServerMessageHandler>;
        // Boxed: it is rare, and would make the future of every call larger.
        let connection = Box::pin(self.open_gateway_session(endpoint, None, Some(listener))).await?;
        connection.listen(None);
        *shared = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// A connection for stateless requests, on behalf of a `caller` or of the gateway.
    pub(super) fn stateless(
        &self,
        endpoint: &Arc<Endpoint>,
        caller: Option<&Arc<CallerToken>>,
    ) -> Arc<UpstreamConnection> {
        Arc::new(UpstreamConnection::http(
            &self.alias,
            self.uses.one(),
            Arc::new(endpoint.stateless_connection(caller)),
        ))
    }

    /// Opens the conversation of one principal without a session. What the backend sends outside of a request is
    /// dropped, and its own requests are refused.
    pub(super) async fn open_own(
        &self,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        match &self.transport {
            Transport::Stdio(stdio) => {
                let stop = self.tasks.stop.child_token();
                let guard = stop.clone().drop_guard();
                let (child, _) = stdio.start_own_child(None, None, stop, &self.tasks.tracker).await?;
                Ok(self.child_connection(child, ChildHolder::principal(guard)))
            }
            Transport::Http(endpoint) => self.open_gateway_session(endpoint, caller, None).await,
        }
    }

    /// Opens a legacy session at an HTTP backend with the gateway's own parameters.
    async fn open_gateway_session(
        &self,
        endpoint: &Arc<Endpoint>,
        caller: Option<&Arc<CallerToken>>,
        listener: Option<Arc<dyn ServerMessageHandler>>,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        let opened = endpoint.open_session(&message::own_initialize_params().into(), caller, listener).await;
        if is_era_rejection(&opened) {
            endpoint.forget_era();
        }
        let (session, answer) = opened?;
        if let Response::Error { error, .. } = answer {
            return Err(CallError::Down { reason: format!("it refused to initialize: {error}") });
        }
        session.send(message::write(None, "notifications/initialized", None), caller).await?;
        Ok(Arc::new(UpstreamConnection::http(&self.alias, self.uses.one(), session)))
    }

    pub(super) fn child_connection(&self, child: Arc<ChildConnection>, holder: ChildHolder) -> Arc<UpstreamConnection> {
        Arc::new(UpstreamConnection::stdio(&self.alias, self.uses.one(), child, self.timeouts, holder))
    }

    /// Opens the connection of one legacy session with the client's `initialize_params`. Returns it with the answer to
    /// `initialize`. For a backend that speaks the stateless era only, returns a connection without a session. `caller`
    /// is the client's token, if the backend is called on its behalf.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or its process ended.
    pub async fn open(
        &self,
        initialize_params: &SharedText,
        caller: Option<&Arc<CallerToken>>,
        listener: Arc<dyn ServerMessageHandler>,
    ) -> Result<(Arc<UpstreamConnection>, Response), CallError> {
        self.check_caller(caller)?;
        let _opening = self.uses.one();
        match &self.transport {
            Transport::Stdio(stdio) => {
                let stop = self.tasks.stop.child_token();
                let guard = stop.clone().drop_guard();
                let (child, answer) =
                    stdio.start_own_child(Some(initialize_params), Some(listener), stop, &self.tasks.tracker).await?;
                if matches!(answer, Response::Error { .. }) && self.speaks_modern(None).await.unwrap_or(false) {
                    return Box::pin(self.open_modern(self.shared().await?, None)).await;
                }
                Ok((self.child_connection(child, ChildHolder::session(guard)), answer))
            }
            Transport::Http(endpoint) => {
                let opened = endpoint.open_session(initialize_params, caller, Some(listener)).await;
                if is_era_rejection(&opened) {
                    endpoint.forget_era();
                    if endpoint.speaks_modern(caller).await.unwrap_or(false) {
                        return Box::pin(self.open_modern(self.stateless(endpoint, caller), caller)).await;
                    }
                }
                let (session, answer) = opened?;
                Ok((Arc::new(UpstreamConnection::http(&self.alias, self.uses.one(), session)), answer))
            }
        }
    }

    /// The `connection` to a stateless backend, with an answer to `initialize` that is made from the backend's
    /// answer to `server/discover`.
    async fn open_modern(
        &self,
        connection: Arc<UpstreamConnection>,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<(Arc<UpstreamConnection>, Response), CallError> {
        let request = Request::new(DISCOVER, Some(discover_params().into())).on_behalf_of(caller);
        let answer = connection.request(&request).await?;
        let Response::Result(discovered) = answer else { return Ok((connection, answer)) };
        connection.keep_greeting(&discovered);
        let meta = discovered.object("_meta").unwrap_or_default();
        let info = meta.get("io.modelcontextprotocol/serverInfo");
        let version = json::quoted(LEGACY_LATEST);
        let alias = json::object([("name", json::quoted(&self.alias).as_str()), ("version", "\"\"")]);
        let mut result = vec![
            ("protocolVersion", version.as_str()),
            ("capabilities", discovered.get("capabilities").unwrap_or("{}")),
            ("serverInfo", info.unwrap_or(alias.as_str())),
        ];
        result.extend(discovered.get("instructions").map(|text| ("instructions", text)));
        Ok((connection, Response::result(&json::object(result))))
    }
}

/// Returns whether `initialize` was rejected in a way that suggests that the backend speaks the other era.
fn is_era_rejection<T>(opened: &Result<(T, Response), CallError>) -> bool {
    match opened {
        Ok((_, answer)) => matches!(answer, Response::Error { .. }),
        Err(CallError::Http { status }) => is_rejection(*status),
        Err(_) => false,
    }
}
