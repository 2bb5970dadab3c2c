//! The streams that may get the messages of a backend.

use std::sync::Arc;

use tokio::sync::watch;

use crate::gateway::session::stream::Stream;
use crate::rbac::Policy;

/// Decides which streams may get the messages of one backend: those whose roles reach it by the policy that is in force
/// when the message arrives.
#[derive(Clone, Debug)]
pub(crate) struct Audience {
    backend: String,
    policy: watch::Receiver<Arc<Policy>>,
}

impl Audience {
    pub(crate) fn new(backend: &str, policy: watch::Receiver<Arc<Policy>>) -> Self {
        Self { backend: backend.to_owned(), policy }
    }

    /// Returns true if `stream` may get a message of the backend now.
    pub(crate) fn may_hear(&self, stream: &Stream) -> bool {
        // I10: a stream without roles gets nothing.
        self.policy.borrow().reaches(&stream.roles(), &self.backend)
    }

    /// Waits until `stream` may get the backend's messages, or may not.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn wait_until(&self, stream: &Stream, may_hear: bool) {
        let mut policy = self.policy.clone();
        let reaches = |policy: &Arc<Policy>| policy.reaches(&stream.roles(), &self.backend);
        // An error means that the gateway has stopped.
        policy.wait_for(|policy| reaches(policy) == may_hear).await.ok();
    }
}
