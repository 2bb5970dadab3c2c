//! The `requestState` of an answer that asks for input: it links the retry to its first request.
//!
//! A modern client returns the state with the answers to the questions, in a request of its own. The gateway puts a
//! state into every such answer, whether or not the backend sent one, and accepts answers only together with it. The
//! state is valid for the principal, the target and the arguments of the first request, and until it expires. It is
//! bound by a MAC with the key in `server.state_key_file`, which replicas share, or else with a key of this process.
//! The schemas are those of the questions that ask for a secret, in hexadecimal: the answers are redacted by them.
//!
//! ```text
//! gatepost.<request id of the first request>.<expiry, Unix seconds>.<schemas>.<HMAC-SHA-256, hexadecimal>
//! gatepost.<...>.<...>.<...>.<...>.<the backend's own state>
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::http::StatusCode;

use crate::audit::record::{Digest, RequestId, Timestamp};
use crate::auth::Principal;
use crate::config::Config;
use crate::file_access::{FileError, FileKind};
use crate::gateway::message::refusal::Refusal;
use crate::mcp::params::Params;
use crate::mcp::protocol::INVALID_PARAMS;
use crate::rbac::Target;

const PREFIX: &str = "gatepost.";

/// Longest key file that is read, in bytes. *Derived*: 64 digits and a line end, with room.
const FILE_BYTES_MAX: usize = 128;

/// The members of parameters that may differ between a request and its retry: the target is bound as the backend has
/// it, and the others belong to one message.
const UNBOUND: [&str; 4] = ["name", "uri", "inputResponses", "requestState"];

/// Makes and verifies request states.
#[derive(Clone)]
pub(crate) struct RequestStates {
    key: hmac::Key,
    /// The time for which a state is valid.
    ttl: Duration,
}

/// The request that a state belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StateOwner<'a> {
    pub(crate) principal: &'a Principal,
    pub(crate) target: Target<'a>,
    /// The parameters as the client sent them.
    pub(crate) params: &'a Params,
}

/// A verified state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestState<'a> {
    /// The first request.
    pub(crate) origin: RequestId,
    /// The schemas of the questions that ask for secrets: an object by name, JSON text.
    pub(crate) schemas: Option<String>,
    /// The backend's own state, if it sent one.
    pub(crate) of_backend: Option<&'a str>,
}

/// The state of a retry is not valid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    /// It was not issued for this request.
    #[error("requestState was not issued to this caller for this request: call again without it")]
    Foreign,
    /// It has expired.
    #[error("requestState has expired: call again without it")]
    Expired,
    /// There are answers, and no state.
    #[error("inputResponses need the requestState of the answer that asked for them: call again without them")]
    Missing,
}

/// The key of request states cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateKeyError {
    /// The file cannot be read, or others may read it.
    #[error("server.state_key_file: {0}")]
    File(#[from] FileError),
    /// The file does not contain a key.
    #[error("server.state_key_file: {0:?} must contain 64 hexadecimal digits, for example from `openssl rand -hex 32`")]
    Contents(PathBuf),
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        Self::malformed(StatusCode::BAD_REQUEST, INVALID_PARAMS, error.to_string())
    }
}

impl std::fmt::Debug for RequestStates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestStates") // I8: it contains the key.
    }
}

impl RequestStates {
    /// Makes states by the key and for the time of `config`.
    ///
    /// # Errors
    /// [`StateKeyError`].
    pub(crate) fn new(config: &Config) -> Result<Self, StateKeyError> {
        let read = |path: &Path| {
            let text = config.audit.files.read(path, FileKind::Secret, FILE_BYTES_MAX)?;
            let mut key = [0; 32];
            let decoded = hex::decode_to_slice(text.trim_ascii(), &mut key);
            decoded.map(|()| key).map_err(|_| StateKeyError::Contents(path.to_owned()))
        };
        let key = config.server.state_key_file.as_deref().map_or_else(|| Ok(rand::random()), read)?;
        Ok(Self::with_key(&key, config.server.state_ttl))
    }

