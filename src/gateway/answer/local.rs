//! What is answered without a record: handshakes, pings, lists, levels, subscriptions, notifications, responses.
//!
//! None of it calls a tool, and nothing here can: forwarding a call needs a permit and a receipt.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, StatusCode};
use serde_json::json;
use serde_json::value::RawValue;

use crate::gateway::answer::catalog;
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::context::RequestContext;
use crate::gateway::call::core::Core;
use crate::gateway::call::session_end;
use crate::gateway::message::reply::{Reply, http_status};
use crate::gateway::message::request::InboundRequest;
use crate::gateway::message::route::{self, Plan};
use crate::gateway::message::scope::Scope;
use crate::gateway::session::Session;
use crate::mcp::envelope::{self, Id, Message};
use crate::mcp::json;
use crate::mcp::protocol::{
    CANCELLED, Era, INVALID_PARAMS, LEGACY_LATEST, LEGACY_VERSIONS, LIST_TTL_MS, MODERN_VERSION, PROGRESS,
    SESSION_HEADER, UPSTREAM_FAILED,
};
use crate::rbac::Target;
use crate::upstream::{self, Answer, Backend, CallError, Item, List, Response};

/// Longest time that one backend may hold up a list of all. *Chosen*: a client waits for it; a stdio server that starts
/// takes 1 to 3 s.
const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// Answers a request that is no call.
pub(crate) async fn answer(ctx: &RequestContext<'_>, id: &Id, plan: &Plan) -> Reply {
    let only = route::only(&ctx.inbound.scope, ctx.core.upstreams.all());
    match (plan, only) {
        (Plan::List(list), Some(backend)) => list_one(ctx, id, backend, *list).await,
        (Plan::List(list), None) => list_all(ctx, id, *list).await,
        (Plan::Discover, Some(backend)) if backend.speaks_modern().await.unwrap_or(false) => {
            relay(ctx, id, backend, ctx.params(), None).await
        }
        (Plan::Discover, _) => Reply::local_unaudited(id, &discover(), ctx.inbound.request_id, ctx.era),
        (Plan::SetLevel, _) => set_level(ctx, id).await,
        // A ping's result is empty.
        (Plan::Local | Plan::Initialize | Plan::Targeted | Plan::ServerMessageHandler | Plan::Extension, _) => {
            Reply::relayed_unaudited(id, Response::Result("{}".to_owned()))
        }
    }
}

impl<'a> RequestContext<'a> {
    fn params(&self) -> Option<&'a str> {
        self.message.params.map(RawValue::get)
    }
}

/// Asks a backend and relays what it says.
pub(crate) async fn relay(
    ctx: &RequestContext<'_>,
    id: &Id,
    backend: &Arc<Backend>,
    params: Option<&str>,
    name: Option<String>,
) -> Reply {
    match asked(ctx, backend, params, name).await {
        Ok((response, backends)) => relayed(id, response, ctx.era, backends),
        Err(err) => failed(id, backend, &err),
    }
}

/// Asks a backend what is not audited; gives its response and the era in which it gave it.
pub(crate) async fn asked(
    ctx: &RequestContext<'_>,
    backend: &Arc<Backend>,
    params: Option<&str>,
    name: Option<String>,
) -> Result<(Response, Era), CallError> {
    let route = ctx.route(backend, name).await?;
    let response = ctx.core.upstreams.relay(&ctx.message.method, params, &route, &ctx.interrupt).await?;
    Ok((response, route.connection.era()))
}

pub(crate) fn relayed(id: &Id, response: Response, era: Era, backends: Era) -> Reply {
    let response = match response {
        Response::Result(result) if era == Era::Modern && backends == Era::Legacy => {
            Response::Result(json::with_members(&result, &[("resultType", "\"complete\"")]))
        }
        Response::Error { error, .. } if era != backends => Response::Error { error, http: None },
        response => response,
    };
    Reply::relayed_unaudited(id, response)
}

pub(crate) fn failed(id: &Id, backend: &Backend, err: &CallError) -> Reply {
    tracing::warn!(backend = backend.alias(), error = %err, "the backend did not answer");
    let message = match err {
        // A backend's command and its last words are the operator's.
        CallError::Down { .. } => format!("backend {} is down", backend.alias()),
        err => format!("backend {} {err}", backend.alias()),
    };
    Reply::local_unaudited_error(StatusCode::OK, Some(id), UPSTREAM_FAILED, &message)
}

