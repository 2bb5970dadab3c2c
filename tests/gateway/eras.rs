//! Backends that come back in the other era, behind the real gateway: it finds out, and makes no call twice.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::{Client, Era};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, json_body, modern, result};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

fn unconnected(gatepost: &Gatepost, era: Era) -> Client {
    Client::unconnected(&format!("{}/mcp/far", gatepost.url()), era, Some(&token("admin")))
}

/// How a server that has no sessions refuses what is asked in one.
type Refusal = fn(&ReceivedRequest) -> Response;

fn error(asked: &ReceivedRequest, status: StatusCode, code: i32) -> Response {
    let error = format!(r#"{{"code":{code},"message":"no"}}"#);
    (status, json_body(format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, asked.message["id"]))).into_response()
}

/// A backend that is another one from the moment that the flag is set.
async fn switching(
    before: fn(&ReceivedRequest) -> Option<Response>,
    after: impl Fn(&ReceivedRequest) -> Option<Response> + Send + Sync + 'static,
) -> (BackendStub, Arc<AtomicBool>) {
    let switched = Arc::new(AtomicBool::new(false));
    let is_switched = Arc::clone(&switched);
    let backend =
        BackendStub::start(move |asked| if is_switched.load(Ordering::SeqCst) { after(asked) } else { before(asked) })
            .await;
    (backend, switched)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_upgraded_to_the_modern_era_is_detected() {
    let refusals: [Refusal; 5] = [
        modern,
        |_| StatusCode::NOT_FOUND.into_response(),
        |_| StatusCode::BAD_REQUEST.into_response(),
        |asked| error(asked, StatusCode::BAD_REQUEST, -32020),
        |asked| error(asked, StatusCode::BAD_REQUEST, -32602),
    ];
    for (at, refusal) in refusals.into_iter().enumerate() {
        for era in [Era::Legacy, Era::Modern] {
            let is_ours = |asked: &ReceivedRequest| asked.header("mcp-protocol-version") == Some("2026-07-28");
            let after =
                move |asked: &ReceivedRequest| Some(if is_ours(asked) { modern(asked) } else { refusal(asked) });
            let (backend, switched) = switching(|_| None, after).await;
            let (_setup, gatepost) = backend.gateway(|_| {});
            // The gateway knows which era the backend speaks, and has a conversation with it.
            assert_eq!(unconnected(&gatepost, Era::Modern).call("t", json!({})).await.unwrap().content(), "done");
            let client = gatepost.client_at("/mcp/far", era, "admin").await;
            assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
            switched.store(true, Ordering::SeqCst);
            let first = client.call("t", json!({})).await.unwrap();
            let second = client.call("t", json!({})).await.unwrap();
            assert_eq!(second.content(), "modern", "{at} {era:?}: {}", first.text);
            let calls = backend.seen("tools/call");
            let taken = calls.iter().filter(|call| is_ours(call)).count();
            assert_eq!(taken, 1, "{at} {era:?}: what was refused is not made again: {calls:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_downgraded_to_the_legacy_era_is_detected() {
    let refusals: [Refusal; 4] = [
        |_| StatusCode::BAD_REQUEST.into_response(),
        |asked| error(asked, StatusCode::BAD_REQUEST, -32000),
        |asked| error(asked, StatusCode::BAD_REQUEST, -32022),
        |_| StatusCode::UNPROCESSABLE_ENTITY.into_response(),
    ];
    for (at, refusal) in refusals.into_iter().enumerate() {
        for era in [Era::Legacy, Era::Modern] {
            let is_old =
                |asked: &ReceivedRequest| asked.method() == "initialize" || asked.header("mcp-session-id").is_some();
            let after = move |asked: &ReceivedRequest| (!is_old(asked)).then(|| refusal(asked));
            let (backend, switched) = switching(|asked| Some(modern(asked)), after).await;
            let (_setup, gatepost) = backend.gateway(|_| {});
            let client = gatepost.client_at("/mcp/far", era, "admin").await;
            assert_eq!(client.call("t", json!({})).await.unwrap().content(), "modern");
            switched.store(true, Ordering::SeqCst);
            let first = client.call("t", json!({})).await.unwrap();
            let second = client.call("t", json!({})).await.unwrap();
            assert_eq!(second.content(), "done", "{at} {era:?}: {}", first.text);
            let calls = backend.seen("tools/call");
            assert_eq!(calls.iter().filter(|call| is_old(call)).count(), 1, "{at} {era:?}: {calls:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_was_down_is_probed_again() {
    for was_modern in [false, true] {
        for era in [Era::Legacy, Era::Modern] {
            let answer = |is_modern: bool| move |asked: &ReceivedRequest| is_modern.then(|| modern(asked));
            let said = |is_modern: bool| if is_modern { "modern" } else { "done" };
            let mut backend = BackendStub::start(answer(was_modern)).await;
            let (_setup, gatepost) = backend.gateway(|_| {});
            let shared = unconnected(&gatepost, Era::Modern);
            assert_eq!(shared.call("t", json!({})).await.unwrap().content(), said(was_modern));
            backend.stop().await;
            assert_eq!(shared.call("t", json!({})).await.unwrap().error_code(), -32012);
            let other = BackendStub::start_at(&backend.address(), answer(!was_modern)).await;
            let client = match era {
                Era::Modern => shared,
                Era::Legacy => gatepost.client_at("/mcp/far", era, "admin").await,
            };
            let reply = client.call("t", json!({})).await.unwrap();
            assert_eq!(reply.content(), said(!was_modern), "{was_modern} {era:?}: {}", reply.text);
            assert_eq!(other.seen("tools/call").len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_session_of_a_caller_without_one_is_reopened() {
    // Many servers forget a session with 400, where the specification wants 404.
    let (backend, switched) = switching(
        |_| None,
        |asked| {
            // That of the gateway, which lists, and that of the caller.
            let is_old = matches!(asked.header("mcp-session-id"), Some("s0" | "s1"));
            is_old.then(|| error(asked, StatusCode::BAD_REQUEST, -32000))
        },
    )
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let client = unconnected(&gatepost, Era::Modern);
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
    switched.store(true, Ordering::SeqCst);
    assert_eq!(client.call("t", json!({})).await.unwrap().error_code(), -32000);
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
    let calls = backend.seen("tools/call");
    let sessions: Vec<_> = calls.iter().map(|call| call.header("mcp-session-id").unwrap()).collect();
    assert_eq!(sessions, ["s1", "s1", "s2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_call_does_not_end_the_clients_session() {
    for code in [-32602, -32000] {
        let backend = BackendStub::start(move |asked| {
            let is_wrong = asked.message["params"]["arguments"]["x"] == "wrong";
            is_wrong.then(|| error(asked, StatusCode::BAD_REQUEST, code))
        })
        .await;
        let (_setup, gatepost) = backend.gateway(|_| {});
        assert_eq!(unconnected(&gatepost, Era::Modern).call("t", json!({})).await.unwrap().content(), "done");
        let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
        for _ in 0..3 {
            assert_eq!(client.call("t", json!({"x": "wrong"})).await.unwrap().error_code(), i64::from(code));
            assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
        }
        let calls = backend.seen("tools/call");
        let sessions: Vec<_> = calls.iter().skip(1).map(|call| call.header("mcp-session-id").unwrap()).collect();
        assert!(sessions.iter().all(|session| *session == sessions[0]), "{sessions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_legacy_servers_answer_identifies_a_legacy_backend() {
    let empty = [402, 403, 409, 410, 429, 451, 500, 503].map(|status| (status, "", None));
    let noises = [(200, "<html>log in</html>", None), (403, "", Some(-32600)), (503, "", Some(-32603))];
    for (status, text, code) in empty.into_iter().chain(noises) {
        let name = format!("{status} {text} {code:?}");
        let noise = move |asked: &ReceivedRequest| {
            let status = StatusCode::from_u16(status).unwrap();
            match code {
                Some(code) => error(asked, status, code),
                None => (status, json_body(text.to_owned())).into_response(),
            }
        };
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let backend = BackendStub::start(move |asked| {
            let is_noise = asked.method() == "server/discover" && !is_over.load(Ordering::SeqCst);
            Some(if is_noise { noise(asked) } else { modern(asked) })
        })
        .await;
        let (_setup, gatepost) = backend.gateway(|_| {});
        let client = unconnected(&gatepost, Era::Modern);
        let unknown = client.call("t", json!({})).await.unwrap();
        assert!(unknown.text.contains("-32012"), "{name}: {}", unknown.text);
        assert!(backend.seen("initialize").is_empty(), "{name}: it was greeted as one of the older era");
        over.store(true, Ordering::SeqCst);
        assert_eq!(client.call("t", json!({})).await.unwrap().content(), "modern", "{name}");
    }
    // A refusal in the words of JSON-RPC, or of HTTP, is of the older era.
    for status in [200, 400, 404, 405, 422, 500] {
        let backend = BackendStub::start(move |asked| {
            let status = StatusCode::from_u16(status).unwrap();
            let is_worded = status == StatusCode::OK || status == StatusCode::INTERNAL_SERVER_ERROR;
            (asked.method() == "server/discover")
                .then(|| if is_worded { error(asked, status, -32601) } else { status.into_response() })
        })
        .await;
        let (_setup, gatepost) = backend.gateway(|_| {});
        let reply = unconnected(&gatepost, Era::Modern).call("t", json!({})).await.unwrap();
        assert_eq!(reply.content(), "done", "{status}: {}", reply.text);
    }
    // What one says in both eras is asked in the newer one.
    let both = BackendStub::start(|asked| {
        (asked.header("mcp-protocol-version") == Some("2026-07-28")).then(|| match asked.method() {
            "server/discover" => result(asked, r#"{"supportedVersions":["2025-11-25","2026-07-28"]}"#),
            _ => modern(asked),
        })
    })
    .await;
    let (_setup, gatepost) = both.gateway(|_| {});
    assert_eq!(unconnected(&gatepost, Era::Modern).call("t", json!({})).await.unwrap().content(), "modern");
}

/// A backend of the stateless era whose tool wants a parameter in a header, and refuses a call without it.
fn wants_headers(asked: &ReceivedRequest) -> Response {
    let region = asked.message["params"]["arguments"]["region"].as_str();
    match asked.method() {
        "tools/list" => {
            let region = r#"{"type":"string","x-mcp-header":"Region"}"#;
            let tool = |name: &str, properties: &str| {
                format!(r#"{{"name":"{name}","inputSchema":{{"type":"object","properties":{properties}}}}}"#)
            };
            let (first, second) = (tool("plain", "{}"), tool("t", &format!(r#"{{"region":{region}}}"#)));
            match asked.message["params"]["cursor"].as_str() {
                None => result(asked, &format!(r#"{{"tools":[{first}],"nextCursor":"2"}}"#)),
                Some(_) => result(asked, &format!(r#"{{"tools":[{second}]}}"#)),
            }
        }
        "tools/call" if asked.header("mcp-param-region") != region => error(asked, StatusCode::BAD_REQUEST, -32020),
        _ => modern(asked),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn header_parameters_are_made_by_the_gateway_for_both_eras() {
    let backend = BackendStub::start(|asked| Some(wants_headers(asked))).await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let calls = |backend: &BackendStub| backend.seen("tools/call").len();
    for (path, tool) in [("/mcp/far", "t"), ("/mcp", "far__t")] {
        let client = gatepost.client_at(path, Era::Legacy, "admin").await;
        let before = calls(&backend);
        let reply = client.call(tool, json!({"region": "eu"})).await.unwrap();
        assert_eq!(reply.content(), "modern", "{}", reply.text);
        // The first was refused before it did anything; what it wants is known from then on.
        assert_eq!(calls(&backend) - before, if path == "/mcp" { 1 } else { 2 });
        assert_eq!(client.call(tool, json!({})).await.unwrap().content(), "modern");
    }
    let newer = unconnected(&gatepost, Era::Modern);
    assert_eq!(newer.call("t", json!({"region": "eu"})).await.unwrap().content(), "modern");
}

#[tokio::test(flavor = "multi_thread")]
async fn header_parameters_are_added_for_modern_stdio_clients() {
    let backend = BackendStub::start(|asked| Some(wants_headers(asked))).await;
    let mut setup = Setup::new();
    setup.set("backends.far.url", &backend.url);
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"name": "t", "arguments": {"region": "eu"}, "_meta": meta});
    let line = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string() + "\n";
    let mut command = setup.command(&["stdio", "--backend", "far"]);
    command.env("GATEPOST_TOKEN", token("admin")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // It stays until it has its answer.
        let mut input = child.stdin.take().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut answer).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success());
        answer
    });
    let output = output.await.unwrap();
    assert!(output.contains("\"modern\""), "{output}");
    drop(setup);
}
