//! Refusals of single stages, and their records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::audit::record::{Call, RecordKey, RequestId, Status};
use crate::auth::credential::Credential;
use crate::auth::{AuthError, Principal};
use crate::config::{Backend, Config, Role};
use crate::gateway::Gateway;
use crate::gateway::message::scope::Scope;
use crate::mcp::envelope::{self, Incoming};
use crate::mcp::protocol::DENIED;
use crate::mcp::shared_text::SharedText;

use super::parsed::Parsed;
use super::*;

fn core(change: impl FnOnce(&mut Config)) -> Arc<Core> {
    let role = |allow: &str| Role { allow: vec![allow.to_owned()], ..Role::default() };
    let backend = Backend {
        command: vec!["/nonexistent/program".to_owned()],
        call_timeout: Duration::from_secs(1),
        ..Backend::default()
    };
    let mut config = Config {
        roles: BTreeMap::from([("all".to_owned(), role("*/*")), ("one".to_owned(), role("time/get"))]),
        backends: BTreeMap::from([("time".to_owned(), backend)]),
        ..Config::default()
    };
    change(&mut config);
    Gateway::build(&config, Audit::disabled(), &crate::walls::Launcher::direct()).unwrap().core
}

fn inbound(scope: Scope, body: &str) -> InboundRequest {
    InboundRequest {
        request_id: RequestId::new(),
        addr: Some(SocketAddr::from(([127, 0, 0, 1], 1)).into()),
        scope,
        headers: HeaderMap::new(),
        host: "localhost".to_owned(),
        is_https: false,
        certificate: None,
        place: None,
        hung_up: CancellationToken::new(),
        cancelled: CancellationToken::new(),
        head: Ok(()),
        body: OnceLock::from(SharedText::new(body.to_owned())),
    }
}

fn request(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{params}}}"#)
}

/// The call's part of the record, as if calls were recorded.
fn recorded(entry: &AuditEntry<'_>) -> Call {
    entry.recorded_call(&RecordKey::from_bytes([0; 32]), true, &entry.named())
}

/// A valid message of a caller with `role`.
fn parsed<'a>(core: &'a Core, inbound: &'a InboundRequest, role: &str) -> Parsed<'a> {
    let body = inbound.body.get().unwrap();
    let incoming = envelope::parse_text(body).unwrap();
    let principal = Principal {
        subject: "ann".to_owned(),
        issuer: "test".to_owned(),
        token_id: Some("t".to_owned()),
        roles: vec![role.to_owned()],
        credential: Credential::default(),
        no_role: None,
        identity: std::sync::Arc::default(),
    };
    Parsed { core, inbound, principal, body, incoming }
}

/// The refusal of a valid message of a caller with `role`, and its record.
async fn refused(core: &Core, inbound: &InboundRequest, role: &str) -> (Refusal, Call) {
    let parsed = parsed(core, inbound, role);
    let mut entry = AuditEntry::new(core.rules(), inbound);
    entry.caller = parsed.principal.caller_with_all_roles();
    if let Incoming::Message(message) = &parsed.incoming {
        entry.describe(message);
    }
    let mut offer = StreamOffer::new(oneshot::channel().0);
    let refusal = match parsed.route(&mut entry, &mut offer).await {
        Ok(Routed::Request(request)) => request.permit(&mut entry).await.unwrap_err(),
        Ok(Routed::OneWay(_)) => panic!(),
        Err(refusal) => refusal,
    };
    (refusal, recorded(&entry))
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
    let body = request(r#"{"name":"time__get"}"#);
    let inbound = inbound(Scope::All, "");
    let mut entry = AuditEntry::new(core.rules(), &inbound);
    let received = Received::new(&core, &inbound, UnreadBody::http(body.into(), false)).unwrap();
    let refusal = received.identify(&mut entry).await.unwrap_err();
    assert_eq!((refusal.status, refusal.http), (Status::Unauthenticated, StatusCode::UNAUTHORIZED));
    let reply = entry.conclude(&core, Err(refusal)).await;
    assert!(reply.header("www-authenticate").is_some() && reply.is_error());
    let call = recorded(&entry);
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
    let mut entry = AuditEntry::new(core.rules(), &inbound);
    let received = Received::new(&core, &inbound, UnreadBody::none()).unwrap();
    let refusal = received.identify(&mut entry).await.unwrap_err();
    assert_eq!(refusal.message, AuthError::NotBearer.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_subscription_ends_whose_only_backend_is_removed_before_it_is_served() {
    let core = core(|_| {});
    let meta =
        r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    let params = format!(r#"{{"notifications":{{"toolsListChanged":true}},"_meta":{meta}}}"#);
    let body = request(&params).replace("tools/call", "subscriptions/listen");
    let mut inbound = inbound(Scope::One("time".to_owned()), &body);
    for (name, value) in [
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "subscriptions/listen"),
    ] {
        inbound.headers.insert(name, HeaderValue::from_static(value));
    }
    let mut entry = AuditEntry::new(core.rules(), &inbound);
    let mut offer = StreamOffer::new(oneshot::channel().0);
    let routed = parsed(&core, &inbound, "all").route(&mut entry, &mut offer).await;
    let Ok(Routed::Request(request)) = routed else { panic!("{routed:?}") };
    let begun = request.permit(&mut entry).await.unwrap().begin(&entry).await.unwrap();
    let removed = core.upstreams.prepare(&BTreeMap::new(), &BTreeSet::from(["time".to_owned()])).unwrap();
    core.upstreams.replace(removed, Duration::ZERO);
    let served = tokio::time::timeout(Duration::from_mins(1), begun.answer(&mut entry)).await;
    assert!(served.is_ok(), "it is open");
}
