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

use crate::certificate_end::CertificateEnd;
use crate::config;
use crate::mcp::protocol::Era;
use crate::walls::{self, Launcher};

use super::backend_tasks::BackendTasks;
use super::connection::{ChildHolder, UpstreamConnection};
use super::conversations::{Conversations, Owner};
use super::definitions::Definitions;
use super::error::CallError;
use super::http::{Endpoint, EndpointError};
use super::known_names::KnownNames;
use super::list_changes::{Change, ListChangeHandler};
use super::message::ServerMessageHandler;
use super::oauth::{CallerToken, CredentialError};
use super::offer::Greeting;
use super::stdio::StdioBackend;
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

    /// The end of its certificate, if one was seen.
    #[must_use]
    pub fn certificate_end(&self) -> Option<CertificateEnd> {
        match &self.transport {
            Transport::Stdio(_) => None,
            Transport::Http(endpoint) => endpoint.certificate_end(),
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
    pub(super) fn check_caller(&self, caller: Option<&Arc<CallerToken>>) -> Result<(), CallError> {
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
