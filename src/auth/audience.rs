//! The audience of a token: which services it is for. *Spec*: RFC 7519 4.1.3.

use serde_json::{Map, Value};

/// Decides, for one request, whether a value of `aud` names the endpoint that the request is for.
pub type IsEndpoint<'a> = &'a (dyn Fn(&str) -> bool + Sync);

/// Returns true if a value of `aud` names the endpoint, or is one of those `accepted` at every endpoint.
pub(super) fn is_accepted(claims: &Map<String, Value>, accepted: &[String], is_endpoint: IsEndpoint<'_>) -> bool {
    let is_accepted = |value: &str| accepted.iter().any(|known| known == value) || is_endpoint(value);
    match claims.get("aud") {
        Some(Value::String(one)) => is_accepted(one),
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).any(is_accepted),
        _ => false,
    }
}
