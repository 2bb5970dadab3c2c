//! The constants of MCP: protocol versions, error codes, methods, header names and keys of `_meta`.
//!
//! *Spec* unless another source is named: MCP 2024-11-05 to 2026-07-28, JSON-RPC 2.0.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The revisions with an `initialize` handshake, oldest first.
pub const LEGACY_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// The newest legacy revision: offered to clients that request an unknown one, and requested from backends.
pub const LEGACY_LATEST: &str = "2025-11-25";

/// The stateless revision.
pub const MODERN_VERSION: &str = "2026-07-28";

/// The message is not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// The message is JSON, but not a valid request.
pub const INVALID_REQUEST: i32 = -32600;
/// The method is unknown.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// The parameters are wrong, or the tool is unknown.
pub const INVALID_PARAMS: i32 = -32602;
/// The gateway or a backend failed.
pub const INTERNAL_ERROR: i32 = -32603;
/// The caller is not authenticated. *Chosen*: in the range that is left to implementations, like the next four.
pub const UNAUTHENTICATED: i32 = -32001;
/// The caller's role does not allow the call.
pub const DENIED: i32 = -32003;
/// The call cannot be audited. *Spec*: docs/design.md, "Flow".
pub const AUDIT_UNAVAILABLE: i32 = -32010;
/// The caller has too many calls in progress, or calls too often.
pub const RATE_LIMITED: i32 = -32011;
/// The backend did not answer in time, or could not be reached.
pub const UPSTREAM_FAILED: i32 = -32012;
/// A header and the body contradict each other.
pub const HEADER_MISMATCH: i32 = -32020;
/// The client lacks a capability that the request needs.
pub const MISSING_CAPABILITY: i32 = -32021;
/// The protocol version is not supported.
pub const UNSUPPORTED_VERSION: i32 = -32022;

/// The method that calls a tool. It always needs a permit and a record.
pub const TOOLS_CALL: &str = "tools/call";
/// The notification that ends the handshake of a session.
pub const INITIALIZED: &str = "notifications/initialized";
/// The notification by which either side cancels its own request.
pub const CANCELLED: &str = "notifications/cancelled";
/// The notification of the progress of a request, sent by the side that will answer it.
pub const PROGRESS: &str = "notifications/progress";

/// The header with the protocol version.
pub const VERSION_HEADER: &str = "mcp-protocol-version";
/// The header with the method, in the modern era only.
pub const METHOD_HEADER: &str = "mcp-method";
/// The header with the name of the tool, prompt or resource, in the modern era only.
pub const NAME_HEADER: &str = "mcp-name";
/// The prefix of the headers that mirror arguments of a tool. The rest is the tool's `x-mcp-header`.
pub const PARAM_HEADER_PREFIX: &str = "mcp-param-";
/// The header with the session id, in the legacy era only.
pub const SESSION_HEADER: &str = "mcp-session-id";
/// The header with the gateway's request id.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The client's token for notifications of progress, in a request's `_meta`.
pub const META_PROGRESS_TOKEN: &str = "progressToken";
/// The position of a request in a trace, in a request's `_meta`. *Spec*: W3C Trace Context.
pub const META_TRACEPARENT: &str = "traceparent";
/// The level of the log messages for a request, in a modern request's `_meta`.
pub const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// The prefix of the gateway's own keys, in folded form. What others send under it is removed.
pub const OWN_PREFIX: &str = "io.gatepost/";
/// The extension of tasks, in which the gateway does not take part.
pub const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// The protocol version, in a modern request's `_meta`.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The client's capabilities, in a modern request's `_meta`.
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The id of the `subscriptions/listen` request that a notification belongs to, in the notification's `_meta`.
pub const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// The client's name and version, in a modern request's `_meta`.
pub const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
/// The server's name and version, in the `_meta` of the result of `server/discover`.
pub const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
/// The gateway's request id, in a result's `_meta`. *Chosen*: under the product's own prefix.
pub const META_REQUEST_ID: &str = "io.gatepost/request_id";
/// The receipt of a reply's record, in its `_meta`.
pub const META_RECEIPT: &str = "io.gatepost/receipt";

/// The time for which a modern client may cache a list, in milliseconds. *Chosen*: 0, because the policy may change at
/// any time.
pub const LIST_TTL_MS: u64 = 0;

/// One of the two protocols that a client or a backend may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// The protocol with `initialize` and sessions, up to revision 2025-11-25.
    Legacy,
    /// The stateless protocol of revision 2026-07-28.
    Modern,
}

/// The value of a header for `text`: the text itself, or MCP's Base64 form of it if a header cannot contain the text.
#[must_use]
pub fn header_text(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let is_safe = is_plain && text.trim() == text && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if is_safe { text.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(text)) }
}

/// Returns `true` if the value of a header is `text`, either literally or in the canonical Base64 form of the protocol.
#[must_use]
pub fn is_header_text(header: &str, text: &str) -> bool {
    match header.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(payload) => payload == STANDARD.encode(text),
        None => header == text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_a_header_cannot_contain_is_encoded() {
        for (text, want) in [("echo", "echo"), ("caf\u{e9}", "=?base64?Y2Fmw6k=?="), (" x", "=?base64?IHg=?=")] {
            assert_eq!(header_text(text), want);
        }
        assert_eq!(header_text("=?base64?eA==?="), "=?base64?PT9iYXNlNjQ/ZUE9PT89?=");
    }
}
