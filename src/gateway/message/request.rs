//! What the HTTP edge hands over: one request, before anything in it is believed.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::HeaderMap;
use tokio_util::sync::CancellationToken;

use crate::audit::record::RequestId;
use crate::auth::certificate::Certificate;
use crate::gateway::message::scope::Scope;

/// One HTTP request, before anything in it is believed.
#[derive(Debug)]
pub(crate) struct InboundRequest {
    pub(crate) request_id: RequestId,
    /// The client's address; a client on standard input has none.
    pub(crate) addr: Option<SocketAddr>,
    /// The certificate that the connection was opened with.
    pub(crate) certificate: Option<Arc<Certificate>>,
    pub(crate) scope: Scope,
    pub(crate) headers: HeaderMap,
    /// `Host`; empty where it is missing.
    pub(crate) host: String,
    /// Cancelled when the client has hung up, or has its reply.
    pub(crate) hung_up: CancellationToken,
    /// Cancelled when a client of the older era gives the request up.
    pub(crate) given_up: CancellationToken,
    pub(crate) body: Result<Bytes, HeadError>,
}

/// Why a request's body is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
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
