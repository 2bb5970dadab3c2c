//! Callers that a reload does not accept any more: what is left of them ends, without another exchange of their tokens.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::sync::watch;

use crate::backend_tokens::{bearer, caller, done, gateway, on_behalf, subject_token};
use crate::common::gatepost::{Gatepost, Setup, write_secret};
use crate::common::mcp::{Client, Era, LEGACY};
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, event};
use crate::reload::records_of;
use crate::renewed_tokens::{ASK, OPEN, listen, open_stream};
use crate::token_server::{TokenRequest, TokenServer, claims, issue, jwt};

/// The gateway's message if it has no token for the end of a request or session.
const LEFT_OUT: &str = "no valid token on behalf of the caller is left";

/// Reloads with another key, so that no token that was issued is accepted any more.
async fn withdraw(setup: &Setup, gatepost: &Gatepost) {
    write_secret(&setup.dir().join("secret"), "another secret of more than thirty-two bytes");
    gatepost.signal(Signal::SIGHUP);
    until_async("the keys are reloaded", SOON, async || setup.log().contains("changed=\"auth.keys[0]\"")).await;
}

fn exchanges(server: &TokenServer) -> usize {
    server.requests().iter().filter(|request| request.is_exchange()).count()
}

/// A server whose exchanged tokens are valid for `lifetime` seconds.
async fn token_server(lifetime: u64) -> TokenServer {
    TokenServer::start(move |request| {
        request.is_exchange().then(|| issue(&jwt(&json!({"sub": request.caller()["sub"]})), lifetime))
    })
    .await
}

/// Begins a call, whose response is a stream.
async fn begin_call(client: &Client) -> reqwest::Response {
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {}}});
    let request = client.http.post(&client.url).bearer_auth(client.token.as_ref().unwrap());
    let request = request.header("mcp-session-id", client.session.as_deref().unwrap());
    let request = request.header("content-type", "application/json").body(call.to_string());
    request.header("accept", "application/json, text/event-stream").send().await.unwrap()
}

