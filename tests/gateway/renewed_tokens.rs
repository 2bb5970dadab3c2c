//! Callers that renew their tokens in a session: each message is made with its own token, and what belongs to no
//! message with the one that ends last.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream as pieces};
use serde_json::{Value, json};

use crate::backend_tokens::{bearer, gateway, on_behalf};
use crate::common::asking_backend::messages;
use crate::common::gatepost::{AUDIENCE, Gatepost, token_with};
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, event, held, modern, stream};
use crate::token_server::{TokenServer, claims, issue, jwt};

pub const ASK: &str = r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"message":"Pay?","requestedSchema":{"type":"object","properties":{}}}}"#;

/// The token `id` of ann.
fn token(id: &str) -> String {
    token_with(&json!({"sub": "ann", "role": "admin", "jti": id}))
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A token server whose tokens have the id of the caller's.
async fn token_server() -> TokenServer {
    TokenServer::start(|request| {
        request.is_exchange().then(|| {
            let caller = request.caller();
            issue(&jwt(&json!({"sub": caller["sub"], "aud": "far", "jti": caller["jti"]})), 300)
        })
    })
    .await
}

/// The id of the caller's token for which the token of a request was issued.
fn id(asked: &ReceivedRequest) -> String {
    claims(bearer(asked))["jti"].as_str().unwrap_or_default().to_owned()
}

/// The ids of the tokens of the requests that `is_meant`.
fn ids(backend: &BackendStub, is_meant: impl Fn(&ReceivedRequest) -> bool) -> Vec<String> {
    let seen = backend.seen.lock().unwrap();
    let asked = seen.iter().filter(|asked| claims(bearer(asked))["sub"] == "ann" && is_meant(asked));
    asked.map(id).collect()
}

/// The same client with another token.
fn renewed(client: &Client, id: &str) -> Client {
    let mut client = client.clone();
    client.token = Some(token(id));
    client
}

async fn connect(gatepost: &Gatepost, path: &str, token: &str) -> Client {
    Client::connect(&format!("{}{path}", gatepost.url()), Era::Legacy, Some(token)).await
}

/// Opens the session's stream of messages that belong to no request.
pub async fn listen(gatepost: &Gatepost, path: &str, client: &Client) -> reqwest::Response {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.get(format!("{}{path}", gatepost.url())).bearer_auth(client.token.as_ref().unwrap());
    let request = request.header("mcp-session-id", client.session.as_deref().unwrap());
    request.header("accept", "text/event-stream").send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_a_session_is_made_with_its_own_token() {
    let backend = BackendStub::start(|asked| {
        let result = json!({"jsonrpc": "2.0", "id": asked.message["id"], "result": {"content": []}}).to_string();
        let is_ask = asked.method() == "tools/call" && asked.message["params"]["name"] == "ask";
        is_ask.then(|| stream(vec![Ok(event(ASK)), Ok(event(&result))]))
    })
    .await;
    let server = token_server().await;
    let (_setup, gatepost) = gateway(&backend, &server, on_behalf);
    for path in ["/mcp", "/mcp/far"] {
        backend.seen.lock().unwrap().clear();
        let first = connect(&gatepost, path, &token("first")).await;
        let second = renewed(&first, "second");
        for client in [&first, &second, &first] {
            client.request("tools/list", json!({})).await.unwrap().result();
        }
        assert_eq!(ids(&backend, |asked| asked.method() == "tools/list"), ["first", "second", "first"], "{path}");
        let note = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}).to_string();
        assert_eq!(second.post(note, &[]).await.unwrap().status, 202);
        let is_note = |asked: &ReceivedRequest| asked.method() == "notifications/roots/list_changed";
        until_async("the notification is there", SOON, async || ids(&backend, is_note) == ["second"]).await;
        let ask = if path == "/mcp" { "far__ask" } else { "ask" };
        let asked = messages(&first.call(ask, json!({})).await.unwrap().text);
        let answer = json!({"jsonrpc": "2.0", "id": asked[0]["id"], "result": {"action": "decline"}});
        assert_eq!(second.post(answer.to_string(), &[]).await.unwrap().status, 202);
        let is_answer = |asked: &ReceivedRequest| asked.message["result"]["action"] == "decline";
        until_async("the answer is there", SOON, async || ids(&backend, is_answer) == ["second"]).await;
        // The token that ends last is for what has none of its own.
        let mut last = first.clone();
        last.token = Some(token_with(&json!({"sub": "ann", "role": "admin", "jti": "last", "exp": now() + 86_400})));
        assert_eq!(last.call(&ask.replace("ask", "t"), json!({})).await.unwrap().content(), "done");
        drop(listen(&gatepost, path, &first).await);
        until_async("the stream is asked for", SOON, async || ids(&backend, |asked| asked.verb == "GET") == ["last"])
            .await;
        assert_eq!(ids(&backend, |asked| asked.method() == "tools/call"), ["first", "last"], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_response_is_resumed_with_the_token_of_its_request() {
    let call = Arc::new(Mutex::new(Value::Null));
    let open = Arc::clone(&call);
    let backend = BackendStub::start(move |asked| match (asked.verb.as_str(), asked.method()) {
        ("POST", "tools/call") if asked.message["params"]["name"] == "long" => {
            *open.lock().unwrap() = asked.message["id"].clone();
            Some(stream(vec![Ok("id: 1\nretry: 1000\ndata:\n\n".to_owned())]))
        }
        ("GET", _) if asked.header("last-event-id") == Some("1") => {
            let id = open.lock().unwrap().clone();
            let result = json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": "late"}]}});
            Some(stream(vec![Ok(event(&result.to_string()))]))
        }
        _ => None,
    })
    .await;
    let server = token_server().await;
    let (_setup, gatepost) = gateway(&backend, &server, on_behalf);
    let first = connect(&gatepost, "/mcp/far", &token("first")).await;
    let second = renewed(&first, "second");
    let other = async {
        let is_long = |asked: &ReceivedRequest| asked.message["params"]["name"] == "long";
        until_async("the call is there", SOON, async || !ids(&backend, is_long).is_empty()).await;
        assert_eq!(second.call("t", json!({})).await.unwrap().content(), "done");
        assert!(ids(&backend, |asked| asked.verb == "GET").is_empty(), "the second token is newer");
    };
    let (answer, ()) = tokio::join!(first.call("long", json!({})), other);
    assert_eq!(answer.unwrap().content(), "late");
    assert_eq!(ids(&backend, |asked| asked.verb == "GET"), ["first"]);
}

/// A requirement of a tool in a header is read with the token of the call, also in an older client's session.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_for_the_headers_of_a_call_is_read_with_the_token_of_the_call() {
    let backend = BackendStub::start(|asked| {
        if asked.method() == "tools/call" {
            let error = json!({"code": -32020, "message": "a header is missing"});
            let body = json!({"jsonrpc": "2.0", "id": asked.message["id"], "error": error}).to_string();
            return Some((axum::http::StatusCode::BAD_REQUEST, body).into_response());
        }
        Some(modern(asked))
    })
    .await;
    let server = token_server().await;
    let (_setup, gatepost) = gateway(&backend, &server, on_behalf);
    let first = connect(&gatepost, "/mcp/far", &token("first")).await;
    assert_eq!(renewed(&first, "second").call("t", json!({})).await.unwrap().error_code(), -32020);
    assert_eq!(ids(&backend, |asked| asked.method() == "tools/list"), ["second"]);
}

/// A piece of a stream that is no message.
pub const OPEN: &str = ": open\n\n";

/// Counts the streams that have ended.
struct Ended(Arc<AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A stream that stays open after its `first` piece until the gateway closes it.
pub fn open_stream(ended: &Arc<AtomicUsize>, first: String) -> Response {
    let ended = Ended(Arc::clone(ended));
    let first = pieces::once(async { Ok::<_, Infallible>(first) });
    let rest = pieces::once(async move {
        let _ended = ended;
        std::future::pending().await
    });
    ([("content-type", "text/event-stream")], Body::from_stream(first.chain(rest))).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_and_is_opened_again_with_a_newer_one() {
    for is_renewed_before in [true, false] {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ended);
        let backend =
            BackendStub::start(move |asked| (asked.verb == "GET").then(|| open_stream(&count, OPEN.to_owned()))).await;
        let server = token_server().await;
        let (_setup, gatepost) = gateway(&backend, &server, |setup| {
            on_behalf(setup);
            setup.set("auth.leeway", "0s");
        });
        let short = token_with(&json!({"sub": "ann", "role": "admin", "jti": "first", "exp": now() + 4}));
        let first = connect(&gatepost, "/mcp/far", &short).await;
        let second = renewed(&first, "second");
        let _stream = listen(&gatepost, "/mcp/far", &first).await;
        let streams = || ids(&backend, |asked| asked.verb == "GET");
        until_async("the stream is open", SOON, async || streams() == ["first"]).await;
        if is_renewed_before {
            assert_eq!(second.call("t", json!({})).await.unwrap().content(), "done");
            assert_eq!((streams(), ended.load(Ordering::SeqCst)), (vec!["first".to_owned()], 0), "it is valid");
        }
        until_async("the stream is closed", SOON, async || ended.load(Ordering::SeqCst) == 1).await;
        assert_eq!(first.call("t", json!({})).await.unwrap().status, 401, "the token has ended");
        if !is_renewed_before {
            assert_eq!(ids(&backend, |_| true).iter().filter(|id| *id != "first").count(), 0);
            assert_eq!(second.call("t", json!({})).await.unwrap().content(), "done");
        }
        until_async("it is opened again", SOON, async || streams() == ["first", "second"]).await;
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_opened_again_after_a_reload_with_the_token_of_a_later_message() {
    let (breaks, broken) = tokio::sync::watch::channel(0);
    let backend =
        BackendStub::start(move |asked| (asked.verb == "GET").then(|| held(vec![OPEN.to_owned()], broken.clone())))
            .await;
    let server = token_server().await;
    let (mut setup, gatepost) = gateway(&backend, &server, on_behalf);
    let first = connect(&gatepost, "/mcp/far", &token("first")).await;
    let mut last = first.clone();
    last.token = Some(token_with(&json!({"sub": "ann", "role": "admin", "jti": "last", "exp": now() + 86_400})));
    let _stream = listen(&gatepost, "/mcp/far", &last).await;
    let streams = || ids(&backend, |asked| asked.verb == "GET");
    until_async("the stream is open", SOON, async || streams() == ["last"]).await;
    setup.set_toml("auth.audiences", &format!("[{AUDIENCE:?}, \"other\"]"));
    setup.config_file();
    gatepost.signal(nix::sys::signal::Signal::SIGHUP);
    setup.wait_for_log("changed=\"auth.audiences\"");
    assert_eq!(first.call("t", json!({})).await.unwrap().content(), "done");
    breaks.send_replace(1);
    until_async("it is open again", SOON, async || streams() == ["last", "first"]).await;
}
