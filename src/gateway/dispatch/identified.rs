//! Second stage: the caller is known, and does not exceed its rate.

use axum::http::header;

use crate::auth::{AuthError, Principal};
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::core::Core;
use crate::gateway::message::body::UnreadBody;
use crate::gateway::message::refusal::Refusal;
use crate::gateway::message::request::InboundRequest;

use super::received::Received;

/// A request with a verified token.
#[derive(Debug)]
pub struct Identified<'a> {
    pub(super) core: &'a Core,
    pub(super) inbound: &'a InboundRequest,
    pub(super) principal: Principal,
    pub(super) body: UnreadBody,
}

impl<'a> Received<'a> {
    /// Verifies the token, and counts the request in the rate of its principal. If it is refused, only the beginning of
    /// the body is read, for the record.
    ///
    /// # Errors
    /// A refusal with status `unauthenticated`, or `denied` for a valid token without the required scope, or
    /// `rate_limited`.
    pub async fn identify(self, entry: &mut AuditEntry<'_>) -> Result<Identified<'a>, Refusal> {
        let Self { core, inbound, body } = self;
        let mut values = inbound.headers.get_all(header::AUTHORIZATION).iter();
        let (value, another) = (values.next(), values.next());
        let value = value.map(axum::http::HeaderValue::as_bytes);
        // Most requests need no URL.
        let resource = || core.names.resource(&inbound.host, inbound.is_https, &inbound.scope);
        let verified = if another.is_some() {
            Err(AuthError::NotBearer)
        } else {
            let is_endpoint = |aud: &str| resource().has_audience(aud);
            entry.rules.auth.authenticate(value, inbound.certificate.as_ref(), &is_endpoint).await
        };
        let error = match verified {
            Ok(principal) => {
                inbound.place.iter().for_each(|place| place.mark_known());
                entry.caller = principal.caller_with_all_roles();
                // I6: before any work for the request, whatever it asks for.
                if let Err(limited) = core.limits.count_request(&principal, &entry.rules) {
                    entry.describe_unread(core, body).await;
                    return Err(limited.into());
                }
                return Ok(Identified { core, inbound, principal, body });
            }
            Err(error) => error,
        };
        match &error {
            // The caller is known, but not allowed.
            AuthError::Scope { principal, .. } => entry.caller = principal.caller(None),
            AuthError::Invalid { cause: Some(cause), .. } => tracing::debug!(cause = %cause, "token rejected"),
            _ => {}
        }
        entry.describe_unread(core, body).await;
        Err(Refusal::unidentified(&error, &resource(), &entry.rules.auth))
    }
}
