//! The gateway between MCP clients and backends. It lets no call pass that is not in the audit trail.
//!
//! ```text
//! listener -> dispatch (stages of a request) -> answer -> upstream
//!                  |                                |
//!                  +--> auth, rbac, audit           +--> session
//! ```
//!
//! [`Gateway::build`] compiles the configuration and starts the backends. [`Gateway::run`] serves until it is stopped,
//! then drains the open calls. Every message is handled in a task of its own, which continues if the client hangs up.

pub mod answer;
pub mod call;
mod console_access;
pub mod dispatch;
pub mod drain;
pub mod fault;
pub mod listener;
pub mod message;
mod recorder;
mod reload;
pub mod session;
pub mod sessions;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use parking_lot::RwLock;
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::AcceptFailures;
use crate::audit::record::{Caller, ClientAddr, Digest, Status};
use crate::audit::{Audit, UnavailableError};
use crate::auth::id_token::Expected;
use crate::auth::{AuthError, Principal};
use crate::certificate_end::{CertificateOwner, KnownCertificate};
use crate::config::{self, Config};
use crate::connections::places::Places;
use crate::upstream::{Backend, Upstreams};
use crate::walls::{Launcher, OwnFiles};

use call::catalog_changes::CatalogChanges;
use call::core::Core;
use call::counters::CallCounters;
use call::limits::Limits;
use call::list_changes;
use call::questions::Questions;
use call::refusals::Refusals;
use call::request_state::RequestStates;
use call::resource_owners::ResourceOwners;
use call::rules::Rules;
use call::session_end;
use call::stream_counts::StreamCounts;
use call::trace::Tracer;
use drain::DrainReport;
use fault::Fault;
use listener::{http, stdio, tls};
use message::body_budget::BodyBudget;
use message::client_address::TrustedProxies;
use message::resource::Names;
pub use reload::Prepared;
use session::inflight::InFlightCalls;
use sessions::Sessions;

/// The longest time for the records of cancelled calls and of ended sessions. *Chosen*: the default of the audit
/// pipeline's own wait for a commit.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time for exporting the last trace spans. *Chosen*: a slow collector delays a stop only a little.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// The most lists that are read from backends at once; others wait. *Chosen*: a list is one request to each backend,
/// and a child process answers them one by one.
const LISTS_MAX: usize = 32;

/// The gateway, ready to serve.
#[derive(Debug)]
pub struct Gateway {
    core: Arc<Core>,
    /// Accepts TLS connections, if the listener speaks TLS.
    tls: Option<tls::Acceptor>,
    drain_timeout: Duration,
    /// The task that makes the gateway's own records.
    recorder: tokio::task::JoinHandle<()>,
    /// The task that ends idle sessions.
    session_sweeper: tokio::task::JoinHandle<()>,
    /// The task that sends trace spans.
    span_exporter: tokio::task::JoinHandle<()>,
    /// Cancelled after the last span: the exporter sends the rest and ends.
    last_span: CancellationToken,
}

/// Access of the operations listener to a running gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Core>, Option<tls::Acceptor>);

/// The parts that are made from the configuration alone.
struct Parts {
    tls: Option<tls::Acceptor>,
    rules: Rules,
    request_states: RequestStates,
}

impl Gateway {
    /// Finds the faults of the configuration without starting anything. Key files are read.
    #[must_use]
    pub fn check(config: &Config) -> Vec<Fault> {
        compile(config).err().unwrap_or_default()
    }

