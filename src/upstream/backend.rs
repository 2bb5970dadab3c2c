//! One backend: its transport, its era, and the connections to it.
//!
//! Each legacy session of a client has a connection of its own, which is initialized with that client's parameters. The
//! shared connection is the gateway's own. It is stateless if the backend supports that, and then serves all callers
//! without a session. Otherwise it is a legacy session of the gateway, without capabilities, which reads lists and
//! changes of lists; each principal without a session then has a conversation of its own, so that nothing that a caller
//! sets in it reaches another.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::mcp::json;
use crate::mcp::lines::LINE_BYTES_MAX;
use crate::mcp::methods::List;
use crate::mcp::params::Params;
use crate::mcp::protocol::{Era, LEGACY_LATEST};
use crate::mcp::shared_text::SharedText;
use crate::walls::Launcher;

use super::backend_tasks::BackendTasks;
use super::connection::{ChildHolder, UpstreamConnection};
use super::conversations::{Conversations, Owner};
use super::definitions::Definitions;
use super::era_params::forwarded;
use super::error::CallError;
use super::http::{Endpoint, EndpointError, is_rejection};
use super::known_names::KnownNames;
use super::list::{Item, NOT_OFFERED};
use super::list_changes::{Change, ListChangeHandler};
use super::message::{self, DISCOVER, Request, Response, ServerMessageHandler, discover_params};
use super::stdio::{ChildConnection, StdioBackend};
use super::timeouts::Timeouts;

/// Most pages of a list. *Chosen*: the Python SDK's own bound.
const LIST_PAGES_MAX: usize = 100;

/// Most bytes of all pages of a list. *Chosen*: as for one line.
const LIST_BYTES_MAX: usize = LINE_BYTES_MAX;

/// Longest time for one page of a list. *Chosen*: most servers have static lists, and a client waits for the answer.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Most pages of lists that are read from one backend at the same time. *Chosen*: more would only wait at the backend.
const CONCURRENT_LISTS_MAX: usize = 32;

