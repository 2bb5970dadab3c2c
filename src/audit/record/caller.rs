//! The identity of a caller, and the hints that correlate its records.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::identity::Identity;

/// The caller's identity, from the verified token. Nothing here comes from what the client says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's subject, or `anonymous`.
    pub subject: String,
    /// The role that decided, if any.
    pub role: Option<String>,
    /// The token's issuer.
    pub issuer: Option<String>,
    /// The token's `jti`. Never the token.
    pub token_id: Option<String>,
    /// The other statements of the credential about the caller.
    pub identity: Arc<Identity>,
}

impl Caller {
    /// A caller without a verified token.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { subject: "anonymous".to_owned(), role: None, issuer: None, token_id: None, identity: Arc::default() }
    }
}

/// The address of a client: of its connection, or as a trusted proxy has named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr {
    ip: IpAddr,
    /// Proxies name it rarely.
    port: Option<u16>,
}

impl ClientAddr {
    /// The address without the port.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }
}

impl From<SocketAddr> for ClientAddr {
    fn from(addr: SocketAddr) -> Self {
        Self { ip: addr.ip(), port: Some(addr.port()) }
    }
}

impl From<IpAddr> for ClientAddr {
    fn from(ip: IpAddr) -> Self {
        Self { ip, port: None }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// Values that help to find related records. They are not an identity: the client can choose all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Correlation {
    /// The client's address.
    pub addr: Option<ClientAddr>,
    /// The MCP session, if there is one.
    pub session_id: Option<String>,
    /// The JSON-RPC id, as text.
    pub rpc_id: Option<String>,
}
