//! Lists of tools, resources, templates and prompts, without the items that the caller may not use.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::StatusCode;
use tokio::time::Instant;

use crate::config::Pin;
use crate::gateway::answer::catalog;
use crate::gateway::answer::relay::{self, Sourced};
use crate::gateway::call::context::RequestContext;
use crate::gateway::message::reply::http_status;
use crate::mcp::json::{self, Object};
use crate::mcp::methods::List;
use crate::mcp::protocol::{Era, INVALID_PARAMS, LIST_TTL_MS};
use crate::rbac::{Target, TargetKind};
use crate::upstream::{self, Backend, CallError, Item, Items, Response, definition_digest};

/// The member that keeps a list out of shared caches, because different roles see different lists.
const PRIVATE: (&str, &str) = ("cacheScope", "\"private\"");

/// Lists the items of the endpoint's backend, or of all backends.
pub(crate) async fn answer(ctx: &RequestContext<'_>, list: List) -> Sourced {
    match ctx.only_backend() {
        Some(backend) => of_one_backend(ctx, &backend, list).await,
        None => federated(ctx, list).await,
    }
}

/// One page of one backend's list.
async fn of_one_backend(ctx: &RequestContext<'_>, backend: &Arc<Backend>, list: List) -> Sourced {
    let page = Box::pin(backend.one_page(relay::list_page(ctx, backend))).await;
    let (page, era) = match page {
        Ok((Response::Result(page), era)) => (page, era),
        other => return Sourced::from_backend(backend, other),
    };
    // A page that cannot be read cannot be filtered, so the client does not get it.
    let mut read = match backend.read_page(&page, list) {
        Ok(read) => read,
        Err(error) => return Sourced::failed(backend.alias(), error),
    };
    if list == List::Tools {
        let is_whole = ctx.params.get("cursor").is_none() && read.next_cursor.is_none();
        backend.tools_listed(era, || ctx.owner(), &read.items, is_whole);
        if let Some(accepted) = accepted(ctx, backend, &read.items) {
            read.is_exact &= accepted.len() == read.items.len();
            read.items = accepted;
        }
    }
    let page = catalog::filtered(&ctx.rules.policy, &ctx.principal, backend.alias(), list, page, &read);
    let page = match (ctx.era, era) {
        (Era::Legacy, _) => page,
        (Era::Modern, Era::Modern) if page.has(PRIVATE.0, PRIVATE.1) => page,
        (Era::Modern, Era::Modern) => Object::owned(&page.with(&[PRIVATE])),
        (Era::Modern, Era::Legacy) => Object::owned(&page.with(&[("ttlMs", &LIST_TTL_MS.to_string()), PRIVATE])),
    };
    Sourced::Backend(Response::Result(page), era)
}

/// One page of the lists of all backends, joined.
async fn federated(ctx: &RequestContext<'_>, list: List) -> Sourced {
    let Ok(cursor) = cursor(ctx) else { return unknown_cursor(ctx) };
    let found = of_all_backends(ctx, list).await;
    let mut names = BTreeSet::new();
    let of_one = |(backend, items): &(Arc<Backend>, Arc<[Item]>)| {
        catalog::federated(&ctx.rules.policy, &ctx.principal, backend.alias(), list, items, &mut names)
    };
    let items: Vec<String> = found.iter().flat_map(of_one).collect();
    let Some((page, next)) = catalog::page(&items, cursor.as_deref()) else { return unknown_cursor(ctx) };
    let (page, next) = (format!("[{}]", page.join(",")), next.map(|next| json::quoted(&next)));
    let ttl = LIST_TTL_MS.to_string();
    let caching = [("ttlMs", ttl.as_str()), PRIVATE].into_iter().filter(|_| ctx.era == Era::Modern);
    let members = [(list.member(), page.as_str())].into_iter();
    let members = members.chain(next.as_deref().map(|next| ("nextCursor", next))).chain(caching);
    Sourced::Gateway(Response::result(&json::object(members)))
}

/// The tools that the backend's `pin` does not refuse; `None`: it refuses none.
fn accepted(ctx: &RequestContext<'_>, backend: &Backend, tools: &[Item]) -> Option<Vec<Item>> {
    let alias = backend.alias();
    if ctx.rules.pin(alias) != Pin::Refuse {
        return None;
    }
    let is_accepted = |tool: &&Item| ctx.rules.is_accepted(alias, &tool.name, Some(definition_digest(&tool.json)));
    Some(tools.iter().filter(is_accepted).cloned().collect())
}

