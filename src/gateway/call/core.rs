//! The state that all requests share: [`Core`].
//!
//! It is built once, from the configuration, and read by every stage of a request. A reload replaces [`Rules`] only.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::AcceptFailures;
use crate::audit::Audit;
use crate::auth::Principal;
use crate::config::RecordAnswers;
use crate::connections::places::Places;
use crate::gateway::message::body_budget::BodyBudget;
use crate::gateway::message::client_address::TrustedProxies;
use crate::gateway::message::resource::Names;
use crate::gateway::session::inflight::InFlightCalls;
use crate::gateway::sessions::Sessions;
use crate::mcp::methods;
use crate::mcp::protocol::TOOLS_CALL;
use crate::rbac::Policy;
use crate::upstream::Upstreams;

use super::catalog_changes::CatalogChanges;
use super::counters::CallCounters;
use super::limits::Limits;
use super::questions::Questions;
use super::refusals::Refusals;
use super::request_state::RequestStates;
use super::resource_owners::ResourceOwners;
use super::rules::Rules;
use super::stream_counts::StreamCounts;
use super::trace::Tracer;

/// The state that all requests share. Only the rules, and the counters, limits and sessions in it change.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) audit: Audit,
    /// `true` if the listener speaks TLS.
    pub(crate) is_tls: bool,
    /// The rules in force; a reload replaces them.
    pub(crate) rules: Arc<RwLock<Arc<Rules>>>,
    /// The policy of the rules in force. Streams follow it.
    pub(crate) policy: watch::Sender<Arc<Policy>>,
    pub(crate) limits: Limits,
    pub(crate) refusals: Refusals,
    pub(crate) counters: CallCounters,
    /// The changes of the definitions of tools.
    pub(crate) catalog: CatalogChanges,
    pub(crate) tracer: Tracer,
    pub(crate) upstreams: Upstreams,
    /// The backends of known resources.
    pub(crate) resource_owners: ResourceOwners,
    pub(crate) request_states: RequestStates,
    /// Methods that are audited besides `tools/call`.
    pub(crate) audit_methods: Vec<String>,
    /// Methods that the gateway does not know and relays.
    pub(crate) pass_methods: Vec<String>,
    /// Members of parameters that are forwarded although their method does not have them: method, `/`, member.
    pub(crate) pass_params: Vec<String>,
    pub(crate) sessions: Sessions,
    /// The open streams of each principal.
    pub(crate) streams: StreamCounts,
    pub(crate) connections_max: usize,
    pub(crate) in_flight: InFlightCalls,
    /// The form in which questions and answers are recorded.
    pub(crate) record_answers: RecordAnswers,
    /// The longest arguments and other parameters of a recorded request together, in bytes.
    pub(crate) params_bytes_max: usize,
    /// The longest recorded answer, in bytes.
    pub(crate) response_bytes_max: usize,
    pub(crate) body_bytes_max: usize,
    /// The room for the bodies of all requests.
    pub(crate) bodies: BodyBudget,
    pub(crate) proxies: TrustedProxies,
    /// The places of connections.
    pub(crate) places: Arc<Places>,
    /// The names by which clients reach the gateway.
    pub(crate) names: Names,
    pub(crate) allowed_origins: Vec<String>,
    /// The number of permits that `calls` has while no call is open.
    pub(crate) calls_max: usize,
    /// Failures to accept a connection, on all listeners of the process.
    pub(crate) accept_failures: AcceptFailures,
    /// One permit for each open call.
    pub(crate) calls: Semaphore,
    /// One permit for each list that is being read.
    pub(crate) lists: Semaphore,
    /// The questions of backends to clients.
    pub(crate) questions: Questions,
    /// One task for each message.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the gateway begins to stop: streams of notifications end.
    pub(crate) stopping: CancellationToken,
    /// Cancelled at the drain's deadline: open calls end.
    pub(crate) drained: CancellationToken,
}

impl Core {
    /// The rules in force. A message gets them when it arrives, and is decided by them to its end.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read())
    }

    /// Waits until the principal's credential has ended, by the rules that are in force now.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn credential_ended(&self, principal: &Principal) {
        let rules = self.rules();
        rules.auth.ended(principal).await;
    }

    /// Returns `true` if requests of this method are recorded.
    pub(crate) fn is_audited(&self, method: &str) -> bool {
        method == TOOLS_CALL || self.audit_methods.iter().any(|audited| audited == method)
    }

    /// Returns `true` if requests of this method have a record: it is audited, or unknown to the gateway and relayed.
    pub(crate) fn is_recorded(&self, method: &str) -> bool {
        self.is_audited(method) || methods::find(method).is_none()
    }

    /// Returns `true` if the operator lets the gateway relay this unknown method. Tasks are never relayed.
    pub(crate) fn is_pass_method(&self, method: &str) -> bool {
        !methods::is_of_tasks(method)
            && self.pass_methods.iter().any(|known| match known.strip_suffix('*') {
                Some(prefix) => method.starts_with(prefix),
                None => method == known,
            })
    }
}
