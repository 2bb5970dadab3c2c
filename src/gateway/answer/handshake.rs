//! The handshakes: `initialize` and `server/discover` return the versions, capabilities and name of the server.

use std::sync::Arc;

use serde_json::json;

use crate::gateway::answer::relay::{self, Sourced};
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::context::RequestContext;
use crate::gateway::call::core::Core;
use crate::gateway::call::session_end;
use crate::gateway::message::reply::Reply;
use crate::gateway::session::Session;
use crate::mcp::capabilities::announced_without_tasks;
use crate::mcp::protocol::{Era, LEGACY_LATEST, LEGACY_VERSIONS, LIST_TTL_MS, MODERN_VERSION};
use crate::upstream::Response;

/// Opens a session. At the endpoint of one backend, the session is also opened at the backend, whose answer the client
/// gets.
pub(crate) async fn initialize(ctx: &RequestContext<'_>, entry: &mut AuditEntry<'_>) -> (Sourced, Arc<Session>) {
    let params = ctx.params.text(&[]);
    let per_principal_max = ctx.rules.limits.sessions_per_principal;
    let sessions = &ctx.core.sessions;
    let (session, ended) =
        sessions.open(&ctx.principal, &ctx.inbound.scope, params.as_deref().unwrap_or("{}"), per_principal_max);
    session_end::end(ctx.core, ended).await;
    entry.session = Some(session.id.clone());
    let sourced = match ctx.only_backend() {
        None => Sourced::Gateway(Response::result(&initialize_result(ctx))),
        Some(backend) => match session.initialize(backend).await {
            Ok(response) => Sourced::Backend(without_tasks(response), Era::Legacy),
            Err(error) => Sourced::failed(backend.alias(), error),
        },
    };
    (sourced, session)
}

/// A backend's answer to a handshake, without the capability of tasks.
fn without_tasks(response: Response) -> Response {
    match response {
        Response::Result(result) => Response::Result(announced_without_tasks(result)),
        error @ Response::Error { .. } => error,
    }
}

/// The result of `initialize`. Its version is the client's if that is supported, else the latest of the era.
fn initialize_result(ctx: &RequestContext<'_>) -> String {
    let requested = ctx.params.string("protocolVersion");
    let supported = LEGACY_VERSIONS.into_iter().find(|version| requested.as_deref() == Some(version));
    let version = supported.unwrap_or(LEGACY_LATEST);
    json!({ "protocolVersion": version, "capabilities": capabilities(), "serverInfo": server_info() }).to_string()
}

/// Answers `server/discover`. At the endpoint of one modern backend, the backend answers.
pub(crate) async fn discover(ctx: &RequestContext<'_>) -> Sourced {
    if let Some(backend) = ctx.only_backend()
        && backend.speaks_modern().await.unwrap_or(false)
    {
        return match relay::relay(ctx, backend).await {
            Sourced::Backend(response, era) => Sourced::Backend(without_tasks(response), era),
            other => other,
        };
    }
    let result = json!({
        "supportedVersions": [MODERN_VERSION],
        "capabilities": capabilities(),
        "ttlMs": LIST_TTL_MS,
        "cacheScope": "private",
        "_meta": { "io.modelcontextprotocol/serverInfo": server_info() },
    });
    Sourced::Gateway(Response::result(&result.to_string()))
}

/// The capabilities that backends may have. A backend without one of them answers with an error when it is used.
fn capabilities() -> serde_json::Value {
    json!({
        "tools": { "listChanged": true },
        "resources": { "subscribe": true, "listChanged": true },
        "prompts": { "listChanged": true },
        "completions": {},
        "logging": {},
    })
}

fn server_info() -> serde_json::Value {
    json!({ "name": "gatepost", "version": env!("CARGO_PKG_VERSION") })
}

/// The metadata of the resource at `path` (RFC 9728). `base` is the gateway's URL as the client reaches it.
pub(crate) fn resource_metadata(core: &Core, base: &str, path: &str) -> Reply {
    // An issuer that is not a URL is not an authorization server that clients can use.
    let is_url = |issuer: &&str| issuer.starts_with("https://") || issuer.starts_with("http://");
    let servers: Vec<&str> = core.auth.issuers().into_iter().filter(is_url).collect();
    let mut document = json!({
        "resource": format!("{base}{path}"),
        "authorization_servers": servers,
        "bearer_methods_supported": ["header"],
        "resource_name": "Gatepost",
    });
    if let (Some(document), Some(scope)) = (document.as_object_mut(), core.auth.required_scope()) {
        document.insert("scopes_supported".to_owned(), json!([scope]));
    }
    Reply::local_unaudited_document(document.to_string())
}
