//! The words of MCP that the gateway speaks: versions, codes, headers, keys.
//!
//! *Spec* unless another source is named: MCP 2025-03-26 to 2026-07-28, JSON-RPC 2.0.

/// The revisions with an `initialize` handshake, oldest first.
pub const LEGACY_VERSIONS: [&str; 3] = ["2025-03-26", "2025-06-18", "2025-11-25"];

/// The newest legacy revision: what is offered to a client that asks for another, and what backends are asked for.
pub const LEGACY_LATEST: &str = "2025-11-25";

/// The stateless revision.
pub const MODERN_VERSION: &str = "2026-07-28";

/// Not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// JSON, but no valid request.
pub const INVALID_REQUEST: i32 = -32600;
/// Unknown method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// Wrong parameters; also an unknown tool.
pub const INVALID_PARAMS: i32 = -32602;
/// A failure behind the gateway or in it.
pub const INTERNAL_ERROR: i32 = -32603;
/// The caller is not known. *Chosen*: in the range left to implementations, as are the next four.
pub const UNAUTHENTICATED: i32 = -32001;
/// The caller's role may not call this.
pub const DENIED: i32 = -32003;
/// The call cannot be audited. *Spec*: docs/design.md, "Flow".
pub const AUDIT_UNAVAILABLE: i32 = -32010;
/// Too many calls are open.
pub const RATE_LIMITED: i32 = -32011;
/// The backend did not answer in time, or could not be reached.
pub const UPSTREAM_FAILED: i32 = -32012;
/// Headers and body disagree.
pub const HEADER_MISMATCH: i32 = -32020;
/// The client lacks a capability that the request needs.
pub const MISSING_CAPABILITY: i32 = -32021;
/// A protocol version that is not served.
pub const UNSUPPORTED_VERSION: i32 = -32022;

/// The method that calls a tool: never without a permit and a record.
pub const TOOLS_CALL: &str = "tools/call";
/// The notification by which either side gives up a request of its own.
pub const CANCELLED: &str = "notifications/cancelled";
/// The notification of how far a request has come, from whoever answers it.
pub const PROGRESS: &str = "notifications/progress";

/// The header with the protocol version.
pub const VERSION_HEADER: &str = "mcp-protocol-version";
/// The header with the method, modern only.
pub const METHOD_HEADER: &str = "mcp-method";
/// The header with the tool's name, modern only.
pub const NAME_HEADER: &str = "mcp-name";
/// The header with the session, legacy only.
pub const SESSION_HEADER: &str = "mcp-session-id";
/// The header with the gateway's id of the request.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// What the protocol's own keys in `_meta` begin with: they belong to one leg and are not forwarded.
pub const META_PREFIX: &str = "io.modelcontextprotocol/";
/// The version in a modern request's `_meta`.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The client's capabilities in a modern request's `_meta`.
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The id of the `subscriptions/listen` request that a notification belongs to, in its `_meta`.
pub const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// Who the client says it is, in a modern request's `_meta`.
pub const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
/// The gateway's id of the request in a result's `_meta`. *Chosen*: under the product's own prefix.
pub const META_REQUEST_ID: &str = "io.gatepost/request_id";

/// How long a modern client may keep a list, in milliseconds. *Chosen*: 0, since a policy may change at any time and
/// the gateway does not announce changes yet.
pub const LIST_TTL_MS: u64 = 0;

/// Which of the two protocols a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// `initialize` and sessions, up to 2025-11-25.
    Legacy,
    /// Stateless, 2026-07-28.
    Modern,
}

/// A text as MCP writes it in a header: as it is where that is safe, else in its Base64 form.
#[must_use]
pub fn header_text(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let is_safe = is_plain && text.trim() == text && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if is_safe { text.to_owned() } else { format!("=?base64?{}?=", base64(text.as_bytes())) }
}

/// Standard Base64 with padding (RFC 4648 section 4).
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |idx: usize| u32::from(chunk.get(idx).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let sextet = usize::try_from(group >> (18 - 6 * digit) & 63).unwrap_or(0);
            let is_padding = digit > chunk.len();
            out.push(if is_padding { '=' } else { ALPHABET.get(sextet).map_or('=', |&byte| char::from(byte)) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_no_header_holds_is_encoded() {
        for (text, want) in [("echo", "echo"), ("caf\u{e9}", "=?base64?Y2Fmw6k=?="), (" x", "=?base64?IHg=?=")] {
            assert_eq!(header_text(text), want);
        }
        assert_eq!(header_text("=?base64?eA==?="), "=?base64?PT9iYXNlNjQ/ZUE9PT89?=");
    }
}