    fn with_key(key: &[u8; 32], ttl: Duration) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), ttl }
    }

    /// The state that the client receives. `origin` is the first request, `of_backend` the backend's own state,
    /// `schemas` an object of schemas of questions that ask for secrets, JSON text.
    pub(crate) fn bind(
        &self,
        of_backend: Option<&str>,
        origin: RequestId,
        schemas: Option<&str>,
        owner: &StateOwner<'_>,
    ) -> String {
        let expiry = (now() + self.ttl.as_secs()).to_string();
        let origin = origin.to_string();
        let schemas = hex::encode(schemas.unwrap_or_default());
        let bound = bound(of_backend, [&origin, &expiry, &schemas], owner);
        let mac = hex::encode(hmac::sign(&self.key, &bound));
        let state = format!("{PREFIX}{origin}.{expiry}.{schemas}.{mac}");
        match of_backend {
            Some(own) => format!("{state}.{own}"),
            None => state,
        }
    }

    /// Verifies a state that a client returned.
    ///
    /// # Errors
    /// [`StateError`]: the state was not issued for `owner`, or has expired.
    pub(crate) fn open<'a>(&self, state: &'a str, owner: &StateOwner<'_>) -> Result<RequestState<'a>, StateError> {
        let mut parts = state.strip_prefix(PREFIX).ok_or(StateError::Foreign)?.splitn(5, '.');
        let mut part = || parts.next().ok_or(StateError::Foreign);
        let (origin, expiry, schemas, mac) = (part()?, part()?, part()?, part()?);
        let of_backend = parts.next();
        let mac = hex::decode(mac).map_err(|_| StateError::Foreign)?;
        let bound = bound(of_backend, [origin, expiry, schemas], owner);
        hmac::verify(&self.key, &bound, &mac).map_err(|_| StateError::Foreign)?;
        let id = uuid::Uuid::parse_str(origin).map_err(|_| StateError::Foreign)?;
        if expiry.parse().is_ok_and(|expiry: u64| now() < expiry) {
            let schemas = hex::decode(schemas).ok().and_then(|text| String::from_utf8(text).ok());
            let schemas = schemas.filter(|schemas| !schemas.is_empty());
            Ok(RequestState { origin: RequestId(id), schemas, of_backend })
        } else {
            Err(StateError::Expired)
        }
    }
}

/// The bytes that the MAC of a state covers.
fn bound(of_backend: Option<&str>, own: [&str; 3], owner: &StateOwner<'_>) -> Vec<u8> {
    let StateOwner { principal, target, params } = owner;
    let kind = format!("{:?}", target.kind);
    let of_backend = of_backend.map_or_else(String::new, |state| format!(".{state}"));
    let target = [&*principal.issuer, &*principal.subject, &*kind, target.backend, target.name];
    let mut bound = Vec::new();
    for field in target.into_iter().chain(own).chain([&*of_backend]) {
        append(&mut bound, field.as_bytes());
    }
    bound.extend(params_digest(params).0);
    bound
}

/// Appends a field after its length, so that no two lists of fields give the same bytes.
fn append(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend((field.len() as u64).to_le_bytes());
    bytes.extend(field);
}

/// The current time, in Unix seconds.
fn now() -> u64 {
    Timestamp::now().micros().unsigned_abs() / 1_000_000
}

/// The digest of what a retry repeats: all members but [`UNBOUND`] and `_meta`, without the space between tokens, in
/// which two messages of one client may differ.
fn params_digest(params: &Params) -> Digest {
    let mut bytes = Vec::new();
    let mut members: Vec<_> = params.members().filter(|member| !UNBOUND.contains(&&*member.key)).collect();
    members.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    for member in members {
        let value = without_space(&member.value);
        append(&mut bytes, member.key.as_bytes());
        append(&mut bytes, &value);
    }
    Digest::of(&bytes)
}

