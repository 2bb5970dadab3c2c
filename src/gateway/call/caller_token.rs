//! The token of a caller, for a backend that is called on its behalf.

use std::sync::Arc;

use axum::http::header;

use crate::auth::credential::Credential;
use crate::auth::{self, Principal};
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::request::InboundRequest;
use crate::gateway::session::Session;
use crate::upstream::{Backend, CallError, CallerToken, CredentialError, public_message};

/// The token with which `principal` made the request `inbound`. `None`: it was authenticated in another way.
fn token_of(principal: &Principal, inbound: &InboundRequest) -> Option<Arc<CallerToken>> {
    let Credential::Token(validity, _) = principal.credential else { return None };
    let text = auth::bearer(inbound.headers.get(header::AUTHORIZATION)?.as_bytes())?;
    Some(Arc::new(CallerToken::new(&principal.issuer, &principal.subject, text, validity)))
}

/// The token of the caller, if `backend` is called on its behalf.
///
/// # Errors
/// [`CallError::Credential`]: the caller has no token that can be exchanged.
pub(crate) fn for_backend(
    backend: &Backend,
    principal: &Principal,
    inbound: &InboundRequest,
) -> Result<Option<Arc<CallerToken>>, CallError> {
    if !backend.is_on_behalf() {
        return Ok(None);
    }
    Ok(Some(token_of(principal, inbound).ok_or(CredentialError::NoCallerToken)?))
}

/// The token of the caller, for a message that is not for one backend. `None`: no connection of `session` is used on
/// behalf of the caller, or the caller has no token that can be exchanged.
pub(crate) fn in_session(
    session: &Session,
    principal: &Principal,
    inbound: &InboundRequest,
) -> Option<Arc<CallerToken>> {
    let is_needed = session.connections.all().iter().any(|connection| connection.is_on_behalf());
    if is_needed { token_of(principal, inbound) } else { None }
}

/// The refusal of a caller that has no token for `backend`.
pub(crate) fn refusal(entry: &mut AuditEntry<'_>, backend: &str, error: &CallError) -> Refusal {
    entry.decided_by = Some(format!("backends.{backend}.oauth.on_behalf"));
    Refusal::denied(public_message(backend, error))
}
