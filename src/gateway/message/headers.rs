//! Checks of request headers: `Host` and `Origin`, and the headers that must agree with the body.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::mcp::envelope::Message;
use crate::mcp::json;
use crate::mcp::methods::{self, MethodSpec};
use crate::mcp::protocol::{
    Era, HEADER_MISMATCH, INVALID_PARAMS, LEGACY_VERSIONS, META_CAPABILITIES, META_VERSION, METHOD_HEADER,
    MODERN_VERSION, NAME_HEADER, UNSUPPORTED_VERSION, VERSION_HEADER, is_header_text,
};

/// A rule for headers that a request breaks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Mismatch {
    /// The JSON-RPC error code.
    pub(crate) code: i32,
    /// The rule, for the client.
    pub(crate) message: String,
    /// The error's data, as JSON text.
    pub(crate) data: Option<String>,
}

impl Mismatch {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The error for a version that is not supported. `supported` has the versions of the request's era, as the result
    /// of
    /// `server/discover` has for a modern client.
    fn unsupported(requested: &str, supported: &[&str]) -> Self {
        let supported = supported.iter().map(|version| json::quoted(version)).collect::<Vec<_>>();
        let requested = &requested[..requested.floor_char_boundary(64)];
        let data = format!(r#"{{"supported":[{}],"requested":{}}}"#, supported.join(","), json::quoted(requested));
        Self { code: UNSUPPORTED_VERSION, message: "unsupported protocol version".to_owned(), data: Some(data) }
    }
}

/// The only value of a header; `None` if the header is missing, is repeated or is not ASCII text.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    single_value(headers, name)?.to_str().ok()
}

/// The only value of a header, of any bytes; `None` if the header is missing or is repeated.
pub(crate) fn single_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The protocol era of a message. Its headers must agree with its body.
pub(crate) fn era(headers: &HeaderMap, message: &Message<'_>) -> Result<Era, Mismatch> {
    let params = message.params().unwrap_or_default();
    let meta = params.object("_meta").unwrap_or_default();
    let version = single(headers, VERSION_HEADER);
    if version != Some(MODERN_VERSION) && meta.get(META_VERSION).is_none() {
        return match version {
            Some(version) if message.method != "initialize" && !LEGACY_VERSIONS.contains(&version) => {
                let all: Vec<_> = std::iter::once(MODERN_VERSION).chain(LEGACY_VERSIONS).collect();
                Err(Mismatch::unsupported(version, &all))
            }
            _ => Ok(Era::Legacy),
        };
    }
    for name in [VERSION_HEADER, METHOD_HEADER, NAME_HEADER] {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(Mismatch::new(HEADER_MISMATCH, format!("header {name} is repeated")));
        }
    }
    if message.id.is_none() {
        return Ok(Era::Modern); // A notification has no `_meta`; it is accepted and dropped.
    }
    let (Some(requested), Some(_)) = (meta.get(META_VERSION), meta.get(META_CAPABILITIES)) else {
        return Err(Mismatch::new(
            INVALID_PARAMS,
            format!("params._meta needs {META_VERSION} and {META_CAPABILITIES}"),
        ));
    };
    let requested = json::string(requested);
    if version.is_none() || version != requested.as_deref() {
        return Err(Mismatch::new(
            HEADER_MISMATCH,
            format!("header {VERSION_HEADER} does not match the version in params._meta"),
        ));
    }
    if single(headers, METHOD_HEADER) != Some(message.method.as_str()) {
        return Err(Mismatch::new(
            HEADER_MISMATCH,
            format!("header {METHOD_HEADER} does not match the message's method"),
        ));
    }
    let member = methods::find(&message.method).and_then(MethodSpec::header_member);
    if let Some(name) = member.and_then(|member| params.string(member))
        && !single(headers, NAME_HEADER).is_some_and(|header| is_header_text(header, &name))
    {
        return Err(Mismatch::new(
            HEADER_MISMATCH,
            format!("header {NAME_HEADER} does not match the name or URI in params"),
        ));
    }
    match requested {
        Some(version) if version != MODERN_VERSION => Err(Mismatch::unsupported(&version, &[MODERN_VERSION])),
        _ => Ok(Era::Modern),
    }
}

/// Returns `true` if `Host` is a name of this gateway: a loopback name, or a configured one. A configured name without
/// a port allows any port. This is the defense against DNS rebinding: the browser sends the name that was rebound.
#[must_use]
pub fn is_host_allowed(host: &str, allowed: &[String]) -> bool {
    is_loopback(without_port(host))
        || allowed.iter().any(|name| name.eq_ignore_ascii_case(host) || name.eq_ignore_ascii_case(without_port(host)))
}

/// Returns `true` if `Origin` may call: it is absent, configured, or, as the gateway itself, on loopback.
pub(crate) fn is_origin_allowed(origin: Option<&str>, host: &str, allowed: &[String]) -> bool {
    let Some(origin) = origin else {
        return true;
    };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let is_local = authority.is_some_and(|authority| is_loopback(without_port(authority)));
    (is_local && is_loopback(without_port(host))) || allowed.iter().any(|known| known.eq_ignore_ascii_case(origin))
}

pub(crate) fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]"
}

/// The host without its port.
pub(crate) fn without_port(host: &str) -> &str {
    name_and_port(host).0
}

