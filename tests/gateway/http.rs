//! The gateway over HTTP, in this process, in front of the real `example-backend`: both eras, and the replies to bad
//! input.

use std::collections::BTreeMap;
use std::time::Duration;

use gatepost::audit::Audit;
use gatepost::auth::{Claims, mint};
use gatepost::config::{self, Config};
use gatepost::gateway::drain::DrainReport;
use gatepost::gateway::{Gateway, Handle};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

struct Running {
    base: String,
    client: reqwest::Client,
    handle: Handle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<DrainReport>>,
    _secret: tempfile::NamedTempFile,
}

struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {} {:?}", self.status, self.text))
    }

    fn code(&self) -> i64 {
        self.json()["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
    }
}

impl Running {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), SECRET).unwrap();
        let backend = |command: &[&str]| config::Backend {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            call_timeout: Duration::from_secs(20),
            ..config::Backend::default()
        };
        let role = |allow: &[&str]| config::Role {
            allow: allow.iter().map(|&pattern| pattern.to_owned()).collect(),
            ..config::Role::default()
        };
        let mut config = Config {
            backends: BTreeMap::from([
                ("example".to_owned(), backend(&[env!("CARGO_BIN_EXE_gatepost"), "example-backend"])),
                ("dead".to_owned(), backend(&["/nonexistent/program"])),
            ]),
            roles: BTreeMap::from([("admin".to_owned(), role(&["*/*"])), ("echo".to_owned(), role(&["example/echo"]))]),
            ..Config::default()
        };
        config.auth.keys.push(config::Key {
            kid: None,
            algorithm: "HS256".to_owned(),
            issuer: "test".to_owned(),
            secret_file: Some(secret.path().to_owned()),
            secret_env: None,
            public_key_file: None,
        });
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let gateway = Gateway::build(&config, Audit::disabled(), &gatepost::walls::Launcher::direct()).unwrap();
        let (handle, stop) = (gateway.handle(), CancellationToken::new());
        let task = tokio::spawn(gateway.run(listener, stop.clone()));
        Self { base, client: reqwest::Client::new(), handle, stop, task, _secret: secret }
    }

    async fn end(self) -> DrainReport {
        self.stop.cancel();
        self.task.await.unwrap().unwrap()
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    async fn post(&self, path: &str, role: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let bearer = format!("Bearer {}", token("ann", role));
        let mut all = vec![("content-type", "application/json"), ("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        self.send(Method::POST, path, &all, body).await
    }

    async fn legacy(&self, path: &str, role: &str, method: &str, params: &str) -> Answer {
        self.post(path, role, &[], &request(method, params)).await
    }

    async fn modern(&self, path: &str, role: &str, method: &str, mut params: Value) -> Answer {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let name = params["name"].as_str().unwrap_or("-").to_owned();
        let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", method), ("mcp-name", name.as_str())];
        self.post(path, role, &headers, &request(method, &params.to_string())).await
    }
}

fn token(subject: &str, role: &str) -> String {
    let claims = Claims {
        subject: subject.to_owned(),
        issuer: "test".to_owned(),
        audience: "gatepost".to_owned(),
        role_claim: "role".to_owned(),
        roles: vec![role.to_owned()],
        scope: None,
        kid: None,
        valid_for: Duration::from_mins(10),
    };
    mint(SECRET, &claims).unwrap()
}

fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":"r1","method":"{method}","params":{params}}}"#)
}

fn names(list: &Value) -> Vec<&str> {
    list["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

/// What a client says when it opens a session.
const HELLO: &str = r#"{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"test","version":"1"}}"#;

const ECHO: &str = r#"{"name":"echo","arguments":{"text":"hi"}}"#;

#[tokio::test]
async fn a_legacy_client_initializes_lists_calls_and_leaves() {
    let gateway = Running::start(|_| {}).await;
    let hello = gateway.legacy("/mcp/example", "admin", "initialize", HELLO).await;
    assert_eq!(hello.json()["result"]["protocolVersion"], "2025-06-18");
    let session = hello.header("mcp-session-id").to_owned();
    let in_session = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-06-18")];

    let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    assert_eq!(gateway.post("/mcp/example", "admin", &in_session, note).await.status, StatusCode::ACCEPTED);
    let ping = gateway.post("/mcp/example", "admin", &in_session, r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#).await;
    assert_eq!((ping.status, &ping.json()["id"]), (StatusCode::OK, &json!(7)));

    let list = gateway.post("/mcp/example", "admin", &in_session, &request("tools/list", "{}")).await.json();
    let mut listed = names(&list);
    listed.sort_unstable();
    assert_eq!(listed, ["add", "big", "echo", "fail", "sleep"]);

    let called = gateway.post("/mcp/example", "admin", &in_session, &request("tools/call", ECHO)).await;
    assert_eq!(called.json()["result"]["content"][0]["text"], "hi");
    assert_eq!(called.json()["result"]["_meta"]["io.gatepost/request_id"], called.header("x-request-id"));
    assert_eq!(called.json()["id"], "r1");

    let bearer = format!("Bearer {}", token("ann", "admin"));
    let leave = [("authorization", bearer.as_str()), ("mcp-session-id", session.as_str())];
    assert_eq!(gateway.send(Method::DELETE, "/mcp/example", &leave, "").await.status, StatusCode::NO_CONTENT);
    let gone = gateway.post("/mcp/example", "admin", &in_session, &request("tools/call", ECHO)).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    gateway.end().await;
}

#[tokio::test]
async fn a_session_is_refused_to_another_principal() {
    let gateway = Running::start(|_| {}).await;
    let hello = gateway.legacy("/mcp", "admin", "initialize", r#"{"protocolVersion":"2025-11-25"}"#).await;
    let bearer = format!("Bearer {}", token("bob", "admin"));
    let stolen = [
        ("content-type", "application/json"),
        ("authorization", bearer.as_str()),
        ("mcp-session-id", hello.header("mcp-session-id")),
    ];
    let answer = gateway.send(Method::POST, "/mcp", &stolen, &request("tools/list", "{}")).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    gateway.end().await;
}

#[tokio::test]
async fn a_modern_client_discovers_lists_and_calls() {
    let gateway = Running::start(|_| {}).await;
    let found = gateway.modern("/mcp", "admin", "server/discover", json!({})).await.json();
    assert_eq!(found["result"]["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(found["result"]["resultType"], "complete");

    let list = gateway.modern("/mcp", "admin", "tools/list", json!({})).await.json();
    assert!(names(&list).iter().all(|name| name.starts_with("example__")), "{list}");
    assert_eq!((&list["result"]["cacheScope"], &list["result"]["ttlMs"]), (&json!("private"), &json!(0)));

    let call = json!({ "name": "example__add", "arguments": { "a": 1, "b": 2 } });
    let sum = gateway.modern("/mcp", "admin", "tools/call", call).await.json();
    assert_eq!(sum["result"]["content"][0]["text"], "3");
    assert_eq!(sum["result"]["resultType"], "complete");

    let unknown = gateway.modern("/mcp", "admin", "tasks/get", json!({})).await;
    assert_eq!((unknown.status, unknown.code()), (StatusCode::NOT_FOUND, -32601));
    let nothing = gateway.modern("/mcp", "admin", "prompts/get", json!({})).await;
    assert_eq!((nothing.status, nothing.code()), (StatusCode::BAD_REQUEST, -32602));
    let ping = gateway.modern("/mcp", "admin", "ping", json!({})).await;
    assert_eq!(ping.status, StatusCode::NOT_FOUND);
    gateway.end().await;
}

#[tokio::test]
async fn modern_headers_that_differ_from_the_body_are_refused() {
    let gateway = Running::start(|_| {}).await;
    let meta = |version: &str| {
        let meta = json!({ "io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {} });
        request("tools/call", &json!({ "name": "echo", "arguments": {}, "_meta": meta }).to_string())
    };
    let headers = |version, name| [("mcp-protocol-version", version), ("mcp-method", "tools/call"), ("mcp-name", name)];
    let wrong = gateway.post("/mcp/example", "admin", &headers("2026-07-28", "add"), &meta("2026-07-28")).await;
    assert_eq!((wrong.status, wrong.code()), (StatusCode::BAD_REQUEST, -32020));
    let future = gateway.post("/mcp/example", "admin", &headers("2030-01-01", "echo"), &meta("2030-01-01")).await;
    assert_eq!((future.status, future.code()), (StatusCode::BAD_REQUEST, -32022));
    assert_eq!(future.json()["error"]["data"]["supported"][0], "2026-07-28");
    assert_eq!(future.json()["error"]["data"]["requested"], "2030-01-01");
    gateway.end().await;
}

#[tokio::test]
async fn a_restricted_caller_sees_and_calls_only_what_its_role_allows() {
    let gateway = Running::start(|_| {}).await;
    let list = gateway.legacy("/mcp", "echo", "tools/list", "{}").await.json();
    assert_eq!(names(&list), ["example__echo"]);
    let echoed = gateway.legacy("/mcp/example", "echo", "tools/call", ECHO).await;
    assert_eq!(echoed.json()["result"]["content"][0]["text"], "hi");
    for (path, name) in [
        ("/mcp/example", "add"),
        ("/mcp", "example__add"),
        // What does not exist is denied in the same words.
        ("/mcp/example", "missing"),
        ("/mcp/missing", "echo"),
        ("/mcp", "missing__echo"),
    ] {
        let denied = gateway.legacy(path, "echo", "tools/call", &format!(r#"{{"name":"{name}"}}"#)).await;
        assert_eq!((denied.status, denied.code()), (StatusCode::OK, -32003), "{path} {name}");
    }
    let list = gateway.legacy("/mcp", "nobody", "tools/list", "{}").await.json();
    assert!(names(&list).is_empty());
    gateway.end().await;
}

#[tokio::test]
async fn a_token_without_the_demanded_scope_gets_403() {
    let gateway = Running::start(|config| config.auth.required_scope = Some("mcp".to_owned())).await;
    let answer = gateway.legacy("/mcp/example", "admin", "tools/call", ECHO).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.header("www-authenticate").contains(r#"error="insufficient_scope", scope="mcp""#));
    gateway.end().await;
}

#[tokio::test]
async fn invalid_messages_are_refused_with_the_broken_rule() {
    let gateway = Running::start(|config| config.server.body_bytes_max = 1000).await;
    let call = |params: &str| request("tools/call", params);
    let cases = [
        ("{".to_owned(), 400, -32700),
        (format!("[{}]", call(ECHO)), 400, -32600),
        (call(r#"{"name":"echo","name":"add"}"#), 400, -32600),
        (call(r#"{"name":"echo","arguments":{"text":"a","te\u0078t":"b"}}"#), 400, -32600),
        (call(r#"{"name":"echo","arguments":[]}"#), 400, -32602),
        (call(r#"{"arguments":{}}"#), 400, -32602),
        (call(r#"{"name":"echo","arguments":{"text":7,}}"#), 400, -32700),
        (format!(r#"{{"jsonrpc":"2.0","method":"tools/call","params":{ECHO}}}"#), 400, -32600),
        (call(&format!(r#"{{"name":"echo","arguments":{{"text":"{}"}}}}"#, "x".repeat(1000))), 413, -32600),
        (call(r#"{"name":"missing"}"#), 200, -32602),
        (request("prompts/list", "{}"), 200, -32601),
        (request("tasks/list", "{}"), 200, -32601),
    ];
    for (body, status, code) in cases {
        let answer = gateway.post("/mcp/example", "admin", &[], &body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{body}: {}", answer.text);
        assert!(!answer.header("x-request-id").is_empty());
    }
    let answer = gateway.legacy("/mcp", "admin", "tools/list", r#"{"cursor":"x"}"#).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::OK, -32602));
    let answer = gateway.legacy("/mcp/missing", "admin", "initialize", "{}").await;
    assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, -32602));
    let answer = gateway.legacy("/mcp/missing", "admin", "tools/call", ECHO).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, -32602));
    gateway.end().await;
}

#[tokio::test]
async fn requests_outside_mcp_are_refused() {
    let gateway = Running::start(|_| {}).await;
    let put = gateway.send(Method::PUT, "/mcp", &[], "").await;
    assert_eq!(put.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(put.header("allow").contains("POST") && put.header("allow").contains("DELETE"));
    assert_eq!(gateway.send(Method::GET, "/mcp", &[], "").await.status, StatusCode::UNAUTHORIZED);
    let body = request("tools/call", ECHO);
    for (header, status) in [
        (("host", "evil.example"), StatusCode::FORBIDDEN),
        (("origin", "https://evil.example"), StatusCode::FORBIDDEN),
        (("origin", "null"), StatusCode::FORBIDDEN),
        (("mcp-protocol-version", "1999-01-01"), StatusCode::BAD_REQUEST),
        (("mcp-session-id", "unknown"), StatusCode::NOT_FOUND),
    ] {
        let answer = gateway.post("/mcp/example", "admin", &[header], &body).await;
        assert_eq!(answer.status, status, "{header:?}: {}", answer.text);
    }
    let bearer = format!("Bearer {}", token("ann", "admin"));
    let send = async |content_type: &str| {
        let headers = [("content-type", content_type), ("authorization", bearer.as_str())];
        gateway.send(Method::POST, "/mcp/example", &headers, &body).await.status
    };
    assert_eq!(send("text/plain").await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(send("Application/JSON; Charset=UTF-8").await, StatusCode::OK);
    gateway.end().await;
}

#[tokio::test]
async fn tool_errors_and_backend_errors_have_different_statuses() {
    let gateway = Running::start(|_| {}).await;
    let fail = r#"{"name":"fail","arguments":{"message":"no"}}"#;
    let failed = gateway.legacy("/mcp/example", "admin", "tools/call", fail).await.json();
    assert_eq!((&failed["result"]["isError"], &failed["result"]["content"][0]["text"]), (&json!(true), &json!("no")));
    let wrong = gateway.legacy("/mcp/example", "admin", "tools/call", r#"{"name":"add","arguments":{}}"#).await;
    assert!(wrong.json()["error"].is_object() || wrong.json()["result"]["isError"] == json!(true), "{}", wrong.text);
    let dead = gateway.legacy("/mcp/dead", "admin", "tools/call", r#"{"name":"x"}"#).await;
    assert_eq!((dead.status, dead.code()), (StatusCode::OK, -32012));
    let echoed = gateway.legacy("/mcp/example", "admin", "tools/call", ECHO).await;
    assert_eq!(echoed.json()["result"]["content"][0]["text"], "hi");
    assert_eq!((gateway.handle.backends_up(), gateway.handle.backends_configured()), (1, 2));
    gateway.end().await;
}

#[tokio::test]
async fn i6_an_answer_that_is_too_long_fails_its_own_call_only() {
    let gateway = Running::start(|_| {}).await;
    let big = r#"{"name":"big","arguments":{"bytes":17000000}}"#;
    let answer = gateway.legacy("/mcp/example", "admin", "tools/call", big).await;
    assert_eq!(answer.code(), -32012, "{}", answer.text.len());
    let big = r#"{"name":"big","arguments":{"bytes":1000000}}"#;
    let answer = gateway.legacy("/mcp/example", "admin", "tools/call", big).await.json();
    assert_eq!(answer["result"]["content"][0]["text"].as_str().unwrap().len(), 1_000_000);
    gateway.end().await;
}

#[tokio::test]
async fn calls_run_concurrently_up_to_the_limit() {
    let gateway = Running::start(|config| config.server.calls_max = 1).await;
    let up = gateway.legacy("/mcp/example", "admin", "tools/call", ECHO).await;
    assert_eq!(up.status, StatusCode::OK);
    let slow = async {
        // Until it is the long call that has the one slot.
        let sleep = r#"{"name":"sleep","arguments":{"ms":30000}}"#;
        while gateway.legacy("/mcp/example", "admin", "tools/call", sleep).await.status != StatusCode::OK {}
    };
    tokio::pin!(slow);
    // The slot is taken when a second call is refused.
    loop {
        tokio::select! {
            () = &mut slow => panic!("the long call ended first"),
            answer = gateway.legacy("/mcp/example", "admin", "tools/call", ECHO) => {
                if answer.status == StatusCode::TOO_MANY_REQUESTS {
                    assert_eq!(answer.code(), -32011);
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_legacy_client_cancels_only_its_own_call() {
    let gateway = Running::start(|_| {}).await;
    let hello = async || {
        let hello = gateway.legacy("/mcp/example", "admin", "initialize", HELLO).await;
        hello.header("mcp-session-id").to_owned()
    };
    let (mine, other) = (hello().await, hello().await);
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"r1"}}"#;
    let sleep = request("tools/call", r#"{"name":"sleep","arguments":{"ms":30000}}"#);
    let in_mine = [("mcp-session-id", mine.as_str())];
    let slow = gateway.post("/mcp/example", "admin", &in_mine, &sleep);
    tokio::pin!(slow);
    while gateway.handle.calls_open() == 0 {
        tokio::select! {
            _ = &mut slow => panic!("the call ended by itself"),
            () = tokio::task::yield_now() => {}
        }
    }
    gateway.post("/mcp/example", "admin", &[("mcp-session-id", other.as_str())], cancel).await;
    gateway.legacy("/mcp/example", "admin", "ping", "{}").await;
    assert_eq!(gateway.handle.calls_open(), 1);
    gateway.post("/mcp/example", "admin", &in_mine, cancel).await;
    assert_eq!(slow.await.json()["error"]["message"], "backend example did not answer before the client cancelled");
}

#[tokio::test]
async fn only_a_modern_clients_disconnect_cancels_its_call() {
    let gateway = Running::start(|_| {}).await;
    gateway.legacy("/mcp/example", "admin", "tools/call", ECHO).await;
    let open = async |count: usize| {
        while gateway.handle.calls_open() != count {
            tokio::task::yield_now().await;
        }
    };
    let sleep = r#"{"name":"sleep","arguments":{"ms":19000}}"#;
    tokio::select! {
        _ = gateway.legacy("/mcp/example", "admin", "tools/call", sleep) => panic!("the call ended by itself"),
        () = open(1) => {}
    }
    tokio::select! {
        _ = gateway.modern("/mcp/example", "admin", "tools/call", serde_json::from_str(sleep).unwrap()) => panic!(),
        () = open(2) => {}
    }
    // The modern call ends long before its backend would answer; the legacy one goes on.
    tokio::time::timeout(Duration::from_secs(10), open(1)).await.unwrap();
    assert_eq!(gateway.handle.calls_open(), 1);
}

#[tokio::test]
async fn a_stop_cancels_open_calls_at_its_deadline() {
    let gateway = Running::start(|config| config.server.drain_timeout = Duration::from_millis(50)).await;
    gateway.legacy("/mcp/example", "admin", "tools/call", ECHO).await;
    let (handle, stop) = (gateway.handle.clone(), gateway.stop.clone());
    let slow = gateway.legacy("/mcp/example", "admin", "tools/call", r#"{"name":"sleep","arguments":{"ms":30000}}"#);
    let watch = async {
        while handle.calls_open() == 0 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = slow => assert_eq!(answer.code(), -32012),
        () = watch => {}
    }
    let drained = gateway.end().await;
    assert_eq!((drained.cancelled, drained.unrecorded), (1, 0));
}

#[tokio::test]
async fn a_stop_lets_open_calls_finish() {
    let gateway = Running::start(|_| {}).await;
    gateway.legacy("/mcp/example", "admin", "tools/call", ECHO).await;
    let (handle, stop) = (gateway.handle.clone(), gateway.stop.clone());
    let slow = gateway.legacy("/mcp/example", "admin", "tools/call", r#"{"name":"sleep","arguments":{"ms":300}}"#);
    let watch = async {
        while handle.calls_open() == 0 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = slow => assert_eq!(answer.json()["result"]["content"][0]["text"], "slept 300 ms"),
        () = watch => {}
    }
    assert_eq!(gateway.end().await.cancelled, 0);
}
