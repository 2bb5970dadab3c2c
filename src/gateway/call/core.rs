//! The state that all requests share: [`Core`].
//!
//! It is built once, from the configuration, and read by every stage of a request. A reload replaces [`Rules`] only.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{Audit, UnavailableError};
use crate::auth::Authenticator;
use crate::gateway::session::Sessions;
use crate::gateway::session::inflight::InFlightCalls;
use crate::mcp::protocol::TOOLS_CALL;
use crate::upstream::Upstreams;

use super::counters::CallCounters;
use super::limits::Limits;
use super::refusal_windows::{RefusalWindow, RefusalWindows};
use super::request_state::RequestStateSigner;
use super::resource_owners::ResourceOwners;
use super::rules::Rules;
use super::trace::Tracer;

/// Everything that handling a message needs. The modules below read it; nobody changes it.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) audit: Audit,
    pub(crate) auth: Authenticator,
    /// Whether the listener speaks TLS.
    pub(crate) is_tls: bool,
    /// What a reload changes.
    pub(crate) rules: RwLock<Arc<Rules>>,
    /// How often that has changed: who shows somebody's view of it looks again.
    pub(crate) policy_changed: watch::Sender<u64>,
    pub(crate) limits: Limits,
    pub(crate) refusal_windows: Mutex<RefusalWindows>,
    pub(crate) counters: CallCounters,
    pub(crate) tracer: Tracer,
    pub(crate) upstreams: Upstreams,
    /// Which backend has a resource, as far as is known.
    pub(crate) owners: ResourceOwners,
    pub(crate) request_states: RequestStateSigner,
    /// Methods that are audited besides `tools/call`.
    pub(crate) audited: Vec<String>,
    /// Methods that the gateway does not know and passes on.
    pub(crate) passed: Vec<String>,
    pub(crate) sessions: Sessions,
    pub(crate) in_flight: InFlightCalls,
    pub(crate) args_bytes_max: usize,
    pub(crate) body_bytes_max: usize,
    pub(crate) connections_max: usize,
    /// One permit a connection, while there is room for more.
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) allowed_origins: Vec<String>,
    /// How many permits `calls` has when no call is open.
    pub(crate) calls_max: usize,
    /// One permit an open call.
    pub(crate) calls: Semaphore,
    /// One permit a list that is being read.
    pub(crate) lists: Semaphore,
    /// One task a message.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the gateway begins to stop: what waits for nothing in particular ends.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when a drain has waited long enough.
    pub(crate) drained: CancellationToken,
}

impl Core {
    /// What holds now. A message takes it once, when it arrives, and is decided by it to its end.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records the windows that `take` takes.
    pub(crate) async fn record_floods(&self, take: impl FnOnce(&mut RefusalWindows) -> Vec<RefusalWindow>) {
        let taken = take(&mut self.refusal_windows.lock().unwrap_or_else(PoisonError::into_inner));
        let record = async |window: RefusalWindow| {
            let (call, outcome) = window.record();
            // I2: the record stands for all that were counted.
            if let Err(error) = self.audit.record_once(call, outcome, ()).await {
                tracing::error!(%error, refusals = window.count(), "a window of refusals is not recorded yet");
                // What was not stored in time is in the ring, and is stored when it can be.
                if !matches!(error, UnavailableError::NotStored { .. }) {
                    self.refusal_windows.lock().unwrap_or_else(PoisonError::into_inner).put_back(window);
                }
            }
        };
        futures_util::future::join_all(taken.into_iter().map(record)).await;
    }

    /// Whether requests of this method are recorded.
    pub(crate) fn is_audited(&self, method: &str) -> bool {
        method == TOOLS_CALL || self.audited.iter().any(|audited| audited == method)
    }

    /// Whether the operator lets this unknown method pass.
    pub(crate) fn is_passed(&self, method: &str) -> bool {
        self.passed.iter().any(|passed| match passed.strip_suffix('*') {
            Some(prefix) => method.starts_with(prefix),
            None => method == passed,
        })
    }
}
