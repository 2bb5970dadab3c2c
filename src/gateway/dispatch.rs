//! Where a call meets the pipeline: parse, authenticate, authorize, begin, forward, finish, reply.
//!
//! [`serve`] handles one message, in a task of its own: a client that hangs up loses its reply, never the record. Every
//! refusal is a record too, made before the refusal leaves. What is not audited is answered in [`crate::gateway::answer::local`] and calls
//! no tool.

pub mod session_http;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};
use tokio::sync::{SemaphorePermit, oneshot};

use crate::audit::record::Status;
use crate::auth::{AuthError, Principal};
use crate::gateway::answer::{local, subscriptions};
use crate::gateway::call::audit_entry::{AuditEntry, Refusal};
use crate::gateway::call::context::RequestContext;
use crate::gateway::call::core::Core;
use crate::gateway::call::limits::OpenCallGuard;
use crate::gateway::call::rules::Rules;
use crate::gateway::message::headers;
use crate::gateway::message::reply::{Reply, http_status};
use crate::gateway::message::request::{HeadError, InboundRequest};
use crate::gateway::message::route::{self, Plan, Subject};
use crate::gateway::message::scope::Scope;
use crate::gateway::session::stream::Stream;
use crate::mcp::envelope::{self, Id, Malformed};
use crate::mcp::protocol::{
    DENIED, Era, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, SESSION_HEADER, TOOLS_CALL, UNAUTHENTICATED,
};
use crate::rbac::{Permit, Target, TargetKind};
use crate::upstream::{self, Answer, Interrupt};

use super::session::Session;

/// A request that passed all checks.
#[derive(Debug)]
struct Permitted<'a> {
    permit: Permit,
    id: Id,
    /// Its place among the open calls.
    slot: Slot<'a>,
}

/// A place among the open calls: of all, of the principal's, and of the backend's.
#[derive(Debug)]
struct Slot<'a> {
    _of_all: SemaphorePermit<'a>,
    _own: OpenCallGuard<'a>,
}

impl<'a> Slot<'a> {
    fn take(ctx: &RequestContext<'a>, backend: &str) -> Result<Self, Refusal> {
        let core = ctx.core;
        let full = |_| Refusal::rate_limited("too many calls are open", Duration::from_secs(1));
        // I6: the number of open calls is bounded.
        let of_all = core.calls.try_acquire().map_err(full)?;
        let own = core.limits.enter(ctx.principal, backend, &ctx.rules);
        let own = own.map_err(|error| Refusal::rate_limited(error.to_string(), error.retry_after()))?;
        Ok(Self { _of_all: of_all, _own: own })
    }
}

/// The stream of a request that has one, and how its messages are named.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: Arc<Stream>,
    /// Whether a client can come back for its messages.
    pub(crate) is_kept: bool,
}

/// Handles one POST from its arrival to its reply; `offer` is told of the request's stream, if it gets one.
pub(crate) async fn serve(core: Arc<Core>, inbound: InboundRequest, offer: oneshot::Sender<Opened>) -> Reply {
    let mut offer = Offer { to: Some(offer), stream: None, session: None };
    let reply = Box::pin(post(&core, &inbound, &mut offer)).await;
    // A reply that cannot be the response any more, since messages were sent before it, is the last of these.
    offer.end(&reply);
    reply.with_request_id(inbound.request_id)
}

/// Makes the stream of a request.
struct Offer {
    to: Option<oneshot::Sender<Opened>>,
    stream: Option<Arc<Stream>>,
    session: Option<Arc<Session>>,
}

impl Offer {
    fn stream(&mut self, inbound: &InboundRequest, session: Option<&Arc<Session>>) -> Option<Arc<Stream>> {
        if !headers::takes_stream(&inbound.headers) {
            return None;
        }
        let stream = match session {
            Some(session) => session.begin_stream()?,
            None => Stream::new(0),
        };
        let opened = Opened { stream: Arc::clone(&stream), is_kept: session.is_some() };
        // Where the client is gone, its messages are kept for its return.
        self.to.take()?.send(opened).ok();
        (self.stream, self.session) = (Some(Arc::clone(&stream)), session.cloned());
        Some(stream)
    }