    /// Compiles the configuration and starts the backends, stdio servers by `launcher`. Runs inside a tokio runtime.
    ///
    /// # Errors
    /// Every fault of the configuration; nothing was started.
    pub fn build(config: &Config, audit: Audit, launcher: &Launcher) -> Result<Self, Vec<Fault>> {
        let Parts { tls, rules, request_states } = compile(config)?;
        let upstreams = Upstreams::start(&config.backends, launcher)
            .map_err(|faults| faults.into_iter().map(Fault::Endpoint).collect::<Vec<_>>())?;
        let calls_max = config.server.calls_max.min(Semaphore::MAX_PERMITS);
        let counters = CallCounters::new(upstreams.aliases());
        let last_span = CancellationToken::new();
        let (tracer, export) = Tracer::new(config.telemetry.otlp_endpoint.as_deref(), last_span.clone());
        let (policy, policy_in_force) = watch::channel(Arc::clone(&rules.policy));
        let rules = Arc::new(RwLock::new(Arc::new(rules)));
        let questions = Questions::new(audit.clone(), Arc::clone(&rules), config.audit.record_answers);
        let core = Core {
            audit,
            is_tls: tls.is_some(),
            rules,
            policy,
            limits: Limits::default(),
            catalog: CatalogChanges::default(),
            refusals: Refusals::new(config.audit.refusals_singly_max),
            counters,
            tracer,
            upstreams,
            resource_owners: ResourceOwners::default(),
            request_states,
            audit_methods: config.audit.methods.clone(),
            pass_methods: config.server.pass_methods.clone(),
            pass_params: config.server.pass_params.clone(),
            stopping: CancellationToken::new(),
            sessions: Sessions::new(
                config.server.sessions_max,
                config.server.session_idle_timeout,
                config.server.replay_bytes_max,
                policy_in_force,
                Arc::new(questions.clone()),
            ),
            streams: StreamCounts::default(),
            connections_max: config.server.connections_max,
            in_flight: InFlightCalls::default(),
            record_answers: config.audit.record_answers,
            params_bytes_max: config.audit.params_bytes_max,
            response_bytes_max: config.audit.response_bytes_max,
            body_bytes_max: config.server.body_bytes_max,
            bodies: BodyBudget::new(config.server.request_bytes_max),
            proxies: TrustedProxies::new(config.server.trusted_proxies.clone(), config.server.forwarded_header),
            places: Places::new(
                config.server.connections_max,
                config.server.connections_per_address_max,
                config.server.trusted_proxies.clone(),
            ),
            accept_failures: AcceptFailures::default(),
            names: Names::new(&config.server),
            allowed_origins: config.server.allowed_origins.clone(),
            calls_max,
            calls: Semaphore::new(calls_max),
            lists: Semaphore::new(LISTS_MAX),
            questions,
            tasks: TaskTracker::new(),
            drained: CancellationToken::new(),
        };
        let core = Arc::new(core);
        let recorder = tokio::spawn(recorder::run(Arc::downgrade(&core)));
        // It ends with the upstreams, which are the core's.
        tokio::spawn(list_changes::tell(Arc::downgrade(&core), core.upstreams.changes()));
        let session_sweeper = tokio::spawn(session_end::sweep(Arc::downgrade(&core), core.stopping.clone()));
        let span_exporter = tokio::spawn(export);
        let drain_timeout = config.server.drain_timeout;
        Ok(Self { core, tls, drain_timeout, recorder, session_sweeper, span_exporter, last_span })
    }

    /// A handle for the operations listener.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.core), self.tls.clone())
    }

    /// Serves HTTP on `listener` until `stop`. Then accepts no more connections, waits for the open calls until the
    /// drain's deadline, cancels the rest, and stops the backends.
    ///
    /// # Errors
    /// The listener failed; open calls were drained all the same.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<DrainReport> {
        let serve = http::serve(Arc::clone(&self.core), listener, self.tls.clone(), stop.clone());
        let served = async {
            serve.await;
            Ok(())
        };
        tokio::pin!(served);
        let early = tokio::select! {
            () = stop.cancelled() => None,
            end = &mut served => Some(end),
        };
        match early {
            Some(end) => self.drain(std::future::ready(end)).await,
            // Connections end as their last replies are written; the server is polled so that they can be.
            None => self.drain(served).await,
        }
    }

    /// Serves the client on `input` and `output` until `input` ends or `stop`, then drains as [`Gateway::run`] does.
    ///
    /// # Errors
    /// [`stdio::Error`]: nothing was read.
    pub async fn run_stdio(
        self,
        backend: &str,
        token: stdio::TokenSource,
        input: impl AsyncBufRead + Unpin,
        output: impl AsyncWrite + Unpin,
        stop: CancellationToken,
    ) -> Result<DrainReport, stdio::Error> {
        let client = stdio::Client::new(&self.core, backend, token).await?;
        // Without a listener, a drain has no error.
        let drain = async { self.drain(std::future::ready(Ok(()))).await.unwrap_or_default() };
        stdio::serve(client, input, output, stop, drain).await
    }

    /// Waits for the open calls until the drain's deadline, cancels the rest, and stops the backends. `served` ends
    /// with the last reply.
    async fn drain(self, served: impl Future<Output = std::io::Result<()>>) -> std::io::Result<DrainReport> {
        let core = self.core;
        let open = core.tasks.len();
        core.tasks.close();
        core.stopping.cancel();
        core.sessions.all().iter().for_each(|session| session.general().finish(None));
        let wait = async { tokio::join!(served, core.tasks.wait()).0 };
        let ended = tokio::time::timeout(self.drain_timeout, wait).await;
        let cancelled = core.tasks.len();
        if cancelled > 0 {
            tracing::warn!(cancelled, timeout = ?self.drain_timeout, "drain timed out; cancelling open calls");
        }
        core.drained.cancel();
        // Calls that wait for a backend's list or handshake end when the backend is stopped.
        let recorded = async { tokio::time::timeout(RECORD_TIMEOUT, core.tasks.wait()).await };
        let ending = session_end::end(&core, core.sessions.remove_all());
        let (recorded, (), ()) = tokio::join!(recorded, in_record_timeout(ending), core.upstreams.stop());
        // The sweeper ends by itself, after it has recorded the sessions that it removed.
        tokio::time::timeout(RECORD_TIMEOUT, self.session_sweeper).await.ok();
        // Sessions may have been opened since the first removal.
        in_record_timeout(session_end::end(&core, core.sessions.remove_all())).await;
        in_record_timeout(core.questions.recorded()).await;
        let unrecorded = if recorded.is_ok() { 0 } else { core.tasks.len() };
        // The recorder ends by itself, after it has recorded the windows that it took.
        tokio::time::timeout(RECORD_TIMEOUT, self.recorder).await.ok();
        core.refusals.record_last(&core.audit).await;
        self.last_span.cancel();
        tokio::time::timeout(EXPORT_TIMEOUT, self.span_exporter).await.ok();
        ended.unwrap_or(Ok(()))?;
        Ok(DrainReport { finished: open.saturating_sub(cancelled), cancelled, unrecorded })
    }
}

