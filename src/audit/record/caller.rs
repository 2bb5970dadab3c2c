//! The identity of a caller, and the hints that correlate its records.

use std::net::SocketAddr;

use serde::Serialize;

/// The caller's identity, from the verified token. Nothing here comes from what the client says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// The token's subject, or `anonymous`.
    pub subject: String,
    /// The role that decided, if any.
    pub role: Option<String>,
    /// The token's issuer.
    pub issuer: Option<String>,
    /// The token's `jti`. Never the token.
    pub token_id: Option<String>,
}

impl Caller {
    /// A caller without a verified token.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { subject: "anonymous".to_owned(), role: None, issuer: None, token_id: None }
    }
}

/// Values that help to find related records. They are not an identity: the client can choose all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Correlation {
    /// The client's address, as the listener saw it.
    pub addr: Option<SocketAddr>,
    /// The MCP session, if there is one.
    pub session_id: Option<String>,
    /// The JSON-RPC id, as text.
    pub rpc_id: Option<String>,
}
