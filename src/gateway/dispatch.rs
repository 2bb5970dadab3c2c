//! Where a call meets the pipeline: parse, authenticate, authorize, begin, forward, finish, reply.
//!
//! [`serve`] handles one message, in a task of its own: a client that hangs up loses its reply, never the record. Every
//! refusal is a record too, made before the refusal leaves. What is not audited is answered in [`super::local`] and calls
//! no tool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audit::record::Status;
use crate::upstream::{self, Answer, Interrupt};
use axum::http::{StatusCode, header};
use tokio::sync::{SemaphorePermit, oneshot};

use super::arrival::{Arrival, Fault};
use super::ask::Ask;
use super::auth::{AuthError, Principal};
use super::catalog::Scope;
use super::envelope::{self, Id, Malformed};
use super::limits::Place;
use super::live::Live;
use super::protocol::{
    DENIED, Era, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, SESSION_HEADER, TOOLS_CALL, UNAUTHENTICATED,
};
use super::rbac::{Kind, Permit, Target};
use super::reply::{Reply, http_status};
use super::session::Session;
use super::stream::Stream;
use super::target::{self, Plan, Subject};
use super::trail::{Refusal, Trail};
use super::{Core, headers, local, subscriptions};

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
    _own: Place<'a>,
}

impl<'a> Slot<'a> {
    fn take(ask: &Ask<'a>, backend: &str) -> Result<Self, Refusal> {
        let core = ask.core;
        let full = |_| Refusal::rate_limited("too many calls are open", Duration::from_secs(1));
        // I6: the number of open calls is bounded.
        let of_all = core.calls.try_acquire().map_err(full)?;
        let own = core.limits.enter(ask.principal, backend, &ask.live);
        let own = own.map_err(|exceeded| Refusal::rate_limited(exceeded.to_string(), exceeded.wait()))?;
        Ok(Self { _of_all: of_all, _own: own })
    }
}

/// The stream of a request that has one, and how its messages are named.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: Arc<Stream>,
    /// Whether a client can come back for its messages.
    pub(super) is_kept: bool,
}

/// Handles one POST from its arrival to its reply; `offer` is told of the request's stream, if it gets one.
pub(super) async fn serve(core: Arc<Core>, arrival: Arrival, offer: oneshot::Sender<Opened>) -> Reply {
    let mut offer = Offer { to: Some(offer), stream: None, session: None };
    let reply = Box::pin(post(&core, &arrival, &mut offer)).await;
    // A reply that cannot be the response any more, since messages were sent before it, is the last of these.
    offer.end(&reply);
    reply.with_request_id(arrival.request_id)
}

/// Makes the stream of a request.
struct Offer {
    to: Option<oneshot::Sender<Opened>>,
    stream: Option<Arc<Stream>>,
    session: Option<Arc<Session>>,
}

