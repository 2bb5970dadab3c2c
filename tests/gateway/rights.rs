//! Rights that end while a client is connected: a token expires or is withdrawn, a reload takes a backend from a role,
//! or another token of the same caller comes.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::response::{IntoResponse as _, Response};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::common::gatepost::{Gatepost, Setup, token, token_with};
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, event, held, modern, result};

const UPDATED: &str = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"far:1"}}"#;

/// A backend of the older era. A GET, and a call, get an event and then nothing until `ends` changes.
fn older(asked: &ReceivedRequest, ends: &watch::Receiver<u32>) -> Option<Response> {
    match (asked.verb.as_str(), asked.method()) {
        ("GET", _) => Some(held(vec![event(UPDATED)], ends.clone())),
        ("POST", "initialize") => {
            let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"far","version":"1"}}"#;
            Some(([("mcp-session-id", "s")], result(asked, hello)).into_response())
        }
        ("POST", "tools/call") => {
            let note =
                r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"secret"}}"#;
            Some(held(vec![event(note)], ends.clone()))
        }
        _ => None,
    }
}

/// A token for `tester` that expires in five seconds.
fn short_token(role: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    token_with(&json!({"sub": "tester", "role": role, "exp": now + 5}))
}

fn get(gatepost: &Gatepost, path: &str, token: &str, session: &str) -> reqwest::RequestBuilder {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.get(format!("{}{path}", gatepost.url())).bearer_auth(token);
    request.header("mcp-session-id", session).header("accept", "text/event-stream")
}

/// A POST of one message, in a session or without one.
fn post(gatepost: &Gatepost, path: &str, token: &str, body: &Value) -> reqwest::RequestBuilder {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(format!("{}{path}", gatepost.url())).bearer_auth(token).body(body.to_string());
    request.header("content-type", "application/json").header("accept", "application/json, text/event-stream")
}

/// The request of the stateless era, with its headers.
fn post_modern(
    gatepost: &Gatepost,
    path: &str,
    token: &str,
    method: &str,
    mut params: Value,
) -> reqwest::RequestBuilder {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let request = post(gatepost, path, token, &json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}));
    let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
    match params["name"].as_str() {
        Some(name) => request.header("mcp-name", name),
        None => request,
    }
}

/// Reads a stream to its end.
async fn read_to_end(request: reqwest::RequestBuilder) -> String {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    tokio::time::timeout(SOON, response.text()).await.expect("the stream ends").unwrap()
}

fn last_event(text: &str) -> Value {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back();
    serde_json::from_str(data.unwrap_or_default()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_ends_with_the_token_under_which_it_is_read() {
    let (end, ends) = watch::channel(0);
    let backend = BackendStub::start(move |asked| older(asked, &ends)).await;
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set("auth.leeway", "0s");
    });
    let token = short_token("admin");
    let session = Client::connect(&format!("{}/mcp/far", gatepost.url()), Era::Legacy, Some(&token)).await;
    let session = session.session.unwrap();
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "t"}});
    let in_session = post(&gatepost, "/mcp/far", &token, &call).header("mcp-session-id", &session);
    let listen = json!({"notifications": {"toolsListChanged": true}});
    let (of_session, in_session, stateless, modern_call, subscription) = tokio::join!(
        read_to_end(get(&gatepost, "/mcp/far", &token, &session)),
        read_to_end(in_session),
        read_to_end(post(&gatepost, "/mcp/far", &token, &call)),
        read_to_end(post_modern(&gatepost, "/mcp/far", &token, "tools/call", json!({"name": "t"}))),
        read_to_end(post_modern(&gatepost, "/mcp", &token, "subscriptions/listen", listen)),
    );
    assert!(of_session.contains("far:1"), "{of_session}");
    // What the client cannot resume ends with an error.
    for stream in [&stateless, &modern_call, &subscription] {
        let last = last_event(stream);
        assert_eq!((&last["id"], &last["error"]["code"]), (&json!(7), &json!(-32001)), "{stream}");
    }
    assert_eq!(post(&gatepost, "/mcp/far", &token, &call).send().await.unwrap().status(), 401);
    // What it can resume goes on with a fresh token, and the call with it.
    assert!(in_session.contains("secret") && !in_session.contains("error"), "{in_session}");
    let fresh = crate::common::gatepost::token("admin");
    let id = in_session.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let resumed = get(&gatepost, "/mcp/far", &fresh, &session).header("last-event-id", id);
    let resumed = tokio::spawn(read_to_end(resumed));
    end.send_modify(|count| *count += 1);
    let resumed = resumed.await.unwrap();
    assert_eq!(last_event(&resumed)["id"], 7, "{resumed}");
    drop(setup);
}

