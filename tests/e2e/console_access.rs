//! Who may open the console, what its answers bear, and what it says to programs.

use crate::common::gatepost::{Gatepost, Setup, token, token_with};
use crate::common::mcp::Era;
use crate::common::postgres::Cluster;
use crate::common::postgres_control::stop_server;
use crate::common::wait::{SOON, until_async};
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

/// Talks to the operations listener as a browser that follows nothing would.
struct Visitor {
    client: Client,
    base: String,
}

impl Visitor {
    fn new(gatepost: &Gatepost) -> Self {
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { client, base: gatepost.ops_url.clone() }
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let response = self.ask(Method::GET, path, headers, "").await;
        (response.status(), response.text().await.unwrap())
    }

    async fn get_as(&self, path: &str, token: &str) -> (StatusCode, String) {
        self.get(path, &[("authorization", &format!("Bearer {token}"))]).await
    }

    async fn sign_in(&self, token: &str) -> Response {
        self.ask(Method::POST, "/console/sign-in", &[("origin", &self.base)], &format!("token={token}")).await
    }

    /// The cookie of a good sign-in, as it is sent back.
    async fn cookie(&self, token: &str) -> String {
        let response = self.sign_in(token).await;
        assert_eq!(
            (response.status(), &response.headers()["location"]),
            (StatusCode::SEE_OTHER, &"/console".parse().unwrap())
        );
        let set = response.headers()["set-cookie"].to_str().unwrap();
        assert!(set.ends_with("; Path=/console; HttpOnly; SameSite=Strict") && !set.contains(token), "{set}");
        set.split(';').next().unwrap().to_owned()
    }
}

const PROOF: &str = "/console/proof?id=1/1";

const PATHS: [&str; 6] =
    ["/console", "/console/live", "/console/record?id=1/1", PROOF, "/console/status", "/console/records"];

#[tokio::test]
async fn only_a_valid_token_with_the_role_opens_the_console() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let visitor = Visitor::new(&gatepost);
    let expired = token_with(&json!({"sub": "tester", "role": "auditor", "exp": 1_700_000_000}));
    let foreign = token_with(&json!({"sub": "tester", "role": "auditor", "aud": "another"}));
    for path in PATHS.into_iter().chain(["/console/docs/runbook"]) {
        let (status, shown) = visitor.get(path, &[]).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(!shown.contains("Pipeline") && !shown.contains("gateway/opened"), "{path}: {shown}");
        for (bad, status) in [
            (token("admin"), StatusCode::FORBIDDEN),
            (token("Auditor"), StatusCode::FORBIDDEN),
            (token(""), StatusCode::FORBIDDEN),
            (expired.clone(), StatusCode::UNAUTHORIZED),
            (foreign.clone(), StatusCode::UNAUTHORIZED),
            ("garbage".to_owned(), StatusCode::UNAUTHORIZED),
            (format!("{}x", token("auditor")), StatusCode::UNAUTHORIZED),
        ] {
            let (found, shown) = visitor.get_as(path, &bad).await;
            assert_eq!(found, status, "{path} {shown}");
            assert!(!shown.contains(&bad) && !shown.contains("Pipeline"), "{path}: {shown}");
            let form = visitor.sign_in(&bad).await;
            assert_eq!((form.status(), form.headers().get("set-cookie")), (status, None));
            assert!(!form.text().await.unwrap().contains(&bad));
        }
        let (status, shown) = visitor.get_as(path, &token("auditor")).await;
        // Without Postgres there are no proofs.
        let wanted = if path == PROOF { StatusCode::CONFLICT } else { StatusCode::OK };
        assert_eq!(status, wanted, "{path} {shown}");
    }
    let several = token_with(&json!({"sub": "tester", "role": ["admin", "auditor"]}));
    assert_eq!(visitor.get_as("/console", &several).await.0, StatusCode::OK);
    assert_eq!(gatepost.terminate(), Some(0));
    let log = setup.log();
    assert!(log.contains("console request refused") && !log.contains(&several), "{log}");
}