pub(crate) fn not_configured() -> CallError {
    CallError::Down { reason: "not configured".to_owned() }
}

/// One backend's page, without what the caller may not use.
async fn list_one(ctx: &RequestContext<'_>, id: &Id, backend: &Arc<Backend>, list: List) -> Reply {
    let (response, backends) = match Box::pin(backend.one_page(asked(ctx, backend, ctx.params(), None))).await {
        Ok(answer) => answer,
        Err(err) => return failed(id, backend, &err),
    };
    let Response::Result(page) = response else { return relayed(id, response, ctx.era, backends) };
    let mut page = catalog::filtered(&ctx.rules.policy, ctx.principal, backend.alias(), list, &page);
    if ctx.era == Era::Modern {
        // What one role sees is not for others.
        page = match backends {
            Era::Modern => with_private_scope(&page),
            Era::Legacy => json::with_members(&page, &[("ttlMs", &LIST_TTL_MS.to_string()), PRIVATE]),
        };
    }
    relayed(id, Response::Result(page), ctx.era, backends)
}

const PRIVATE: (&str, &str) = ("cacheScope", "\"private\"");

fn with_private_scope(page: &str) -> String {
    let members = json::members(page).unwrap_or_default();
    let scope = members.iter().find(|member| member.key == PRIVATE.0);
    match scope {
        Some(scope) if scope.value.get() == PRIVATE.1 => page.to_owned(),
        Some(_) => json::replaced(page, PRIVATE.0, PRIVATE.1),
        None => json::with_members(page, &[PRIVATE]),
    }
}

/// The lists of all backends, as one.
async fn list_all(ctx: &RequestContext<'_>, id: &Id, list: List) -> Reply {
    let Ok(cursor) = cursor(ctx.message) else { return unknown_cursor(ctx, id) };
    let found = items_of_all(ctx, list).await;
    let mut taken = BTreeSet::new();
    let of_one = |(backend, items): &(Arc<Backend>, Arc<[Item]>)| {
        catalog::federated(&ctx.rules.policy, ctx.principal, backend.alias(), list, items, &mut taken)
    };
    let items: Vec<String> = found.iter().flat_map(of_one).collect();
    let Some((page, next)) = catalog::page(&items, cursor.as_deref()) else { return unknown_cursor(ctx, id) };
    let (page, next) = (format!("[{}]", page.join(",")), next.map(|next| json::quoted(&next)));
    let ttl = LIST_TTL_MS.to_string();
    let caching = [("ttlMs", ttl.as_str()), PRIVATE].into_iter().filter(|_| ctx.era == Era::Modern);
    let members = [(list.member(), page.as_str())].into_iter();
    let members = members.chain(next.as_deref().map(|next| ("nextCursor", next))).chain(caching);
    Reply::local_unaudited(id, &json::object(members), ctx.inbound.request_id, ctx.era)
}

fn unknown_cursor(ctx: &RequestContext<'_>, id: &Id) -> Reply {
    let status = if ctx.era == Era::Modern { http_status(INVALID_PARAMS) } else { StatusCode::OK };
    let message = "unknown cursor, or the list has changed: begin again without one";
    Reply::local_unaudited_error(status, Some(id), INVALID_PARAMS, message)
}

/// What every backend lists; one that is down or slow is left out.
async fn items_of_all(ctx: &RequestContext<'_>, list: List) -> Vec<(Arc<Backend>, Arc<[Item]>)> {
    // I6: few lists are read at once. The semaphore is never closed.
    let _turn = ctx.core.lists.acquire().await.ok();
    let of_one = |backend: Arc<Backend>| async move {
        let read = async {
            let route = ctx.route(&backend, None).await?;
            backend.list(&route.connection, list).await
        };
        match tokio::time::timeout(LIST_PATIENCE, read).await {
            Ok(Ok(items)) => Some((backend, items)),
            // A backend that has no prompts answers with an error.
            Ok(Err(CallError::List { fault: upstream::NOT_OFFERED })) => None,
            Ok(Err(err)) => {
                tracing::warn!(backend = backend.alias(), error = %err, "missing from the list");
                None
            }
            Err(_) => {
                tracing::warn!(
                    backend = backend.alias(),
                    "missing from the list: it takes longer than {LIST_PATIENCE:?}"
                );
                None
            }
        }
    };
    let visible = |backend: &&Arc<Backend>| ctx.rules.policy.reaches(&ctx.principal.roles, backend.alias());
    let all: Vec<_> = ctx.backends().filter(visible).cloned().map(of_one).collect();
    let found: Vec<_> = futures_util::future::join_all(all).await.into_iter().flatten().collect();
    if list == List::Resources {
        // The last one to be remembered is the first one that is listed.
        for (backend, items) in found.iter().rev() {
            ctx.core.owners.remember(items.iter().map(|item| item.name.as_str()), backend.alias());
        }
    }
    found
}

