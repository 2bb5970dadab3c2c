//! Where a call meets the pipeline: parse, authenticate, authorize, begin, forward, finish, reply.
//!
//! [`serve`] handles one message, in a task of its own: a client that hangs up loses its reply, never the record. Every
//! refusal is a record too, made before the refusal leaves. What is not audited (`initialize`, `ping`, lists) is answered
//! in [`super::local`] and calls no tool.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::audit::record::{Call, Caller, Correlation, Outcome, Status};
use crate::upstream::{Answer, Interrupt};

use super::arrival::{Arrival, Fault};
use super::auth::{AuthError, Principal};
use super::catalog::Scope;
use super::envelope::{self, Hint, Id, Malformed, Message, ToolCall};
use super::headers::{self, Mismatch};
use super::protocol::{DENIED, Era, INVALID_PARAMS, INVALID_REQUEST, RATE_LIMITED, SESSION_HEADER, UNAUTHENTICATED};
use super::rbac::{Permit, Target};
use super::reply::{Reply, http_status};
use super::{Core, local};

/// What a record calls the method of a message that names none.
const METHOD_UNKNOWN: &str = "unknown";

/// A refusal: what is recorded, and what the client is told.
#[derive(Debug)]
struct Refusal {
    status: Status,
    http: StatusCode,
    code: i32,
    message: String,
    data: Option<String>,
    challenge: Option<String>,
}

impl Refusal {
    fn malformed(http: StatusCode, code: i32, message: impl Into<String>) -> Self {
        Self { status: Status::Malformed, http, code, message: message.into(), data: None, challenge: None }
    }

    fn unknown_tool(name: &str, era: Era) -> Self {
        let http = if era == Era::Modern { http_status(INVALID_PARAMS) } else { StatusCode::OK };
        let name = &name[..name.floor_char_boundary(envelope::NAME_BYTES_MAX)];
        Self::malformed(http, INVALID_PARAMS, format!("unknown tool {name:?}"))
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let http = match fault {
            Fault::Host | Fault::Origin => StatusCode::FORBIDDEN,
            Fault::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Fault::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::Incomplete => StatusCode::REQUEST_TIMEOUT,
            Fault::Headers { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        };
        Self::malformed(http, INVALID_REQUEST, fault.to_string())
    }
}

impl From<Malformed> for Refusal {
    fn from(rule: Malformed) -> Self {
        Self::malformed(StatusCode::BAD_REQUEST, rule.code(), rule.to_string())
    }
}

impl From<Mismatch> for Refusal {
    fn from(mismatch: Mismatch) -> Self {
        let refusal = Self::malformed(StatusCode::BAD_REQUEST, mismatch.code, mismatch.message);
        Self { data: mismatch.data, ..refusal }
    }
}

/// A call that passed all checks.
#[derive(Debug)]
struct Permitted<'a> {
    permit: Permit,
    id: Id,
    /// Its place among the open calls.
    slot: SemaphorePermit<'a>,
}

/// What a record says of a message whatever becomes of it.
struct Trail<'a> {
    arrival: &'a Arrival,
    caller: Caller,
    id: Option<Id>,
    method: String,
    /// The tool as called; a target that is known replaces it.
    tool: Option<String>,
    backend: Option<String>,
    arguments: Option<String>,
}

impl Trail<'_> {
    fn call(&self, core: &Core) -> Call {
        let correlation = Correlation {
            addr: Some(self.arrival.addr),
            session_id: headers::single(&self.arrival.headers, SESSION_HEADER).map(str::to_owned),
            rpc_id: self.id.as_ref().map(Id::to_text),
        };
        let call = Call::new(self.arrival.request_id, &self.method)
            .with_caller(&self.caller)
            .with_correlation(&correlation)
            .with_target(self.backend.as_deref(), self.tool.as_deref());
        match &self.arguments {
            Some(json) => call.with_arguments(json, &core.redaction, core.args_bytes_max),
            None => call,
        }
    }

    /// Records the refusal, then lets it go.
    async fn refuse(&self, core: &Core, refusal: Refusal) -> Reply {
        tracing::info!(
            status = %refusal.status, method = self.method, subject = self.caller.subject,
            backend = self.backend, tool = self.tool, reason = refusal.message, "refused"
        );
        let answer = Answer::refusal_with(refusal.code, &refusal.message, refusal.data.as_deref());
        let outcome = Outcome { status: refusal.status, ..answer.outcome() };
        // I2: a refused call ends in exactly one record, and I1: its reply waits for it.
        match core.audit.refuse(self.call(core), outcome, answer).await {
            Ok(released) => {
                let reply = Reply::released(refusal.http, self.id.as_ref(), released);
                match refusal.challenge {
                    Some(challenge) => reply.with_header(header::WWW_AUTHENTICATE, &challenge),
                    None => reply,
                }
            }
            Err(unavailable) => Reply::unavailable(self.id.as_ref(), &unavailable),
        }
    }
}

/// Handles one POST from its arrival to its reply.
pub(super) async fn serve(core: Arc<Core>, arrival: Arrival) -> Reply {
    let reply = post(&core, &arrival).await;
    reply.with_request_id(arrival.request_id)
}

