//! The gateway: what stands between MCP clients and backends, and lets no call pass that is not in the trail.
//!
//! ```text
//! http -> dispatch: envelope (parse) -> auth -> rbac (Permit) -> audit (Receipt) -> upstream -> audit -> reply
//! ```
//!
//! [`Gateway::build`] takes the configuration apart and starts the backends; [`Gateway::run`] serves until it is told to
//! stop, then waits for the open calls. Every message is handled in a task of its own, which a client that hangs up does
//! not end.

pub mod answer;
pub mod call;
pub mod dispatch;
pub mod fault;
pub mod listener;
pub mod message;
pub mod session;

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::record::Call;
use crate::audit::{Audit, UnavailableError};
use crate::auth::{AuthError, Authenticator, Principal};
use crate::config::{self, Config};
use crate::upstream::Upstreams;

use call::core::Core;
use call::counters::CallCounters;
use call::limits::Limits;
use call::refusal_windows::RefusalWindows;
use call::request_state::RequestStateSigner;
use call::resource_owners::ResourceOwners;
use call::rules::Rules;
use call::session_end;
use call::trace::Tracer;
use fault::Fault;
use listener::{http, tls};
use session::Sessions;
use session::inflight::InFlightCalls;

/// How long calls that the drain gave up may take to record that. *Chosen*: as the audit pipeline's own wait for a
/// commit, by default.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the last spans may take to leave. *Chosen*: no stop waits for a collector for long.
const TRACES_TIMEOUT: Duration = Duration::from_secs(2);

/// Most lists that are read from backends at once; others wait. *Chosen*: a list is one request to each backend, and a
/// child answers them one by one.
const LISTS_MAX: usize = 32;

/// How often windows of refusals are looked for whose window has ended. *Chosen*: a tenth of it.
const FLOODS_EVERY: Duration = Duration::from_secs(1);

/// The gateway, ready to serve.
#[derive(Debug)]
pub struct Gateway {
    core: Arc<Core>,
    /// Accepts TLS on the listener's connections, if the listener speaks it.
    tls: Option<tls::Acceptor>,
    drain_timeout: Duration,
    /// Records windows of refusals of refusals as their windows end.
    watching: tokio::task::JoinHandle<()>,
    /// Ends idle sessions.
    sweeping: tokio::task::JoinHandle<()>,
    /// Sends spans.
    exporting: tokio::task::JoinHandle<()>,
    /// Cancelled when there will be no more of them.
    traced: CancellationToken,
}

/// What the operations listener may request of a gateway that runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Core>);

/// Why a configuration did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It has faults.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Faults(Vec<Fault>),
    /// The change could not be recorded.
    #[error(transparent)]
    Unrecorded(#[from] UnavailableError),
}

/// What a stop found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Messages that were open when the stop began and ended by themselves.
    pub finished: usize,
    /// Calls that were open at the deadline and were given up; each is recorded as `error`.
    pub given_up: usize,
    /// Messages whose end was not even recorded in time. Their receipts record them when they are dropped.
    pub left: usize,
}

/// The parts that only the configuration decides.
struct Parts {
    auth: Authenticator,
    tls: Option<tls::Acceptor>,
    rules: Rules,
}

impl Gateway {
    /// Finds the faults of the configuration without starting anything. Key files are read.
    #[must_use]
    pub fn check(config: &Config) -> Vec<Fault> {
        compile(config).err().unwrap_or_default()
    }