    fn end(&self, reply: &Reply) {
        let Some(stream) = &self.stream else { return };
        let was_used = !stream.is_unused();
        if was_used {
            stream.finish(reply.body());
        }
        if let Some(session) = &self.session {
            session.end_stream(stream, was_used);
        }
    }
}

async fn post(core: &Arc<Core>, inbound: &InboundRequest, offer: &mut Offer) -> Reply {
    let bytes = inbound.body.as_ref().map_or(&[][..], |body| body);
    let rules = core.rules();
    let mut entry = AuditEntry::new(Arc::clone(&rules), inbound, envelope::hint(bytes, core.body_bytes_max));
    if let Err(fault @ (HeadError::Host | HeadError::Origin)) = &inbound.body {
        return entry.refuse(core, (*fault).into()).await;
    }
    let principal = match authenticate(core, inbound, &mut entry).await {
        Ok(principal) => principal,
        Err(refusal) => return entry.refuse(core, refusal).await,
    };
    let body = match &inbound.body {
        Ok(body) => body,
        Err(fault) => return entry.refuse(core, (*fault).into()).await,
    };
    let message = match envelope::parse(body, core.body_bytes_max) {
        Ok(message) => message,
        Err(Malformed::Response) if inbound.headers.contains_key(SESSION_HEADER) => {
            return match session(core, inbound, &principal) {
                Ok(session) => local::respond(core, session.as_deref(), body).await,
                Err(refusal) => entry.refuse(core, refusal).await,
            };
        }
        Err(rule) => return entry.refuse(core, rule.into()).await,
    };
    if message.id.is_some() && core.is_audited(&message.method) {
        entry.trace = core.tracer.context(inbound.request_id, &inbound.headers, message.params);
    }
    let era = match headers::era(&inbound.headers, &message) {
        Ok(era) => era,
        Err(mismatch) => return entry.refuse(core, mismatch.into()).await,
    };
    if era == Era::Modern {
        entry.session = None; // It has none: what it says of one was not looked at.
    }
    let session = match (era, message.method.as_str()) {
        (Era::Modern, _) | (_, "initialize") => None,
        _ => match session(core, inbound, &principal) {
            Ok(session) => session,
            Err(refusal) => return entry.refuse(core, refusal).await,
        },
    };
    if inbound.scope.backend().is_some_and(|backend| !is_visible(core, &rules, &principal, backend)) {
        return entry.refuse(core, not_here(&rules, inbound, &principal, &message.method)).await;
    }
    let Some(id) = message.id.clone() else {
        if !message.method.starts_with("notifications/") {
            return entry.refuse(core, Malformed::Id.into()).await; // One that nobody could be answered is none.
        }
        local::notified(core, inbound, &message, session.as_ref()).await;
        return Reply::local_unaudited_empty(StatusCode::ACCEPTED);
    };
    // Known to its session from here on, so that a cancellation finds it however early it comes.
    let client = match era {
        Era::Modern => inbound.hung_up.clone(), // Closing the connection is how a modern client cancels.
        Era::Legacy => inbound.given_up.clone(),
    };
    let place = session.as_ref().map(|session| core.in_flight.register(&session.id, &id, client.clone()));
    if let Some(None) = place {
        return entry.refuse(core, Malformed::IdInUse.into()).await;
    }
    let _place = place;
    let stream = offer.stream(inbound, session.as_ref());
    let interrupt = Interrupt { client, drained: core.drained.clone() };
    let (principal, message) = (&principal, &message);
    let ctx = RequestContext { core, rules, inbound, principal, message, era, session, stream, interrupt };
    match route::plan(&message.method, era) {
        Plan::Targeted => Box::pin(targeted(&ctx, &mut entry)).await,
        Plan::Initialize => match core.limits.count_request(principal, &ctx.rules) {
            Ok(()) => local::initialize(&ctx, &mut entry).await,
            // I6: each may start a child at every backend.
            Err(error) => entry.refuse(core, Refusal::rate_limited(error.to_string(), error.retry_after())).await,
        },
        Plan::ServerMessageHandler => subscriptions::listen(&ctx, &id, &mut entry).await,
        Plan::Extension => extension(&ctx, &mut entry).await,
        plan => local::answer(&ctx, &id, &plan).await,
    }
}

