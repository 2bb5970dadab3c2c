//! The headers of a client that are forwarded to an HTTP backend: the position in a trace.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::gateway::message::headers::single_value;

/// The header with the position of a request in a trace, and the one for tracing systems' own data. *Spec*: W3C Trace
/// Context.
pub(crate) const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The longest `tracestate` that is forwarded, in bytes. *Spec*: W3C Trace Context 3.3.1.5, the minimum.
const TRACESTATE_BYTES_MAX: usize = 512;

/// The client's headers that are forwarded to an HTTP backend: the position in a trace.
pub(crate) fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = HeaderMap::new();
    if let Some(parent) = traceparent(headers) {
        forwarded.insert(TRACEPARENT, parent.clone());
        let state = single_value(headers, TRACESTATE).filter(|state| state.len() <= TRACESTATE_BYTES_MAX);
        forwarded.extend(state.map(|state| (HeaderName::from_static(TRACESTATE), state.clone())));
    }
    forwarded
}

/// The trace id in the client's `traceparent`, if that is valid.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    traceparent(headers)?.to_str().ok()?.split('-').nth(1)
}

/// The client's `traceparent`, if it is valid.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<&HeaderValue> {
    single_value(headers, TRACEPARENT).filter(|parent| is_traceparent(parent.as_bytes()))
}

/// Returns `true` if `text` is a `traceparent` of version 00: version, trace id, span id and flags in lower-case
/// hexadecimal digits, neither id zero. Later versions are not forwarded, because their format is not known.
pub(crate) fn is_traceparent(text: &[u8]) -> bool {
    let parts: Vec<&[u8]> = text.split(|byte| *byte == b'-').collect();
    let hex = |part: &[u8], length: usize| {
        part.len() == length && part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &[u8], length| hex(part, length) && part.iter().any(|byte| *byte != b'0');
    matches!(parts[..], [version, trace, span, flags] if version == b"00" && id(trace, 32) && id(span, 16) && hex(flags, 2))
}
