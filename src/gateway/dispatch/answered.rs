//! Eighth stage: the backend, or the gateway itself, has answered.

use std::sync::Arc;
use std::time::Instant;

use crate::audit::Receipt;
use crate::gateway::answer::relay::{self, Sourced};
use crate::gateway::answer::{handshake, lists, logging, subscriptions};
use crate::gateway::call::audit_entry::AuditEntry;
use crate::gateway::call::context::RequestContext;
use crate::gateway::call::recorded_content;
use crate::gateway::session::Session;
use crate::mcp::json::Object;
use crate::rbac::{Permit, Target};
use crate::upstream::{self, Answer, Backend};

use super::begun::{Begun, Recording};
use super::permitted::{Grant, Slot};
use super::routed::LocalMethod;

/// A request with its answer.
#[derive(Debug)]
#[must_use = "an answered request is finished"]
pub struct Answered<'a> {
    pub(super) ctx: RequestContext<'a>,
    pub(super) result: Unfinished,
    /// The session that an `initialize` opened.
    pub(super) opened: Option<Arc<Session>>,
    pub(super) started_at: Instant,
    pub(super) slot: Option<Slot<'a>>,
}

/// An answer, and the form in which it is recorded.
#[derive(Debug)]
pub(super) enum Unfinished {
    Unrecorded(Sourced),
    Whole(Answer),
    Intent(Box<Receipt>, Answer),
}

impl<'a> Begun<'a> {
    /// Answers the request. A failure of the backend is also an answer.
    pub async fn answer(self, entry: &mut AuditEntry<'_>) -> Answered<'a> {
        let Self { ctx, grant, recording, started_at, slot } = self;
        let (result, opened) = match (grant, recording) {
            (Grant::Target(permit, backend), Recording::Intent(receipt)) => {
                let answer = Box::pin(forward(&ctx, *permit, &backend, &receipt, entry)).await;
                (Unfinished::Intent(receipt, answer), None)
            }
            (grant, recording) => {
                let (sourced, opened) = Box::pin(respond(&ctx, grant, entry)).await;
                let result = match recording {
                    Recording::None => Unfinished::Unrecorded(sourced),
                    Recording::Whole => Unfinished::Whole(sourced.into_answer(&ctx)),
                    Recording::Intent(receipt) => Unfinished::Intent(receipt, sourced.into_answer(&ctx)),
                };
                (result, opened)
            }
        };
        Answered { ctx, result, opened, started_at, slot }
    }
}

/// Forwards a recorded request to its backend.
async fn forward(
    ctx: &RequestContext<'_>,
    permit: Permit,
    backend: &Arc<Backend>,
    receipt: &Receipt,
    entry: &AuditEntry<'_>,
) -> Answer {
    let (alias, tool, kind) = (permit.backend().to_owned(), permit.name().to_owned(), permit.kind());
    let route = async {
        let mut route = ctx.route(backend, Some(tool.clone())).await?;
        if let Some(context) = &entry.trace {
            context.in_headers(&mut route.headers);
            route.traceparent = Some(context.traceparent());
        }
        Ok(route)
    };
    let answer = ctx.core.upstreams.forward(&ctx.message.method, permit, receipt, route, &ctx.interrupt).await;
    if let Some(session) = &ctx.session {
        session.open_calls.delivered().await;
    }
    let target = Target { kind, backend: &alias, name: &tool };
    recorded_content::within_bounds(answer.with_state(|asks| bound_state(ctx, entry, target, asks)))
}

/// Answers a request that is not forwarded with a permit and a receipt. Such a request never calls a tool.
async fn respond(
    ctx: &RequestContext<'_>,
    grant: Grant,
    entry: &mut AuditEntry<'_>,
) -> (Sourced, Option<Arc<Session>>) {
    let sourced = match grant {
        Grant::Local(LocalMethod::Ping) => Sourced::Exact(upstream::Response::result("{}")),
        Grant::Local(LocalMethod::Initialize) => {
            let (sourced, session) = handshake::initialize(ctx, entry).await;
            return (sourced, Some(session));
        }
        Grant::Local(LocalMethod::Discover) => handshake::discover(ctx).await,
        Grant::Local(LocalMethod::List(list)) => lists::answer(ctx, list).await,
        Grant::Local(LocalMethod::SetLevel) => logging::set_level(ctx).await,
        Grant::Subscription(subscription) => subscriptions::serve(ctx, subscription).await,
        Grant::Extension(backend) => relay::relay(ctx, &backend).await,
        Grant::Target(permit, backend) => unrecorded(ctx, &permit, &backend, entry).await,
    };
    (sourced, None)
}

/// Relays a request for one resource or prompt that is not recorded.
async fn unrecorded(
    ctx: &RequestContext<'_>,
    permit: &Permit,
    backend: &Arc<Backend>,
    entry: &AuditEntry<'_>,
) -> Sourced {
    let (alias, tool) = (permit.backend(), permit.name());
    let target = Target { kind: permit.kind(), backend: alias, name: tool };
    match relay::request(ctx, backend, permit.params(), Some(tool.to_owned())).await {
        Ok((response, era)) => {
            let bind = |asks: &Object<'_>| bound_state(ctx, entry, target, asks);
            Sourced::Backend(upstream::unrecorded(response, ctx.era, bind), era)
        }
        Err(error) => Sourced::failed(alias, error),
    }
}

/// The `requestState` for the result `asks`, which asks for input. A retry keeps the id of the first request.
fn bound_state(ctx: &RequestContext<'_>, entry: &AuditEntry<'_>, target: Target<'_>, asks: &Object<'_>) -> String {
    let origin = entry.parent.unwrap_or(ctx.inbound.request_id);
    let (of_backend, schemas) = (asks.string("requestState"), recorded_content::secret_schemas(asks));
    ctx.core.request_states.bind(of_backend.as_deref(), origin, schemas.as_deref(), &ctx.state_owner(target))
}
