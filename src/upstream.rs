//! The backends: they receive authorized and recorded calls, and return an [`Answer`].
//!
//! [`Upstreams::forward`] takes a [`Permit`] and a [`Receipt`]: proof that the call was authorized and that its intent
//! reached the configured level. The answer it returns cannot be read: only [`crate::audit::Released`], which storing
//! the record returns, gives access to its content (I1). Results are relayed unchanged, except that the gateway adds
//! its request id and, for a modern client, the members that the protocol requires. [`Upstreams::relay`] sends requests
//! that are not audited, and never calls a tool.
//!
//! The failure of a backend is an answer, too, and does not affect other backends. A call whose outcome is unknown is
//! never repeated.

mod answer;
mod backend;
mod backend_tasks;
mod catalog;
mod connection;
mod conversations;
mod definitions;
mod era_params;
mod error;
mod frame;
mod http;
mod known_names;
mod lazy_connection;
mod list;
mod list_changes;
mod message;
mod oauth;
mod offer;
mod opening;
mod receipt;
mod reconnect;
mod retire;
mod sent_credentials;
mod stdio;
mod timeouts;
mod uses;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use answer::{Answer, AnswerKind, Content, dressed, public_message, unrecorded};
use axum::http::HeaderMap;
pub use backend::Backend;
pub use connection::UpstreamConnection;
pub use conversations::Owner;
pub use definitions::{DefinitionChange, DefinitionChanges, definition_digest};
pub use era_params::forwarded;
pub use error::{CallError, error_object};
pub use http::EndpointError;
pub use lazy_connection::LazyConnection;
pub use list::{Item, Items, NOT_OFFERED, Page, read_page};
pub use list_changes::Change;
pub(crate) use message::error_code;
pub use message::{Event, Request, Response, ServerMessageHandler};
pub use oauth::{CallerToken, CredentialError, Grant};
pub use offer::{Greeting, LOGGING};
use parking_lot::RwLock;
pub use receipt::without_receipt;
pub use reconnect::ReconnectBackoff;
pub use retire::UsedBackend;
pub use sent_credentials::SentCredentials;
pub use timeouts::Timeouts;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Receipt;
use crate::audit::record::RequestId;
use crate::config;
use crate::mcp::params::Params;
use crate::mcp::protocol::{Era, INTERNAL_ERROR, META_PROGRESS_TOKEN, TOOLS_CALL};
use crate::rbac::{Permit, TargetKind};
use crate::walls::Launcher;

/// All configured backends.
#[derive(Debug)]
pub struct Upstreams {
    backends: RwLock<BTreeMap<String, Arc<Backend>>>,
    launcher: Launcher,
    tasks: TaskTracker,
    stop: CancellationToken,
    changes: broadcast::Sender<Change>,
}

/// Backends that are made to replace others, and not started.
#[derive(Debug)]
pub struct Replacement {
    changed: BTreeSet<String>,
    made: BTreeMap<String, Arc<Backend>>,
}

/// Changes that wait for a slow subscriber. *Chosen*: one that misses some looks at everything again.
const CHANGES_MAX: usize = 64;

/// The connection and the headers of a request to a backend.
#[derive(Debug)]
pub struct Route {
    /// The conversation.
    pub connection: Arc<UpstreamConnection>,
    /// The client's era.
    pub era: Era,
    /// The name or URI of the target, for `Mcp-Name`.
    pub name: Option<String>,
    /// The headers for an HTTP backend besides those of its transport.
    pub headers: HeaderMap,
    /// The `traceparent` of the gateway's span of the request.
    pub traceparent: Option<String>,
    /// The request's id, if the request is recorded.
    pub request_id: Option<RequestId>,
    /// Takes what the backend sends before the response.
    pub events: Option<Arc<dyn ServerMessageHandler>>,
    /// The token of the caller, if the backend is called on its behalf.
    pub caller: Option<Arc<CallerToken>>,
    /// Takes the credentials that are sent to the backend, for the record.
    pub sent: Option<Arc<SentCredentials>>,
    /// When it was begun to look for it: `call_timeout` counts from there.
    pub begun: Instant,
}

/// The events, besides a timeout, that end a call early.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    /// The client cancelled the call.
    pub client: CancellationToken,
    /// The gateway stops and has waited long enough.
    pub drained: CancellationToken,
}