async fn post(core: &Core, arrival: &Arrival) -> Reply {
    let hint = arrival.body.as_ref().map(|body| envelope::hint(body, core.body_bytes_max)).unwrap_or_default();
    let mut trail = trail(arrival, hint);
    if let Err(fault @ (Fault::Host | Fault::Origin)) = &arrival.body {
        return trail.refuse(core, (*fault).into()).await;
    }
    let principal = match authenticate(core, arrival, &mut trail) {
        Ok(principal) => principal,
        Err(refusal) => return trail.refuse(core, refusal).await,
    };
    let body = match &arrival.body {
        Ok(body) => body,
        Err(fault) => return trail.refuse(core, (*fault).into()).await,
    };
    let message = match envelope::parse(body, core.body_bytes_max) {
        Ok(message) => message,
        Err(rule) => return trail.refuse(core, rule.into()).await,
    };
    let era = match headers::era(&arrival.headers, &message) {
        Ok(era) => era,
        Err(mismatch) => return trail.refuse(core, mismatch.into()).await,
    };
    let session = headers::single(&arrival.headers, SESSION_HEADER).filter(|_| era == Era::Legacy);
    if let Some(session) = session.filter(|_| message.method != "initialize")
        && let Err(unknown) = core.sessions.touch(session, &principal)
    {
        let refusal = Refusal::malformed(StatusCode::NOT_FOUND, INVALID_REQUEST, unknown.to_string());
        return trail.refuse(core, refusal).await;
    }
    if message.method == "tools/call" {
        // Known to its session from here on, so that a cancellation finds it however early it comes.
        let client = match era {
            Era::Modern => arrival.hung_up.clone(), // Closing the connection is how a modern client cancels.
            Era::Legacy => CancellationToken::new(),
        };
        let ids = session.zip(message.id.as_ref());
        let _place = ids.and_then(|(session, id)| core.in_flight.enter(session, id, client.clone()));
        let interrupt = Interrupt { client, drained: core.drained.clone() };
        return match permit(core, arrival, &principal, &message, era, &mut trail).await {
            Ok(permitted) => call(core, &trail, permitted, era, &interrupt).await,
            Err(refusal) => trail.refuse(core, refusal).await,
        };
    }
    if arrival.scope.backend().is_some_and(|backend| !core.upstreams.contains(backend)) {
        let refusal = Refusal::malformed(StatusCode::NOT_FOUND, INVALID_PARAMS, "unknown backend");
        return trail.refuse(core, refusal).await;
    }
    local::answer(core, arrival, &principal, &message, era, session).await
}

/// What is known of a message before anything is checked.
fn trail(arrival: &Arrival, hint: Hint) -> Trail<'_> {
    let target = hint.name.as_deref().and_then(|name| arrival.scope.target(name));
    let (backend, tool) = match target {
        Some(target) => (Some(target.backend.to_owned()), Some(target.tool.to_owned())),
        None => (arrival.scope.backend().map(str::to_owned), hint.name.clone()),
    };
    Trail {
        arrival,
        caller: Caller::anonymous(),
        id: hint.id,
        method: hint.method.unwrap_or_else(|| METHOD_UNKNOWN.to_owned()),
        tool,
        backend,
        arguments: None,
    }
}