/// The backend that has the resource `uri`, where the caller may use it.
pub(crate) async fn owner(ctx: &RequestContext<'_>, uri: &str) -> Option<String> {
    let allowed = |backend: &str| ctx.rules.policy.shows(&ctx.principal.roles, Target::resource(backend, uri));
    if let Some(known) = ctx.core.owners.of(uri).filter(|known| allowed(known)) {
        return Some(known);
    }
    let found = items_of_all(ctx, List::Resources).await;
    let has = |(backend, items): &&(Arc<Backend>, Arc<[Item]>)| {
        allowed(backend.alias()) && items.iter().any(|item| item.name == uri)
    };
    if let Some((backend, _)) = found.iter().find(has) {
        return Some(backend.alias().to_owned());
    }
    let found = items_of_all(ctx, List::Templates).await;
    let fits = |(backend, items): &&(Arc<Backend>, Arc<[Item]>)| {
        let fits = |item: &Item| item.name == uri || route::template_fits(&item.name, uri);
        allowed(backend.alias()) && items.iter().any(fits)
    };
    found.iter().find(fits).map(|(backend, _)| backend.alias().to_owned())
}

/// Sets the level of log messages at every backend that the session talks to.
async fn set_level(ctx: &RequestContext<'_>, id: &Id) -> Reply {
    if let Some(backend) = route::only(&ctx.inbound.scope, ctx.core.upstreams.all()) {
        return relay(ctx, id, backend, ctx.params(), None).await;
    }
    let visible = |backend: &&Arc<Backend>| ctx.rules.policy.reaches(&ctx.principal.roles, backend.alias());
    let set = |backend: Arc<Backend>| async move {
        // One that has no log, is down or slow leaves the others theirs.
        match tokio::time::timeout(LIST_PATIENCE, asked(ctx, &backend, ctx.params(), None)).await {
            Ok(Ok(_)) => {}
            Ok(Err(err)) => tracing::debug!(backend = backend.alias(), error = %err, "level not set"),
            Err(_) => tracing::debug!(backend = backend.alias(), "level not set within {LIST_PATIENCE:?}"),
        }
    };
    let all: Vec<_> = ctx.backends().filter(visible).cloned().map(set).collect();
    futures_util::future::join_all(all).await;
    Reply::local_unaudited(id, "{}", ctx.inbound.request_id, ctx.era)
}

/// Opens a session. At one backend's place it is opened there too, and the backend's answer is the client's.
pub(crate) async fn initialize(ctx: &RequestContext<'_>, entry: &mut AuditEntry<'_>) -> Reply {
    let core = ctx.core;
    let initialize_params = ctx.params().unwrap_or("{}");
    entry.arguments = ctx.message.params.map(|params| params.get().to_owned());
    let own_max = ctx.rules.limits.sessions_per_principal;
    let (session, gone) = core.sessions.open(ctx.principal, &ctx.inbound.scope, initialize_params, own_max);
    session_end::end(core, gone).await;
    entry.session = Some(session.id.clone());
    let answer = match route::only(&ctx.inbound.scope, core.upstreams.all()) {
        None => Answer::of_result(&greeting(ctx.message)),
        Some(backend) => match session.initialize(backend).await {
            Ok(Response::Result(result)) => Answer::of_result(&result),
            Ok(error @ Response::Error { .. }) => {
                Answer::from_response(error, ctx.inbound.request_id, Era::Legacy, Era::Legacy)
            }
            Err(err) => Answer::failure(backend.alias(), &err),
        },
    };
    let reply = entry.record(core, answer).await;
    if reply.is_error() {
        core.sessions.close(&session.id, ctx.principal, &ctx.inbound.scope).ok();
        return reply;
    }
    reply.with_header(HeaderName::from_static(SESSION_HEADER), &session.id)
}