#[tokio::test]
async fn the_console_role_is_configurable() {
    let mut setup = Setup::new();
    setup.set("ops.console_role", "reviewer");
    let gatepost = setup.start();
    let visitor = Visitor::new(&gatepost);
    assert_eq!(visitor.get_as("/console", &token("auditor")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(visitor.get_as("/console", &token("reviewer")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_console_session_ends_with_sign_out_or_its_token() {
    let mut setup = Setup::new();
    // The leeway is for differences between clocks, and does not prolong a session.
    setup.set_toml("auth.leeway", "\"5m\"");
    let gatepost = setup.start();
    let visitor = Visitor::new(&gatepost);
    let cookie = visitor.cookie(&token("auditor")).await;
    let (status, shown) = visitor.get("/console", &[("cookie", &format!("other=1; {cookie}"))]).await;
    assert!(status == StatusCode::OK && shown.contains("Pipeline") && shown.contains("tester"), "{shown}");
    let (name, _) = cookie.split_once('=').unwrap();
    assert_eq!(visitor.get("/console", &[("cookie", &format!("{name}=0"))]).await.0, StatusCode::UNAUTHORIZED);
    let headers = [("origin", visitor.base.as_str()), ("cookie", cookie.as_str())];
    let out = visitor.ask(Method::POST, "/console/sign-out", &headers, "").await;
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(visitor.get("/console", &[("cookie", &cookie)]).await.0, StatusCode::UNAUTHORIZED);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let brief = visitor.cookie(&token_with(&json!({"sub": "tester", "role": "auditor", "exp": now + 3}))).await;
    let is_over = async || visitor.get("/console", &[("cookie", &brief)]).await.0 == StatusCode::UNAUTHORIZED;
    until_async("the session ends with its token", SOON, is_over).await;
}

/// The records in the outbox of a gateway that has stopped, oldest first.
fn records(setup: &Setup) -> Vec<Value> {
    let output = setup.command(&["outbox", "list", "--json", "--limit", "10000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn details(record: &Value) -> Value {
    serde_json::from_str(record["request_args"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn sign_ins_are_limited_and_each_is_recorded_or_counted() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let visitor = Visitor::new(&gatepost);
    visitor.cookie(&token("auditor")).await;
    let (mut limited, mut refused) = (0_u64, 0_u64);
    for number in 0..300 {
        match visitor.sign_in(&format!("wrong{number}")).await.status() {
            StatusCode::TOO_MANY_REQUESTS => limited += 1,
            StatusCode::UNAUTHORIZED => refused += 1,
            other => panic!("{other}"),
        }
    }
    // Sixty at once, and one more for each second that this takes.
    assert!((59..150).contains(&refused), "{refused}");
    assert_eq!(visitor.get_as("/console", "garbage").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(visitor.get_as("/console", &token("admin")).await.0, StatusCode::FORBIDDEN);
    let forged = [("origin", "http://evil.example")];
    assert_eq!(visitor.ask(Method::POST, "/console/sign-in", &forged, "token=x").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    let of = |method: &str, status: &str| -> Vec<&Value> {
        records.iter().filter(|record| record["method"] == method && record["response_status"] == status).collect()
    };
    let signed_in = of("console/sign-in", "ok");
    assert_eq!((signed_in.len(), &signed_in[0]["client_subject"]), (1, &json!("tester")));
    assert!(signed_in[0]["client_addr"].as_str().unwrap().starts_with("127.0.0.1:"), "{signed_in:?}");
    let counted = |status: &str| -> u64 {
        let counts = of("gateway/refusals", status).into_iter();
        counts.map(|record| details(record)["count"].as_u64().unwrap()).sum::<u64>()
    };
    let singles = |status: &str| (of("console/sign-in", status).len() + of("console/request", status).len()) as u64;
    assert_eq!(singles("rate_limited") + counted("rate_limited"), limited);
    assert_eq!(singles("unauthenticated") + counted("unauthenticated"), refused + 1);
    assert!((1..=20).contains(&singles("unauthenticated")), "{refused}");
    let forged = of("console/sign-in", "denied");
    assert!(forged.len() == 1 && forged[0]["error_message"].as_str().unwrap().contains("not sent by"), "{forged:?}");
    let denied = of("console/request", "denied");
    assert_eq!((denied.len(), &denied[0]["client_subject"]), (1, &json!("tester")));
    assert!(!serde_json::to_string(&records).unwrap().contains("wrong1"), "no token is in a record");
}

#[tokio::test]
async fn a_console_session_ends_when_its_role_or_its_token_is_withdrawn() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let mut setup = Setup::new();
    let tokens = setup.dir().join("tokens.toml");
    let list = |roles: &str| {
        let hash = gatepost::auth::static_tokens::hash(TOKEN);
        std::fs::write(&tokens, format!("[[tokens]]\nsha256 = {hash:?}\nsubject = \"ann\"\nroles = [{roles:?}]\n"))
            .unwrap();
        std::fs::set_permissions(&tokens, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    list("auditor");
    setup.set("auth.tokens_file", tokens.to_str().unwrap());
    let gatepost = setup.start();
    let visitor = Visitor::new(&gatepost);
    let (of_jwt, of_static) = (visitor.cookie(&token("auditor")).await, visitor.cookie(TOKEN).await);
    let status = async |cookie: &str| visitor.get("/console", &[("cookie", cookie)]).await.0;
    assert_eq!((status(&of_jwt).await, status(&of_static).await), (StatusCode::OK, StatusCode::OK));
    list("admin");
    let is_over = async || status(&of_static).await == StatusCode::UNAUTHORIZED;
    until_async("the session ends with the role of its static token", SOON, is_over).await;
    assert_eq!(status(&of_jwt).await, StatusCode::OK);
    setup.set("ops.console_role", "reviewer");
    setup.config_file();
    gatepost.signal(nix::sys::signal::Signal::SIGHUP);
    let is_over = async || status(&of_jwt).await == StatusCode::UNAUTHORIZED;
    until_async("the session ends with a reload that asks for another role", SOON, is_over).await;
    assert_eq!(visitor.get_as("/console", &token("reviewer")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_cookie_is_secure_behind_a_proxy_that_speaks_tls() {
    let mut setup = Setup::new();
    setup.set("ops.public_url", "https://ops.example");
    let gatepost = setup.start();
    let visitor = Visitor::new(&gatepost);
    let headers = [("host", "ops.example"), ("origin", "https://ops.example")];
    let form = format!("token={}", token("auditor"));
    let response = visitor.ask(Method::POST, "/console/sign-in", &headers, &form).await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let set = response.headers()["set-cookie"].to_str().unwrap();
    assert!(set.ends_with("; Path=/console; HttpOnly; SameSite=Strict; Secure"), "{set}");
}

#[tokio::test]
async fn forms_from_other_sites_and_hosts_are_refused() {
    let mut setup = Setup::new();
    setup.set_toml("ops.allowed_hosts", "[\"ops.example\"]");
    let gatepost = setup.start();
    let visitor = Visitor::new(&gatepost);
    let cookie = visitor.cookie(&token("auditor")).await;
    let form = format!("token={}", token("auditor"));
    for path in ["/console/sign-in", "/console/sign-out"] {
        for origin in ["http://evil.example", "null", "http://127.0.0.1", ""] {
            let headers = [("origin", origin), ("cookie", &cookie)];
            let headers = if origin.is_empty() { &headers[1..] } else { &headers };
            let response = visitor.ask(Method::POST, path, headers, &form).await;
            assert_eq!(
                (response.status(), response.headers().get("set-cookie")),
                (StatusCode::FORBIDDEN, None),
                "{origin}"
            );
        }
        assert_eq!(visitor.get(path, &[]).await.0, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(visitor.get("/console", &[("cookie", &cookie)]).await.0, StatusCode::OK, "nobody signed out");
    for (host, status) in [
        ("evil.example", StatusCode::FORBIDDEN),
        ("127.0.0.1.evil.example", StatusCode::FORBIDDEN),
        ("ops.example", StatusCode::OK),
        ("localhost:1", StatusCode::OK),
    ] {
        for path in ["/console", "/healthz", "/readyz", "/metrics"] {
            let found = visitor.get(path, &[("host", host), ("cookie", &cookie)]).await.0;
            assert_eq!(found, status, "{host} {path}");
        }
    }
}

fn is_guarded(headers: &HeaderMap) {
    let policy = headers["content-security-policy"].to_str().unwrap();
    let parts: Vec<&str> = policy.split("; ").collect();
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(parts.contains(&part), "{part} in {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
        ("referrer-policy", "same-origin"),
    ] {
        assert_eq!(headers[HeaderName::from_static(name)], value);
    }
}

#[tokio::test]
async fn every_console_response_has_security_headers() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let visitor = Visitor::new(&gatepost);
    let bearer = format!("Bearer {}", token("auditor"));
    for path in PATHS.iter().chain(&["/console/style.css", "/console/script.js", "/console/icon.svg"]) {
        for headers in [&[][..], &[("authorization", bearer.as_str())], &[("host", "evil.example")]] {
            let response = visitor.ask(Method::GET, path, headers, "").await;
            is_guarded(response.headers());
            let page = response.text().await.unwrap();
            let inline = ["style=", "onclick", "javascript:", "<style", "http://", "https://"];
            let found: Vec<_> = inline.iter().filter(|word| page.contains(**word)).collect();
            assert!(path.ends_with("svg") || found.is_empty(), "{path}: {found:?}");
        }
    }
    let long = visitor.sign_in(&"x".repeat(64 * 1024)).await;
    assert_eq!(long.status(), StatusCode::PAYLOAD_TOO_LARGE);
    is_guarded(long.headers());
    // The connection of what was not read to its end is closed.
    let visitor = Visitor::new(&gatepost);
    let (status, shown) = visitor.get_as("/console/records?limit=501", &token("auditor")).await;
    assert!(status == StatusCode::BAD_REQUEST && shown.contains("must be from 1 to 500"), "{shown}");
    assert_eq!(visitor.get("/console/nowhere", &[]).await.0, StatusCode::NOT_FOUND);
    assert_eq!(visitor.get_as("/console/docs/nowhere", &token("auditor")).await.0, StatusCode::NOT_FOUND);
}

const EVIL: &str = "</td><script>alert(document.domain)</script><img src=x onerror=alert(1)>\u{202e}";

#[tokio::test]
async fn searching_the_trail_escapes_records_and_is_recorded() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "echo").await;
    client.call("echo", json!({ "text": EVIL })).await.unwrap();
    client.call(EVIL, json!({})).await.unwrap();
    let visitor = Visitor::new(&gatepost);
    let auditor = token_with(&json!({"sub": "olga", "role": "auditor", "jti": "t-7"}));
    let (_, lines) = visitor.get_as("/console/records?method=tools/call", &auditor).await;
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // A tool that does not exist is named by the caller only.
    let claims = |record: &Value| record["request_extra"].as_str().is_some_and(|extra| extra.contains("<script>"));
    assert!(records.iter().any(|record| record["tool_name"] == "unknown" && claims(record)), "{lines}");
    let (_, page) = visitor.get_as("/console/trail?method=tools/call", &auditor).await;
    let id =
        |record: &Value| ["gateway_id", "epoch", "seq"].map(|key| record[key].to_string().replace('"', "")).join("/");
    let (_, detail) = visitor.get_as(&format!("/console/record?id={}", id(&records[0])), &auditor).await;
    for shown in [&page, &detail] {
        assert!(shown.contains("&lt;script&gt;alert(document.domain)") && shown.contains("\\u{202e}"), "{shown}");
        assert!(!shown.contains("<script>") && !shown.contains("<img") && !shown.contains('\u{202e}'));
    }
    let (_, reads) = visitor.get_as("/console/records?method=gateway/read", &auditor).await;
    let reads: Vec<Value> = reads.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let details = |read: &Value| -> Value { serde_json::from_str(read["request_args"].as_str().unwrap()).unwrap() };
    let commands: Vec<_> = reads.iter().map(|read| details(read)["command"].as_str().unwrap().to_owned()).collect();
    assert_eq!(commands, ["query", "query", "show"]);
    for read in &reads {
        assert_eq!(
            (&read["client_subject"], &read["client_role"], &read["token_id"]),
            (&json!("olga"), &json!("auditor"), &json!("t-7"))
        );
        assert_eq!((&details(read)["via"], &details(read)["from"]), (&json!("console"), &json!("outbox")));
    }
    assert_eq!(details(&reads[0])["filter"]["method"], "tools/call");
    let (_, page) = visitor.get_as("/console", &auditor).await;
    assert!(!page.contains("tools/call</td>"), "what was not asked for is not read");
}

/// The recorded reads of these commands, the oldest first: the command and the number of records.
async fn reads(visitor: &Visitor, auditor: &str, commands: &[&str]) -> Vec<(String, u64)> {
    let (_, reads) = visitor.get_as("/console/records?method=gateway/read&limit=500", auditor).await;
    let reads = reads.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let details = reads.map(|read| serde_json::from_str::<Value>(read["request_args"].as_str().unwrap()).unwrap());
    let told =
        details.map(|details| (details["command"].as_str().unwrap().to_owned(), details["rows"].as_u64().unwrap()));
    told.filter(|(command, _)| commands.contains(&&**command)).collect()
}

#[tokio::test]
async fn a_download_has_all_records_and_its_beginning_and_end_are_recorded() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let gatepost = setup.start();
    let (visitor, auditor) = (Visitor::new(&gatepost), token("auditor"));
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "echo").await;
    client.call("echo", json!({ "text": "=1+1" })).await.unwrap();
    let delivered = async || visitor.get_as("/console/records?tool=echo", &auditor).await.1.contains("=1+1");
    until_async("the call is in Postgres", SOON, delivered).await;
    let path = |format: &str| format!("/console/trail/export?tool=echo&format={format}");
    let (status, lines) = visitor.get_as(&path("jsonl"), &auditor).await;
    let line: Value = serde_json::from_str(lines.trim_end()).unwrap();
    assert_eq!((status, &line["request_args"]["text"]), (StatusCode::OK, &json!("=1+1")));
    let (_, csv) = visitor.get_as(&path("csv"), &auditor).await;
    assert!(csv.starts_with("gateway_id,") && csv.lines().count() == 2, "{csv}");
    for (query, says) in [("format=xml", "must be jsonl or csv"), ("format=csv&whom=x", "unknown parameter")] {
        let (status, said) = visitor.get_as(&format!("/console/trail/export?{query}"), &auditor).await;
        assert!(status == StatusCode::BAD_REQUEST && said.contains(says), "{status} {said}");
    }
    let (status, _) = visitor.get_as(&path("csv"), &token("echo")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let is_told = async || reads(&visitor, &auditor, &["export"]).await.len() == 4;
    until_async("the reads are in Postgres", SOON, is_told).await;
    let rows: Vec<_> = reads(&visitor, &auditor, &["export"]).await.into_iter().map(|(_, rows)| rows).collect();
    assert_eq!(rows, [0, 1, 0, 1]);
}

#[tokio::test]
async fn who_follows_the_trail_is_recorded_once_and_the_stream_ends_with_the_gateway() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let (visitor, auditor) = (Visitor::new(&gatepost), token("auditor"));
    let url = format!("{}/console/trail/live?method=tools/call", gatepost.ops_url);
    let follow = || reqwest::Client::new().get(&url).bearer_auth(&auditor).send();
    let mut stream = follow().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "echo").await;
    client.call("echo", json!({ "text": EVIL })).await.unwrap();
    let mut told = String::new();
    while !told.contains("event: rows") || !told.ends_with("\n\n") {
        told += std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap();
    }
    assert!(told.contains("data: <tr") && told.contains("&lt;script&gt;") && !told.contains("<script>"), "{told}");
    assert_eq!(reads(&visitor, &auditor, &["tail --follow"]).await, [("tail --follow".to_owned(), 0)]);
    let (status, _) = visitor.get_as("/console/trail/live", &token("echo")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, said) = visitor.get_as("/console/trail/export?format=csv", &auditor).await;
    assert!(status == StatusCode::CONFLICT && said.contains("gatepost outbox export"), "{said}");
    let mut others = Vec::new();
    for _ in 1..8 {
        others.push(follow().await.unwrap());
    }
    assert_eq!(follow().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE, "a ninth one");
    let ended = tokio::spawn(async move {
        let mut told = String::new();
        while let Ok(Some(chunk)) = stream.chunk().await {
            told += std::str::from_utf8(&chunk).unwrap();
        }
        told
    });
    assert_eq!(gatepost.terminate(), Some(0));
    assert!(ended.await.unwrap().contains("event: end\ndata: the gateway stops"));
}

#[tokio::test]
async fn without_postgres_the_console_shows_the_outbox() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let gatepost = setup.start();
    let (visitor, auditor) = (Visitor::new(&gatepost), token("auditor"));
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "echo").await;
    client.call("echo", json!({ "text": "before" })).await.unwrap();
    let delivered = async || visitor.get_as("/console/records?args=before", &auditor).await.1.contains("before");
    until_async("the call is in Postgres", SOON, delivered).await;
    stop_server(&mut cluster);
    client.call("echo", json!({ "text": "meanwhile" })).await.unwrap();
    let noticed = async || visitor.get_as("/console/live", &auditor).await.1.contains("is not accepting records");
    until_async("the console says that Postgres is down", SOON, noticed).await;
    let (status, page) = visitor.get_as("/console/trail?args=meanwhile", &auditor).await;
    assert!(
        status == StatusCode::OK && page.contains("Postgres cannot be read") && page.contains("from the outbox"),
        "{page}"
    );
    let (status, lines) = visitor.get_as("/console/records?args=meanwhile", &auditor).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "a program is not given a part for the whole: {lines}");
    let (_, status) = visitor.get_as("/console/status", &auditor).await;
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["trail"]["postgres"]["state"], "retrying");
    cluster.restart();
    let delivered = async || visitor.get_as("/console/records?args=meanwhile", &auditor).await.1.contains("meanwhile");
    until_async("what waited is in Postgres", SOON, delivered).await;
}
