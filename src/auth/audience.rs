//! The audience of a token: which services it is for. *Spec*: RFC 7519 4.1.3.

use serde_json::{Map, Value};

/// Decides, for one request, whether a value of `aud` names the endpoint that the request is for.
pub type IsEndpoint<'a> = &'a (dyn Fn(&str) -> bool + Sync);

/// Returns true if a value of `aud` is one of those that are `listed`, which are accepted at every endpoint.
pub(super) fn is_listed(claims: &Map<String, Value>, listed: &[String]) -> bool {
    has_audience(claims, &|value| listed.iter().any(|known| known == value))
}

/// Returns true if `is_accepted` is true for a value of `aud`.
pub(super) fn has_audience(claims: &Map<String, Value>, is_accepted: IsEndpoint<'_>) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => is_accepted(one),
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).any(is_accepted),
        _ => false,
    }
}
