//! Backends that repeat the credentials that they were called with: these are in no record, log line or metric, and in
//! no error or question. A result reaches its caller as it is.

use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::backend_tokens::{bearer, done, gateway, on_behalf, records, subject_token};
use crate::common::asking_backend::messages;
use crate::common::gatepost::{Gatepost, Setup, token, token_with, write_secret};
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, event, json_body, modern, result, stream};
use crate::renewed_tokens::{listen, open_stream};
use crate::token_server::TokenServer;

const KEY: &str = "hunter2/of+the=operator";
const REPLACED: &str = "[credential of backend far]";

/// The headers with credentials, as a debugging backend writes them.
fn echo(asked: &ReceivedRequest) -> String {
    let sent = ["authorization", "x-api-key"].map(|name| asked.header(name).unwrap_or_default());
    format!("you sent {} and {}", sent[0], sent[1])
}

/// The answer to a call: the tool's name says where it repeats the credentials.
fn answer(asked: &ReceivedRequest) -> Option<Response> {
    if asked.method() == "tools/list" {
        let tools = TOOLS.into_iter().chain(["plain", "asks", "asks_by_result"]);
        let tools: Vec<_> = tools.map(|name| json!({"name": name, "inputSchema": {"type": "object"}})).collect();
        return Some(result(asked, &json!({"tools": tools}).to_string()));
    }
    if asked.method() != "tools/call" {
        return None;
    }
    let (text, id) = (echo(asked), &asked.message["id"]);
    let message = |key: &str, value: Value| json!({"jsonrpc": "2.0", "id": id, key: value}).to_string();
    let error = || message("error", json!({"code": -32603, "message": text, "data": {"headers": [text]}}));
    let done = |is_error: bool| {
        let content = json!([{"type": "text", "text": text}]);
        message("result", json!({"content": content, "isError": is_error, "resultType": "complete"}))
    };
    Some(match asked.message["params"]["name"].as_str()? {
        "unauthorized" => (StatusCode::UNAUTHORIZED, [("www-authenticate", text.clone())], text).into_response(),
        "refused" => (StatusCode::BAD_REQUEST, [("x-debug", text.clone())], text).into_response(),
        "garbled" => json_body(text),
        "error" => json_body(error()),
        "error_of_request" => (StatusCode::BAD_REQUEST, json_body(error())).into_response(),
        "error_in_stream" => stream(vec![Ok(event(&error()))]),
        "escaped" => json_body(error().replace('/', "\\/").replace('+', "\\u002b")),
        "tool_error" => json_body(done(true)),
        "asks" => {
            let question = json!({"jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": {
                "message": text, "requestedSchema": {"type": "object", "properties": {}}}});
            stream(vec![Ok(event(&question.to_string())), Ok(event(&done(false)))])
        }
        "asks_by_result" => {
            let question = json!({"method": "elicitation/create", "params": {
                "message": text, "requestedSchema": {"type": "object", "properties": {}}}});
            let asks = json!({"resultType": "input_required", "inputRequests": {"q": question}, "requestState": "s"});
            json_body(message("result", asks))
        }
        _ => json_body(done(false)),
    })
}

const TOOLS: [&str; 8] =
    ["unauthorized", "refused", "garbled", "error", "error_of_request", "error_in_stream", "escaped", "tool_error"];

/// All that a gateway has written, by name.
fn written(setup: &Setup, gatepost: Gatepost) -> Vec<(&'static str, Vec<u8>)> {
    let metrics = gatepost.get_ops("/metrics").1;
    let shown = setup.command(&["audit", "query", "--json"]).output().unwrap();
    assert_eq!(gatepost.terminate(), Some(0));
    let mut written =
        vec![("log", setup.log().into_bytes()), ("metrics", metrics.into_bytes()), ("query", shown.stdout)];
    for entry in std::fs::read_dir(setup.audit_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            written.push(("outbox", std::fs::read(path).unwrap()));
        }
    }
    written
}

