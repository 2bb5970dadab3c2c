//! The `requestState` of a backend that needs input, bound to the caller for whom it was made.
//!
//! A modern client sends it back with what was asked for, as another request. The gateway hands it on only to the backend
//! and for the tool that made it, and only from the principal who got it; another's is refused. What binds it is a MAC
//! under a key of this process: a state from before a restart is refused as well, and the client calls again.
//!
//! ```text
//! gatepost.<request id of the first request>.<HMAC-SHA-256, hexadecimal>.<the backend's own state>
//! ```

use axum::http::StatusCode;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::auth::Principal;
use crate::gateway::message::refusal::Refusal;
use crate::mcp::protocol::INVALID_PARAMS;
use crate::rbac::Target;

const PREFIX: &str = "gatepost.";

/// Binds request states to principals.
#[derive(Clone)]
pub(crate) struct RequestStateSigner(Hmac<Sha256>);

/// A state that was not made for this request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("requestState was not made for this caller and tool: call again without it")]
pub(crate) struct ForeignStateError;

impl From<ForeignStateError> for Refusal {
    fn from(error: ForeignStateError) -> Self {
        Self::malformed(StatusCode::BAD_REQUEST, INVALID_PARAMS, error.to_string())
    }
}

impl std::fmt::Debug for RequestStateSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestStateSigner")
    }
}

impl RequestStateSigner {
    /// With a fresh key: 244 random bits.
    pub(crate) fn new() -> Self {
        let key = [*uuid::Uuid::new_v4().as_bytes(), *uuid::Uuid::new_v4().as_bytes()].concat();
        Self(Hmac::new_from_slice(&key).expect("HMAC takes a key of any length"))
    }

    /// The state as the client gets it; `origin` is the gateway's id of the first request.
    pub(crate) fn bind(&self, state: &str, origin: &str, principal: &Principal, target: Target<'_>) -> String {
        use std::fmt::Write as _;
        let mut bound = format!("{PREFIX}{origin}.");
        for byte in self.mac(state, origin, principal, target).finalize().into_bytes() {
            write!(bound, "{byte:02x}").ok();
        }
        bound.push('.');
        bound.push_str(state);
        bound
    }

    /// The backend's own state, and the id of the first request.
    ///
    /// # Errors
    /// [`ForeignStateError`].
    pub(crate) fn open<'a>(
        &self,
        bound: &'a str,
        principal: &Principal,
        target: Target<'_>,
    ) -> Result<(&'a str, &'a str), ForeignStateError> {
        let mut parts = bound.strip_prefix(PREFIX).ok_or(ForeignStateError)?.splitn(3, '.');
        let (Some(origin), Some(mac), Some(state)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ForeignStateError);
        };
        let digit = |at: usize| mac.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let mac: Option<Vec<u8>> = (0..mac.len()).step_by(2).map(digit).collect();
        let found = self.mac(state, origin, principal, target).verify_slice(&mac.ok_or(ForeignStateError)?);
        found.map(|()| (state, origin)).map_err(|_| ForeignStateError)
    }

    fn mac(&self, state: &str, origin: &str, principal: &Principal, target: Target<'_>) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        let kind = format!("{:?}", target.kind);
        for field in [&*principal.issuer, &*principal.subject, &*kind, target.backend, target.name, origin, state] {
            mac.update(&(field.len() as u64).to_le_bytes());
            mac.update(field.as_bytes());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use crate::rbac::TargetKind;

    use super::*;

    fn principal(subject: &str) -> Principal {
        Principal { subject: subject.to_owned(), issuer: "i".to_owned(), token_id: None, roles: Vec::new() }
    }

    #[test]
    fn a_state_is_good_for_its_caller_and_tool_only() {
        let (request_states, ann) = (RequestStateSigner::new(), principal("ann"));
        let target = |name| Target { kind: TargetKind::Tool, backend: "b", name };
        let bound = request_states.bind("a.b\u{e9}", "id", &ann, target("t"));
        assert_eq!(request_states.open(&bound, &ann, target("t")), Ok(("a.b\u{e9}", "id")));
        assert_eq!(request_states.open(&bound, &principal("bob"), target("t")), Err(ForeignStateError));
        assert_eq!(request_states.open(&bound, &ann, target("u")), Err(ForeignStateError));
        assert_eq!(request_states.open(&bound.replace("id", "ie"), &ann, target("t")), Err(ForeignStateError));
        assert_eq!(RequestStateSigner::new().open(&bound, &ann, target("t")), Err(ForeignStateError));
        for other in ["", "a.b", "gatepost.", "gatepost.id", "gatepost.id.zz.s", "gatepost.id.\u{e9}x.s"] {
            assert_eq!(request_states.open(other, &ann, target("t")), Err(ForeignStateError), "{other}");
        }
    }
}