impl Handle {
    /// Compiles `config`, and makes its backends `changed`, without applying anything. Its files are read only here.
    ///
    /// # Errors
    /// Every fault of the configuration.
    pub fn prepare(&self, config: &Config, changed: &BTreeSet<String>) -> Result<Prepared, Vec<Fault>> {
        let Parts { rules, .. } = compile(config)?;
        Prepared::new(&self.0, config, rules, changed)
    }

    /// Applies a prepared configuration, once the change is recorded as `gateway/config` with `details` and, if it
    /// changed, the policy. `own` are the files that are closed to processes that are started from now on. Calls that
    /// have arrived are decided by the old settings.
    ///
    /// # Errors
    /// [`UnavailableError`]: the change was not recorded, and the old settings stay in force.
    pub async fn reload(
        &self,
        prepared: Prepared,
        own: OwnFiles,
        details: serde_json::Value,
    ) -> Result<(), UnavailableError> {
        reload::apply(&self.0, prepared, own, details).await
    }

    /// Forgets the tokens on behalf of callers, as each reload does.
    pub fn forget_caller_tokens(&self) {
        let rules = self.0.rules();
        self.0.upstreams.end_unreachable_conversations(|owner, backend| rules.keeps(owner, backend));
    }

    /// The digest of the configuration `text`, by the digest key; `None` if calls are not recorded.
    #[must_use]
    pub fn config_digest(&self, text: &[u8]) -> Option<Digest> {
        self.0.audit.config_digest(text)
    }

    /// Verifies a bearer token as for a call. A JWT must have one of the configured audiences: one that was issued for
    /// an MCP endpoint is good there.
    ///
    /// # Errors
    /// [`AuthError`]: the token is missing or not valid.
    pub async fn authenticate_header(&self, authorization: &[u8]) -> Result<Principal, AuthError> {
        self.0.rules().auth.authenticate_header(authorization, &|_| false).await
    }

    /// Verifies the ID token of a person who signs in to the console.
    ///
    /// # Errors
    /// [`AuthError`]: the token is not valid, or is not the answer to this sign-in.
    pub async fn authenticate_id_token(&self, token: &str, expected: Expected<'_>) -> Result<Principal, AuthError> {
        self.0.rules().auth.authenticate_id_token(token, expected).await
    }

    /// Returns `true` if the principal's credential is still accepted, and gives the same roles.
    #[must_use]
    pub fn accepts(&self, principal: &Principal) -> bool {
        self.0.rules().auth.accepts(principal)
    }

    /// The role that a token needs for the console.
    #[must_use]
    pub fn console_role(&self) -> String {
        self.0.rules().console_role.clone()
    }

    /// The address of the client of a request with `headers` from `peer`, which a trusted proxy may have named.
    #[must_use]
    pub fn client_addr(&self, peer: SocketAddr, headers: &HeaderMap) -> ClientAddr {
        self.0.proxies.client(peer, headers)
    }

    /// Records an event that `caller` caused; its record has `method`.
    ///
    /// # Errors
    /// [`UnavailableError`]: the record did not reach the configured level.
    pub async fn record_event(
        &self,
        method: &str,
        client: ClientAddr,
        caller: &Caller,
    ) -> Result<(), UnavailableError> {
        self.0.audit.record_event(console_access::call_of(method, client, caller)).await
    }

    /// Records a refused request, with `method`, or counts it together with others, like refusals by the gateway.
    ///
    /// # Errors
    /// [`UnavailableError`]: the refusal was neither recorded nor counted, or its record stays in the ring.
    pub async fn record_refusal(
        &self,
        method: &str,
        client: ClientAddr,
        caller: &Caller,
        status: Status,
        reason: &str,
    ) -> Result<(), UnavailableError> {
        console_access::record_refusal(&self.0, method, client, caller, (status, reason)).await
    }

