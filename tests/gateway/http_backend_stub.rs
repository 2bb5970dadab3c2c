//! An HTTP backend controlled by the test, behind the real gateway. It can answer with exact bytes, forget sessions,
//! break connections, be replaced by another server, and count the requests that reach it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::gatepost::{Gatepost, Setup};
use crate::common::pause::pause_async;
use crate::common::wait::SOON;

/// One request that reached the backend.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub verb: Method,
    pub headers: HeaderMap,
    pub text: String,
    pub message: Value,
}

impl ReceivedRequest {
    pub fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

type Answer = dyn Fn(&ReceivedRequest) -> Response + Send + Sync;

/// A backend; what it does not answer itself is a legacy server's usual answer.
pub struct BackendStub {
    pub url: String,
    pub seen: Arc<Mutex<Vec<ReceivedRequest>>>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl BackendStub {
    pub async fn start(answer: impl Fn(&ReceivedRequest) -> Option<Response> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer).await
    }

    /// One in the place of another, which was stopped.
    pub async fn start_at(
        address: &str,
        answer: impl Fn(&ReceivedRequest) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, sessions) = (Arc::clone(&seen), AtomicUsize::new(0));
        let answer: Arc<Answer> = Arc::new(move |asked: &ReceivedRequest| {
            log.lock().unwrap().push(asked.clone());
            answer(asked).unwrap_or_else(|| usual(asked, &sessions))
        });
        let handle = move |verb: Method, headers: HeaderMap, body: Bytes| {
            let text = String::from_utf8(body.to_vec()).unwrap();
            let asked =
                ReceivedRequest { verb, headers, message: serde_json::from_str(&text).unwrap_or_default(), text };
            let answered = answer(&asked);
            async move { answered }
        };
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            let server = axum::serve(listener, Router::new().fallback(handle));
            server.with_graceful_shutdown(stopped).await.unwrap();
        });
        Self { url, seen, stop, serving }
    }

    pub fn address(&self) -> String {
        self.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned()
    }

    /// Ends it with its connections, once what it was asked is answered.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, &mut self.serving).await.unwrap().unwrap();
    }

    pub fn seen(&self, method: &str) -> Vec<ReceivedRequest> {
        self.seen.lock().unwrap().iter().filter(|asked| asked.method() == method).cloned().collect()
    }

    pub fn gateway(&self, change: impl FnOnce(&mut Setup)) -> (Setup, Gatepost) {
        let mut setup = Setup::new();
        setup.set("backends.far.url", &self.url);
        change(&mut setup);
        let gatepost = setup.start();
        (setup, gatepost)
    }
}

pub fn json_body(text: String) -> Response {
    ([("content-type", "application/json")], text).into_response()
}

pub fn result(asked: &ReceivedRequest, result: &str) -> Response {
    json_body(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, asked.message["id"]))
}

/// An event stream of these pieces; a piece `Err` breaks the connection.
pub fn stream(pieces: Vec<Result<String, ()>>) -> Response {
    let pieces = futures_util::stream::unfold(pieces.into_iter(), |mut pieces| async move {
        let piece = pieces.next()?;
        if piece.is_err() {
            // What was written before must have left.
            pause_async(Duration::from_millis(50)).await;
        }
        Some((piece.map_err(|()| std::io::Error::other("broken")), pieces))
    });
    let body = Body::from_stream(pieces);
    ([("content-type", "text/event-stream")], body).into_response()
}

/// An event stream of these pieces that stays open until it is told to break.
pub fn held(pieces: Vec<String>, mut broken: tokio::sync::watch::Receiver<u32>) -> Response {
    broken.mark_unchanged();
    let first = futures_util::stream::iter(pieces).map(Ok);
    let end = futures_util::stream::once(async move {
        broken.changed().await.ok();
        Err(std::io::Error::other("broken"))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(first.chain(end))).into_response()
}

pub fn event(json: &str) -> String {
    format!("data: {json}\n\n")
}

pub fn usual(asked: &ReceivedRequest, sessions: &AtomicUsize) -> Response {
    match (asked.verb.as_str(), asked.method()) {
        ("POST", "initialize") => {
            let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"resources":{},"prompts":{}},"serverInfo":{"name":"far","version":"1"}}"#;
            let id = format!("s{}", sessions.fetch_add(1, Ordering::SeqCst));
            ([("mcp-session-id", id)], result(asked, hello)).into_response()
        }
        ("POST", "tools/list") => result(asked, r#"{"tools":[{"name":"t","inputSchema":{"type":"object"}}]}"#),
        ("POST", "tools/call") => result(asked, r#"{"content":[{"type":"text","text":"done"}]}"#),
        ("POST", "server/discover") => StatusCode::BAD_REQUEST.into_response(),
        ("POST", _) if asked.message.get("id").is_none() => StatusCode::ACCEPTED.into_response(),
        ("DELETE", _) => StatusCode::NO_CONTENT.into_response(),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

/// What a server answers that speaks the stateless era alone.
pub fn modern(asked: &ReceivedRequest) -> Response {
    if asked.verb != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let refused = |status: StatusCode, error: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, asked.message["id"]);
        (status, json_body(body)).into_response()
    };
    if asked.header("mcp-protocol-version") != Some("2026-07-28") {
        let error = r#"{"code":-32022,"message":"no such version","data":{"supported":["2026-07-28"]}}"#;
        return refused(StatusCode::BAD_REQUEST, error);
    }
    match asked.method() {
        "server/discover" => result(
            asked,
            r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"resources":{},"prompts":{}}}"#,
        ),
        "tools/list" => result(asked, r#"{"tools":[{"name":"t","inputSchema":{"type":"object"}}]}"#),
        "tools/call" => result(asked, r#"{"content":[{"type":"text","text":"modern"}],"resultType":"complete"}"#),
        _ => refused(StatusCode::NOT_FOUND, r#"{"code":-32601,"message":"no such method"}"#),
    }
}