/// The session that a request names.
pub(crate) fn session(
    core: &Core,
    inbound: &InboundRequest,
    principal: &Principal,
) -> Result<Option<Arc<Session>>, Refusal> {
    let mut values = inbound.headers.get_all(SESSION_HEADER).iter();
    if values.next().is_none() {
        return Ok(None);
    }
    let id = headers::single(&inbound.headers, SESSION_HEADER).unwrap_or_default();
    let found = core.sessions.touch(id, principal, &inbound.scope);
    found.map(Some).map_err(|unknown| Refusal::malformed(StatusCode::NOT_FOUND, INVALID_REQUEST, unknown.to_string()))
}

/// Whether the backend is there for this caller: one that a caller may use nothing of is as one that is not there.
fn is_visible(core: &Core, rules: &Rules, principal: &Principal, backend: &str) -> bool {
    core.upstreams.contains(backend) && rules.policy.reaches(&principal.roles, backend)
}

fn not_here(rules: &Rules, inbound: &InboundRequest, principal: &Principal, method: &str) -> Refusal {
    let backend = inbound.scope.backend().unwrap_or_default();
    if method == TOOLS_CALL && !rules.policy.reaches(&principal.roles, backend) {
        let names = principal.roles.join(",");
        let refusal = Refusal::malformed(StatusCode::OK, DENIED, format!("role {names} may call nothing of {backend}"));
        return Refusal { status: Status::Denied, ..refusal };
    }
    Refusal::malformed(StatusCode::NOT_FOUND, INVALID_PARAMS, "unknown backend")
}