/// The number of requests on behalf of ann that `is_meant`.
fn count(backend: &BackendStub, is_meant: impl Fn(&ReceivedRequest) -> bool) -> usize {
    let seen = backend.seen.lock().unwrap();
    seen.iter().filter(|asked| claims(bearer(asked))["sub"] == "ann" && is_meant(asked)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_sessions_of_a_withdrawn_caller_end_at_the_backend_with_a_token_that_is_there_or_not_at_all() {
    for (lifetime, is_told) in [(300, true), (0, false)] {
        let backend = BackendStub::start(|_| None).await;
        let server = token_server(lifetime).await;
        let (setup, gatepost) = gateway(&backend, &server, |setup| {
            on_behalf(setup);
            setup.set("log.filter", "debug");
        });
        let token = subject_token("ann");
        let session = Client::connect(&format!("{}/mcp/far", gatepost.url()), Era::Legacy, Some(&token)).await;
        done(&session).await;
        // A conversation without a session.
        done(&caller(&gatepost, Era::Modern, &token)).await;
        let before = exchanges(&server);
        withdraw(&setup, &gatepost).await;
        let ends = || count(&backend, |asked| asked.verb == "DELETE");
        if is_told {
            until_async("the sessions are ended", SOON, async || ends() == 2).await;
        } else {
            until_async("their ends are left out", SOON, async || setup.log().matches(LEFT_OUT).count() == 2).await;
            assert_eq!(ends(), 0);
        }
        until_async("the end is recorded", SOON, async || records_of(&setup, "session/close").len() == 1).await;
        assert_eq!(exchanges(&server), before);
        assert_eq!(session.call("t", json!({})).await.unwrap().status, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_an_open_call_of_a_withdrawn_caller_is_cancelled_with_a_token_that_is_there_and_its_stream_ends() {
    for (lifetime, is_told) in [(300, true), (0, false)] {
        let (calls, streams) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let ended = [Arc::clone(&calls), Arc::clone(&streams)];
        let backend = BackendStub::start(move |asked| match (asked.verb.as_str(), asked.method()) {
            ("POST", "tools/call") => Some(open_stream(&ended[0], event(ASK))),
            ("GET", _) => Some(open_stream(&ended[1], OPEN.to_owned())),
            _ => None,
        })
        .await;
        let server = token_server(lifetime).await;
        let (setup, gatepost) = gateway(&backend, &server, |setup| {
            on_behalf(setup);
            setup.set("log.filter", "debug").set("backends.far.call_timeout", "5s");
        });
        let token = subject_token("ann");
        let client = Client::connect(&format!("{}/mcp/far", gatepost.url()), Era::Legacy, Some(&token)).await;
        let _stream = listen(&gatepost, "/mcp/far", &client).await;
        let is_get = |asked: &ReceivedRequest| asked.verb == "GET";
        until_async("the stream is open", SOON, async || count(&backend, is_get) == 1).await;
        let mut call = begin_call(&client).await;
        let mut asked = Vec::new();
        while !String::from_utf8_lossy(&asked).contains("elicitation/create") {
            asked.extend(call.chunk().await.unwrap().unwrap());
        }
        let before = exchanges(&server);
        withdraw(&setup, &gatepost).await;
        until_async("the stream is closed", SOON, async || streams.load(Ordering::SeqCst) == 1).await;
        assert_eq!(calls.load(Ordering::SeqCst), 0, "the call is open");
        let end = call.text().await.unwrap();
        assert!(end.contains("-32012"), "{end}");
        // The end of the question, and that of the call.
        let told = || {
            let is_answer = |asked: &ReceivedRequest| asked.message["id"] == 7 && asked.message["error"].is_object();
            let is_cancelled = |asked: &ReceivedRequest| asked.method() == "notifications/cancelled";
            (count(&backend, is_answer), count(&backend, is_cancelled))
        };
        if is_told {
            until_async("the backend is told", SOON, async || told() == (1, 1)).await;
        } else {
            until_async("the ends are left out", SOON, async || setup.log().matches(LEFT_OUT).count() == 2).await;
            assert_eq!(told(), (0, 0));
        }
        assert_eq!((exchanges(&server), count(&backend, is_get)), (before, 1));
    }
}

/// A token that is sent once `is_free`.
fn issue_once(mut is_free: watch::Receiver<bool>, request: &TokenRequest) -> Response {
    let answer = json!({
        "access_token": jwt(&json!({"sub": request.caller()["sub"]})), "token_type": "Bearer", "expires_in": 300,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    });
    let body = futures_util::stream::once(async move {
        is_free.wait_for(|is_free| *is_free).await.ok();
        Ok::<_, Infallible>(answer.to_string())
    });
    ([("content-type", "application/json")], Body::from_stream(body)).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_a_session_that_old_rules_allow_after_the_reload_is_refused() {
    let (free, is_free) = watch::channel(false);
    let backend = BackendStub::start(|_| None).await;
    let server =
        TokenServer::start(move |request| request.is_exchange().then(|| issue_once(is_free.clone(), request))).await;
    let (setup, gatepost) = gateway(&backend, &server, on_behalf);
    let client = Client::unconnected(&format!("{}/mcp/far", gatepost.url()), Era::Legacy, Some(&subject_token("ann")));
    let params = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
    let meanwhile = async {
        until_async("the token is asked for", SOON, async || exchanges(&server) == 1).await;
        withdraw(&setup, &gatepost).await;
        let initialized = backend.seen("initialize").len();
        free.send_replace(true);
        initialized
    };
    let (reply, initialized) = tokio::join!(client.request("initialize", params), meanwhile);
    let reply = reply.unwrap();
    assert!(reply.text.contains("initialize again") && reply.header("mcp-session-id").is_empty(), "{}", reply.text);
    assert_eq!((backend.seen("initialize").len(), exchanges(&server)), (initialized, 1));
    assert!(gatepost.get_ops("/metrics").1.contains("gatepost_sessions_open 0"));
    let ended = records_of(&setup, "session/close");
    assert!(ended.len() == 1 && ended[0]["request_args"].to_string().contains("was removed"), "{ended:?}");
    assert_eq!(records_of(&setup, "initialize").last().unwrap()["response_status"], "error");
}
