//! The metadata of the endpoints as protected resources. *Spec*: RFC 9728.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn;
use axum::routing::get;
use serde_json::json;

use crate::gateway::call::core::Core;
use crate::gateway::listener::client::Client;
use crate::gateway::listener::cors;
use crate::gateway::message::headers;
use crate::gateway::message::reply::Reply;
use crate::gateway::message::request::HeadError;
use crate::gateway::message::resource::METADATA_PATH;
use crate::gateway::message::scope::Scope;
use crate::mcp::protocol::INVALID_REQUEST;

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

async fn of_all(State(core): State<Arc<Core>>, Extension(client): Extension<Client>, headers: HeaderMap) -> Reply {
    document(&core, &client, &headers, &Scope::All)
}

async fn of_one(
    State(core): State<Arc<Core>>,
    Extension(client): Extension<Client>,
    Path(backend): Path<String>,
    headers: HeaderMap,
) -> Reply {
    document(&core, &client, &headers, &Scope::One(backend))
}

/// The metadata of the endpoint. The document exists for every path, so that it does not reveal which backends exist.
/// Without an authorization server there is none: it would send clients that have a token of their own in search of
/// one. A refusal is recorded by the listener.
fn document(core: &Core, client: &Client, headers: &HeaderMap, scope: &Scope) -> Reply {
    let host = headers::single(headers, header::HOST.as_str()).unwrap_or_default();
    if !headers::is_host_allowed(host, &core.names.allowed_hosts) {
        let message = HeadError::Host.to_string();
        return Reply::local_unaudited_error(StatusCode::FORBIDDEN, None, INVALID_REQUEST, &message);
    }
    let rules = core.rules();
    let servers = rules.auth.authorization_servers();
    if servers.is_empty() {
        let message = "there is no authorization server";
        return Reply::local_unaudited_error(StatusCode::NOT_FOUND, None, INVALID_REQUEST, message);
    }
    let resource = core.names.resource(host, client.is_https, scope);
    let mut document = json!({
        "resource": resource.url(),
        "authorization_servers": servers,
        "bearer_methods_supported": ["header"],
        "resource_name": "Gatepost",
    });
    // *Spec*: RFC 9728 3.2, members without a value are left out.
    if let (Some(scope), Some(members)) = (rules.auth.required_scope(), document.as_object_mut()) {
        members.insert("scopes_supported".to_owned(), json!([scope]));
    }
    Reply::local_unaudited_document(document.to_string())
}
