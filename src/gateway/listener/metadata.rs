//! The metadata of the endpoints as protected resources. *Spec*: RFC 9728.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::middleware::from_fn;
use axum::routing::get;

use crate::gateway::answer::handshake;
use crate::gateway::call::core::Core;
use crate::gateway::listener::cors;
use crate::gateway::message::headers;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::HeadError;
use crate::gateway::message::scope::Scope;

/// The path below which the metadata is.
const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// The document of the whole gateway.
pub(super) fn root() -> Router<Arc<Core>> {
    Router::new().route(METADATA_PATH, get(of_all)).layer(from_fn(cors::of_documents))
}

/// The documents of the endpoints, whose paths have this prefix.
pub(super) fn routes(prefix: &str) -> Router<Arc<Core>> {
    Router::new()
        .route(&format!("{METADATA_PATH}{prefix}/mcp"), get(of_all))
        .route(&format!("{METADATA_PATH}{prefix}/mcp/{{backend}}"), get(of_one))
        .layer(from_fn(cors::of_documents))
}

async fn of_all(State(core): State<Arc<Core>>, headers: HeaderMap) -> Reply {
    document(&core, &headers, &Scope::All)
}

async fn of_one(State(core): State<Arc<Core>>, Path(backend): Path<String>, headers: HeaderMap) -> Reply {
    document(&core, &headers, &Scope::One(backend))
}

/// The metadata of the endpoint. The document exists for every path, so that it does not reveal which backends exist.
fn document(core: &Core, headers: &HeaderMap, scope: &Scope) -> Reply {
    let host = headers::single(headers, header::HOST.as_str()).unwrap_or_default();
    if !headers::is_host_allowed(host, &core.allowed_hosts) {
        let message = HeadError::Host.to_string();
        let status = axum::http::StatusCode::FORBIDDEN;
        return Reply::local_unaudited_error(status, None, crate::mcp::protocol::INVALID_REQUEST, &message);
    }
    let base = headers::base_url(headers, host, core.is_tls, core.public_url.as_ref());
    handshake::resource_metadata(core, &base, &headers::resource_path(scope))
}