async fn calls(gatepost: &Gatepost, token: &str, secrets: impl Fn() -> Vec<String>) {
    let is_shown = |text: &str| secrets().iter().any(|secret| text.contains(secret));
    for (path, prefix) in [("/mcp/far", ""), ("/mcp", "far__")] {
        for era in [Era::Legacy, Era::Modern] {
            let client = Client::connect(&format!("{}{path}", gatepost.url()), era, Some(token)).await;
            for tool in TOOLS {
                let reply = client.call(&format!("{prefix}{tool}"), json!({})).await.unwrap();
                let is_error = reply.body.get("error").is_some();
                assert_eq!(is_error, tool != "tool_error", "{tool}: {}", reply.text);
                assert!(!is_error || !is_shown(&reply.text), "{tool}: {}", reply.text);
            }
            let result = client.call(&format!("{prefix}plain"), json!({})).await.unwrap();
            assert!(is_shown(result.content()), "a result is not changed: {}", result.text);
        }
    }
    let client = Client::connect(&format!("{}/mcp/far", gatepost.url()), Era::Modern, Some(token)).await;
    let reply = client.call("asks_by_result", json!({})).await.unwrap();
    assert!(reply.text.contains("input_required") && reply.text.contains(REPLACED), "{}", reply.text);
    assert!(!is_shown(&reply.text), "{}", reply.text);
    let client = Client::connect(&format!("{}/mcp/far", gatepost.url()), Era::Legacy, Some(token)).await;
    let asked = messages(&client.call("asks", json!({})).await.unwrap().text);
    let question = asked[0]["params"]["message"].as_str().unwrap();
    assert!(question.contains(REPLACED) && !is_shown(question), "{question}");
    let answer = json!({"jsonrpc": "2.0", "id": asked[0]["id"], "result": {"action": "decline"}});
    assert_eq!(client.post(answer.to_string(), &[]).await.unwrap().status, 202);
}