    /// The number of backends that answer now.
    #[must_use]
    pub fn backends_up(&self) -> usize {
        self.0.upstreams.up_count()
    }

    /// The number of configured backends.
    #[must_use]
    pub fn backends_configured(&self) -> usize {
        self.0.upstreams.aliases().len()
    }

    /// The number of calls that are open at backends.
    #[must_use]
    pub fn calls_open(&self) -> usize {
        self.0.calls_max.saturating_sub(self.0.calls.available_permits())
    }

    /// The counters of calls and refusals.
    #[must_use]
    pub fn counters(&self) -> &CallCounters {
        &self.0.counters
    }

    /// The limit on open calls.
    #[must_use]
    pub fn calls_max(&self) -> usize {
        self.0.calls_max
    }

    /// The number of open connections.
    #[must_use]
    pub fn connections_open(&self) -> usize {
        self.0.places.open()
    }

    /// The number of connections that were closed for others.
    #[must_use]
    pub fn connections_evicted(&self) -> u64 {
        self.0.places.evicted()
    }

    /// The number of connections that were closed unserved, because their address had its share.
    #[must_use]
    pub fn connections_refused(&self) -> u64 {
        self.0.places.refused()
    }

    /// Failures to accept a connection, on all listeners of the process.
    #[must_use]
    pub fn accept_failures(&self) -> &AcceptFailures {
        &self.0.accept_failures
    }

    /// The number of open legacy sessions.
    #[must_use]
    pub fn sessions_open(&self) -> usize {
        self.0.sessions.count()
    }

    /// The aliases of all backends, each with `true` if the backend answers now, and the number of items that were left
    /// out of its lists.
    #[must_use]
    pub fn backends(&self) -> Vec<(String, bool, u64)> {
        let backends = self.0.upstreams.all();
        backends.iter().map(|backend| (backend.alias().to_owned(), backend.is_up(), backend.items_omitted())).collect()
    }

    /// The certificates of the listener and of backends, as far as they are known.
    #[must_use]
    pub fn certificates(&self) -> Vec<KnownCertificate> {
        let server = self.1.as_ref().and_then(tls::Acceptor::certificate_end);
        let server = server.map(|end| KnownCertificate { owner: CertificateOwner::Server, end });
        let of_backend = |backend: &Arc<Backend>| {
            let owner = CertificateOwner::Backend(backend.alias().to_owned());
            backend.certificate_end().map(|end| KnownCertificate { owner, end })
        };
        server.into_iter().chain(self.0.upstreams.all().iter().filter_map(of_backend)).collect()
    }

    /// The number of changed definitions of tools that are a reason for an alarm, and what the last change was.
    #[must_use]
    pub fn tools_changed(&self) -> (u64, String) {
        self.0.catalog.alarmed()
    }

    /// The tools that are not as an operator accepted them, if there are any.
    #[must_use]
    pub fn tools_not_accepted(&self) -> Option<String> {
        self.0.catalog.unpinned()
    }

    /// The number of messages that are being handled.
    #[must_use]
    pub fn messages_open(&self) -> usize {
        self.0.tasks.len()
    }
}

/// Compiles everything in `config` that can have faults, and collects them all.
fn compile(config: &Config) -> Result<Parts, Vec<Fault>> {
    let mut faults = Vec::new();
    let tls = config.server.tls.as_ref().map(tls::Acceptor::load).transpose();
    let tls = tls.map_err(|err| faults.push(Fault::Tls(err)));
    let rules = Rules::new(config).map_err(|errors| faults.extend(errors.into_iter().map(Fault::Rules)));
    let request_states = RequestStates::new(config).map_err(|error| faults.push(Fault::StateKey(error)));
    for alias in config.backends.keys() {
        if let Err(reason) = config::check_alias(alias) {
            faults.push(Fault::Alias { alias: alias.clone(), reason });
        }
    }
    faults.extend(Upstreams::check(&config.backends).into_iter().map(Fault::Endpoint));
    match (tls, rules, request_states, faults.is_empty()) {
        (Ok(tls), Ok(rules), Ok(request_states), true) => Ok(Parts { tls, rules, request_states }),
        _ => Err(faults),
    }
}

/// Waits until the ends of sessions are recorded, at most [`RECORD_TIMEOUT`].
async fn in_record_timeout(ending: impl Future<Output = ()>) {
    if tokio::time::timeout(RECORD_TIMEOUT, ending).await.is_err() {
        tracing::error!(timeout = ?RECORD_TIMEOUT, "ends of sessions or of their questions not recorded in time; stopping anyway");
    }
}
