//! What the HTTP edge hands over: one request, before anything in it is believed.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::HeaderMap;
use tokio_util::sync::CancellationToken;

use super::auth::certificate::Certificate;
use super::catalog::Scope;
use crate::audit::record::RequestId;

/// One HTTP request, before anything in it is believed.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) request_id: RequestId,
    /// The client's address; a client on standard input has none.
    pub(super) addr: Option<SocketAddr>,
    /// The certificate that the connection was opened with.
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) scope: Scope,
    pub(super) headers: HeaderMap,
    /// `Host`; empty where it is missing.
    pub(super) host: String,
    /// Cancelled when the client has hung up, or has its reply.
    pub(super) hung_up: CancellationToken,
    /// Cancelled when a client of the older era gives the request up.
    pub(super) given_up: CancellationToken,
    pub(super) body: Result<Bytes, Fault>,
}

/// Why a request's body is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("this Host is not served; add it to server.allowed_hosts")]
    Host,
    #[error("this Origin may not call; add it to server.allowed_origins")]
    Origin,
    #[error("Content-Type must be application/json")]
    ContentType,
    #[error("the message is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the message did not arrive whole")]
    Incomplete,
    #[error("the headers are larger than {limit} bytes")]
    Headers { limit: usize },
}
