//! The `requestState` of a backend that needs input, bound to its caller, backend and tool.
//!
//! A modern client returns the state with the input, in a new request. The gateway forwards it only to the backend and
//! tool that issued it, and only for the principal that received it; otherwise the request is refused. The state is
//! bound by a MAC with a key of this process: after a restart, earlier states are refused and the client must call
//! again.
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

/// The state was not issued for this caller and target.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("requestState was not issued to this caller for this tool: call again without it")]
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
    /// Creates a signer with a new key of 244 random bits.
    pub(crate) fn new() -> Self {
        let key = [*uuid::Uuid::new_v4().as_bytes(), *uuid::Uuid::new_v4().as_bytes()].concat();
        Self(Hmac::new_from_slice(&key).expect("HMAC takes a key of any length"))
    }

    /// The state that the client receives. `origin` is the request id of the first request.
    pub(crate) fn bind(&self, state: &str, origin: &str, principal: &Principal, target: Target<'_>) -> String {
        let mac = hex::encode(self.mac(state, origin, principal, target).finalize().into_bytes());
        format!("{PREFIX}{origin}.{mac}.{state}")
    }

    /// Verifies a state that a client returned. Returns the backend's own state and the id of the first request.
    ///
    /// # Errors
    /// [`ForeignStateError`]: the state was not issued for `principal` and `target`.
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
        let mac = hex::decode(mac).map_err(|_| ForeignStateError)?;
        let verified = self.mac(state, origin, principal, target).verify_slice(&mac);
        verified.map(|()| (state, origin)).map_err(|_| ForeignStateError)
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
    use crate::auth::credential::Credential;

    fn principal(subject: &str) -> Principal {
        Principal {
            subject: subject.to_owned(),
            issuer: "i".to_owned(),
            token_id: None,
            roles: Vec::new(),
            credential: Credential::default(),
            no_role: None,
            identity: std::sync::Arc::default(),
        }
    }

    #[test]
    fn a_state_is_valid_only_for_its_caller_and_tool() {
        let (signer, ann) = (RequestStateSigner::new(), principal("ann"));
        let target = |name| Target { kind: TargetKind::Tool, backend: "b", name };
        let bound = signer.bind("a.b\u{e9}", "id", &ann, target("t"));
        assert_eq!(signer.open(&bound, &ann, target("t")), Ok(("a.b\u{e9}", "id")));
        assert_eq!(signer.open(&bound, &principal("bob"), target("t")), Err(ForeignStateError));
        assert_eq!(signer.open(&bound, &ann, target("u")), Err(ForeignStateError));
        assert_eq!(signer.open(&bound.replace("id", "ie"), &ann, target("t")), Err(ForeignStateError));
        assert_eq!(RequestStateSigner::new().open(&bound, &ann, target("t")), Err(ForeignStateError));
        for other in ["", "a.b", "gatepost.", "gatepost.id", "gatepost.id.zz.s", "gatepost.id.\u{e9}x.s"] {
            assert_eq!(signer.open(other, &ann, target("t")), Err(ForeignStateError), "{other}");
        }
    }
}
