//! Backends that lost the session of a client, each of which says so in another way, behind the real gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::common::mcp::{Client, Era};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, json_body, result};

/// The answer of a backend to a request in a session that it does not know.
type Refusal = fn(&ReceivedRequest) -> Response;

fn text(status: u16, text: &'static str) -> Response {
    (StatusCode::from_u16(status).unwrap(), text).into_response()
}

fn error(status: u16, id: &str, code: i32, message: &str) -> Response {
    let error = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#);
    (StatusCode::from_u16(status).unwrap(), json_body(error)).into_response()
}

fn own_id(asked: &ReceivedRequest) -> String {
    asked.message["id"].to_string()
}

/// A backend that forgets all its sessions when the number changes; what is asked in a forgotten one gets `refusal`.
async fn forgetting(refusal: Refusal) -> (BackendStub, Arc<AtomicUsize>) {
    let life = Arc::new(AtomicUsize::new(0));
    let current = Arc::clone(&life);
    let backend = BackendStub::start(move |asked| {
        let life = current.load(Ordering::SeqCst).to_string();
        if asked.method() == "initialize" {
            let hello = r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"far","version":"1"}}"#;
            return Some(([("mcp-session-id", life)], result(asked, hello)).into_response());
        }
        if asked.header("mcp-session-id")? == life {
            return (asked.method() == "ping").then(|| result(asked, "{}"));
        }
        Some(refusal(asked))
    });
    (backend.await, life)
}

/// Opens a session, loses it at the backend, and calls twice. Returns the answers and the number of calls that the
/// backend took.
async fn lose(refusal: Refusal, path: &str, tool: &str) -> (String, String, usize) {
    let (backend, life) = forgetting(refusal).await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let client = gatepost.client_at(path, Era::Legacy, "admin").await;
    let call = async |client: &Client| client.call(tool, json!({})).await.unwrap().text;
    assert!(call(&client).await.contains("done"));
    life.fetch_add(1, Ordering::SeqCst);
    let (first, second) = (call(&client).await, call(&client).await);
    let taken = backend.seen("tools/call").iter().filter(|call| call.header("mcp-session-id") == Some("1")).count();
    (first, second, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_opened_again_however_the_backend_says_so() {
    let refused: [Refusal; 10] = [
        |_| text(404, ""),
        |_| text(410, "gone"),
        |_| error(400, "null", -32000, "Bad Request: No valid session ID provided"),
        |_| text(400, "Invalid session ID"),
        |_| text(400, ""),
        |_| text(400, "Bad Request"),
        |_| text(401, "Unauthorized: Session not found"),
        |_| text(422, "Unprocessable"),
        |_| error(200, "null", -32001, "Session not found"),
        |_| error(200, "\"server-error\"", -32600, "unknown session"),
    ];
    for (at, refusal) in refused.into_iter().enumerate() {
        for (path, tool) in [("/mcp/far", "t"), ("/mcp", "far__t")] {
            let (first, second, taken) = lose(refusal, path, tool).await;
            assert!(first.contains("done") && second.contains("done"), "{at} {path}: {first} {second}");
            assert_eq!(taken, 2, "{at} {path}: each call is made once in the new session");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_may_have_been_dispatched_is_not_repeated_but_the_next_one_works() {
    let answered: [Refusal; 4] = [
        |asked| error(200, &own_id(asked), -32001, "Session not found"),
        |asked| error(400, &own_id(asked), -32600, "unknown session"),
        |_| text(500, "KeyError: session"),
        |_| text(500, "Internal Server Error"),
    ];
    for (at, refusal) in answered.into_iter().enumerate() {
        let (first, second, taken) = lose(refusal, "/mcp/far", "t").await;
        assert!(!first.contains("done") && second.contains("done"), "{at}: {first} {second}");
        assert_eq!(taken, 1, "{at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_a_session_that_lives_does_not_end_it() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refusals);
    let backend = BackendStub::start(move |asked| {
        if asked.method() == "ping" {
            return Some(result(asked, "{}"));
        }
        (asked.method() == "tools/call").then(|| match count.fetch_add(1, Ordering::SeqCst) {
            0 => text(400, "the body is not to my taste"),
            1 => error(400, &own_id(asked), -32602, "bad arguments"),
            2 => error(200, &own_id(asked), -32603, "your shell session has ended"),
            3 => text(401, "token expired"),
            4 => text(503, "busy"),
            _ => result(asked, r#"{"content":[{"type":"text","text":"done"}]}"#),
        })
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    client.call("t", json!({})).await.unwrap().error_code();
    let opened = backend.seen("initialize").len();
    for _ in 1..5 {
        client.call("t", json!({})).await.unwrap().error_code();
    }
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
    let found = (backend.seen("initialize").len(), refusals.load(Ordering::SeqCst));
    assert_eq!(found, (opened, 6), "each call is made once, and no session is opened");
}
