//! One backend: its transport, its era, and the connections to it.
//!
//! Each legacy session of a client has a connection of its own, which is initialized with that client's parameters. The
//! shared connection is the gateway's own. It is stateless if the backend supports that, and then serves all callers
//! without a session. Otherwise it is a legacy session of the gateway, without capabilities, which reads lists and
//! changes of lists; each principal without a session then has a conversation of its own, so that nothing that a caller
//! sets in it reaches another. If the backend is called on behalf of callers, each of them has connections of its own
//! in both eras, and the shared one serves no caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::mcp::json;
use crate::mcp::protocol::{Era, LEGACY_LATEST};
use crate::mcp::shared_text::SharedText;
use crate::walls::{self, Launcher};

use super::backend_tasks::BackendTasks;
use super::connection::{ChildHolder, UpstreamConnection};
use super::conversations::{Conversations, Owner};
use super::definitions::Definitions;
use super::error::CallError;
use super::http::{Endpoint, EndpointError, is_rejection};
use super::known_names::KnownNames;
use super::list_changes::{Change, ListChangeHandler};
use super::message::{self, DISCOVER, Request, Response, ServerMessageHandler, discover_params};
use super::oauth::{CallerToken, CredentialError};
use super::offer::Greeting;
use super::stdio::{ChildConnection, StdioBackend};
use super::timeouts::Timeouts;
use super::uses::Uses;

/// Most pages of lists that are read from one backend at the same time. *Chosen*: more would only wait at the backend.
const CONCURRENT_LISTS_MAX: usize = 32;

/// One backend.
#[derive(Debug)]
pub struct Backend {
    pub(super) alias: String,
    pub(super) timeouts: Timeouts,
    pub(super) list_permits: Semaphore,
    pub(super) transport: Transport,
    /// The listener of the shared connection.
    pub(super) list_changes: Arc<ListChangeHandler>,
    /// The shared legacy session at an HTTP backend, if it is open.
    pub(super) shared_session: tokio::sync::Mutex<Option<Arc<UpstreamConnection>>>,
    /// The operator declared that all callers may share a conversation.
    is_shared: bool,
    pub(super) conversations: Conversations,
    /// Takes what is found out about its lists.
    pub(super) changes: broadcast::Sender<Change>,
    /// The interval at which it is looked at; `None`: never.
    pub(super) probe_interval: Option<Duration>,
    /// The last look at it failed.
    pub(super) is_unreachable: AtomicBool,
    /// It did not answer a list in time, and none since.
    pub(super) is_late: AtomicBool,
    /// The items that were left out of its lists.
    pub(super) items_omitted: AtomicU64,
    pub(super) known_names: KnownNames,
    pub(super) definitions: Definitions,
    /// The time at which a list was read in vain for a tool's definition.
    pub(super) definitions_missed_at: tokio::sync::Mutex<Option<Instant>>,
    pub(super) tasks: BackendTasks,
    /// Its connections.
    pub(super) uses: Uses,
}

#[derive(Debug)]
pub(super) enum Transport {
    Stdio(Box<StdioBackend>),
    Http(Arc<Endpoint>),
}

impl Backend {
    /// A backend to which no connection is open, and whose process is not started.
    ///
    /// # Errors
    /// [`EndpointError`]: a credential or certificate cannot be read.
    pub(super) fn new(
        alias: &str,
        config: &config::Backend,
        launcher: &Launcher,
        tasks: TaskTracker,
        stop: CancellationToken,
        changes: broadcast::Sender<Change>,
    ) -> Result<Self, EndpointError> {
        if let Some(error) = Self::environment_error(alias, config) {
            return Err(error);
        }
        let list_changes = Arc::new(ListChangeHandler::new(alias, changes.clone()));
        let transport = if let Some(endpoint) = Endpoint::new(alias, config)? {
            Transport::Http(Arc::new(endpoint))
        } else {
            let listener = Arc::clone(&list_changes) as Arc<dyn ServerMessageHandler>;
            Transport::Stdio(Box::new(StdioBackend::new(alias, launcher.backend(alias, config), listener)))
        };
        Ok(Self {
            alias: alias.to_owned(),
            timeouts: Timeouts { idle: config.idle_timeout, total: config.call_timeout },
            list_permits: Semaphore::new(CONCURRENT_LISTS_MAX),
            transport,
            list_changes,
            shared_session: tokio::sync::Mutex::default(),
            is_shared: config.shared,
            conversations: Conversations::new(config.conversations_max),
            changes,
            probe_interval: Some(config.probe_interval).filter(|interval| !interval.is_zero()),
            is_unreachable: AtomicBool::new(false),
            is_late: AtomicBool::new(false),
            items_omitted: AtomicU64::new(0),
            known_names: KnownNames::default(),
            definitions: Definitions::default(),
            definitions_missed_at: tokio::sync::Mutex::default(),
            uses: Uses { tracker: TaskTracker::new(), retired: stop.child_token(), stop: stop.clone() },
            tasks: BackendTasks { tracker: tasks, stop },
        })
    }