fn authenticate(core: &Core, arrival: &Arrival, trail: &mut Trail<'_>) -> Result<Principal, Refusal> {
    let mut values = arrival.headers.get_all(header::AUTHORIZATION).iter();
    let (value, another) = (values.next(), values.next());
    let verified = match another {
        Some(_) => Err(AuthError::NotBearer),
        None => core.auth.authenticate(value.map(axum::http::HeaderValue::as_bytes)),
    };
    let error = match verified {
        Ok(principal) => {
            trail.caller =
                principal.caller((!principal.roles.is_empty()).then(|| principal.roles.join(",")).as_deref());
            return Ok(principal);
        }
        Err(error) => error,
    };
    let base = headers::base_url(&arrival.headers, &arrival.host);
    let path = headers::resource_path(&arrival.scope);
    let metadata = format!(r#"resource_metadata="{base}/.well-known/oauth-protected-resource{path}""#);
    let message = error.to_string();
    let (status, http, challenge) = match error {
        AuthError::Missing => (Status::Unauthenticated, StatusCode::UNAUTHORIZED, format!("Bearer {metadata}")),
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

/// Everything that a call must pass before it is begun. Authorization comes before existence, so that a caller who is
/// denied learns nothing of what there is.
async fn permit<'a>(
    core: &'a Core,
    arrival: &Arrival,
    principal: &Principal,
    message: &Message<'_>,
    era: Era,
    trail: &mut Trail<'_>,
) -> Result<Permitted<'a>, Refusal> {
    let tool_call: ToolCall<'_> = envelope::tool_call(message.params)?;
    trail.arguments = tool_call.arguments.map(str::to_owned);
    let id = message.id.clone().ok_or(Malformed::Id)?; // A call that nobody could be answered is none.
    let name = tool_call.name.as_str();
    let Some(target) = arrival.scope.target(name) else {
        return Err(Refusal::unknown_tool(name, era));
    };
    trail.backend = Some(target.backend.to_owned());
    trail.tool = Some(target.tool.to_owned());
    let permit = core.policy.authorize(principal, target, &tool_call).map_err(|denied| {
        trail.caller = denied.caller;
        let refusal = Refusal::malformed(StatusCode::OK, DENIED, denied.reason);
        Refusal { status: Status::Denied, ..refusal }
    })?;
    trail.caller = permit.caller().clone();
    trail.arguments = permit.arguments().map(str::to_owned);
    let slot = core.calls.try_acquire().map_err(|_| {
        // I6: the number of open calls is bounded.
        let refusal = Refusal::malformed(StatusCode::TOO_MANY_REQUESTS, RATE_LIMITED, "too many calls are open");
        Refusal { status: Status::RateLimited, ..refusal }
    })?;
    if !core.upstreams.contains(permit.backend()) {
        return Err(match arrival.scope {
            Scope::All => Refusal::unknown_tool(name, era),
            Scope::One(_) => Refusal::malformed(StatusCode::NOT_FOUND, INVALID_PARAMS, "unknown backend"),
        });
    }
    if core.upstreams.has_tool(permit.backend(), permit.tool()).await == Some(false) {
        return Err(Refusal::unknown_tool(name, era));
    }
    Ok(Permitted { permit, id, slot })
}

/// One permitted call: its intent, the backend, its record, the reply.
async fn call(core: &Core, trail: &Trail<'_>, permitted: Permitted<'_>, era: Era, interrupt: &Interrupt) -> Reply {
    let Permitted { permit, id, slot: _slot } = permitted;
    let id = &id;
    // I1: the intent reaches its level before the call is forwarded, or there is no call.
    let target = Target { kind: permit.kind(), backend: permit.backend(), tool: permit.tool() };
    let begun = if core.continue_for.matches(target) {
        core.audit.begin_or_continue(trail.call(core)).await
    } else {
        core.audit.begin(trail.call(core)).await
    };
    let receipt = match begun {
        Ok(receipt) => receipt,
        Err(unavailable) => return Reply::unavailable(Some(id), &unavailable),
    };
    let answer = core.upstreams.forward(permit, &receipt, era, interrupt).await;
    let outcome = answer.outcome();
    tracing::info!(
        status = %outcome.status, method = trail.method, subject = trail.caller.subject,
        backend = trail.backend, tool = trail.tool, "called"
    );
    // I1: the reply leaves after the record has reached its level. I2: the receipt ends in exactly one record.
    match receipt.finish(outcome, answer).await {
        Ok(released) => Reply::released(StatusCode::OK, Some(id), released),
        Err(unavailable) => Reply::unavailable(Some(id), &unavailable),
    }
}

/// Closes a legacy session.
pub(super) async fn close(core: Arc<Core>, arrival: Arrival) -> Reply {
    let mut trail = trail(&arrival, Hint::default());
    "session/close".clone_into(&mut trail.method);
    let reply = if let Err(fault) = &arrival.body {
        trail.refuse(&core, (*fault).into()).await
    } else {
        match authenticate(&core, &arrival, &mut trail) {
            Ok(principal) => local::close(&core, &arrival, &principal),
            Err(refusal) => trail.refuse(&core, refusal).await,
        }
    };
    reply.with_request_id(arrival.request_id)
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
    use crate::audit::record::RequestId;

    fn core(change: impl FnOnce(&mut Config)) -> Arc<Core> {
        let role = |allow: &str| Role { allow: vec![allow.to_owned()], ..Role::default() };
        let backend = Backend {
            command: vec!["/nonexistent/program".to_owned()],
            env: BTreeMap::new(),
            call_timeout: std::time::Duration::from_secs(1),
        };
        let mut config = Config {
            roles: BTreeMap::from([("all".to_owned(), role("*/*")), ("one".to_owned(), role("time/get"))]),
            backends: BTreeMap::from([("time".to_owned(), backend)]),
            ..Config::default()
        };
        change(&mut config);
        Gateway::build(&config, Audit::off()).unwrap().core
    }

    fn arrival(scope: Scope, body: &str) -> Arrival {
        Arrival {
            request_id: RequestId::new(),
            addr: SocketAddr::from(([127, 0, 0, 1], 1)),
            scope,
            headers: HeaderMap::new(),
            host: "localhost".to_owned(),
            hung_up: CancellationToken::new(),
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
        let mut trail = trail(arrival, envelope::hint(body, core.body_bytes_max));
        let refusal = permit(core, arrival, &principal, &message, Era::Legacy, &mut trail).await.unwrap_err();
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
        let mut trail = trail(&arrival, envelope::hint(arrival.body.as_ref().unwrap(), 1000));
        let refusal = authenticate(&core, &arrival, &mut trail).unwrap_err();
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
        let mut trail = trail(&arrival, Hint::default());
        let refusal = authenticate(&core, &arrival, &mut trail).unwrap_err();
        assert_eq!(refusal.message, AuthError::NotBearer.to_string());
    }
}
