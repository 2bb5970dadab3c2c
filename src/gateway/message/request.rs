//! A request from a listener, before anything in it is verified.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::HeaderMap;
use tokio_util::sync::CancellationToken;

use crate::audit::record::RequestId;
use crate::auth::certificate::Certificate;
use crate::gateway::message::scope::Scope;

/// One HTTP request or one line of a stdio client, before anything in it is verified.
#[derive(Debug)]
pub(crate) struct InboundRequest {
    pub(crate) request_id: RequestId,
    /// The client's address; a client on standard input has none.
    pub(crate) addr: Option<SocketAddr>,
    /// The client's certificate, if the connection was opened with one.
    pub(crate) certificate: Option<Arc<Certificate>>,
    pub(crate) scope: Scope,
    pub(crate) headers: HeaderMap,
    /// `Host`; empty if it is missing.
    pub(crate) host: String,
    /// Cancelled when the client has hung up, or has its reply.
    pub(crate) hung_up: CancellationToken,
    /// Cancelled when a legacy client cancels the request.
    pub(crate) cancelled: CancellationToken,
    pub(crate) body: Result<Bytes, HeadError>,
}

/// The reason why a request's body is not processed.
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
    #[error("the message is incomplete")]
    Incomplete,
    #[error("the headers are larger than {limit} bytes")]
    Headers { limit: usize },
}