/// Passes on a client's response to the backend that asked.
pub(crate) async fn respond(core: &Core, session: Option<&Session>, body: &[u8]) -> Reply {
    let accepted = Reply::local_unaudited_empty(StatusCode::ACCEPTED);
    let id = envelope::response_id(body, core.body_bytes_max);
    let Some((session, id)) = session.zip(id) else { return accepted };
    // A response to nothing is dropped: the backend may have given its request up.
    let Some((connection, backends, method)) = session.take_answered(&id) else { return accepted };
    let response = json::replaced(&String::from_utf8_lossy(body), "id", &backends);
    if let Err(err) = connection.respond(response).await {
        tracing::warn!(backend = connection.alias(), method, error = %err, "the client's response did not reach the backend");
    }
    accepted
}

/// Takes a notification: a cancellation ends its call, progress goes to the backend that asked for it, all others go to all
/// backends of the session.
pub(crate) async fn notified(
    core: &Core,
    inbound: &InboundRequest,
    message: &Message<'_>,
    session: Option<&Arc<Session>>,
) {
    let Some(session) = session else { return };
    let params = message.params.and_then(|params| json::members(params.get())).unwrap_or_default();
    if message.method == CANCELLED {
        let id = params.iter().find(|member| member.key == "requestId").and_then(|member| envelope::id(member.value));
        if let Some(id) = id {
            core.in_flight.cancel(&session.id, &id);
        }
        return;
    }
    if message.method == "notifications/initialized" && inbound.scope == Scope::All {
        return; // Each backend was told when its conversation was opened.
    }
    let params = message.params.map(RawValue::get);
    let (connections, params) = if message.method == PROGRESS {
        // It is about one request of one backend's.
        let Some((connection, params)) = params.and_then(|params| session.progress(params)) else { return };
        (vec![connection], Some(Cow::Owned(params)))
    } else {
        (session.connections(), params.map(Cow::Borrowed))
    };
    for connection in connections {
        if let Err(err) = connection.notify(&message.method, params.as_deref()).await {
            tracing::debug!(backend = connection.alias(), method = message.method, error = %err, "notification not passed on");
        }
    }
}

/// The metadata of RFC 9728 for the resource at `path`.
pub(crate) fn resource_metadata(core: &Core, base: &str, path: &str) -> Reply {
    // A token's issuer is an authorization server's address only if it is one.
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

/// What all backends together may be able to do; each answers for itself when it is asked.
fn capabilities() -> serde_json::Value {
    json!({
        "tools": { "listChanged": true },
        "resources": { "subscribe": true, "listChanged": true },
        "prompts": { "listChanged": true },
        "completions": {},
        "logging": {},
    })
}

/// The client's revision where it is served, else the newest that is.
fn greeting(message: &Message<'_>) -> String {
    let params = message.params.and_then(|params| json::members(params.get())).unwrap_or_default();
    let asked = params.iter().find(|member| member.key == "protocolVersion");
    let asked = asked.and_then(|asked| json::raw_string(asked.value));
    let version = LEGACY_VERSIONS.into_iter().find(|known| asked.as_deref() == Some(known)).unwrap_or(LEGACY_LATEST);
    json!({ "protocolVersion": version, "capabilities": capabilities(), "serverInfo": server_info() }).to_string()
}

fn discover() -> String {
    json!({
        "supportedVersions": [MODERN_VERSION],
        "capabilities": capabilities(),
        "ttlMs": LIST_TTL_MS,
        "cacheScope": "private",
        "_meta": { "io.modelcontextprotocol/serverInfo": server_info() },
    })
    .to_string()
}

fn server_info() -> serde_json::Value {
    json!({ "name": "gatepost", "version": env!("CARGO_PKG_VERSION") })
}

/// The cursor that a list is asked for with.
fn cursor(message: &Message<'_>) -> Result<Option<String>, ()> {
    let params = message.params.and_then(|params| json::members(params.get())).unwrap_or_default();
    match params.iter().find(|member| member.key == "cursor").map(|member| member.value) {
        None => Ok(None),
        Some(value) if value.get() == "null" => Ok(None),
        Some(value) => json::raw_string(value).map(Some).ok_or(()),
    }
}