/// Calls a backend of `era`, and looks for the `secrets` in all that the gateway has written.
async fn nothing_is_written(era: Era, configure: impl FnOnce(&mut Setup), server: &TokenServer, token: &str) {
    let backend =
        BackendStub::start(move |asked| answer(asked).or_else(|| (era == Era::Modern).then(|| modern(asked)))).await;
    let (setup, gatepost) = backend.gateway(|setup| {
        let key = setup.dir().join("api-key");
        write_secret(&key, format!("{KEY}\n"));
        setup.set("backends.far.header_file.X-Api-Key", key.to_str().unwrap()).set("log.filter", "trace");
        setup.set_toml("audit.record_responses", r#"["far/plain", "far/tool_error"]"#);
        configure(setup);
    });
    let secrets = || {
        let issued = server.issued.lock().unwrap();
        // The payloads: their beginnings are those of all tokens.
        let payloads = issued.iter().map(|token| token.split('.').nth(1).unwrap().to_owned());
        payloads.chain([KEY.to_owned()]).collect::<Vec<_>>()
    };
    calls(&gatepost, token, secrets).await;
    let records = records(&setup);
    for tool in TOOLS.into_iter().chain(["plain"]) {
        let of_tool: Vec<_> = records.iter().filter(|record| record["tool_name"] == tool).collect();
        assert_eq!(of_tool.len(), 4, "{tool}");
        let is_echo = !["unauthorized", "refused", "garbled"].contains(&tool);
        for record in of_tool {
            assert_eq!(record.to_string().contains(REPLACED), is_echo, "{record}");
            let column = if tool == "plain" { "response" } else { "error_message" };
            assert!(!is_echo || record[column].to_string().contains(REPLACED), "{record}");
        }
    }
    for (name, bytes) in written(&setup, gatepost) {
        for secret in secrets() {
            let escaped = secret.replace('/', "\\/");
            let is_in = |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_in(&secret) && !is_in(&escaped), "{secret} is in {name}");
        }
        assert!(name != "log" || era == Era::Modern || String::from_utf8_lossy(&bytes).contains(REPLACED));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_secret_header_that_a_backend_repeats_is_written_nowhere() {
    let server = TokenServer::start(|_| None).await;
    for era in [Era::Legacy, Era::Modern] {
        nothing_is_written(era, |_| {}, &server, &token("admin")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_token_of_the_gateway_that_a_backend_repeats_is_written_nowhere() {
    for era in [Era::Legacy, Era::Modern] {
        let server = TokenServer::start(|_| None).await;
        nothing_is_written(era, |setup| server.serve(setup, "far"), &server, &token("admin")).await;
        assert!(!server.issued.lock().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_an_exchanged_token_that_a_backend_repeats_is_written_nowhere() {
    for era in [Era::Legacy, Era::Modern] {
        let server = TokenServer::start(|_| None).await;
        let configure = |setup: &mut Setup| {
            server.serve(setup, "far");
            on_behalf(setup);
        };
        nothing_is_written(era, configure, &server, &subject_token("ann")).await;
        assert!(server.requests().iter().any(crate::token_server::TokenRequest::is_exchange));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_question_on_a_sessions_stream_loses_every_token_of_the_conversation() {
    let called = Arc::new(Mutex::new(Vec::<String>::new()));
    let known = Arc::clone(&called);
    let backend = BackendStub::start(move |asked| match (asked.verb.as_str(), asked.method()) {
        ("POST", "tools/call") => {
            known.lock().unwrap().push(bearer(asked).to_owned());
            None
        }
        ("GET", _) => {
            let text = format!("you are {} and {}", known.lock().unwrap().join(" or "), bearer(asked));
            let question = json!({"jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": {
                "message": text, "requestedSchema": {"type": "object", "properties": {}}}});
            Some(open_stream(&Arc::default(), event(&question.to_string())))
        }
        _ => None,
    })
    .await;
    let server = TokenServer::start(|_| None).await;
    let (setup, gatepost) = gateway(&backend, &server, on_behalf);
    let mut client =
        Client::connect(&format!("{}/mcp/far", gatepost.url()), Era::Legacy, Some(&subject_token("ann"))).await;
    for id in ["a", "b"] {
        client.token = Some(token_with(&json!({"sub": "ann", "role": "admin", "jti": id})));
        done(&client).await;
    }
    let mut stream = listen(&gatepost, "/mcp/far", &client).await;
    let mut text = String::new();
    while !text.contains("elicitation/create") {
        text.push_str(&String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap()));
    }
    let called = called.lock().unwrap().clone();
    assert!(called.len() == 2 && called[0] != called[1], "{called:?}");
    assert!(text.contains(&format!("{REPLACED} or {REPLACED} and {REPLACED}")), "{text}");
    drop(stream);
    let answer = json!({"jsonrpc": "2.0", "id": messages(&text)[0]["id"], "result": {"action": "decline"}});
    assert_eq!(client.post(answer.to_string(), &[]).await.unwrap().status, 202);
    for (name, bytes) in written(&setup, gatepost) {
        for token in &called {
            assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "{token} is in {name}");
        }
    }
}

/// A server may greet with the headers that it got.
#[tokio::test(flavor = "multi_thread")]
async fn i8_a_handshake_loses_the_credentials_that_the_backend_repeats() {
    let backend = BackendStub::start(|asked| {
        let instructions = echo(asked);
        let info = json!({"name": "far", "version": "1"});
        let hello = json!({"protocolVersion": "2025-11-25", "supportedVersions": ["2026-07-28"], "isError": true,
            "capabilities": {"tools": {}}, "serverInfo": info, "instructions": instructions});
        match asked.method() {
            "initialize" | "server/discover" => Some(result(asked, &hello.to_string())),
            _ => None,
        }
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        let key = setup.dir().join("api-key");
        write_secret(&key, KEY);
        setup.set("backends.far.header_file.X-Api-Key", key.to_str().unwrap());
    });
    for path in ["/mcp/far", "/mcp"] {
        for (era, method) in [(Era::Legacy, "initialize"), (Era::Modern, "server/discover")] {
            let client = Client::unconnected(&format!("{}{path}", gatepost.url()), era, Some(&token("admin")));
            let info = json!({"name": "c", "version": "1"});
            let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
            until_async("the backend has greeted", SOON, async || {
                let reply = client.request(method, params.clone()).await.unwrap();
                assert!(!reply.text.contains(KEY), "{path} {method}: {}", reply.text);
                reply.text.contains(REPLACED)
            })
            .await;
        }
    }
}