impl Offer {
    fn stream(&mut self, arrival: &Arrival, session: Option<&Arc<Session>>) -> Option<Arc<Stream>> {
        if !headers::takes_stream(&arrival.headers) {
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
        let was_used = !stream.is_untouched();
        if was_used {
            stream.finish(reply.body());
        }
        if let Some(session) = &self.session {
            session.end_stream(stream, was_used);
        }
    }
}

async fn post(core: &Arc<Core>, arrival: &Arrival, offer: &mut Offer) -> Reply {
    let bytes = arrival.body.as_ref().map_or(&[][..], |body| body);
    let live = core.live();
    let mut trail = Trail::new(Arc::clone(&live), arrival, envelope::hint(bytes, core.body_bytes_max));
    if let Err(fault @ (Fault::Host | Fault::Origin)) = &arrival.body {
        return trail.refuse(core, (*fault).into()).await;
    }
    let principal = match authenticate(core, arrival, &mut trail).await {
        Ok(principal) => principal,
        Err(refusal) => return trail.refuse(core, refusal).await,
    };
    let body = match &arrival.body {
        Ok(body) => body,
        Err(fault) => return trail.refuse(core, (*fault).into()).await,
    };
    let message = match envelope::parse(body, core.body_bytes_max) {
        Ok(message) => message,
        Err(Malformed::Response) if arrival.headers.contains_key(SESSION_HEADER) => {
            return match session(core, arrival, &principal) {
                Ok(session) => local::respond(core, session.as_deref(), body).await,
                Err(refusal) => trail.refuse(core, refusal).await,
            };
        }
        Err(rule) => return trail.refuse(core, rule.into()).await,
    };
    if message.id.is_some() && core.is_audited(&message.method) {
        trail.trace = core.tracer.context(arrival.request_id, &arrival.headers, message.params);
    }
    let era = match headers::era(&arrival.headers, &message) {
        Ok(era) => era,
        Err(mismatch) => return trail.refuse(core, mismatch.into()).await,
    };
    if era == Era::Modern {
        trail.session = None; // It has none: what it says of one was not looked at.
    }
    let session = match (era, message.method.as_str()) {
        (Era::Modern, _) | (_, "initialize") => None,
        _ => match session(core, arrival, &principal) {
            Ok(session) => session,
            Err(refusal) => return trail.refuse(core, refusal).await,
        },
    };
    if arrival.scope.backend().is_some_and(|backend| !is_visible(core, &live, &principal, backend)) {
        return trail.refuse(core, not_here(&live, arrival, &principal, &message.method)).await;
    }
    let Some(id) = message.id.clone() else {
        if !message.method.starts_with("notifications/") {
            return trail.refuse(core, Malformed::Id.into()).await; // One that nobody could be answered is none.
        }
        local::notified(core, arrival, &message, session.as_ref()).await;
        return Reply::local_unaudited_empty(StatusCode::ACCEPTED);
    };
    // Known to its session from here on, so that a cancellation finds it however early it comes.
    let client = match era {
        Era::Modern => arrival.hung_up.clone(), // Closing the connection is how a modern client cancels.
        Era::Legacy => arrival.given_up.clone(),
    };
    let place = session.as_ref().map(|session| core.in_flight.enter(&session.id, &id, client.clone()));
    if let Some(None) = place {
        return trail.refuse(core, Malformed::IdInUse.into()).await;
    }
    let _place = place;
    let stream = offer.stream(arrival, session.as_ref());
    let interrupt = Interrupt { client, drained: core.drained.clone() };
    let (principal, message) = (&principal, &message);
    let ask = Ask { core, live, arrival, principal, message, era, session, stream, interrupt };
    match target::plan(&message.method, era) {
        Plan::Targeted => Box::pin(targeted(&ask, &mut trail)).await,
        Plan::Initialize => match core.limits.pass(principal, &ask.live) {
            Ok(()) => local::initialize(&ask, &mut trail).await,
            // I6: each may start a child at every backend.
            Err(exceeded) => trail.refuse(core, Refusal::rate_limited(exceeded.to_string(), exceeded.wait())).await,
        },
        Plan::Listen => subscriptions::listen(&ask, &id, &mut trail).await,
        Plan::Extension => extension(&ask, &mut trail).await,
        plan => local::answer(&ask, &id, &plan).await,
    }
}

/// The session that a request names.
pub(super) fn session(core: &Core, arrival: &Arrival, principal: &Principal) -> Result<Option<Arc<Session>>, Refusal> {
    let mut values = arrival.headers.get_all(SESSION_HEADER).iter();
    if values.next().is_none() {
        return Ok(None);
    }
    let id = headers::single(&arrival.headers, SESSION_HEADER).unwrap_or_default();
    let found = core.sessions.touch(id, principal, &arrival.scope);
    found.map(Some).map_err(|unknown| Refusal::malformed(StatusCode::NOT_FOUND, INVALID_REQUEST, unknown.to_string()))
}

/// Whether the backend is there for this caller: one that a caller may use nothing of is as one that is not there.
fn is_visible(core: &Core, live: &Live, principal: &Principal, backend: &str) -> bool {
    core.upstreams.contains(backend) && live.policy.reaches(&principal.roles, backend)
}

fn not_here(live: &Live, arrival: &Arrival, principal: &Principal, method: &str) -> Refusal {
    let backend = arrival.scope.backend().unwrap_or_default();
    if method == TOOLS_CALL && !live.policy.reaches(&principal.roles, backend) {
        let roles = principal.roles.join(",");
        let refusal = Refusal::malformed(StatusCode::OK, DENIED, format!("role {roles} may call nothing of {backend}"));
        return Refusal { status: Status::Denied, ..refusal };
    }
    Refusal::malformed(StatusCode::NOT_FOUND, INVALID_PARAMS, "unknown backend")
}

pub(super) async fn authenticate(core: &Core, arrival: &Arrival, trail: &mut Trail<'_>) -> Result<Principal, Refusal> {
    let mut values = arrival.headers.get_all(header::AUTHORIZATION).iter();
    let (value, another) = (values.next(), values.next());
    let value = value.map(axum::http::HeaderValue::as_bytes);
    let verified = match another {
        Some(_) => Err(AuthError::NotBearer),
        None => core.auth.authenticate(value, arrival.certificate.as_deref()).await,
    };
    let error = match verified {
        Ok(principal) => {
            trail.caller =
                principal.caller((!principal.roles.is_empty()).then(|| principal.roles.join(",")).as_deref());
            return Ok(principal);
        }
        Err(error) => error,
    };
    let base = headers::base_url(&arrival.headers, &arrival.host, core.tls.is_some());
    let path = headers::resource_path(&arrival.scope);
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
            trail.caller = principal.caller(None);
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
async fn targeted(ask: &Ask<'_>, trail: &mut Trail<'_>) -> Reply {
    let subject = match target::subject(ask.message) {
        Ok(subject) => subject,
        Err(rule) => return trail.refuse(ask.core, rule.into()).await,
    };
    let found = match permit(ask, &subject, trail).await {
        Ok(permitted) => permitted,
        Err(refusal) => return trail.refuse(ask.core, refusal).await,
    };
    let Permitted { permit, id, slot } = found;
    if ask.core.is_audited(&ask.message.method) {
        return call(ask, trail, Permitted { permit, id, slot }).await;
    }
    let name = Some(permit.tool().to_owned());
    let Some(backend) = ask.core.upstreams.get(permit.backend()) else {
        return Reply::local_unaudited_error(StatusCode::NOT_FOUND, Some(&id), INVALID_PARAMS, "unknown backend");
    };
    let (response, backends) = match local::asked(ask, backend, Some(permit.params()), name).await {
        Ok(answer) => answer,
        Err(err) => return local::failed(&id, backend, &err),
    };
    let target = Target { kind: permit.kind(), backend: permit.backend(), tool: permit.tool() };
    let response = upstream::unrecorded(response, ask.era, |state| bound(ask, trail, target, state));
    local::relayed(&id, response, ask.era, backends)
}

/// A backend's state, bound to the caller and to what was asked.
fn bound(ask: &Ask<'_>, trail: &Trail<'_>, target: Target<'_>, state: &str) -> String {
    // A call that goes on keeps the id under which it began.
    let own = ask.arrival.request_id.to_string();
    let origin = trail.session.as_deref().filter(|_| ask.session.is_none()).unwrap_or(&own);
    ask.core.states.bind(state, origin, ask.principal, target)
}

/// Everything that a request must pass before it is begun. Authorization comes before existence, so that a caller who is
/// denied learns nothing of what there is.
async fn permit<'a>(ask: &Ask<'a>, subject: &Subject, trail: &mut Trail<'_>) -> Result<Permitted<'a>, Refusal> {
    let core = ask.core;
    trail.arguments.clone_from(&subject.arguments);
    let id = ask.message.id.clone().ok_or(Malformed::Id)?; // A call that nobody could be answered is none.
    let name = subject.name.as_str();
    let owner;
    let found = match (&ask.arrival.scope, subject.kind) {
        (Scope::All, Kind::Resource) => {
            owner = local::owner(ask, name).await;
            owner.as_deref().map(|backend| Target { kind: Kind::Resource, backend, tool: name })
        }
        (scope, kind) => scope.target(name).map(|target| Target { kind, ..target }),
    };
    let Some(target) = found else {
        return Err(Refusal::unknown(subject.what(), name, ask.era));
    };
    trail.backend = Some(target.backend.to_owned());
    trail.tool = Some(target.tool.to_owned());
    let state = match &subject.state {
        Some(bound) => {
            let opened = core.states.open(bound, ask.principal, target);
            let (state, origin) = opened
                .map_err(|foreign| Refusal::malformed(StatusCode::BAD_REQUEST, INVALID_PARAMS, foreign.to_string()))?;
            // The record of a call that goes on bears the id of the one that began.
            trail.session = Some(origin.to_owned());
            Some(state)
        }
        None => None,
    };
    let params = subject.params(ask.message, target, state);
    let params = match &trail.trace {
        Some(context) => context.in_params(&params),
        None => params,
    };
    let arguments = subject.arguments.as_deref();
    let permit =
        ask.live.policy.authorize_request(ask.principal, target, Some(&params), arguments).map_err(|denied| {
            trail.caller = denied.caller;
            let refusal = Refusal::malformed(StatusCode::OK, DENIED, denied.reason);
            Refusal { status: Status::Denied, ..refusal }
        })?;
    trail.caller = permit.caller().clone();
    let slot = Slot::take(ask, permit.backend())?;
    let Some(backend) = core.upstreams.get(permit.backend()) else {
        return Err(match ask.arrival.scope {
            Scope::All => Refusal::unknown(subject.what(), name, ask.era),
            Scope::One(_) => Refusal::malformed(StatusCode::NOT_FOUND, INVALID_PARAMS, "unknown backend"),
        });
    };
    // A session's backend tells by itself what it has; it may differ from session to session.
    let is_listed = ask.session.is_none() && subject.kind == Kind::Tool && backend.is_looked_up();
    if is_listed && backend.has_tool(permit.tool()).await == Some(false) {
        return Err(Refusal::unknown("tool", name, ask.era));
    }
    Ok(Permitted { permit, id, slot })
}

/// One permitted call: its intent, the backend, its record, the reply.
async fn call(ask: &Ask<'_>, trail: &Trail<'_>, permitted: Permitted<'_>) -> Reply {
    let Permitted { permit, id, slot: _slot } = permitted;
    let (core, id) = (ask.core, &id);
    // I1: the intent reaches its level before the call is forwarded, or there is no call.
    let target = Target { kind: permit.kind(), backend: permit.backend(), tool: permit.tool() };
    let arrived = Instant::now();
    let begun = if ask.live.continue_for.matches(target) {
        core.audit.begin_or_continue(trail.call(core)).await
    } else {
        core.audit.begin(trail.call(core)).await
    };
    let receipt = match begun {
        Ok(receipt) => receipt,
        Err(unavailable) => return trail.unaudited(core, &unavailable),
    };
    let (alias, tool, kind) = (permit.backend().to_owned(), permit.tool().to_owned(), permit.kind());
    let route = async {
        let backend = core.upstreams.get(&alias).ok_or_else(local::not_configured)?;
        let mut route = ask.route(backend, Some(tool.clone())).await?;
        trail.trace.iter().for_each(|context| context.in_headers(&mut route.headers));
        Ok(route)
    };
    let method = &ask.message.method;
    let answer = core.upstreams.forward(method, permit, &receipt, route, &ask.interrupt).await;
    let target = Target { kind, backend: &alias, tool: &tool };
    let answer = answer.with_state(|state| bound(ask, trail, target, state));
    let outcome = answer.outcome();
    tracing::info!(
        status = %outcome.status, method = trail.method, subject = trail.caller.subject,
        backend = trail.backend, tool = trail.tool, "called"
    );
    // I1: the reply leaves after the record has reached its level. I2: the receipt ends in exactly one record.
    let (status, finished) = (outcome.status, receipt.finish(outcome, answer).await);
    core.tally.called(&alias, status, arrived.elapsed());
    trail.traced(core, status, arrived.elapsed());
    match finished {
        Ok(released) => Reply::released(StatusCode::OK, Some(id), released),
        Err(unavailable) => Reply::unavailable(Some(id), &unavailable),
    }
}

/// A method that the gateway does not know: passed on where the operator names it, and recorded.
async fn extension(ask: &Ask<'_>, trail: &mut Trail<'_>) -> Reply {
    let (core, method) = (ask.core, ask.message.method.as_str());
    let backend = target::only(&ask.arrival.scope, core.upstreams.all());
    let (Some(backend), true) = (backend, core.is_passed(method)) else {
        let method = &method[..method.floor_char_boundary(64)];
        let status = if ask.era == Era::Modern { http_status(METHOD_NOT_FOUND) } else { StatusCode::OK };
        let message = format!("method {method:?} is not supported");
        return trail.refuse(core, Refusal::malformed(status, METHOD_NOT_FOUND, message)).await;
    };
    // It may do anything: only who may call everything may ask for it.
    trail.tool = None;
    trail.arguments = ask.message.params.map(|params| params.get().to_owned());
    if !ask.live.policy.has_all(&ask.principal.roles, backend.alias()) {
        let message = format!("{method} is for roles that may call all of {}", backend.alias());
        let refusal = Refusal::malformed(StatusCode::OK, DENIED, message);
        return trail.refuse(core, Refusal { status: Status::Denied, ..refusal }).await;
    }
    let Some(id) = ask.message.id.clone() else { return trail.refuse(core, Malformed::Id.into()).await };
    let _slot = match Slot::take(ask, backend.alias()) {
        Ok(slot) => slot,
        Err(refusal) => return trail.refuse(core, refusal).await,
    };
    let arrived = Instant::now();
    let receipt = match core.audit.begin(trail.call(core)).await {
        Ok(receipt) => receipt,
        Err(unavailable) => return trail.unaudited(core, &unavailable),
    };
    let params = ask.message.params.map(serde_json::value::RawValue::get);
    let answer = match local::asked(ask, backend, params, None).await {
        Ok((response, backends)) => Answer::from_response(response, ask.arrival.request_id, ask.era, backends),
        Err(err) => Answer::failure(backend.alias(), &err),
    };
    let outcome = answer.outcome();
    let (status, finished) = (outcome.status, receipt.finish(outcome, answer).await);
    core.tally.called(backend.alias(), status, arrived.elapsed());
    trail.traced(core, status, arrived.elapsed());
    match finished {
        Ok(released) => Reply::released(StatusCode::OK, Some(&id), released),
        Err(unavailable) => Reply::unavailable(Some(&id), &unavailable),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::http::HeaderValue;

    use crate::audit::Audit;
    use crate::config::{Backend, Config, Role};
    use crate::gateway::Gateway;

    use std::net::SocketAddr;

    use axum::body::Bytes;
    use axum::http::HeaderMap;

    use super::*;
    use crate::audit::record::{Call, RequestId};
    use tokio_util::sync::CancellationToken;

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

    fn arrival(scope: Scope, body: &str) -> Arrival {
        Arrival {
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

    async fn refused(core: &Core, arrival: &Arrival, role: &str) -> (Refusal, Call) {
        let Ok(body) = &arrival.body else { panic!() };
        let message = envelope::parse(body, core.body_bytes_max).unwrap();
        let principal = Principal {
            subject: "ann".to_owned(),
            issuer: "test".to_owned(),
            token_id: Some("t".to_owned()),
            roles: vec![role.to_owned()],
        };
        let mut trail = Trail::new(core.live(), arrival, envelope::hint(body, core.body_bytes_max));
        trail.caller = principal.caller(None);
        let (era, interrupt) = (Era::Legacy, Interrupt::default());
        let (principal, message) = (&principal, &message);
        let live = core.live();
        let ask = Ask { core, live, arrival, principal, message, era, session: None, stream: None, interrupt };
        let refusal = match target::subject(message) {
            Ok(subject) => permit(&ask, &subject, &mut trail).await.unwrap_err(),
            Err(broken) => broken.into(),
        };
        (refusal, trail.call(core))
    }

    #[tokio::test]
    async fn i2_a_denied_call_is_recorded_with_its_caller_target_and_arguments() {
        let core = core(|config| config.audit.redact = vec!["/secret".to_owned()]);
        let body = request(r#"{"name":"time__set","arguments":{ "secret":"x", "zone": 1.0 }}"#);
        let (refusal, call) = refused(&core, &arrival(Scope::All, &body), "one").await;
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
        let at = |backend: &str| arrival(Scope::One(backend.to_owned()), &request(r#"{"name":"x"}"#));
        for backend in ["time", "missing"] {
            assert_eq!(refused(&core, &at(backend), "one").await.0.status, Status::Denied, "{backend}");
        }
        let (refusal, call) = refused(&core, &at("missing"), "all").await;
        assert_eq!((refusal.status, refusal.http), (Status::Malformed, StatusCode::NOT_FOUND));
        assert_eq!(call.client_role.as_deref(), Some("all"));
        let all = arrival(Scope::All, &request(r#"{"name":"missing__x"}"#));
        assert_eq!(refused(&core, &all, "all").await.0.message, r#"unknown tool "missing__x""#);
    }

    #[tokio::test]
    async fn i2_a_call_without_a_token_is_recorded_with_what_it_asked_for() {
        let core = core(|_| {});
        let arrival = arrival(Scope::All, &request(r#"{"name":"time__get"}"#));
        let mut trail = Trail::new(core.live(), &arrival, envelope::hint(arrival.body.as_ref().unwrap(), 1000));
        let refusal = authenticate(&core, &arrival, &mut trail).await.unwrap_err();
        assert_eq!((refusal.status, refusal.http), (Status::Unauthenticated, StatusCode::UNAUTHORIZED));
        let call = trail.call(&core);
        assert_eq!((call.method.as_str(), call.client_subject.as_str()), ("tools/call", "anonymous"));
        assert_eq!((call.backend_name.as_deref(), call.tool_name.as_deref()), (Some("time"), Some("get")));
    }

    #[tokio::test]
    async fn two_tokens_in_one_request_are_none() {
        let core = core(|_| {});
        let mut arrival = arrival(Scope::All, "");
        for value in ["Bearer a.b.c", "Bearer d.e.f"] {
            arrival.headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        let mut trail = Trail::new(core.live(), &arrival, envelope::Hint::default());
        let refusal = authenticate(&core, &arrival, &mut trail).await.unwrap_err();
        assert_eq!(refusal.message, AuthError::NotBearer.to_string());
    }
}
