//! What the gateway answers itself, without a record: handshakes, pings, lists, notifications, closed sessions.
//!
//! None of it calls a tool, and nothing here can: forwarding needs a permit and a receipt.

use axum::http::{HeaderName, StatusCode};
use serde_json::json;

use super::Core;
use super::arrival::Arrival;
use super::auth::Principal;
use super::catalog;
use super::envelope::{self, Id, Message};
use super::headers;
use super::protocol::{
    Era, INVALID_PARAMS, INVALID_REQUEST, LEGACY_LATEST, LEGACY_VERSIONS, LIST_TTL_MS, METHOD_NOT_FOUND,
    MODERN_VERSION, SESSION_HEADER,
};
use super::raw;
use super::reply::{Reply, http_status};

/// Answers a message that is no `tools/call`.
pub(super) async fn answer(
    core: &Core,
    arrival: &Arrival,
    principal: &Principal,
    message: &Message<'_>,
    era: Era,
    session: Option<&str>,
) -> Reply {
    let Some(id) = &message.id else {
        notified(core, message, session);
        return Reply::local_unaudited_empty(StatusCode::ACCEPTED);
    };
    let result = |result: &str| Reply::local_unaudited(id, result, arrival.request_id, era);
    match (message.method.as_str(), era) {
        ("initialize", Era::Legacy) => {
            let session = core.sessions.open(principal);
            result(&initialize(message)).with_header(HeaderName::from_static(SESSION_HEADER), &session)
        }
        ("ping", Era::Legacy) => result("{}"),
        ("server/discover", Era::Modern) => result(&discover()),
        ("tools/list", _) => match cursor(message) {
            None => {
                // I6: lists ask every backend, so that few run at once. The semaphore is never closed.
                let _turn = core.lists.acquire().await.ok();
                let tools = catalog::list(&core.upstreams, &core.policy, principal, &arrival.scope).await;
                let (ttl, scope) = (LIST_TTL_MS.to_string(), "\"private\"");
                let caching = [("ttlMs", ttl.as_str()), ("cacheScope", scope)];
                let caching = caching.into_iter().filter(|_| era == Era::Modern);
                result(&raw::object(std::iter::once(("tools", tools.as_str())).chain(caching)))
            }
            Some(_) => error(id, era, INVALID_PARAMS, "unknown cursor: the list has one page"),
        },
        (method, _) => {
            let method = &method[..method.floor_char_boundary(64)];
            error(id, era, METHOD_NOT_FOUND, &format!("method {method:?} is not supported"))
        }
    }
}

/// Closes the session that the request names.
pub(super) fn close(core: &Core, arrival: &Arrival, principal: &Principal) -> Reply {
    let Some(session) = headers::single(&arrival.headers, SESSION_HEADER) else {
        let message = "no Mcp-Session-Id to close";
        return Reply::local_unaudited_error(StatusCode::BAD_REQUEST, None, INVALID_REQUEST, message);
    };
    match core.sessions.close(session, principal) {
        Ok(()) => Reply::local_unaudited_empty(StatusCode::NO_CONTENT),
        Err(unknown) => {
            Reply::local_unaudited_error(StatusCode::NOT_FOUND, None, INVALID_REQUEST, &unknown.to_string())
        }
    }
}

/// The metadata of RFC 9728 for the resource at `path`.
pub(super) fn resource_metadata(core: &Core, base: &str, path: &str) -> Reply {
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

/// A legacy client's cancellation is passed on; all else that a client notifies of is not relayed yet.
fn notified(core: &Core, message: &Message<'_>, session: Option<&str>) {
    let params = message.params.and_then(|params| raw::members(params.get())).unwrap_or_default();
    let id = params.iter().find(|member| member.key == "requestId").and_then(|member| envelope::id(member.value));
    if let ("notifications/cancelled", Some(session), Some(id)) = (message.method.as_str(), session, id) {
        core.in_flight.cancel(session, &id);
    }
}

fn error(id: &Id, era: Era, code: i32, message: &str) -> Reply {
    let status = if era == Era::Modern { http_status(code) } else { StatusCode::OK };
    Reply::local_unaudited_error(status, Some(id), code, message)
}

/// The client's revision where it is served, else the newest that is.
fn initialize(message: &Message<'_>) -> String {
    let params = message.params.and_then(|params| raw::members(params.get())).unwrap_or_default();
    let asked = params.iter().find(|member| member.key == "protocolVersion");
    let asked = asked.and_then(|asked| raw::string(asked.value));
    let version = LEGACY_VERSIONS.into_iter().find(|known| asked.as_deref() == Some(known)).unwrap_or(LEGACY_LATEST);
    json!({ "protocolVersion": version, "capabilities": { "tools": {} }, "serverInfo": server_info() }).to_string()
}

fn discover() -> String {
    json!({
        "supportedVersions": [MODERN_VERSION],
        "capabilities": { "tools": {} },
        "ttlMs": LIST_TTL_MS,
        "cacheScope": "private",
        "_meta": { "io.modelcontextprotocol/serverInfo": server_info() },
    })
    .to_string()
}

fn server_info() -> serde_json::Value {
    json!({ "name": "gatepost", "version": env!("CARGO_PKG_VERSION") })
}

fn cursor(message: &Message<'_>) -> Option<String> {
    let params = message.params.and_then(|params| raw::members(params.get())).unwrap_or_default();
    let cursor = params.iter().find(|member| member.key == "cursor")?;
    Some(cursor.value.get().to_owned()).filter(|cursor| cursor != "null")
}
