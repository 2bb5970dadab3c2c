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
/// The call cannot be audited. *Spec*: DESIGN section 2.
pub const AUDIT_UNAVAILABLE: i32 = -32010;
/// Too many calls are open.
pub const RATE_LIMITED: i32 = -32011;
/// The backend did not answer in time, or could not be reached.
pub const UPSTREAM_FAILED: i32 = -32012;
/// Headers and body disagree.
pub const HEADER_MISMATCH: i32 = -32020;
/// A protocol version that is not served.
pub const UNSUPPORTED_VERSION: i32 = -32022;

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
