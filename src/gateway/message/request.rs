//! A request from a listener, before anything in it is verified.

use std::sync::{Arc, OnceLock};

use axum::http::HeaderMap;
use tokio_util::sync::CancellationToken;

use crate::audit::record::{ClientAddr, RequestId};
use crate::auth::certificate::Certificate;
use crate::connections::places::Place;
use crate::gateway::message::scope::Scope;
use crate::mcp::shared_text::SharedText;

/// One HTTP request or one line of a stdio client, before anything in it is verified.
#[derive(Debug)]
pub(crate) struct InboundRequest {
    pub(crate) request_id: RequestId,
    /// The client's address; a client on standard input has none.
    pub(crate) addr: Option<ClientAddr>,
    /// The client's certificate, if the connection was opened with one.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// The place of the client's connection, if it is an HTTP connection.
    pub(crate) place: Option<Arc<Place>>,
    pub(crate) scope: Scope,
    pub(crate) headers: HeaderMap,
    /// `Host`; empty if it is missing.
    pub(crate) host: String,
    /// True if the client sent the request over TLS.
    pub(crate) is_https: bool,
    /// Cancelled when the client has hung up, or has its reply.
    pub(crate) hung_up: CancellationToken,
    /// Cancelled when a legacy client cancels the request.
    pub(crate) cancelled: CancellationToken,
    /// The result of the checks of the head.
    pub(crate) head: Result<(), HeadError>,
    /// The body, once it has arrived.
    pub(crate) body: OnceLock<SharedText>,
}

/// The reason why a request is refused for its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("this Host is not served; add it to server.allowed_hosts")]
    Host,
    #[error("this Origin may not call; add it to server.allowed_origins")]
    Origin,
    #[error("Content-Type must be application/json")]
    ContentType,
    #[error("Content-Encoding is not supported: send the message without one")]
    ContentEncoding,
    #[error("Transfer-Encoding must be chunked, or absent")]
    TransferEncoding,
    #[error("Content-Length and Transfer-Encoding exclude each other: send one of them")]
    TwoLengths,
    #[error("the headers are larger than {limit} bytes")]
    Headers { limit: usize },
}