    /// Compiles the configuration and starts the backends. Runs inside a tokio runtime.
    ///
    /// # Errors
    /// Every fault of the configuration; nothing was started.
    pub fn build(config: &Config, audit: Audit) -> Result<Self, Vec<Fault>> {
        let Parts { auth, tls, rules } = compile(config)?;
        let upstreams = Upstreams::start(&config.backends)
            .map_err(|faults| faults.into_iter().map(Fault::Endpoint).collect::<Vec<_>>())?;
        let calls_max = config.server.calls_max.min(Semaphore::MAX_PERMITS);
        let own = config.server.listen.ip();
        let own = if own.is_ipv6() { format!("[{own}]") } else { own.to_string() };
        let counters = CallCounters::new(upstreams.aliases());
        let last = CancellationToken::new();
        let (tracer, export) = Tracer::new(config.telemetry.otlp_endpoint.as_deref(), last.clone());
        let core = Core {
            audit,
            auth,
            is_tls: tls.is_some(),
            rules: RwLock::new(Arc::new(rules)),
            policy_changed: watch::Sender::new(0),
            limits: Limits::default(),
            refusal_windows: Mutex::new(RefusalWindows::new(config.audit.refusals_singly_max)),
            counters,
            tracer,
            upstreams,
            owners: ResourceOwners::default(),
            request_states: RequestStateSigner::new(),
            audited: config.audit.methods.clone(),
            passed: config.server.pass_methods.clone(),
            stopping: CancellationToken::new(),
            sessions: Sessions::new(config.server.sessions_max),
            in_flight: InFlightCalls::default(),
            args_bytes_max: config.audit.args_bytes_max,
            body_bytes_max: config.server.body_bytes_max,
            connections_max: config.server.connections_max.min(Semaphore::MAX_PERMITS),
            connections: Arc::new(Semaphore::new(config.server.connections_max.min(Semaphore::MAX_PERMITS))),
            allowed_hosts: config.server.allowed_hosts.iter().cloned().chain([own]).collect(),
            allowed_origins: config.server.allowed_origins.clone(),
            calls_max,
            calls: Semaphore::new(calls_max),
            lists: Semaphore::new(LISTS_MAX),
            tasks: TaskTracker::new(),
            drained: CancellationToken::new(),
        };
        let core = Arc::new(core);
        let watching = tokio::spawn(watch_floods(Arc::downgrade(&core)));
        let sweeping = tokio::spawn(session_end::sweep(Arc::downgrade(&core), core.stopping.clone()));
        let exporting = tokio::spawn(export);
        Ok(Self { core, tls, drain_timeout: config.server.drain_timeout, watching, sweeping, exporting, traced: last })
    }

    /// A handle for the operations listener.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.core))
    }

    /// Serves on `listener` until `stop`, then stops accepting, waits for the open calls until the drain's deadline,
    /// gives up the rest, and stops the backends.
    ///
    /// # Errors
    /// Where the listener fails; open calls were drained all the same.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<Drained> {
        let served = http::serve(Arc::clone(&self.core), listener, self.tls.clone(), stop.clone());
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

    /// Waits for the open calls until the drain's deadline, gives up the rest, and stops the backends. `served` ends with
    /// the last reply.
    async fn drain(self, served: impl Future<Output = std::io::Result<()>>) -> std::io::Result<Drained> {
        let core = self.core;
        let open = core.tasks.len();
        core.tasks.close();
        core.stopping.cancel();
        core.sessions.end_general_streams();
        let wait = async { tokio::join!(served, core.tasks.wait()).0 };
        let ended = tokio::time::timeout(self.drain_timeout, wait).await;
        let given_up = core.tasks.len();
        if given_up > 0 {
            tracing::warn!(given_up, "calls are still open at the drain's deadline");
        }
        core.drained.cancel();
        // Whatever still waits for a backend's list or handshake ends with the backend.
        let recorded = async { tokio::time::timeout(RECORD_TIMEOUT, core.tasks.wait()).await };
        let ending = session_end::end(&core, core.sessions.remove_all());
        let (recorded, (), ()) = tokio::join!(recorded, within(ending), core.upstreams.stop());
        // It ends by itself: what it has taken it records first.
        tokio::time::timeout(RECORD_TIMEOUT, self.sweeping).await.ok();
        // Some may have been opened since.
        within(session_end::end(&core, core.sessions.remove_all())).await;
        let left = if recorded.is_ok() { 0 } else { core.tasks.len() };
        // It ends by itself: what it has taken it records first.
        tokio::time::timeout(RECORD_TIMEOUT, self.watching).await.ok();
        core.record_floods(RefusalWindows::take_all).await;
        self.traced.cancel();
        tokio::time::timeout(TRACES_TIMEOUT, self.exporting).await.ok();
        ended.unwrap_or(Ok(()))?;
        Ok(Drained { finished: open.saturating_sub(given_up), given_up, left })
    }
}

