//! The era of an HTTP backend: the probe that determines it, and the consequences of evidence against it.
//!
//! *Spec*, "Versioning": a client remembers the era and determines it again when requests fail. A backend that could
//! not be reached may be another server when it is back. A server that was replaced while it was reachable rejects
//! requests of its predecessor's era. Such requests are not sent again; the next request is sent in the right era.

use std::sync::Arc;
use std::time::Duration;

use crate::upstream::error::CallError;
use crate::upstream::message::{self, DISCOVER, Request, Response};
use crate::upstream::oauth::CallerToken;

use super::connection::HttpConnection;
use super::endpoint::Endpoint;
use super::era::{EraEvidence, is_rejection};

/// Longest time for the answer to `server/discover`. *Chosen*: as for a list; a client waits for it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

impl Endpoint {
    /// Returns whether the backend speaks the stateless era, and probes it if that is not known, on behalf of a
    /// `caller` or of the gateway.
    ///
    /// # Errors
    /// [`CallError`]: the probe failed, or its answer is inconclusive. The era stays unknown.
    pub(in crate::upstream) async fn speaks_modern(
        self: &Arc<Self>,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<bool, CallError> {
        if let Some(known) = self.is_modern() {
            return Ok(known);
        }
        // Boxed: it is rare, and would make the future of every call larger.
        let is_modern = Box::pin(self.probe_era(caller)).await?;
        if let Some(modern) = self.is_modern() {
            tracing::info!(backend = self.alias, modern, "backend era determined");
        }
        Ok(is_modern)
    }

    /// Probes and remembers the era of the backend. Returns whether it is the stateless one. The older era is not
    /// remembered if the probe was made on behalf of a `caller`: the backend may have rejected the caller's token.
    /// [`Endpoint::confirm_legacy`] remembers it.
    ///
    /// # Errors
    /// As for [`Endpoint::speaks_modern`]; the remembered era stays.
    pub(super) async fn probe_era(self: &Arc<Self>, caller: Option<&Arc<CallerToken>>) -> Result<bool, CallError> {
        let is_modern = self.discover(caller).await?;
        if is_modern || caller.is_none() {
            self.set_modern(Some(is_modern));
        }
        Ok(is_modern)
    }

    /// Gets the gateway's own greeting from a stateless backend whose era was found on behalf of a caller. If that
    /// fails, the greeting stays unknown.
    pub(in crate::upstream) async fn complete_greeting(self: &Arc<Self>) {
        if self.is_on_behalf() && self.is_modern() == Some(true) && self.greeting().is_none() {
            self.discover(None).await.ok();
        }
    }

    /// Sends `server/discover`. Returns whether the answer is of the stateless era.
    async fn discover(self: &Arc<Self>, caller: Option<&Arc<CallerToken>>) -> Result<bool, CallError> {
        let request = Request::new(DISCOVER, Some(message::discover_params().into())).on_behalf_of(caller);
        let connection = Arc::new(self.stateless_connection(caller));
        let answer = tokio::time::timeout(PROBE_TIMEOUT, connection.request_without_session(&request)).await;
        match answer.unwrap_or(Err(CallError::TimedOut { after: PROBE_TIMEOUT })) {
            Ok(answer) => {
                let is_modern = message::discovers_modern(&answer);
                if let (true, Response::Result(result)) = (is_modern, &answer) {
                    connection.keep_greeting(result);
                }
                Ok(is_modern)
            }
            Err(CallError::Http { status }) if is_rejection(status) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets the era, because the backend may speak another one now. It is probed when it is needed next, and logged
    /// then: this may run between a call's answer and its record.
    pub(in crate::upstream) fn forget_era(&self) {
        self.set_modern(None);
    }
}

impl HttpConnection {
    /// Ends the connection, because the backend does not continue it. The next connection probes the era.
    pub(super) fn abandon(&self) {
        self.ended.cancel();
        self.endpoint.forget_era();
    }

    /// Ends the connection if `evidence`, or a probe after it, shows that its era is wrong. `caller` is the token of
    /// the request that has the evidence.
    pub(super) async fn act_on_evidence(&self, evidence: EraEvidence, caller: Option<&Arc<CallerToken>>) {
        match evidence {
            EraEvidence::Contradictory => self.abandon(),
            // A backend with both eras answers a probe like one with the newer era only, so only a change is
            // conclusive.
            EraEvidence::Doubtful if self.endpoint.is_modern() == Some(false) => {
                if self.endpoint.probe_era(caller).await.unwrap_or(false) {
                    self.abandon();
                }
            }
            EraEvidence::Consistent | EraEvidence::Doubtful => {}
        }
    }
}