/// The name of a host and its port. A text that is not a port number belongs to the name, so that no allowed name is
/// equal to it. An empty port is none (RFC 3986 3.2.3).
pub(crate) fn name_and_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, "")) if !name.is_empty() => (name, None),
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => {
            port.parse().map_or((host, None), |port| (name, Some(port)))
        }
        _ => (host, None),
    }
}

/// Returns `true` if `Content-Type` is JSON, in any case and with any parameter.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let content_type = single(headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Returns `true` if `Transfer-Encoding` is exactly `chunked`, in any case. Proxies and filters read lists of codings,
/// and repeated headers, in different ways.
pub(crate) fn is_chunked(headers: &HeaderMap) -> bool {
    single(headers, header::TRANSFER_ENCODING.as_str()).is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
}

/// Returns `true` if `Content-Encoding` is exactly `identity`, in any case: the body is as it was written.
pub(crate) fn is_identity(headers: &HeaderMap) -> bool {
    single(headers, header::CONTENT_ENCODING.as_str()).is_some_and(|coding| coding.eq_ignore_ascii_case("identity"))
}

/// Returns `true` if the client accepts an event stream.
pub(crate) fn accepts_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let media_types =
        values.flat_map(|value| value.split(',')).map(|media| media.split(';').next().unwrap_or_default().trim());
    media_types.into_iter().any(|media| media.eq_ignore_ascii_case("text/event-stream"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use crate::mcp::envelope;

    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        headers.iter().map(pair).collect()
    }

    fn code(headers: &[(&str, &str)], meta: &str) -> Result<Era, i32> {
        let params = format!(r#"{{"name":"caf\u00e9","_meta":{meta}}}"#);
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        era(&map(headers), &envelope::parse(body.as_bytes(), 4096).unwrap().message().unwrap())
            .map_err(|mismatch| mismatch.code)
    }

    const META: &str =
        r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    const VERSION: (&str, &str) = (VERSION_HEADER, MODERN_VERSION);
    const METHOD: (&str, &str) = (METHOD_HEADER, "tools/call");
    const NAME: (&str, &str) = (NAME_HEADER, "=?base64?Y2Fmw6k=?=");

    #[test]
    fn modern_headers_must_agree_with_the_body() {
        assert_eq!(code(&[VERSION, METHOD, NAME], META), Ok(Era::Modern));
        assert_eq!(code(&[METHOD, NAME], META), Err(HEADER_MISMATCH));
        assert_eq!(code(&[VERSION, NAME], META), Err(HEADER_MISMATCH));
        assert_eq!(code(&[VERSION, METHOD], META), Err(HEADER_MISMATCH));
        assert_eq!(code(&[VERSION, METHOD, (NAME_HEADER, "cafe")], META), Err(HEADER_MISMATCH));
        assert_eq!(code(&[VERSION, (METHOD_HEADER, "ping"), NAME], META), Err(HEADER_MISMATCH));
        assert_eq!(code(&[VERSION, METHOD, METHOD, NAME], META), Err(HEADER_MISMATCH));
        assert_eq!(code(&[(VERSION_HEADER, "2025-11-25"), METHOD, NAME], META), Err(HEADER_MISMATCH));
        assert_eq!(code(&[VERSION, METHOD, NAME], "{}"), Err(INVALID_PARAMS));
        let next = META.replace("2026", "2027");
        assert_eq!(code(&[(VERSION_HEADER, "2027-07-28"), METHOD, NAME], &next), Err(UNSUPPORTED_VERSION));
    }

    #[test]
    fn legacy_versions_are_known_or_refused() {
        for version in LEGACY_VERSIONS {
            assert_eq!(code(&[(VERSION_HEADER, version)], "{}"), Ok(Era::Legacy));
        }
        assert_eq!(code(&[], "{}"), Ok(Era::Legacy));
        assert_eq!(code(&[(VERSION_HEADER, "1999-01-01")], "{}"), Err(UNSUPPORTED_VERSION));
    }

    #[test]
    fn only_known_hosts_and_origins_pass() {
        let hosts = ["gate.example".to_owned(), "other.example:8443".to_owned()];
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8808", "[::1]:8808", "[::1]", "gate.example:1"] {
            assert!(is_host_allowed(host, &hosts), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "other.example:1"] {
            assert!(!is_host_allowed(host, &hosts), "{host}");
        }
        let origins = ["https://app.example".to_owned()];
        let allowed = |origin| is_origin_allowed(origin, "localhost:8808", &origins);
        for origin in ["http://localhost:8808", "http://localhost:1", "http://[::1]:1", "https://app.example"] {
            assert!(allowed(Some(origin)), "{origin}");
        }
        for origin in ["null", "https://evil.example", "http://localhost.evil.example", "localhost:1", ""] {
            assert!(!allowed(Some(origin)), "{origin}");
        }
        assert!(allowed(None));
        for origin in ["http://gate.example", "http://localhost:8808"] {
            assert!(!is_origin_allowed(Some(origin), "gate.example", &origins), "{origin}");
        }
    }

    #[test]
    fn content_type_is_compared_as_media_types_are() {
        for value in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(is_json(&map(&[("content-type", value)])), "{value}");
        }
        for value in ["text/plain", "application/jsonx", ""] {
            assert!(!is_json(&map(&[("content-type", value)])), "{value}");
        }
        assert!(!is_json(&map(&[])));
    }
}