impl Interrupt {
    /// Waits for `work`, or for the event that ends the call before it.
    ///
    /// # Errors
    /// The error of `work`, [`CallError::Cancelled`] or [`CallError::Stopped`].
    pub async fn run<T>(&self, work: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        tokio::select! {
            biased;
            () = std::future::ready(()), if self.client.is_cancelled() => Err(CallError::Cancelled),
            result = work => result,
            () = self.client.cancelled() => Err(CallError::Cancelled),
            () = self.drained.cancelled() => Err(CallError::Stopped),
        }
    }
}

impl Upstreams {
    /// Starts the backends, stdio servers by `launcher`. Returns at once; they come up by themselves.
    ///
    /// # Errors
    /// Every [`EndpointError`]; nothing was started.
    pub fn start(
        backends: &BTreeMap<String, config::Backend>,
        launcher: &Launcher,
    ) -> Result<Self, Vec<EndpointError>> {
        let upstreams = Self {
            backends: RwLock::default(),
            launcher: launcher.clone(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            changes: broadcast::Sender::new(CHANGES_MAX),
        };
        let replacement = upstreams.prepare(backends, &backends.keys().cloned().collect())?;
        upstreams.replace(replacement, Duration::ZERO);
        Ok(upstreams)
    }

    /// Makes the backends `changed`, as they are in `backends`, without starting anything. One that is not in
    /// `backends` is removed.
    ///
    /// # Errors
    /// Every [`EndpointError`].
    pub fn prepare(
        &self,
        backends: &BTreeMap<String, config::Backend>,
        changed: &BTreeSet<String>,
    ) -> Result<Replacement, Vec<EndpointError>> {
        let (mut made, mut faults) = (BTreeMap::new(), Vec::new());
        for (alias, config) in backends.iter().filter(|(alias, _)| changed.contains(*alias)) {
            let (tasks, stop) = (self.tasks.clone(), self.stop.child_token());
            match Backend::new(alias, config, &self.launcher, tasks, stop, self.changes.clone()) {
                Ok(backend) => drop(made.insert(alias.clone(), Arc::new(backend))),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(Replacement { changed: changed.clone(), made }) } else { Err(faults) }
    }

    /// Replaces the changed backends by those that were made, and starts these. What is open at the old ones has
    /// `drain` to end; then their processes are stopped.
    pub fn replace(&self, replacement: Replacement, drain: Duration) {
        let Replacement { changed, made } = replacement;
        let old: Vec<_> = {
            let mut backends = self.backends.write();
            let old: Vec<_> = changed.iter().filter_map(|alias| backends.remove(alias)).collect();
            // Nothing that is opened from now on stays with them.
            for backend in &old {
                backend.retired().cancel();
            }
            backends.extend(made.iter().map(|(alias, backend)| (alias.clone(), Arc::clone(backend))));
            old
        };
        for backend in made.into_values() {
            backend.announce();
            self.tasks.spawn(Arc::clone(&backend).supervise());
            self.tasks.spawn(backend.watch());
        }
        for backend in old {
            self.tasks.spawn(backend.retire(drain));
        }
    }

    /// The launcher of the stdio servers.
    #[must_use]
    pub fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Finds the errors that [`Upstreams::start`] would return, without starting anything. Key files are read.
    #[must_use]
    pub fn check(backends: &BTreeMap<String, config::Backend>) -> Vec<EndpointError> {
        let fault = |(alias, config): (&String, &config::Backend)| {
            http::Endpoint::new(alias, config).err().or_else(|| Backend::environment_error(alias, config))
        };
        backends.iter().filter_map(fault).collect()
    }

    /// Starts or connects to each of the `backends`, asks it for its tools once, and stops all again. Each has `limit`.
    /// `None` instead of tools: it answers, and offers none.
    ///
    /// # Errors
    /// As for [`Upstreams::start`]; in the result, the [`CallError`] of a backend.
    pub async fn try_out(
        backends: &BTreeMap<String, config::Backend>,
        launcher: &Launcher,
        limit: Duration,
    ) -> Result<Vec<(String, Result<Option<Items>, CallError>)>, Vec<EndpointError>> {
        let mut backends = backends.clone();
        for backend in backends.values_mut() {
            backend.probe_interval = Duration::ZERO;
        }
        let upstreams = Self::start(&backends, launcher)?;
        let of_one = |backend: &Arc<Backend>| {
            let backend = Arc::clone(backend);
            async move {
                let found = tokio::time::timeout(limit, backend.try_out()).await;
                (backend.alias().to_owned(), found.unwrap_or(Err(CallError::TimedOut { after: limit })))
            }
        };
        let found = futures_util::future::join_all(upstreams.all().iter().map(of_one)).await;
        upstreams.stop().await;
        Ok(found)
    }

    /// Subscribes to the list changes from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// The backend of this alias.
    #[must_use]
    pub fn get(&self, alias: &str) -> Option<Arc<Backend>> {
        self.backends.read().get(alias).cloned()
    }

    /// The backend of this alias, for one request: if it is replaced meanwhile, it is stopped only afterwards.
    #[must_use]
    pub fn used(&self, alias: &str) -> Option<UsedBackend> {
        self.backends.read().get(alias).map(|backend| UsedBackend::new(Arc::clone(backend)))
    }

    /// Returns true if a backend of this alias is configured.
    #[must_use]
    pub fn contains(&self, alias: &str) -> bool {
        self.backends.read().contains_key(alias)
    }

    /// All backends, in the order of their aliases.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Backend>> {
        self.backends.read().values().cloned().collect()
    }

    /// The aliases, in order.
    #[must_use]
    pub fn aliases(&self) -> Vec<String> {
        self.backends.read().keys().cloned().collect()
    }

    /// The number of backends that answer now.
    #[must_use]
    pub fn up_count(&self) -> usize {
        self.backends.read().values().filter(|backend| backend.is_up()).count()
    }

    /// Forwards the permitted call and waits for its answer, the backend's timeout, or an interrupt.
    ///
    /// A failure is an answer as well; a call whose outcome is unknown is not made again.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call at the backend.
    pub async fn forward(
        &self,
        method: &str,
        permit: Permit,
        receipt: &Receipt,
        route: impl Future<Output = Result<Route, CallError>>,
        interrupt: &Interrupt,
    ) -> Answer {
        // I1: no permit, no receipt, no call. Both are demanded by this signature, and nothing else calls a tool.
        if (method == TOOLS_CALL) != (permit.kind() == TargetKind::Tool) {
            return Answer::refusal(INTERNAL_ERROR, "the permit is for something else", None);
        }
        let backend = permit.backend().to_owned();
        let asked = async {
            let route = route.await?;
            if route.connection.alias() != permit.backend() {
                return Err(CallError::Down { reason: "the permit is for another backend".to_owned() });
            }
            Ok((ask(method, permit.params(), &route).await?, route.era, route.connection.era()))
        };
        match interrupt.run(asked).await {
            Ok((response, era, backends)) => Answer::from_response(response, receipt.request_id(), era, backends),
            Err(err) => Answer::failure(&backend, &err),
        }
    }

    /// Relays what is not audited, and calls no tool.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancel safety
    /// As for [`Upstreams::forward`].
    pub async fn relay(
        &self,
        method: &str,
        params: &Params,
        route: &Route,
        interrupt: &Interrupt,
    ) -> Result<Response, CallError> {
        // I1: a tool is called with a permit and a receipt only.
        if method == TOOLS_CALL {
            return Err(CallError::Era { what: "a call is not relayed without a record" });
        }
        interrupt.run(ask(method, params, route)).await
    }

    /// Ends the conversations of callers without a session that were idle longer than `idle`, and forgets the tokens of
    /// callers whose own tokens have ended.
    pub fn end_idle_conversations(&self, idle: Duration) {
        self.backends.read().values().for_each(|backend| backend.end_idle_conversations(idle));
    }

    /// Ends the conversations of callers without a session for which `is_kept`, given the caller and the backend's
    /// alias, is false. Forgets all tokens on behalf of callers.
    pub fn end_unreachable_conversations(&self, is_kept: impl Fn(&Owner, &str) -> bool) {
        for (alias, backend) in self.backends.read().iter() {
            backend.end_unreachable_conversations(|owner| is_kept(owner, alias));
        }
    }

    /// Stops all children and waits until they are gone.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn ask(method: &str, params: &Params, route: &Route) -> Result<Response, CallError> {
    let request = Request {
        method,
        params: forwarded(params, route.connection.era(), route.traceparent.as_deref(), route.request_id),
        name: route.name.clone(),
        headers: route.headers.clone(),
        progress_token: params.written(META_PROGRESS_TOKEN).map(str::to_owned),
        events: route.events.clone(),
        caller: route.caller.clone(),
        sent: route.sent.clone(),
        begun: route.begun,
    };
    route.connection.request(&request).await
}
