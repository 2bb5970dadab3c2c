//! The handshakes: `initialize` and `server/discover` return the versions, capabilities and name of the server.

use std::sync::Arc;

use serde_json::{Map, json};

use crate::gateway::answer::relay::{self, Sourced};
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::context::RequestContext;
use crate::gateway::call::session_end;
use crate::gateway::session::Session;
use crate::mcp::capabilities::{self, announced_without_tasks};
use crate::mcp::json;
use crate::mcp::names::SEPARATOR;
use crate::mcp::protocol::{
    Era, INVALID_REQUEST, LEGACY_LATEST, LEGACY_VERSIONS, LIST_TTL_MS, META_SERVER, MODERN_VERSION,
};
use crate::upstream::{Backend, CallError, LOGGING, Response};

/// Longest instructions at the endpoint of all backends, in bytes. *Chosen*: a model reads them each time.
const INSTRUCTIONS_BYTES_MAX: usize = 64 * 1024;

/// Opens a session. At the endpoint of one backend, the session is also opened at the backend, whose answer the client
/// gets.
pub(crate) async fn initialize(ctx: &RequestContext<'_>, entry: &mut AuditEntry<'_>) -> (Sourced, Arc<Session>) {
    let params = ctx.params.text(&[]);
    let per_principal_max = ctx.rules.limits.sessions_per_principal;
    let sessions = &ctx.core.sessions;
    let (session, mut ended) =
        sessions.open(&ctx.principal, &ctx.inbound.scope, params.as_deref().unwrap_or("{}"), per_principal_max);
    // I10: a reload since the request was decided has not seen the session.
    let rules = ctx.core.rules();
    if !Arc::ptr_eq(&rules, &ctx.rules) {
        ended.extend(sessions.remove_lost(&rules));
    }
    session_end::end(ctx.core, ended).await;
    entry.session = Some(session.id.clone());
    if let Some(stream) = &ctx.stream {
        stream.set_new_session(&session.id);
    }
    let sourced = match ctx.only_backend() {
        _ if !sessions.is_open(&session.id) => {
            let message = "the session ended while it was opened: initialize again";
            Sourced::Gateway(Response::error(INVALID_REQUEST, message, None))
        }
        None => match ctx.inbound.scope.backend() {
            None => Sourced::Gateway(Response::result(&initialize_result(ctx))),
            // A reload has just removed it.
            Some(alias) => Sourced::failed(alias, relay::not_configured()),
        },
        Some(backend) => match initialize_at(ctx, &session, &backend).await {
            Ok(response) => Sourced::Backend(without_tasks(response), Era::Legacy),
            Err(error) => Sourced::failed(backend.alias(), error),
        },
    };
    if let Sourced::Gateway(response) | Sourced::Backend(response, _) = &sourced {
        session.negotiated.read(response);
    }
    (sourced, session)
}

/// Opens the session at `backend`.
async fn initialize_at(
    ctx: &RequestContext<'_>,
    session: &Arc<Session>,
    backend: &Backend,
) -> Result<Response, CallError> {
    let caller = ctx.caller_token(backend)?;
    session.initialize(backend, caller.as_ref()).await
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
    let mut result = members(json!({ "protocolVersion": version, "serverInfo": server_info() }));
    result.insert("capabilities".to_owned(), capabilities(ctx));
    result.extend(instructions(ctx).map(|text| ("instructions".to_owned(), json!(text))));
    serde_json::Value::from(result).to_string()
}

/// The members of `value`, an object.
fn members(value: serde_json::Value) -> Map<String, serde_json::Value> {
    if let serde_json::Value::Object(members) = value { members } else { Map::new() }
}

/// Answers `server/discover`. At the endpoint of one modern backend, the backend answers.
pub(crate) async fn discover(ctx: &RequestContext<'_>) -> Sourced {
    if let Some(backend) = ctx.only_backend()
        && let Ok(caller) = ctx.caller_token(&backend)
        && backend.speaks_modern(caller.as_ref()).await.unwrap_or(false)
    {
        return match relay::relay(ctx, &backend).await {
            Sourced::Backend(response, era) => Sourced::Backend(without_tasks(response), era),
            other => other,
        };
    }
    // An older backend cannot be asked so, but has answered the gateway's own `initialize`.
    let greeting = match ctx.only_backend() {
        Some(backend) => match ctx.list_route(&backend).await {
            Ok(route) => Some(route.connection.greeting()),
            Err(error) => return Sourced::failed(backend.alias(), error),
        },
        None => None,
    };
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    let (capabilities, info, instructions) = match &greeting {
        Some(greeting) => (
            value(&capabilities::without_tasks(&greeting.capabilities).0),
            greeting.server_info.as_deref().and_then(value),
            greeting.instructions.as_deref().and_then(value),
        ),
        None => (Some(capabilities(ctx)), None, instructions(ctx).map(Into::into)),
    };
    let mut result = members(json!({
        "supportedVersions": [MODERN_VERSION],
        "capabilities": capabilities.unwrap_or_else(|| json!({})),
        "ttlMs": LIST_TTL_MS,
        "cacheScope": "private",
        "_meta": { META_SERVER: info.unwrap_or_else(server_info) },
    }));
    result.extend(instructions.map(|text| ("instructions".to_owned(), text)));
    Sourced::Gateway(Response::result(&serde_json::Value::from(result).to_string()))
}

/// The capabilities at the endpoint of all backends: tools, and what at least one backend that the caller may use has
/// declared, or may have because it has not answered yet. The gateway itself tells of changed lists.
fn capabilities(ctx: &RequestContext<'_>) -> serde_json::Value {
    let greetings: Vec<_> = ctx.visible_backends().map(|backend| backend.greeting()).collect();
    let is_offered =
        |name: &str| greetings.iter().any(|greeting| greeting.as_ref().is_none_or(|greeting| greeting.offer.has(name)));
    let mut found = members(json!({ "tools": { "listChanged": true } }));
    for (name, value) in [
        ("resources", json!({ "subscribe": true, "listChanged": true })),
        ("prompts", json!({ "listChanged": true })),
        ("completions", json!({})),
        (LOGGING, json!({})),
    ] {
        if is_offered(name) {
            found.insert(name.to_owned(), value);
        }
    }
    found.into()
}

/// The instructions of the backends that the caller may use, each under its alias. `None`: none has any.
fn instructions(ctx: &RequestContext<'_>) -> Option<String> {
    let mut text = String::new();
    for backend in ctx.visible_backends() {
        let (alias, greeting) = (backend.alias(), backend.greeting());
        let Some(own) = greeting.and_then(|greeting| json::string(greeting.instructions.as_deref()?)) else { continue };
        let part = format!("# {alias}\n\nIts tools and prompts are named `{alias}{SEPARATOR}...`.\n\n{own}\n\n");
        if text.len() + part.len() > INSTRUCTIONS_BYTES_MAX {
            tracing::warn!(
                backend = alias,
                INSTRUCTIONS_BYTES_MAX,
                "instructions of a backend left out at /mcp: too long"
            );
            continue;
        }
        text.push_str(&part);
    }
    Some(text.trim_end().to_owned()).filter(|text| !text.is_empty())
}

fn server_info() -> serde_json::Value {
    json!({ "name": "gatepost", "version": env!("CARGO_PKG_VERSION") })
}