fn unknown_cursor(ctx: &RequestContext<'_>) -> Sourced {
    let http = if ctx.era == Era::Modern { http_status(INVALID_PARAMS) } else { StatusCode::OK };
    let message = "the cursor is unknown or the list has changed: list again without a cursor";
    Sourced::Gateway(Response::error(INVALID_PARAMS, message, Some(http.as_u16())))
}

/// The cursor of the request.
///
/// # Errors
/// It is not a string.
fn cursor(ctx: &RequestContext<'_>) -> Result<Option<String>, ()> {
    ctx.params.get("cursor").map(|cursor| json::string(cursor).ok_or(())).transpose()
}

/// The backend's own name of the tool or prompt `target` that is listed as `shown` at the endpoint of all backends.
/// `None`: no other name stands behind it, or the list cannot be read.
pub(crate) async fn original_name(ctx: &RequestContext<'_>, target: Target<'_>, shown: &str) -> Option<String> {
    let alias = target.backend;
    let backend = ctx.visible_backends().find(|backend| backend.alias() == alias)?;
    let is_it = |item: &&Item| catalog::exposed(alias, &item.name) == shown;
    let list = if target.kind == TargetKind::Prompt { List::Prompts } else { List::Tools };
    let known = backend.known_tools().filter(|_| list == List::Tools);
    if let Some(item) = known.as_deref().and_then(|items| items.iter().find(is_it)) {
        return Some(item.name.clone());
    }
    let read = async {
        let route = ctx.list_route(&backend).await?;
        backend.list(&route.connection, route.caller.as_ref(), list).await
    };
    let items = tokio::time::timeout(backend.patience(), read).await.ok()?.ok()?.items;
    items.iter().find(is_it).map(|item| item.name.clone())
}

/// The complete list of every backend that the caller may use. A backend that is down or too slow is omitted.
pub(crate) async fn of_all_backends(ctx: &RequestContext<'_>, list: List) -> Vec<(Arc<Backend>, Arc<[Item]>)> {
    // I6: the number of lists that are read at once is bounded. The semaphore is never closed.
    let _permit = ctx.core.lists.acquire().await.ok();
    let begun = Instant::now();
    let of_one = |backend: Arc<Backend>| async move {
        let patience = backend.patience();
        let deadline = begun + patience;
        let read = async {
            let route = ctx.list_route(&backend).await?;
            let (connection, caller) = (&route.connection, route.caller.as_ref());
            let Items { items, is_whole } = backend.list_until(connection, caller, list, Some(deadline)).await?;
            if list == List::Tools {
                backend.tools_listed(route.connection.era(), || ctx.owner(), &items, is_whole);
                return Ok(accepted(ctx, &backend, &items).map_or(items, Arc::from));
            }
            Ok(items)
        };
        let error = match tokio::time::timeout_at(deadline, read).await {
            Ok(Ok(items)) => return Some((backend, items)),
            // A backend without prompts, for example, answers with an error.
            Ok(Err(CallError::List { fault: upstream::NOT_OFFERED })) => return None,
            Ok(Err(error)) => error,
            Err(_) => CallError::TimedOut { after: patience },
        };
        if matches!(error, CallError::TimedOut { .. }) {
            backend.set_late();
        }
        // The list that everyone gets is better than none; the backend's own for this session follows. What the gateway
        // is shown by a backend that knows its callers may not be for this one.
        let known = backend.known_tools().filter(|_| list == List::Tools && !backend.is_on_behalf());
        let is_known = known.is_some();
        tracing::warn!(backend = backend.alias(), list = list.method(), %error, is_known, "backend list failed");
        if let Some(session) = &ctx.session {
            session.miss(backend.alias(), list.changed_method());
        }
        known.map(|items| (Arc::clone(&backend), accepted(ctx, &backend, &items).map_or(items, Arc::from)))
    };
    let all: Vec<_> = ctx.visible_backends().map(of_one).collect();
    let found: Vec<_> = futures_util::future::join_all(all).await.into_iter().flatten().collect();
    if list == List::Resources {
        // In reverse order, so that the first backend of several with the same URI is remembered.
        for (backend, items) in found.iter().rev() {
            let uris = items.iter().map(|item| item.name.as_str());
            ctx.core.resource_owners.remember(ctx.owner(), uris, backend.alias());
        }
    }
    found
}