pub(crate) async fn authenticate(
    core: &Core,
    inbound: &InboundRequest,
    entry: &mut AuditEntry<'_>,
) -> Result<Principal, Refusal> {
    let mut values = inbound.headers.get_all(header::AUTHORIZATION).iter();
    let (value, another) = (values.next(), values.next());
    let value = value.map(axum::http::HeaderValue::as_bytes);
    let verified = match another {
        Some(_) => Err(AuthError::NotBearer),
        None => core.auth.authenticate(value, inbound.certificate.as_deref()).await,
    };
    let error = match verified {
        Ok(principal) => {
            entry.caller =
                principal.caller((!principal.roles.is_empty()).then(|| principal.roles.join(",")).as_deref());
            return Ok(principal);
        }
        Err(error) => error,
    };
    let base = headers::base_url(&inbound.headers, &inbound.host, core.is_tls);
    let path = headers::resource_path(&inbound.scope);
    let metadata = format!(r#"resource_metadata="{base}/.well-known/oauth-protected-resource{path}""#);
    let message = error.to_string();
    let (status, http, challenge) = match error {
        AuthError::Missing => (Status::Unauthenticated, StatusCode::UNAUTHORIZED, format!("Bearer {metadata}")),
        // The token may be good: a challenge would send the client for another.
        AuthError::Unavailable => {
            let refusal = Refusal::malformed(StatusCode::SERVICE_UNAVAILABLE, UNAUTHENTICATED, message);
            return Err(Refusal { status: Status::Unauthenticated, ..refusal });
        }
        AuthError::Scope { scope, principal } => {
            // Who it is is known, and not allowed.
            entry.caller = principal.caller(None);
            let challenge = format!(r#"Bearer error="insufficient_scope", scope="{scope}", {metadata}"#);
            (Status::Denied, StatusCode::FORBIDDEN, challenge)
        }
        AuthError::NotBearer | AuthError::Invalid { .. } => {
            if let AuthError::Invalid { cause: Some(cause), .. } = &error {
                tracing::debug!(cause = %cause, "token refused");
            }
            let challenge = format!(r#"Bearer error="invalid_token", error_description="{message}", {metadata}"#);
            (Status::Unauthenticated, StatusCode::UNAUTHORIZED, challenge)
        }
    };
    let refusal_code = if status == Status::Denied { DENIED } else { UNAUTHENTICATED };
    Err(Refusal { status, challenge: Some(challenge), ..Refusal::malformed(http, refusal_code, message) })
}

/// A request about one tool, resource or prompt.
async fn targeted(ctx: &RequestContext<'_>, entry: &mut AuditEntry<'_>) -> Reply {
    let subject = match route::subject(ctx.message) {
        Ok(subject) => subject,
        Err(rule) => return entry.refuse(ctx.core, rule.into()).await,
    };
    let found = match permit(ctx, &subject, entry).await {
        Ok(permitted) => permitted,
        Err(refusal) => return entry.refuse(ctx.core, refusal).await,
    };
    let Permitted { permit, id, slot } = found;
    if ctx.core.is_audited(&ctx.message.method) {
        return call(ctx, entry, Permitted { permit, id, slot }).await;
    }
    let name = Some(permit.name().to_owned());
    let Some(backend) = ctx.core.upstreams.get(permit.backend()) else {
        return Reply::local_unaudited_error(StatusCode::NOT_FOUND, Some(&id), INVALID_PARAMS, "unknown backend");
    };
    let (response, backends) = match local::asked(ctx, backend, Some(permit.params()), name).await {
        Ok(answer) => answer,
        Err(err) => return local::failed(&id, backend, &err),
    };
    let target = Target { kind: permit.kind(), backend: permit.backend(), name: permit.name() };
    let response = upstream::unrecorded(response, ctx.era, |state| bound(ctx, entry, target, state));
    local::relayed(&id, response, ctx.era, backends)
}

/// A backend's state, bound to the caller and to what was asked.
fn bound(ctx: &RequestContext<'_>, entry: &AuditEntry<'_>, target: Target<'_>, state: &str) -> String {
    // A call that goes on keeps the id under which it began.
    let own = ctx.inbound.request_id.to_string();
    let origin = entry.session.as_deref().filter(|_| ctx.session.is_none()).unwrap_or(&own);
    ctx.core.request_states.bind(state, origin, ctx.principal, target)
}

/// Everything that a request must pass before it is begun. Authorization comes before existence, so that a caller who is
/// denied learns nothing of what there is.
async fn permit<'a>(
    ctx: &RequestContext<'a>,
    subject: &Subject,
    entry: &mut AuditEntry<'_>,
) -> Result<Permitted<'a>, Refusal> {
    let core = ctx.core;
    entry.arguments.clone_from(&subject.arguments);
    let id = ctx.message.id.clone().ok_or(Malformed::Id)?; // A call that nobody could be answered is none.
    let name = subject.name.as_str();
    let owner;
    let found = match (&ctx.inbound.scope, subject.kind) {
        (Scope::All, TargetKind::Resource) => {
            owner = local::owner(ctx, name).await;
            owner.as_deref().map(|backend| Target { kind: TargetKind::Resource, backend, name })
        }
        (scope, kind) => scope.target(name).map(|target| Target { kind, ..target }),
    };
    let Some(target) = found else {
        return Err(Refusal::unknown(subject.what(), name, ctx.era));
    };
    entry.backend = Some(target.backend.to_owned());
    entry.tool = Some(target.name.to_owned());
    let state = match &subject.state {
        Some(bound) => {
            let opened = core.request_states.open(bound, ctx.principal, target);
            let (state, origin) = opened
                .map_err(|foreign| Refusal::malformed(StatusCode::BAD_REQUEST, INVALID_PARAMS, foreign.to_string()))?;
            // The record of a call that goes on bears the id of the one that began.
            entry.session = Some(origin.to_owned());
            Some(state)
        }
        None => None,
    };
    let params = subject.params(ctx.message, target, state);
    let params = match &entry.trace {
        Some(context) => context.in_params(&params),
        None => params,
    };
    let arguments = subject.arguments.as_deref();
    let permit =
        ctx.rules.policy.authorize_request(ctx.principal, target, Some(&params), arguments).map_err(|denied| {
            entry.caller = denied.caller;
            let refusal = Refusal::malformed(StatusCode::OK, DENIED, denied.reason);
            Refusal { status: Status::Denied, ..refusal }
        })?;
    entry.caller = permit.caller().clone();
    let slot = Slot::take(ctx, permit.backend())?;
    let Some(backend) = core.upstreams.get(permit.backend()) else {
        return Err(match ctx.inbound.scope {
            Scope::All => Refusal::unknown(subject.what(), name, ctx.era),
            Scope::One(_) => Refusal::malformed(StatusCode::NOT_FOUND, INVALID_PARAMS, "unknown backend"),
        });
    };
    // A session's backend tells by itself what it has; it may differ from session to session.
    let is_listed = ctx.session.is_none() && subject.kind == TargetKind::Tool && backend.is_looked_up();
    if is_listed && backend.has_tool(permit.name()).await == Some(false) {
        return Err(Refusal::unknown("tool", name, ctx.era));
    }
    Ok(Permitted { permit, id, slot })
}

/// One permitted call: its intent, the backend, its record, the reply.
async fn call(ctx: &RequestContext<'_>, entry: &AuditEntry<'_>, permitted: Permitted<'_>) -> Reply {
    let Permitted { permit, id, slot: _slot } = permitted;
    let (core, id) = (ctx.core, &id);
    // I1: the intent reaches its level before the call is forwarded, or there is no call.
    let target = Target { kind: permit.kind(), backend: permit.backend(), name: permit.name() };
    let arrived = Instant::now();
    let begun = if ctx.rules.continue_for.matches(target) {
        core.audit.begin_or_continue(entry.call(core)).await
    } else {
        core.audit.begin(entry.call(core)).await
    };
    let receipt = match begun {
        Ok(receipt) => receipt,
        Err(unavailable) => return entry.unaudited(core, &unavailable),
    };
    let (alias, tool, kind) = (permit.backend().to_owned(), permit.name().to_owned(), permit.kind());
    let route = async {
        let backend = core.upstreams.get(&alias).ok_or_else(local::not_configured)?;
        let mut route = ctx.route(backend, Some(tool.clone())).await?;
        entry.trace.iter().for_each(|context| context.in_headers(&mut route.headers));
        Ok(route)
    };
    let method = &ctx.message.method;
    let answer = core.upstreams.forward(method, permit, &receipt, route, &ctx.interrupt).await;
    let target = Target { kind, backend: &alias, name: &tool };
    let answer = answer.with_state(|state| bound(ctx, entry, target, state));
    let outcome = answer.outcome();
    tracing::info!(
        status = %outcome.status, method = entry.method, subject = entry.caller.subject,
        backend = entry.backend, tool = entry.tool, "called"
    );
    // I1: the reply leaves after the record has reached its level. I2: the receipt ends in exactly one record.
    let (status, finished) = (outcome.status, receipt.finish(outcome, answer).await);
    core.counters.called(&alias, status, arrived.elapsed());
    entry.traced(core, status, arrived.elapsed());
    match finished {
        Ok(released) => Reply::released(StatusCode::OK, Some(id), released),
        Err(unavailable) => Reply::unavailable(Some(id), &unavailable),
    }
}

/// A method that the gateway does not know: passed on where the operator names it, and recorded.
async fn extension(ctx: &RequestContext<'_>, entry: &mut AuditEntry<'_>) -> Reply {
    let (core, method) = (ctx.core, ctx.message.method.as_str());
    let backend = route::only(&ctx.inbound.scope, core.upstreams.all());
    let (Some(backend), true) = (backend, core.is_passed(method)) else {
        let method = &method[..method.floor_char_boundary(64)];
        let status = if ctx.era == Era::Modern { http_status(METHOD_NOT_FOUND) } else { StatusCode::OK };
        let message = format!("method {method:?} is not supported");
        return entry.refuse(core, Refusal::malformed(status, METHOD_NOT_FOUND, message)).await;
    };
    // It may do anything: only who may call everything may request for it.
    entry.tool = None;
    entry.arguments = ctx.message.params.map(|params| params.get().to_owned());
    if !ctx.rules.policy.allows_all_of(&ctx.principal.roles, backend.alias()) {
        let message = format!("{method} is for roles that may call all of {}", backend.alias());
        let refusal = Refusal::malformed(StatusCode::OK, DENIED, message);
        return entry.refuse(core, Refusal { status: Status::Denied, ..refusal }).await;
    }
    let Some(id) = ctx.message.id.clone() else { return entry.refuse(core, Malformed::Id.into()).await };
    let _slot = match Slot::take(ctx, backend.alias()) {
        Ok(slot) => slot,
        Err(refusal) => return entry.refuse(core, refusal).await,
    };
    let arrived = Instant::now();
    let receipt = match core.audit.begin(entry.call(core)).await {
        Ok(receipt) => receipt,
        Err(unavailable) => return entry.unaudited(core, &unavailable),
    };
    let params = ctx.message.params.map(serde_json::value::RawValue::get);
    let answer = match local::asked(ctx, backend, params, None).await {
        Ok((response, backends)) => Answer::from_response(response, ctx.inbound.request_id, ctx.era, backends),
        Err(err) => Answer::failure(backend.alias(), &err),
    };
    let outcome = answer.outcome();
    let (status, finished) = (outcome.status, receipt.finish(outcome, answer).await);
    core.counters.called(backend.alias(), status, arrived.elapsed());
    entry.traced(core, status, arrived.elapsed());
    match finished {
        Ok(released) => Reply::released(StatusCode::OK, Some(&id), released),
        Err(unavailable) => Reply::unavailable(Some(&id), &unavailable),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use axum::body::Bytes;
    use axum::http::HeaderMap;
    use axum::http::HeaderValue;
    use tokio_util::sync::CancellationToken;

    use crate::audit::Audit;
    use crate::audit::record::{Call, RequestId};
    use crate::config::{Backend, Config, Role};
    use crate::gateway::Gateway;

    use super::*;

    fn core(change: impl FnOnce(&mut Config)) -> Arc<Core> {
        let role = |allow: &str| Role { allow: vec![allow.to_owned()], ..Role::default() };
        let backend = Backend {
            command: vec!["/nonexistent/program".to_owned()],
            call_timeout: std::time::Duration::from_secs(1),
            ..Backend::default()
        };
        let mut config = Config {
            roles: BTreeMap::from([("all".to_owned(), role("*/*")), ("one".to_owned(), role("time/get"))]),
            backends: BTreeMap::from([("time".to_owned(), backend)]),
            ..Config::default()
        };
        change(&mut config);
        Gateway::build(&config, Audit::disabled()).unwrap().core
    }

    fn inbound(scope: Scope, body: &str) -> InboundRequest {
        InboundRequest {
            request_id: RequestId::new(),
            addr: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            scope,
            headers: HeaderMap::new(),
            host: "localhost".to_owned(),
            certificate: None,
            hung_up: CancellationToken::new(),
            given_up: CancellationToken::new(),
            body: Ok(Bytes::copy_from_slice(body.as_bytes())),
        }
    }

    fn request(params: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{params}}}"#)
    }

    async fn refused(core: &Core, inbound: &InboundRequest, role: &str) -> (Refusal, Call) {
        let Ok(body) = &inbound.body else { panic!() };
        let message = envelope::parse(body, core.body_bytes_max).unwrap();
        let principal = Principal {
            subject: "ann".to_owned(),
            issuer: "test".to_owned(),
            token_id: Some("t".to_owned()),
            roles: vec![role.to_owned()],
        };
        let mut entry = AuditEntry::new(core.rules(), inbound, envelope::hint(body, core.body_bytes_max));
        entry.caller = principal.caller(None);
        let (era, interrupt) = (Era::Legacy, Interrupt::default());
        let (principal, message) = (&principal, &message);
        let rules = core.rules();
        let ctx =
            RequestContext { core, rules, inbound, principal, message, era, session: None, stream: None, interrupt };
        let refusal = match route::subject(message) {
            Ok(subject) => permit(&ctx, &subject, &mut entry).await.unwrap_err(),
            Err(broken) => broken.into(),
        };
        (refusal, entry.call(core))
    }

    #[tokio::test]
    async fn i2_a_denied_call_is_recorded_with_its_caller_target_and_arguments() {
        let core = core(|config| config.audit.redact = vec!["/secret".to_owned()]);
        let body = request(r#"{"name":"time__set","arguments":{ "secret":"x", "zone": 1.0 }}"#);
        let (refusal, call) = refused(&core, &inbound(Scope::All, &body), "one").await;
        assert_eq!((refusal.status, refusal.code, refusal.http), (Status::Denied, DENIED, StatusCode::OK));
        assert_eq!(refusal.message, "role one may not call time/set");
        assert_eq!((call.backend_name.as_deref(), call.tool_name.as_deref()), (Some("time"), Some("set")));
        assert_eq!((call.client_subject.as_str(), call.client_role.as_deref()), ("ann", Some("one")));
        assert_eq!((call.token_id.as_deref(), call.rpc_id.as_deref()), (Some("t"), Some("a")));
        // I8: redacted before it is recorded, and otherwise byte for byte.
        assert_eq!(call.request_args.as_deref(), Some(r#"{ "secret":"[redacted]", "zone": 1.0 }"#));
    }

    #[tokio::test]
    async fn authorization_comes_before_existence() {
        let core = core(|_| {});
        let at = |backend: &str| inbound(Scope::One(backend.to_owned()), &request(r#"{"name":"x"}"#));
        for backend in ["time", "missing"] {
            assert_eq!(refused(&core, &at(backend), "one").await.0.status, Status::Denied, "{backend}");
        }
        let (refusal, call) = refused(&core, &at("missing"), "all").await;
        assert_eq!((refusal.status, refusal.http), (Status::Malformed, StatusCode::NOT_FOUND));
        assert_eq!(call.client_role.as_deref(), Some("all"));
        let all = inbound(Scope::All, &request(r#"{"name":"missing__x"}"#));
        assert_eq!(refused(&core, &all, "all").await.0.message, r#"unknown tool "missing__x""#);
    }

    #[tokio::test]
    async fn i2_a_call_without_a_token_is_recorded_with_what_it_asked_for() {
        let core = core(|_| {});
        let inbound = inbound(Scope::All, &request(r#"{"name":"time__get"}"#));
        let mut entry = AuditEntry::new(core.rules(), &inbound, envelope::hint(inbound.body.as_ref().unwrap(), 1000));
        let refusal = authenticate(&core, &inbound, &mut entry).await.unwrap_err();
        assert_eq!((refusal.status, refusal.http), (Status::Unauthenticated, StatusCode::UNAUTHORIZED));
        let call = entry.call(&core);
        assert_eq!((call.method.as_str(), call.client_subject.as_str()), ("tools/call", "anonymous"));
        assert_eq!((call.backend_name.as_deref(), call.tool_name.as_deref()), (Some("time"), Some("get")));
    }

    #[tokio::test]
    async fn two_tokens_in_one_request_are_none() {
        let core = core(|_| {});
        let mut inbound = inbound(Scope::All, "");
        for value in ["Bearer a.b.c", "Bearer d.e.f"] {
            inbound.headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        let mut entry = AuditEntry::new(core.rules(), &inbound, envelope::Hint::default());
        let refusal = authenticate(&core, &inbound, &mut entry).await.unwrap_err();
        assert_eq!(refusal.message, AuthError::NotBearer.to_string());
    }
}