impl Handle {
    /// Lets what can change without a restart be as `config` says, once that is recorded as `gateway/config` with
    /// `details`. Calls that have arrived end as they began.
    ///
    /// # Errors
    /// [`ReloadError`]; all stays as it was.
    pub async fn reload(&self, config: &Config, details: &serde_json::Value) -> Result<(), ReloadError> {
        let Parts { rules, .. } = compile(config).map_err(ReloadError::Faults)?;
        let core = &self.0;
        // Recorded before it takes effect: whoever reads the trail knows under which rules a call was decided.
        core.audit.record_event(Call::gateway_event("config", details)).await?;
        let rules = Arc::new(rules);
        let before = {
            let mut now = core.rules.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, Arc::clone(&rules))
        };
        core.policy_changed.send_modify(|changes| *changes += 1);
        core.sessions.notify_changed_lists(&before.policy, &rules.policy);
        Ok(())
    }

    /// Verifies a bearer token as for a call; with the principal comes when the token ends, seconds since 1970.
    ///
    /// # Errors
    /// [`AuthError`]; the caller is to be refused.
    pub async fn authenticate_header(&self, authorization: &[u8]) -> Result<(Principal, Option<u64>), AuthError> {
        self.0.auth.authenticate_header(authorization).await
    }

    /// How many backends answer now.
    #[must_use]
    pub fn backends_up(&self) -> usize {
        self.0.upstreams.up_count()
    }

    /// How many backends are configured.
    #[must_use]
    pub fn backends_configured(&self) -> usize {
        self.0.upstreams.aliases().count()
    }

    /// How many calls are open at backends.
    #[must_use]
    pub fn calls_open(&self) -> usize {
        self.0.calls_max.saturating_sub(self.0.calls.available_permits())
    }

    /// How many calls and refusals there were.
    #[must_use]
    pub fn counters(&self) -> &CallCounters {
        &self.0.counters
    }

    /// How many calls may be open.
    #[must_use]
    pub fn calls_max(&self) -> usize {
        self.0.calls_max
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections_open(&self) -> usize {
        // One place is held by the connection that is waited for.
        self.0.connections_max.saturating_sub(self.0.connections.available_permits()).saturating_sub(1)
    }

    /// How many legacy sessions are open.
    #[must_use]
    pub fn sessions_open(&self) -> usize {
        self.0.sessions.count()
    }

    /// The backends by alias, and whether each answers now.
    #[must_use]
    pub fn backends(&self) -> Vec<(String, bool)> {
        self.0.upstreams.all().map(|backend| (backend.alias().to_owned(), backend.is_up())).collect()
    }

    /// How many messages are being handled.
    #[must_use]
    pub fn messages_open(&self) -> usize {
        self.0.tasks.len()
    }
}

fn compile(config: &Config) -> Result<Parts, Vec<Fault>> {
    let mut faults = Vec::new();
    let auth =
        Authenticator::from_config(&config.auth).map_err(|errors| faults.extend(errors.into_iter().map(Fault::Auth)));
    let tls = config.server.tls.as_ref().map(tls::Acceptor::load).transpose();
    let tls = tls.map_err(|err| faults.push(Fault::Tls(err)));
    let rules = Rules::new(config).map_err(|errors| faults.extend(errors.into_iter().map(Fault::Rules)));
    for alias in config.backends.keys() {
        if let Err(reason) = config::check_alias(alias) {
            faults.push(Fault::Alias { alias: alias.clone(), reason });
        }
    }
    faults.extend(Upstreams::check(&config.backends).into_iter().map(Fault::Endpoint));
    match (auth, tls, rules, faults.is_empty()) {
        (Ok(auth), Ok(tls), Ok(rules), true) => Ok(Parts { auth, tls, rules }),
        _ => Err(faults),
    }
}

/// Waits for records of sessions that ended, but not for ever.
async fn within(ending: impl Future<Output = ()>) {
    if tokio::time::timeout(RECORD_TIMEOUT, ending).await.is_err() {
        tracing::error!("the ends of some sessions are not recorded within {RECORD_TIMEOUT:?}");
    }
}

/// Records windows of refusals as their windows end, for as long as the gateway is there.
async fn watch_floods(core: Weak<Core>) {
    let mut ticks = tokio::time::interval(FLOODS_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let Some(drained) = core.upgrade().map(|core| core.drained.clone()) else { return };
    while drained.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(core) = core.upgrade() else { return };
        core.record_floods(|refusal_windows| refusal_windows.take_ended(Instant::now())).await;
    }
}