/// Valid JSON text without the space between its tokens.
fn without_space(json: &str) -> Vec<u8> {
    let (mut in_string, mut is_escaped) = (false, false);
    let is_kept = |byte: &u8| {
        if in_string {
            (in_string, is_escaped) = (is_escaped || *byte != b'"', !is_escaped && *byte == b'\\');
            return true;
        }
        in_string = *byte == b'"';
        !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
    };
    json.bytes().filter(is_kept).collect()
}

#[cfg(test)]
mod tests {
    use crate::rbac::TargetKind;

    use super::*;
    use crate::auth::credential::Credential;

    const DAY: Duration = Duration::from_hours(24);

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
    fn a_state_is_valid_only_for_its_caller_target_and_arguments() {
        let (states, ann, bob) = (RequestStates::with_key(&[1; 32], DAY), principal("ann"), principal("bob"));
        let target = |name| Target { kind: TargetKind::Tool, backend: "b", name };
        let first = StateOwner {
            principal: &ann,
            target: target("t"),
            params: &Params::own(&[("name", "\"b__t\""), ("arguments", r#"{"a":"x y"}"#)]),
        };
        let again = [
            ("arguments", r#"{ "a" : "x y" }"#),
            ("name", "\"t\""),
            ("inputResponses", "{}"),
            ("requestState", "\"s\""),
        ];
        let retry = StateOwner { params: &Params::own(&again), ..first };
        let origin = RequestId::new();
        for of_backend in [Some("a.b\u{e9}"), Some(""), None] {
            let schemas = of_backend.map(str::to_owned).filter(|schemas| !schemas.is_empty());
            let bound = states.bind(of_backend, origin, schemas.as_deref(), &first);
            let expected = || Ok(RequestState { origin, schemas: schemas.clone(), of_backend });
            assert_eq!(states.open(&bound, &first), expected());
            assert_eq!(states.open(&bound, &retry), expected());
            // Another replica with the same key.
            assert_eq!(RequestStates::with_key(&[1; 32], DAY).open(&bound, &retry), expected());
            let others = [
                StateOwner { principal: &bob, ..retry },
                StateOwner { target: target("u"), ..retry },
                StateOwner { params: &Params::own(&[("arguments", r#"{"a":"xy"}"#)]), ..retry },
                StateOwner { params: &Params::own(&[("arguments", r#"{"a":"x y"}"#), ("x", "1")]), ..retry },
                StateOwner { params: &Params::own(&[]), ..retry },
            ];
            for other in others {
                assert_eq!(states.open(&bound, &other), Err(StateError::Foreign), "{other:?}");
            }
            let changed = bound.replacen(&origin.to_string(), &RequestId::new().to_string(), 1);
            for changed in [changed, format!("{bound}."), format!("{bound}x"), bound.replacen('.', "..", 1)] {
                assert_eq!(states.open(&changed, &retry), Err(StateError::Foreign), "{changed}");
            }
            assert_eq!(RequestStates::with_key(&[2; 32], DAY).open(&bound, &retry), Err(StateError::Foreign));
        }
        for other in ["", "a.b", "gatepost.", "gatepost.id", "gatepost.id.1.zz.s", "gatepost.id.1.\u{e9}x.s"] {
            assert_eq!(states.open(other, &first), Err(StateError::Foreign), "{other}");
        }
    }

    #[test]
    fn a_state_expires() {
        let (states, ann) = (RequestStates::with_key(&[1; 32], Duration::ZERO), principal("ann"));
        let owner = StateOwner { principal: &ann, target: Target::tool("b", "t"), params: &Params::own(&[]) };
        let bound = states.bind(None, RequestId::new(), None, &owner);
        assert_eq!(states.open(&bound, &owner), Err(StateError::Expired));
    }
}