#[test]
fn a_stdio_client_is_served_until_its_token_expires() {
    let mut setup = Setup::new();
    setup.set("auth.leeway", "0s");
    let mut command = setup.command(&["stdio", "--backend", "example"]);
    command.env("GATEPOST_TOKEN", short_token("echo")).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Its end is not closed: the gateway ends by itself.
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert!(log.contains("the token has expired or was withdrawn"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_a_withdrawn_static_token_end() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let (_end, ends) = watch::channel(0);
    let backend = BackendStub::start(move |asked| older(asked, &ends)).await;
    let mut file = None;
    let (_setup, gatepost) = backend.gateway(|setup| {
        let path = setup.dir().join("tokens.toml");
        let hash = gatepost::auth::static_tokens::hash(TOKEN);
        std::fs::write(&path, format!("[[tokens]]\nsha256 = {hash:?}\nsubject = \"ci\"\nroles = [\"admin\"]\n"))
            .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        setup.set("auth.tokens_file", path.to_str().unwrap());
        file = Some(path);
    });
    let client = Client::connect(&format!("{}/mcp/far", gatepost.url()), Era::Legacy, Some(TOKEN)).await;
    let stream = get(&gatepost, "/mcp/far", TOKEN, client.session.as_deref().unwrap()).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    std::fs::write(file.unwrap(), "").unwrap();
    tokio::time::timeout(SOON, stream.text()).await.expect("the stream ends").unwrap();
    assert_eq!(client.request("ping", json!({})).await.unwrap().status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_streams_of_a_backend_end_when_a_reload_takes_it_from_the_role() {
    let (_end, ends) = watch::channel(0);
    let backend = BackendStub::start(move |asked| match asked.header("mcp-protocol-version") {
        Some("2026-07-28") => Some(modern(asked)),
        _ => older(asked, &ends),
    })
    .await;
    let (mut setup, gatepost) = backend.gateway(|setup| {
        setup.role("both", &["far/*", "example/*"]);
    });
    let token = token("both");
    let connect = async |path: &str| {
        let client = Client::connect(&format!("{}{path}", gatepost.url()), Era::Legacy, Some(&token)).await;
        client.session.unwrap()
    };
    let (one, all) = (connect("/mcp/far").await, connect("/mcp").await);
    let listen = json!({"notifications": {"toolsListChanged": true}});
    let subscription = post_modern(&gatepost, "/mcp/far", &token, "subscriptions/listen", listen);
    let streams =
        [get(&gatepost, "/mcp/far", &token, &one), subscription].map(|request| tokio::spawn(read_to_end(request)));
    let mut of_all = get(&gatepost, "/mcp", &token, &all).send().await.unwrap();
    until_async("the session's stream at the backend is open", SOON, async || {
        backend.seen.lock().unwrap().iter().any(|asked| asked.verb == "GET")
    })
    .await;
    setup.role("both", &["example/*"]);
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    let mut ended = Vec::new();
    for stream in streams {
        ended.push(tokio::time::timeout(SOON, stream).await.expect("the stream ends").unwrap());
    }
    assert_eq!(last_event(&ended[1])["error"]["code"], -32003, "{}", ended[1]);
    assert_eq!(get(&gatepost, "/mcp/far", &token, &one).send().await.unwrap().status(), 404);
    // The stream of all backends goes on with those that are left.
    let told = String::from_utf8_lossy(&of_all.chunk().await.unwrap().unwrap()).into_owned();
    assert!(told.contains("list_changed"), "{told}");
    gatepost.terminate();
    let output = setup.command(&["outbox", "list", "--json", "--limit", "1000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ends: Vec<_> =
        records.filter(|record| record["session_id"] == one && record["method"] == "session/close").collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert!(ends[0]["request_args"].to_string().contains("do not reach its backend"), "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_other_roles_reads_nothing_that_was_written_before() {
    let (end, ends) = watch::channel(0);
    let backend = BackendStub::start(move |asked| older(asked, &ends)).await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        setup.role("narrow", &["far/other"]).role("nothing", &[]);
    });
    let wide = token("admin");
    let client = Client::connect(&format!("{}/mcp/far", gatepost.url()), Era::Legacy, Some(&wide)).await;
    let session = client.session.unwrap();
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "t"}});
    let mut response =
        post(&gatepost, "/mcp/far", &wide, &call).header("mcp-session-id", &session).send().await.unwrap();
    let first = String::from_utf8_lossy(&response.chunk().await.unwrap().unwrap()).into_owned();
    let id = first.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    end.send_modify(|count| *count += 1);
    response.text().await.unwrap();
    let (stream, _) = id.split_once('-').unwrap();
    let resume = async |role: &str| {
        let request = get(&gatepost, "/mcp/far", &token(role), &session).header("last-event-id", format!("{stream}-0"));
        request.send().await.unwrap()
    };
    assert_eq!(resume("narrow").await.status(), 400);
    assert_eq!(resume("nothing").await.status(), 404);
    let text = resume("admin").await.text().await.unwrap();
    assert!(text.contains("secret"), "{text}");
    assert_eq!(backend.seen("tools/call").len(), 1);
}
