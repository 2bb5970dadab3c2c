//! The handle's part for the console: who may view it, and the records of its sign-ins and refusals.

use std::net::SocketAddr;

use axum::http::HeaderMap;

use crate::audit::UnavailableError;
use crate::audit::record::{Call, Caller, ClientAddr, Correlation, Outcome, RequestId, Status};
use crate::auth::id_token::Expected;
use crate::auth::{AuthError, Principal};

use super::Handle;
use super::call::refusal_windows::RefusedRequest;

impl Handle {
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
        self.0.audit.record_event(call_of(method, client, caller)).await
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
        let core = &self.0;
        core.counters.refused(status);
        let addr = Some(client.ip());
        let refused = RefusedRequest { caller, addr, status, backend: None, method, tool: None, reason };
        let record = || (call_of(method, client, caller), Outcome::failed(status, reason), ());
        core.refusals.record(&core.audit, &refused, record).await.map(|_| ())
    }
}

/// The call of a request to the operations listener, for its record.
fn call_of(method: &str, client: ClientAddr, caller: &Caller) -> Call {
    let correlation = Correlation { addr: Some(client), ..Correlation::default() };
    Call::new(RequestId::new(), method).with_caller(caller).with_correlation(&correlation)
}