    /// The error in the settings from which the environment of a stdio server is made.
    pub(super) fn environment_error(alias: &str, config: &config::Backend) -> Option<EndpointError> {
        let (key, message) = walls::environment_error(config)?;
        Some(EndpointError::new(alias, &key, message))
    }

    /// The backend's alias.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// Keeps the shared child running until the backend is stopped. Returns at once for an HTTP backend.
    pub(super) async fn supervise(self: Arc<Self>) {
        if let Transport::Stdio(stdio) = &self.transport {
            stdio.supervise(self.tasks.stop.clone()).await;
        }
    }

    /// Returns whether the backend is up, as far as the gateway knows without a request.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match &self.transport {
            Transport::Stdio(stdio) => stdio.is_up(),
            Transport::Http(_) => self.modern().is_some() && !self.is_unreachable.load(Ordering::Relaxed),
        }
    }

    /// Returns true if the backend is called on behalf of callers, each with its own token.
    #[must_use]
    pub fn is_on_behalf(&self) -> bool {
        matches!(&self.transport, Transport::Http(endpoint) if endpoint.is_on_behalf())
    }

    /// Returns true if its requests are made with tokens that expire.
    #[must_use]
    pub fn has_oauth(&self) -> bool {
        matches!(&self.transport, Transport::Http(endpoint) if endpoint.has_oauth())
    }

    /// The name of the credential of a caller's requests, as in a record. `None`: the gateway sends none. `caller` is
    /// the caller's token, if the backend is called on its behalf.
    #[must_use]
    pub fn credential_name(&self, caller: Option<&Arc<CallerToken>>) -> Option<&'static str> {
        match &self.transport {
            Transport::Stdio(_) => None,
            Transport::Http(endpoint) => endpoint.credential_name(caller),
        }
    }

    /// The subject of the token of a caller's requests, if it is a token that names one. `caller` is as for
    /// [`Backend::credential_name`].
    ///
    /// # Errors
    /// [`CallError::Credential`]: there is no token, and none can be got.
    pub async fn credential_subject(&self, caller: Option<&Arc<CallerToken>>) -> Result<Option<String>, CallError> {
        let Transport::Http(endpoint) = &self.transport else { return Ok(None) };
        let token = endpoint.token(caller).await?;
        Ok(token.and_then(|token| token.subject().map(str::to_owned)))
    }

    /// Returns whether the backend speaks the stateless era, and probes it if that is not known, on behalf of a
    /// `caller` or of the gateway.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or its answer is inconclusive.
    pub async fn speaks_modern(&self, caller: Option<&Arc<CallerToken>>) -> Result<bool, CallError> {
        match &self.transport {
            Transport::Stdio(stdio) => Ok(stdio.shared_child().await?.era() == Era::Modern),
            Transport::Http(endpoint) => endpoint.speaks_modern(caller).await,
        }
    }

    /// Returns whether the backend speaks the stateless era, if that is known.
    #[must_use]
    pub fn modern(&self) -> Option<bool> {
        match &self.transport {
            Transport::Stdio(stdio) => stdio.is_modern(),
            Transport::Http(endpoint) => endpoint.is_modern(),
        }
    }

    /// Returns whether a tool is looked up in the list of tools before it is called without a session.
    ///
    /// It is not at a stateless HTTP backend, which rejects unknown tools itself, and for which a list costs a request;
    /// and not at one that is called on behalf of callers, whose tools the gateway itself may not see.
    #[must_use]
    pub fn is_looked_up(&self) -> bool {
        matches!(self.transport, Transport::Stdio(_)) || self.modern() != Some(true) && !self.is_on_behalf()
    }

    /// The connection for requests without a session: the shared one if the backend speaks the stateless era or the
    /// operator declared it shared, otherwise that of the `owner`, which is opened if there is none. `caller` is the
    /// owner's token, if the backend is called on its behalf.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or not within the timeout of a call, or has too many
    /// conversations.
    pub async fn conversation(
        self: &Arc<Self>,
        owner: impl FnOnce() -> Owner,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        self.in_time(Instant::now(), self.open_conversation(owner, caller)).await
    }

    async fn open_conversation(
        self: &Arc<Self>,
        owner: impl FnOnce() -> Owner,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        self.check_caller(caller)?;
        match &self.transport {
            Transport::Stdio(stdio) => {
                let child = stdio.shared_child().await?;
                if self.is_shared || child.era() == Era::Modern {
                    return Ok(self.child_connection(child, ChildHolder::supervisor()));
                }
            }
            Transport::Http(endpoint) => {
                if self.is_shared || endpoint.speaks_modern(caller).await? {
                    return match caller {
                        Some(_) => Ok(self.stateless(endpoint, caller)),
                        None => self.open_shared().await,
                    };
                }
            }
        }
        let open = || {
            let (backend, caller) = (Arc::clone(self), caller.map(Arc::clone));
            async move { backend.open_own(caller.as_ref()).await }
        };
        let connection = self.conversations.enter(owner(), caller)?.get(&self.tasks, open, |_| {}).await?;
        if let (Transport::Http(endpoint), Some(_)) = (&self.transport, caller) {
            endpoint.confirm_legacy();
        }
        Ok(connection)
    }

    /// # Errors
    /// The backend is called on behalf of callers, and there is no `caller`: a caller's request is never made with the
    /// gateway's own token.
    fn check_caller(&self, caller: Option<&Arc<CallerToken>>) -> Result<(), CallError> {
        let is_missing = self.is_on_behalf() && caller.is_none();
        if is_missing { Err(CredentialError::NoCallerToken.into()) } else { Ok(()) }
    }

    /// The conversation of `owner` if it has one that works, otherwise the shared connection: for what reads and
    /// changes nothing, such as lists. With a `caller`, the same as [`Backend::conversation`]: each caller has its own
    /// lists.
    ///
    /// # Errors
    /// As for [`Backend::conversation`].
    pub async fn conversation_to_read(
        self: &Arc<Self>,
        owner: impl FnOnce() -> Owner,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        if caller.is_some() {
            return self.conversation(owner, caller).await;
        }
        match self.open_conversation_of(owner) {
            Some(connection) => Ok(connection),
            None => self.shared().await,
        }
    }

    pub(super) fn open_conversation_of(&self, owner: impl FnOnce() -> Owner) -> Option<Arc<UpstreamConnection>> {
        if self.conversations.count() == 0 {
            return None;
        }
        self.conversations.get(owner(), None)?.usable()
    }

    /// Ends the conversations of callers without a session that were idle longer than `idle`, and forgets the tokens of
    /// callers whose own tokens have ended.
    pub(super) fn end_idle_conversations(&self, idle: Duration) {
        self.forget_exchanged(false);
        let ended = self.conversations.end_idle(idle);
        if ended > 0 {
            tracing::info!(backend = self.alias, ended, "ended idle conversations of callers without a session");
        }
    }

    /// Forgets the tokens of callers whose own tokens have ended, or of all callers.
    pub(super) fn forget_exchanged(&self, all: bool) {
        if let Transport::Http(endpoint) = &self.transport {
            endpoint.forget_exchanged(all);
        }
    }

    /// The number of conversations of callers without a session.
    #[must_use]
    pub fn conversations_open(&self) -> usize {
        self.conversations.count()
    }

    /// The gateway's own connection: to a stateless backend for all callers, otherwise for lists and their changes.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or not within the timeout of a call.
    pub async fn shared(&self) -> Result<Arc<UpstreamConnection>, CallError> {
        self.in_time(Instant::now(), self.open_shared()).await
    }

    async fn open_shared(&self) -> Result<Arc<UpstreamConnection>, CallError> {
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
        connection.listen();
        *shared = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// A connection for stateless requests, on behalf of a `caller` or of the gateway.
    fn stateless(&self, endpoint: &Arc<Endpoint>, caller: Option<&Arc<CallerToken>>) -> Arc<UpstreamConnection> {
        Arc::new(UpstreamConnection::http(
            &self.alias,
            self.uses.one(),
            Arc::new(endpoint.stateless_connection(caller)),
        ))
    }

    /// Opens the conversation of one principal without a session. What the backend sends outside of a request is
    /// dropped, and its own requests are refused.
    async fn open_own(&self, caller: Option<&Arc<CallerToken>>) -> Result<Arc<UpstreamConnection>, CallError> {
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
        session.send(message::write(None, "notifications/initialized", None)).await?;
        Ok(Arc::new(UpstreamConnection::http(&self.alias, self.uses.one(), session)))
    }

    fn child_connection(&self, child: Arc<ChildConnection>, holder: ChildHolder) -> Arc<UpstreamConnection> {
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
                    return Box::pin(self.open_modern(self.shared().await?)).await;
                }
                Ok((self.child_connection(child, ChildHolder::session(guard)), answer))
            }
            Transport::Http(endpoint) => {
                let opened = endpoint.open_session(initialize_params, caller, Some(listener)).await;
                if is_era_rejection(&opened) {
                    endpoint.forget_era();
                    if endpoint.speaks_modern(caller).await.unwrap_or(false) {
                        return Box::pin(self.open_modern(self.stateless(endpoint, caller))).await;
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
    ) -> Result<(Arc<UpstreamConnection>, Response), CallError> {
        let answer = connection.request(&Request::new(DISCOVER, Some(discover_params().into()))).await?;
        let Response::Result(discovered) = answer else { return Ok((connection, answer)) };
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

    /// The tasks of its connections.
    #[must_use]
    pub fn tasks(&self) -> &BackendTasks {
        &self.tasks
    }

    /// Waits for `work` until the timeout of a call that started at `begun`.
    ///
    /// # Errors
    /// The error of `work`, or [`CallError::TimedOut`].
    pub async fn in_time<T>(
        &self,
        begun: Instant,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let total = self.timeouts.total;
        tokio::time::timeout_at(begun + total, work).await.unwrap_or(Err(CallError::TimedOut { after: total }))
    }

    /// The backend's last answer to the gateway's own handshake.
    #[must_use]
    pub fn greeting(&self) -> Option<Arc<Greeting>> {
        match &self.transport {
            Transport::Stdio(stdio) => stdio.greeting(),
            Transport::Http(endpoint) => endpoint.greeting(),
        }
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