/// One backend.
#[derive(Debug)]
pub struct Backend {
    pub(super) alias: String,
    timeouts: Timeouts,
    list_permits: Semaphore,
    pub(super) transport: Transport,
    /// The listener of the shared connection.
    pub(super) list_changes: Arc<ListChangeHandler>,
    /// The shared legacy session at an HTTP backend, if it is open.
    shared_session: tokio::sync::Mutex<Option<Arc<UpstreamConnection>>>,
    /// The operator declared that all callers may share a conversation.
    is_shared: bool,
    conversations: Conversations,
    /// The items that were left out of its lists.
    pub(super) items_omitted: AtomicU64,
    pub(super) known_names: KnownNames,
    pub(super) definitions: Definitions,
    /// The time at which a list was read in vain for a tool's definition.
    pub(super) definitions_missed_at: tokio::sync::Mutex<Option<Instant>>,
    tasks: BackendTasks,
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
        let list_changes = Arc::new(ListChangeHandler::new(alias, changes));
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
            items_omitted: AtomicU64::new(0),
            known_names: KnownNames::default(),
            definitions: Definitions::default(),
            definitions_missed_at: tokio::sync::Mutex::default(),
            tasks: BackendTasks { tracker: tasks, stop },
        })
    }

    /// The backend's alias.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// Keeps the shared child running until the gateway stops. Returns at once for an HTTP backend.
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
            Transport::Http(_) => self.modern().is_some(),
        }
    }

    /// Returns whether the backend speaks the stateless era, and probes it if that is not known.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or its answer is inconclusive.
    pub async fn speaks_modern(&self) -> Result<bool, CallError> {
        match &self.transport {
            Transport::Stdio(stdio) => Ok(stdio.shared_child().await?.era() == Era::Modern),
            Transport::Http(endpoint) => endpoint.speaks_modern().await,
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
    /// It is not at a stateless HTTP backend, which rejects unknown tools itself, and for which a list costs a request.
    #[must_use]
    pub fn is_looked_up(&self) -> bool {
        matches!(self.transport, Transport::Stdio(_)) || self.modern() != Some(true)
    }

    /// The connection for requests without a session: the shared one if the backend speaks the stateless era or the
    /// operator declared it shared, otherwise that of the `owner`, which is opened if there is none.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or not within the timeout of a call, or has too many
    /// conversations.
    pub async fn conversation(
        self: &Arc<Self>,
        owner: impl FnOnce() -> Owner,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        // Boxed: it would make the future of every call larger.
        Box::pin(self.in_time(Instant::now(), self.open_conversation(owner))).await
    }

    async fn open_conversation(
        self: &Arc<Self>,
        owner: impl FnOnce() -> Owner,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        match &self.transport {
            Transport::Stdio(stdio) => {
                let child = stdio.shared_child().await?;
                if self.is_shared || child.era() == Era::Modern {
                    return Ok(self.child_connection(child, ChildHolder::supervisor()));
                }
            }
            Transport::Http(endpoint) => {
                if self.is_shared || endpoint.speaks_modern().await? {
                    return self.open_shared().await;
                }
            }
        }
        let backend = Arc::clone(self);
        let open = async move { backend.open_own().await };
        self.conversations.enter(owner())?.get(&self.tasks, open, |_| {}).await
    }

    /// The conversation of `owner` if it has one that works, otherwise the shared connection: for what reads and
    /// changes nothing, such as lists.
    ///
    /// # Errors
    /// As for [`Backend::shared`].
    pub async fn conversation_to_read(
        &self,
        owner: impl FnOnce() -> Owner,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        match self.open_conversation_of(owner) {
            Some(connection) => Ok(connection),
            None => self.shared().await,
        }
    }

    fn open_conversation_of(&self, owner: impl FnOnce() -> Owner) -> Option<Arc<UpstreamConnection>> {
        if self.conversations.count() == 0 {
            return None;
        }
        self.conversations.get(&owner())?.usable()
    }

    /// Ends the conversations of callers without a session that were idle longer than `idle`.
    pub(super) fn end_idle_conversations(&self, idle: Duration) {
        let ended = self.conversations.end_idle(idle);
        if ended > 0 {
            tracing::info!(backend = self.alias, ended, "ended idle conversations of callers without a session");
        }
    }

    /// Ends the conversations of callers without a session whose roles do not reach the backend any more.
    pub(super) fn end_unreachable_conversations(&self, reaches: impl Fn(&[String]) -> bool) {
        let ended = self.conversations.end_where(|owner| !reaches(&owner.roles));
        if ended > 0 {
            tracing::info!(backend = self.alias, ended, "ended conversations of roles that may not use the backend");
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
        // Boxed: it would make the future of every call larger.
        Box::pin(self.in_time(Instant::now(), self.open_shared())).await
    }

    async fn open_shared(&self) -> Result<Arc<UpstreamConnection>, CallError> {
        let endpoint = match &self.transport {
            Transport::Stdio(stdio) => {
                let child = stdio.shared_child().await?;
                return Ok(self.child_connection(child, ChildHolder::supervisor()));
            }
            Transport::Http(endpoint) => endpoint,
        };
        if self.speaks_modern().await? {
            let connection = Arc::new(endpoint.stateless_connection());
            return Ok(Arc::new(UpstreamConnection::http(&self.alias, connection)));
        }
        let mut shared = self.shared_session.lock().await;
        if let Some(connection) = shared.as_ref().filter(|connection| !connection.has_ended()) {
            return Ok(Arc::clone(connection));
        }
        *shared = None;
        self.list_changes.set_tools(None);
        let listener = Arc::clone(&self.list_changes) as Arc<dyn ServerMessageHandler>;
        let connection = self.open_gateway_session(endpoint, Some(listener)).await?;
        connection.listen();
        *shared = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Opens the conversation of one principal without a session. What the backend sends outside of a request is
    /// dropped, and its own requests are refused.
    async fn open_own(&self) -> Result<Arc<UpstreamConnection>, CallError> {
        match &self.transport {
            Transport::Stdio(stdio) => {
                let stop = self.tasks.stop.child_token();
                let guard = stop.clone().drop_guard();
                let (child, _) = stdio.start_own_child(None, None, stop, &self.tasks.tracker).await?;
                Ok(self.child_connection(child, ChildHolder::principal(guard)))
            }
            Transport::Http(endpoint) => self.open_gateway_session(endpoint, None).await,
        }
    }

    /// Opens a legacy session at an HTTP backend with the gateway's own parameters.
    async fn open_gateway_session(
        &self,
        endpoint: &Arc<Endpoint>,
        listener: Option<Arc<dyn ServerMessageHandler>>,
    ) -> Result<Arc<UpstreamConnection>, CallError> {
        let opened = endpoint.open_session(&message::own_initialize_params().into(), listener).await;
        if is_era_rejection(&opened) {
            endpoint.forget_era();
        }
        let (session, answer) = opened?;
        if let Response::Error { error, .. } = answer {
            return Err(CallError::Down { reason: format!("it refused to initialize: {error}") });
        }
        session.send(message::write(None, "notifications/initialized", None)).await?;
        Ok(Arc::new(UpstreamConnection::http(&self.alias, session)))
    }

    fn child_connection(&self, child: Arc<ChildConnection>, holder: ChildHolder) -> Arc<UpstreamConnection> {
        Arc::new(UpstreamConnection::stdio(&self.alias, child, self.timeouts, holder))
    }

    /// Opens the connection of one legacy session with the client's `initialize_params`. Returns it with the answer to
    /// `initialize`. For a backend that speaks the stateless era only, returns the shared connection.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or its process ended.
    pub async fn open(
        &self,
        initialize_params: &SharedText,
        listener: Arc<dyn ServerMessageHandler>,
    ) -> Result<(Arc<UpstreamConnection>, Response), CallError> {
        match &self.transport {
            Transport::Stdio(stdio) => {
                let stop = self.tasks.stop.child_token();
                let guard = stop.clone().drop_guard();
                let (child, answer) =
                    stdio.start_own_child(Some(initialize_params), Some(listener), stop, &self.tasks.tracker).await?;
                if matches!(answer, Response::Error { .. }) && self.speaks_modern().await.unwrap_or(false) {
                    return Box::pin(self.open_modern()).await;
                }
                Ok((self.child_connection(child, ChildHolder::session(guard)), answer))
            }
            Transport::Http(endpoint) => {
                let opened = endpoint.open_session(initialize_params, Some(listener)).await;
                if is_era_rejection(&opened) {
                    endpoint.forget_era();
                    if endpoint.speaks_modern().await.unwrap_or(false) {
                        return Box::pin(self.open_modern()).await;
                    }
                }
                let (session, answer) = opened?;
                Ok((Arc::new(UpstreamConnection::http(&self.alias, session)), answer))
            }
        }
    }

    /// The shared connection to a stateless backend, with an answer to `initialize` that is made from the backend's
    /// answer to `server/discover`.
    async fn open_modern(&self) -> Result<(Arc<UpstreamConnection>, Response), CallError> {
        let connection = self.shared().await?;
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

    /// Runs `read`, which reads one page of a list, when few enough others are being read from this backend. A backend
    /// that does not answer does not delay the lists of others.
    ///
    /// # Errors
    /// The error of `read`, or [`CallError::TimedOut`].
    pub async fn one_page<T>(&self, read: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let timeout = LIST_TIMEOUT.min(self.timeouts.total);
        let work = async {
            // I6: the number of concurrent reads is bounded. The semaphore is never closed.
            let _permit = self.list_permits.acquire().await.ok();
            read.await
        };
        tokio::time::timeout(timeout, work).await.unwrap_or(Err(CallError::TimedOut { after: timeout }))
    }

    /// Reads all pages of a list.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::List`] if the list does not end or a page cannot be read.
    pub async fn list(&self, connection: &UpstreamConnection, list: List) -> Result<Arc<[Item]>, CallError> {
        let (mut items, mut bytes, mut cursors) = (Vec::new(), 0_usize, Vec::<String>::new());
        for _ in 0..LIST_PAGES_MAX {
            let cursor = cursors.last().map(|cursor| json::quoted(cursor));
            let params = cursor.map(|cursor| Params::own(&[("cursor", &cursor)])).unwrap_or_default();
            let request = Request::new(list.method(), forwarded(&params, connection.era(), None, None));
            let timeout = LIST_TIMEOUT.min(self.timeouts.total);
            let answer = tokio::time::timeout(timeout, connection.request(&request)).await;
            let page = match answer.unwrap_or(Err(CallError::TimedOut { after: timeout }))? {
                Response::Result(result) => result,
                Response::Error { .. } => return Err(CallError::List { fault: NOT_OFFERED }),
            };
            bytes = bytes.saturating_add(page.text().len());
            if bytes > LIST_BYTES_MAX {
                return Err(CallError::List { fault: "it is too long" });
            }
            let page = self.read_page(&page, list)?;
            items.extend(page.items);
            let Some(cursor) = page.next_cursor else { return Ok(items.into()) };
            if cursors.contains(&cursor) {
                return Err(CallError::List { fault: "a page leads back to an earlier page" });
            }
            cursors.push(cursor);
        }
        Err(CallError::List { fault: "it has too many pages" })
    }

    /// Reads all tools on the shared connection, and remembers them until the backend reports a change.
    ///
    /// # Errors
    /// As for [`Backend::list`].
    pub async fn tools(&self) -> Result<Arc<[Item]>, CallError> {
        let tools = self.list(&*self.shared().await?, List::Tools).await?;
        self.definitions.listed(None, &tools, true);
        self.list_changes.set_tools(Some(Arc::clone(&tools)));
        Ok(tools)
    }

    /// Returns whether the backend has a tool, for everyone or in the conversation of `owner`. `Some(false)` means that
    /// the list has just been read; `None`, that it cannot be read.
    pub async fn has_tool(&self, tool: &str, owner: impl FnOnce() -> Owner) -> Option<bool> {
        let has = |tools: &[Item]| tools.iter().any(|known| known.name == tool);
        if self.list_changes.tools().is_some_and(|tools| has(&tools)) || has(&self.tools().await.ok()?) {
            return Some(true);
        }
        let owner = owner();
        let Some(connection) = self.open_conversation_of(|| owner.clone()) else { return Some(false) };
        let tools = self.list(&connection, List::Tools).await.ok()?;
        self.definitions.listed(Some(&owner), &tools, true);
        Some(has(&tools))
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
