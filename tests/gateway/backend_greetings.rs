//! Backends that greet each caller in another way and list other tools: what one caller is shown is not for another.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::backend_tokens::{caller, done, gateway, on_behalf, subject, subject_token};
use crate::common::gatepost::Gatepost;
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, modern, result};
use crate::token_server::{CLIENT, TokenServer, jwt};

/// Refuses the gateway's own requests, so that a caller's are the first that are answered.
fn refuse_gateway(asked: &ReceivedRequest) -> Option<Response> {
    (subject(asked) == CLIENT).then(|| StatusCode::SERVICE_UNAVAILABLE.into_response())
}

/// The answer of a backend that greets each subject by its name. It offers ann no resources.
fn greet_by_name(asked: &ReceivedRequest, era: Era) -> Option<Response> {
    let subject = subject(asked);
    let capabilities = if subject == "ann" { json!({"tools": {}}) } else { json!({"tools": {}, "resources": {}}) };
    let mut hello = json!({"capabilities": capabilities, "instructions": format!("Hello {subject}.")});
    match (era, asked.method()) {
        (_, "resources/list") => Some(result(asked, r#"{"resources":[]}"#)),
        (Era::Legacy, "initialize") => {
            hello["protocolVersion"] = json!("2025-11-25");
            hello["serverInfo"] = json!({"name": "far", "version": "1"});
            Some(([("mcp-session-id", subject)], result(asked, &hello.to_string())).into_response())
        }
        (Era::Modern, "server/discover") => {
            hello["supportedVersions"] = json!(["2026-07-28"]);
            Some(result(asked, &hello.to_string()))
        }
        (Era::Modern, _) => Some(modern(asked)),
        (Era::Legacy, _) => None,
    }
}

/// The text of the answer to a handshake.
async fn handshake(gatepost: &Gatepost, path: &str, era: Era, subject: &str) -> String {
    let client = Client::unconnected(&format!("{}{path}", gatepost.url()), era, Some(&subject_token(subject)));
    let info = json!({"name": "gatepost-tests", "version": "1"});
    let (method, params) = match era {
        Era::Legacy => ("initialize", json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info})),
        Era::Modern => ("server/discover", json!({})),
    };
    client.request(method, params).await.unwrap().result().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_on_behalf_of_one_caller_is_not_shown_to_another() {
    for backend_era in [Era::Legacy, Era::Modern] {
        let backend =
            BackendStub::start(move |asked| refuse_gateway(asked).or_else(|| greet_by_name(asked, backend_era))).await;
        let server = TokenServer::start(|_| None).await;
        let (_setup, gatepost) = gateway(&backend, &server, on_behalf);
        for era in [Era::Legacy, Era::Modern] {
            let ann = caller(&gatepost, era, &subject_token("ann"));
            assert!(!ann.call("t", json!({})).await.unwrap().content().is_empty());
            let own = handshake(&gatepost, "/mcp/far", era, "ann").await;
            assert!(own.contains("Hello ann."), "{own}");
        }
        for era in [Era::Legacy, Era::Modern] {
            let together = handshake(&gatepost, "/mcp", era, "bob").await;
            assert!(!together.contains("Hello") && together.contains("resources"), "{backend_era:?} {together}");
            let own = handshake(&gatepost, "/mcp/far", era, "bob").await;
            assert!(own.contains("Hello bob.") && !own.contains("ann"), "{backend_era:?} {own}");
            backend.seen.lock().unwrap().clear();
            let url = format!("{}/mcp", gatepost.url());
            let bob = Client::connect(&url, era, Some(&subject_token("bob"))).await;
            bob.request("resources/list", json!({})).await.unwrap().result();
            let lists = backend.seen("resources/list");
            let is_bobs = !lists.is_empty() && lists.iter().all(|asked| subject(asked) == "bob");
            assert!(is_bobs, "{backend_era:?} {lists:?}");
        }
    }
}

/// A tool list for each subject, of which ann's has an argument in a header.
fn list_by_name(asked: &ReceivedRequest) -> Response {
    let property = match &*subject(asked) {
        "ann" => json!({"type": "string", "x-mcp-header": "Region"}),
        _ => json!({"type": "string"}),
    };
    let tool = json!({"name": "t", "inputSchema": {"type": "object", "properties": {"region": property}}});
    let list = json!({"tools": [tool], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
    result(asked, &list.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_of_a_tool_are_those_of_the_callers_own_list() {
    let backend = BackendStub::start(|asked| match (&*subject(asked), asked.method()) {
        (_, "tools/list") => Some(list_by_name(asked)),
        ("ann", "tools/call") if asked.header("mcp-param-region").is_none() => {
            let error = json!({"code": -32020, "message": "a header is missing"});
            let body = json!({"jsonrpc": "2.0", "id": asked.message["id"], "error": error}).to_string();
            Some((StatusCode::BAD_REQUEST, body).into_response())
        }
        _ => Some(modern(asked)),
    })
    .await;
    let server = TokenServer::start(|_| None).await;
    let (_setup, gatepost) = gateway(&backend, &server, on_behalf);
    let of = |subject: &str| caller(&gatepost, Era::Modern, &subject_token(subject));
    let arguments = json!({"region": "eu"});
    for _ in 0..2 {
        assert_eq!(of("ann").call("t", arguments.clone()).await.unwrap().content(), "modern");
        assert_eq!(of("bob").call("t", arguments.clone()).await.unwrap().content(), "modern");
    }
    let of_whom = |name: &str| -> Vec<Option<String>> {
        let calls = backend.seen("tools/call").into_iter().filter(|asked| subject(asked) == name);
        calls.map(|asked| asked.header("mcp-param-region").map(str::to_owned)).collect()
    };
    let eu = Some("eu".to_owned());
    assert_eq!(of_whom("ann"), [None, eu.clone(), eu], "learned from the first refusal");
    assert_eq!(of_whom("bob"), [None, None]);
    // A header contradicts the arguments only if the caller's own list has it.
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "t", "arguments": arguments, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}}});
    let headers = [("mcp-method", "tools/call"), ("mcp-name", "t"), ("mcp-param-region", "us")];
    assert_eq!(of("ann").post(call.to_string(), &headers).await.unwrap().error_code(), -32020);
    assert_eq!(of("bob").post(call.to_string(), &headers).await.unwrap().content(), "modern");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backend_offers_one_caller_says_nothing_about_another() {
    for backend_era in [Era::Legacy, Era::Modern] {
        // It greets ann and the gateway, but nobody else, without resources.
        let backend = BackendStub::start(move |asked| {
            if asked.method() == "resources/list" {
                let uri = format!("far:{}", subject(asked));
                return Some(result(asked, &json!({"resources": [{"uri": uri, "name": "n"}]}).to_string()));
            }
            let mut greeted = asked.clone();
            if subject(asked) == CLIENT {
                let as_ann = jwt(&json!({"sub": "ann"}));
                greeted.headers.insert(header::AUTHORIZATION, format!("Bearer {as_ann}").parse().unwrap());
            }
            greet_by_name(&greeted, backend_era)
        })
        .await;
        let server = TokenServer::start(|_| None).await;
        let (_setup, gatepost) = gateway(&backend, &server, |setup| {
            on_behalf(setup);
            setup.set_toml("roles.admin.resources", r#"["*/*"]"#).set("backends.far.probe_interval", "1s");
        });
        until_async("the gateway has its greeting", SOON, async || {
            backend.seen("tools/list").iter().any(|asked| subject(asked) == CLIENT)
        })
        .await;
        for era in [Era::Legacy, Era::Modern] {
            let list = async |subject: &str| {
                let url = format!("{}/mcp", gatepost.url());
                let client = Client::connect(&url, era, Some(&subject_token(subject))).await;
                client.request("resources/list", json!({})).await.unwrap().result()["resources"].clone()
            };
            let bobs = list("bob").await;
            assert_eq!(bobs[0]["uri"], "far:bob", "{backend_era:?} {era:?}: {bobs}");
            list("ann").await;
            // Her own handshake says that there are none; a stateless client of a stateless backend has none.
            let asks = backend.seen("resources/list").iter().any(|asked| subject(asked) == "ann");
            assert_eq!(asks, (backend_era, era) == (Era::Modern, Era::Modern), "{backend_era:?} {era:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greeting_at_mcp_is_the_gateways_own_also_after_a_callers_probe() {
    for backend_era in [Era::Legacy, Era::Modern] {
        let has_called = AtomicBool::new(false);
        let backend = BackendStub::start(move |asked| {
            // A caller is first.
            has_called.fetch_or(subject(asked) == "ann" && asked.method() == "tools/call", Ordering::SeqCst);
            let refused = if has_called.load(Ordering::SeqCst) { None } else { refuse_gateway(asked) };
            refused.or_else(|| greet_by_name(asked, backend_era))
        })
        .await;
        let server = TokenServer::start(|_| None).await;
        let (_setup, gatepost) = gateway(&backend, &server, |setup| {
            on_behalf(setup);
            setup.set("backends.far.probe_interval", "1s");
        });
        let ann = caller(&gatepost, Era::Modern, &subject_token("ann"));
        assert!(!ann.call("t", json!({})).await.unwrap().content().is_empty());
        let own = format!("Hello {CLIENT}.");
        until_async("the gateway has its own greeting", SOON, async || {
            let shown = handshake(&gatepost, "/mcp", Era::Modern, "bob").await;
            assert!(!shown.contains("Hello ann."), "{shown}");
            shown.contains(&own)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_of_one_callers_probe_is_not_evidence_for_others() {
    let backend = BackendStub::start(|asked| match (&*subject(asked), asked.method()) {
        ("ann", "server/discover") => Some(StatusCode::NOT_FOUND.into_response()),
        ("ann", _) => Some(StatusCode::FORBIDDEN.into_response()),
        _ => refuse_gateway(asked).or_else(|| Some(modern(asked))),
    })
    .await;
    let server = TokenServer::start(|_| None).await;
    let (_setup, gatepost) = gateway(&backend, &server, on_behalf);
    let call = async |subject: &str| {
        caller(&gatepost, Era::Modern, &subject_token(subject)).call("t", json!({})).await.unwrap()
    };
    assert!(call("ann").await.body.get("error").is_some());
    assert_eq!(call("bob").await.content(), "modern");
    assert!(backend.seen("initialize").iter().all(|asked| subject(asked) == "ann"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backend_is_probed_once_on_behalf_of_callers() {
    let backend = BackendStub::start(refuse_gateway).await;
    let server = TokenServer::start(|_| None).await;
    let (_setup, gatepost) = gateway(&backend, &server, on_behalf);
    for subject in ["ann", "bob", "ann"] {
        done(&caller(&gatepost, Era::Modern, &subject_token(subject))).await;
    }
    let probes = backend.seen("server/discover").into_iter().filter(|asked| subject(asked) != CLIENT);
    assert_eq!(probes.count(), 1);
}
