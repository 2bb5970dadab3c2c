//! Backends that are called with tokens of a token server: the gateway's own, and those on behalf of callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::common::gatepost::{Gatepost, Setup, token, token_with, write_secret};
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, modern, result, usual};
use crate::token_server::{CLIENT, SECRET, TokenRequest, TokenServer, claims, issue, jwt, jwt_of, refuse};

/// The bearer token that a backend got.
pub fn bearer(asked: &ReceivedRequest) -> &str {
    asked.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
}

/// The subject of the bearer token that a backend got.
pub fn subject(asked: &ReceivedRequest) -> String {
    claims(bearer(asked))["sub"].as_str().unwrap_or_default().to_owned()
}

/// A gateway with one backend `far`, whose tokens come from `server`.
pub fn gateway(backend: &BackendStub, server: &TokenServer, change: impl FnOnce(&mut Setup)) -> (Setup, Gatepost) {
    backend.gateway(|setup| {
        server.serve(setup, "far");
        change(setup);
    })
}

pub fn on_behalf(setup: &mut Setup) {
    setup.set_toml("backends.far.oauth.on_behalf", "true");
}

pub fn subject_token(subject: &str) -> String {
    token_with(&json!({"sub": subject, "role": "admin"}))
}

pub fn caller(gatepost: &Gatepost, era: Era, token: &str) -> Client {
    Client::unconnected(&format!("{}/mcp/far", gatepost.url()), era, Some(token))
}

/// The records of calls, oldest first.
pub fn records(setup: &Setup) -> Vec<Value> {
    let shown = setup.command(&["audit", "query", "--method", "tools/call", "--json"]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    records.sort_by_key(|record| record["seq"].as_u64());
    records
}

/// The `context` of a record.
pub fn context(record: &Value) -> Value {
    let context = &record["context"];
    context.as_str().map_or_else(|| context.clone(), |text| serde_json::from_str(text).unwrap())
}

pub async fn done(client: &Client) {
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_requested_once_for_all_calls() {
    let backend = BackendStub::start(|_| None).await;
    for (auth, is_basic) in [("basic", true), ("post", false)] {
        let server = TokenServer::start(|_| None).await;
        let (setup, gatepost) = gateway(&backend, &server, |setup| {
            setup.set("backends.far.oauth.client_auth", auth).set("backends.far.oauth.scope", "read write");
            setup.set("backends.far.oauth.resource", "https://far.example/mcp");
        });
        backend.seen.lock().unwrap().clear();
        let client = caller(&gatepost, Era::Legacy, &token("admin"));
        let calls = (0..16).map(|_| done(&client));
        futures_util::future::join_all(calls).await;
        let requests = server.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        let TokenRequest { mut form, authorization } = requests[0].clone();
        // `printf 'gate:hunter2%3Asecret+of+the+client' | base64`
        let basic = "Basic Z2F0ZTpodW50ZXIyJTNBc2VjcmV0K29mK3RoZStjbGllbnQ=";
        assert_eq!(authorization.as_deref(), is_basic.then_some(basic));
        let secret = (form.remove("client_id"), form.remove("client_secret"));
        assert_eq!(secret.1.as_deref(), (!is_basic).then_some(SECRET));
        let want = [
            ("audience", "far"),
            ("grant_type", "client_credentials"),
            ("resource", "https://far.example/mcp"),
            ("scope", "read write"),
        ];
        assert!(form.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(want), "{form:?}");
        let issued = server.issued.lock().unwrap()[0].clone();
        let seen = backend.seen.lock().unwrap().clone();
        assert!(seen.iter().all(|asked| bearer(asked) == issued), "{seen:?}");
        let record = records(&setup).pop().unwrap();
        assert_eq!(context(&record)["credential"], json!({"name": "client_credentials", "subject": CLIENT}));
        assert_eq!(record["client_subject"], "tester");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_replaced_before_it_expires_with_the_secret_of_that_moment() {
    let backend = BackendStub::start(|_| None).await;
    let server = TokenServer::start(|_| Some(issue(&jwt(&json!({"sub": CLIENT})), 1))).await;
    let (setup, gatepost) = gateway(&backend, &server, |setup| {
        setup.set("backends.far.oauth.client_auth", "post");
    });
    let client = caller(&gatepost, Era::Legacy, &token("admin"));
    done(&client).await;
    let sent = || server.requests().last().unwrap().form["client_secret"].clone();
    assert_eq!(sent(), SECRET);
    write_secret(&setup.dir().join("client-secret"), "rotated");
    until_async("the new secret is used", SOON, async || {
        done(&client).await;
        sent() == "rotated"
    })
    .await;
}

/// Waits until the tokens that have been issued are replaced if they are rejected.
async fn tokens_are_old() {
    let begun = Instant::now();
    until_async("the tokens are ten seconds old", SOON, async || begun.elapsed() >= Duration::from_secs(10)).await;
}

/// Calls of `tool` at a backend that has revoked the first token, and rejects every token of a call of `bad`.
async fn rejected_calls(era: Era, tool: &str) {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let backend = BackendStub::start(move |asked| {
        let is_rejected = asked.message["params"]["name"] == "bad" || claims(bearer(asked))["jti"] == "issued-0";
        if asked.method() == "tools/call" && is_rejected {
            count.fetch_add(1, Ordering::SeqCst);
            return Some(StatusCode::UNAUTHORIZED.into_response());
        }
        if asked.method() == "tools/list" {
            let tools = ["t", "bad"].map(|name| json!({"name": name, "inputSchema": {"type": "object"}}));
            let list = json!({"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
            return Some(result(asked, &list.to_string()));
        }
        Some(if era == Era::Modern { modern(asked) } else { return None })
    })
    .await;
    let server = TokenServer::start(|_| None).await;
    let (setup, gatepost) = gateway(&backend, &server, |_| {});
    let client = caller(&gatepost, era, &token("admin"));
    let counts = || (refused.load(Ordering::SeqCst), server.requests().len());
    let fails = async || {
        let failed = client.call(tool, json!({})).await.unwrap();
        assert_eq!(failed.error_code(), -32012, "{}", failed.text);
    };
    for _ in 0..20 {
        fails().await;
    }
    assert_eq!(counts(), (20, 1), "a new token is not replaced, and no call is made again");
    tokens_are_old().await;
    if tool == "bad" {
        fails().await;
        assert_eq!(counts(), (22, 2), "each token once");
        fails().await;
        assert_eq!(counts(), (23, 2));
    } else {
        for _ in 0..2 {
            assert!(!client.call(tool, json!({})).await.unwrap().content().is_empty());
            assert_eq!(counts(), (21, 2), "the call was made again");
        }
    }
    let records = records(&setup);
    let last = if tool == "bad" { "error" } else { "ok" };
    assert_eq!((&records[0]["response_status"], &records[20]["response_status"]), (&json!("error"), &json!(last)));
    let reason = "backend far rejected the gateway's credential \"client_credentials\" with HTTP status 401";
    assert_eq!(records[0]["error_message"], reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_token_is_replaced_once_and_only_if_it_is_not_new() {
    let cases = [(Era::Legacy, "t"), (Era::Legacy, "bad"), (Era::Modern, "t"), (Era::Modern, "bad")];
    futures_util::future::join_all(cases.map(|(era, tool)| rejected_calls(era, tool))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_fails_fails_the_calls_of_its_backend_only() {
    let backend = BackendStub::start(|_| None).await;
    let elsewhere = TokenServer::start(|_| None).await;
    let (to, large) = (elsewhere.url.clone(), "x".repeat(64 * 1024 + 1));
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let servers = [
        ("refused", TokenServer::start(|_| Some(refuse(StatusCode::UNAUTHORIZED, "invalid_client", SECRET))).await),
        ("odd", TokenServer::start(|_| Some(refuse(StatusCode::BAD_REQUEST, SECRET, ""))).await),
        ("broken", TokenServer::start(|_| Some("<html>".into_response())).await),
        ("large", TokenServer::start(move |_| Some(large.clone().into_response())).await),
        ("other", TokenServer::start(|_| Some(r#"{"access_token":"t","token_type":"N_A"}"#.into_response())).await),
        (
            "moved",
            TokenServer::start(move |_| {
                Some((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to.clone())]).into_response())
            })
            .await,
        ),
        (
            "down",
            TokenServer { url: format!("http://{unused}/token?key=hunter2"), ..TokenServer::start(|_| None).await },
        ),
    ];
    let (setup, gatepost) = backend.gateway(|setup| {
        for (alias, server) in &servers {
            setup.set(&format!("backends.{alias}.url"), &backend.url);
            server.serve(setup, alias);
        }
    });
    let client = |alias: &str| {
        Client::unconnected(&format!("{}/mcp/{alias}", gatepost.url()), Era::Legacy, Some(&token("admin")))
    };
    for (alias, reason) in [
        ("refused", "refused the gateway's client credentials: HTTP status 401, invalid_client"),
        ("odd", "refused the gateway's client credentials: HTTP status 400"),
        ("broken", "sent an answer that cannot be used: it is not JSON"),
        ("large", "sent an answer that cannot be used: it is larger than 64 KiB"),
        ("other", "sent an answer that cannot be used: its token_type is not Bearer"),
        ("moved", "refused the gateway's client credentials: HTTP status 307"),
        ("down", "cannot be reached: cannot connect"),
    ] {
        let failed = client(alias).call("t", json!({})).await.unwrap();
        assert_eq!(failed.error_code(), -32012, "{}", failed.text);
        let message = failed.body["error"]["message"].as_str().unwrap();
        assert_eq!(message, format!("backend {alias} was not called: the gateway got no credential for it"));
        let record = records(&setup).pop().unwrap();
        assert_eq!((&record["response_status"], &record["backend_name"]), (&json!("error"), &json!(alias)));
        let recorded = record["error_message"].as_str().unwrap();
        let begin = format!("backend {alias} was not called: the token server http://127.0.0.1:");
        assert!(recorded.starts_with(&begin) && recorded.contains(reason), "{recorded}");
        assert_eq!(context(&record)["credential"], Value::Null, "none was used");
        assert!(!record.to_string().contains("hunter2"), "{record}");
        // Another backend goes on.
        done(&client("far")).await;
    }
    assert!(elsewhere.requests().is_empty(), "no redirect is followed");
    assert!(backend.seen("tools/call").iter().all(|asked| asked.header("authorization").is_none()));
    let log = setup.log();
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_is_exchanged_for_itself() {
    for era in [Era::Legacy, Era::Modern] {
        let sessions = AtomicUsize::new(0);
        let backend = BackendStub::start(move |asked| {
            Some(if era == Era::Modern { modern(asked) } else { usual(asked, &sessions) })
        })
        .await;
        let server = TokenServer::start(|_| None).await;
        let (setup, gatepost) = gateway(&backend, &server, on_behalf);
        let (ann, bob) = (subject_token("ann"), subject_token("bob"));
        // Without a session.
        for text in [&ann, &bob, &ann] {
            assert!(caller(&gatepost, era, text).call("t", json!({})).await.unwrap().body.get("result").is_some());
        }
        let calls = backend.seen("tools/call");
        let subjects: Vec<Value> = calls.iter().map(|asked| claims(bearer(asked))["sub"].clone()).collect();
        assert_eq!(subjects, ["ann", "bob", "ann"]);
        if era == Era::Legacy {
            let session = |idx: usize| calls[idx].header("mcp-session-id").unwrap();
            assert!(session(0) != session(1) && session(0) == session(2), "one conversation for each principal");
            // Another token of the same principal may have other rights.
            let again = token_with(&json!({"sub": "ann", "role": "admin", "jti": "2"}));
            done(&caller(&gatepost, era, &again)).await;
            let last = backend.seen("tools/call").pop().unwrap();
            assert!(last.header("mcp-session-id") != Some(session(0)) && bearer(&last) != bearer(&calls[0]));
            // In a session, a list and a call.
            let client = gatepost.client_at("/mcp/far", era, "admin").await;
            client.request("tools/list", json!({})).await.unwrap().result();
            done(&client).await;
        }
        let exchanges: Vec<_> = server.requests().into_iter().filter(TokenRequest::is_exchange).collect();
        let of_ann: Vec<_> = exchanges.iter().filter(|request| request.form["subject_token"] == ann).collect();
        assert_eq!(of_ann.len(), 1, "exchanged once");
        assert_eq!((&*of_ann[0].form["audience"], of_ann[0].caller()["sub"].as_str()), ("far", Some("ann")));
        for asked in backend.seen.lock().unwrap().iter() {
            let got = claims(bearer(asked));
            assert_eq!(got["aud"], "far", "never the caller's own: {got}");
            assert!(asked.method() != "tools/call" || got["sub"] != CLIENT, "nor the gateway's, for a call: {asked:?}");
        }
        for (record, subject) in records(&setup).iter().zip(["ann", "bob", "ann"]) {
            assert_eq!(record["client_subject"], subject);
            assert_eq!(context(record)["credential"], json!({"name": "exchange", "subject": subject}));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_requests_have_its_own_token() {
    let backend = BackendStub::start(|_| None).await;
    let server = TokenServer::start(|_| None).await;
    let (_setup, gatepost) = gateway(&backend, &server, |setup| {
        on_behalf(setup);
        setup.set("backends.far.probe_interval", "1s");
    });
    until_async("the gateway has looked", SOON, async || !backend.seen("tools/list").is_empty()).await;
    for asked in backend.seen.lock().unwrap().iter() {
        assert_eq!(claims(bearer(asked))["sub"], CLIENT);
    }
    let client = caller(&gatepost, Era::Legacy, &subject_token("ann"));
    client.request("tools/list", json!({})).await.unwrap().result();
    until_async("ann's list is read with her token", SOON, async || {
        backend.seen("tools/list").iter().any(|asked| claims(bearer(asked))["sub"] == "ann")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_a_token_to_exchange_is_refused() {
    let backend = BackendStub::start(|_| None).await;
    let server = TokenServer::start(|_| None).await;
    let (setup, gatepost) = gateway(&backend, &server, |setup| {
        on_behalf(setup);
        let hash = gatepost::auth::static_tokens::hash("a-static-token-of-a-script");
        let path = setup.dir().join("tokens.toml");
        write_secret(&path, format!("[[tokens]]\nsha256 = \"{hash}\"\nsubject = \"script\"\nroles = [\"admin\"]\n"));
        setup.set("auth.tokens_file", path.to_str().unwrap());
    });
    for era in [Era::Legacy, Era::Modern] {
        let client = caller(&gatepost, era, "a-static-token-of-a-script");
        let refused = client.call("t", json!({})).await.unwrap();
        assert!(refused.text.contains("use the token of an issuer instead of a static token"), "{}", refused.text);
        let record = records(&setup).pop().unwrap();
        assert_eq!(record["response_status"], "denied");
        assert_eq!(record["decided_by"], "backends.far.oauth.on_behalf");
        let method = if era == Era::Legacy { "initialize" } else { "server/discover" };
        for method in ["tools/list", method] {
            let refused = client.request(method, json!({})).await.unwrap();
            assert!(refused.text.contains("use the token of an issuer"), "{method}: {}", refused.text);
        }
    }
    // For the record, the gateway itself has read the list.
    assert!(backend.seen("tools/call").is_empty() && backend.seen("initialize").len() <= 1);
    assert!(!server.requests().iter().any(TokenRequest::is_exchange));
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_on_the_exchange_are_refused_and_recorded() {
    let backend = BackendStub::start(|_| None).await;
    let elsewhere = TokenServer::start(|_| None).await;
    let to = elsewhere.url.clone();
    let servers = [
        ("eve", TokenServer::start(|_| Some(issue(&jwt(&json!({"sub": "eve"})), 300))).await),
        ("same", TokenServer::start(|request| Some(issue(request.form.get("subject_token")?, 300))).await),
        (
            "moved",
            TokenServer::start(move |_| {
                Some((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to.clone())]).into_response())
            })
            .await,
        ),
        (
            "no",
            TokenServer::start(|_| Some(refuse(StatusCode::BAD_REQUEST, "invalid_target", "no such audience"))).await,
        ),
        // JWTs of eve, written so that their subject is easily missed.
        ("without", TokenServer::start(|_| Some(issue(&jwt(&json!({"user": "eve"})), 300))).await),
        ("number", TokenServer::start(|_| Some(issue(&jwt(&json!({"sub": 7})), 300))).await),
        ("twice", TokenServer::start(|_| Some(issue(&jwt_of(r#"{"sub":"ann","sub":"eve"}"#), 300))).await),
        ("padded", TokenServer::start(|_| Some(issue("e30.eyJzdWIiOiJldmUifQ==.c2lnbmF0dXJl", 300))).await),
    ];
    let (setup, gatepost) = backend.gateway(|setup| {
        for (alias, server) in &servers {
            setup.set(&format!("backends.{alias}.url"), &backend.url);
            server.serve(setup, alias);
            setup.set_toml(&format!("backends.{alias}.oauth.on_behalf"), "true");
        }
    });
    let ann = subject_token("ann");
    for (alias, reason) in [
        ("eve", "answered with a token of another subject than the caller's: \"eve\""),
        ("same", "its token is the caller's own"),
        ("moved", "refused the exchange of the caller's token: HTTP status 307"),
        ("no", "refused the exchange of the caller's token: HTTP status 400, invalid_target"),
        ("without", "its access_token is a JWT without exactly one string \"sub\""),
        ("number", "its access_token is a JWT without exactly one string \"sub\""),
        ("twice", "its access_token is a JWT without exactly one string \"sub\""),
        ("padded", "answered with a token of another subject than the caller's: \"eve\""),
    ] {
        for era in [Era::Legacy, Era::Modern] {
            let client = Client::unconnected(&format!("{}/mcp/{alias}", gatepost.url()), era, Some(&ann));
            let failed = client.call("t", json!({})).await.unwrap();
            assert_eq!(failed.error_code(), -32012, "{}", failed.text);
            let record = records(&setup).pop().unwrap();
            assert_eq!((&record["response_status"], &record["client_subject"]), (&json!("error"), &json!("ann")));
            assert!(record["error_message"].as_str().unwrap().contains(reason), "{record}");
            assert_eq!(context(&record)["credential"], Value::Null, "none was used");
        }
    }
    assert!(backend.seen("tools/call").is_empty());
    let sent: Vec<_> = backend.seen.lock().unwrap().iter().map(|asked| bearer(asked).to_owned()).collect();
    assert!(!sent.contains(&ann), "the backend got no token of the caller");
    assert!(elsewhere.requests().is_empty(), "the caller's token was sent nowhere else");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchanged_token_ends_with_the_callers() {
    let backend = BackendStub::start(|_| None).await;
    let server = TokenServer::start(|_| None).await;
    let (_setup, gatepost) = gateway(&backend, &server, |setup| {
        on_behalf(setup);
        setup.set("auth.leeway", "0s");
    });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let stolen = token_with(&json!({"sub": "ann", "role": "admin", "exp": now + 3}));
    let client = caller(&gatepost, Era::Legacy, &stolen);
    done(&client).await;
    until_async("the token has expired", SOON, async || client.call("t", json!({})).await.unwrap().status == 401).await;
    let before = backend.seen.lock().unwrap().len();
    assert_eq!(client.call("t", json!({})).await.unwrap().status, 401);
    assert_eq!(backend.seen.lock().unwrap().len(), before, "the exchanged one is valid for minutes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_one_backend_is_never_sent_to_another() {
    let (near, far) = (BackendStub::start(|_| None).await, BackendStub::start(|_| None).await);
    let server = TokenServer::start(|_| None).await;
    let (_setup, gatepost) = gateway(&far, &server, |setup| {
        on_behalf(setup);
        setup.set("backends.near.url", &near.url);
        server.serve(setup, "near");
        setup.set_toml("backends.near.oauth.on_behalf", "true");
    });
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::connect(&format!("{}/mcp", gatepost.url()), era, Some(&subject_token("ann"))).await;
        for tool in ["near__t", "far__t"] {
            assert_eq!(client.call(tool, json!({})).await.unwrap().content(), "done");
        }
    }
    for (backend, audience) in [(&near, "near"), (&far, "far")] {
        for asked in backend.seen.lock().unwrap().iter() {
            assert_eq!(claims(bearer(asked))["aud"], audience, "{asked:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_no_token_is_in_a_log_a_record_or_a_metric() {
    let backend = BackendStub::start(|asked| {
        let is_bad = asked.method() == "tools/call" && asked.message["params"]["name"] == "bad";
        is_bad.then(|| (StatusCode::UNAUTHORIZED, "no").into_response())
    })
    .await;
    let server = TokenServer::start(|request| {
        let is_eve = request.is_exchange() && request.caller()["sub"] == "eve";
        let description = request.form.get("subject_token").cloned().unwrap_or_default();
        is_eve.then(|| refuse(StatusCode::BAD_REQUEST, "invalid_grant", &description))
    })
    .await;
    let (setup, gatepost) = gateway(&backend, &server, |setup| {
        on_behalf(setup);
        setup.set("log.filter", "trace").set("backends.far.probe_interval", "1s");
    });
    let callers = ["ann", "eve"].map(subject_token);
    for text in &callers {
        for era in [Era::Legacy, Era::Modern] {
            let client = caller(&gatepost, era, text);
            for tool in ["t", "bad"] {
                client.call(tool, json!({})).await.unwrap();
            }
        }
    }
    let metrics = gatepost.get_ops("/metrics").1;
    let shown = setup.command(&["audit", "query", "--json"]).output().unwrap();
    assert_eq!(gatepost.terminate(), Some(0));
    let mut outputs =
        vec![("log", setup.log().into_bytes()), ("metrics", metrics.into_bytes()), ("query", shown.stdout)];
    for entry in std::fs::read_dir(setup.audit_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            outputs.push(("outbox", std::fs::read(path).unwrap()));
        }
    }
    let issued = server.issued.lock().unwrap().clone();
    assert!(issued.len() >= 2, "{issued:?}");
    // The payloads: their beginnings are those of all tokens.
    let secrets = callers.iter().chain(&issued).map(|token| token.split('.').nth(1).unwrap().to_owned());
    let secrets: Vec<String> = secrets.chain([SECRET.to_owned()]).collect();
    for (name, bytes) in &outputs {
        for secret in &secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_token_server_is_waited_for_until_its_limit_or_the_clients() {
    let backend = BackendStub::start(|_| None).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", silent.local_addr().unwrap());
    let server = TokenServer { url, ..TokenServer::start(|_| None).await };
    let (setup, gatepost) = gateway(&backend, &server, |_| {});
    let client = caller(&gatepost, Era::Modern, &token("admin"));
    let gone = tokio::time::timeout(Duration::from_millis(500), client.call("t", json!({}))).await;
    assert!(gone.is_err());
    let status = |status: &str| records(&setup).last().is_some_and(|record| record["response_status"] == status);
    until_async("the cancelled call is recorded", SOON, async || status("cancelled")).await;
    assert_eq!(client.call("t", json!({})).await.unwrap().error_code(), -32012);
    let record = records(&setup).pop().unwrap();
    let message = record["error_message"].as_str().unwrap();
    assert!(message.contains("the token server http://127.0.0.1:") && message.ends_with("within 10 s"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_in_a_call_is_of_the_subject_that_is_recorded() {
    let backend = BackendStub::start(|asked| {
        let is_first = asked.method() == "tools/call" && claims(bearer(asked))["sub"] == "pairwise-1";
        is_first.then(|| StatusCode::UNAUTHORIZED.into_response())
    })
    .await;
    let count = AtomicUsize::new(0);
    let server = TokenServer::start(move |request| {
        let subject = || format!("pairwise-{}", 1 + count.fetch_add(1, Ordering::SeqCst));
        request.is_exchange().then(|| issue(&jwt(&json!({"sub": subject()})), 300))
    })
    .await;
    let (setup, gatepost) = gateway(&backend, &server, |setup| {
        on_behalf(setup);
        setup.set_toml("backends.far.oauth.same_subject", "false");
    });
    let client = caller(&gatepost, Era::Legacy, &subject_token("ann"));
    // A new token is not replaced.
    assert_eq!(client.call("t", json!({})).await.unwrap().error_code(), -32012);
    tokens_are_old().await;
    assert_eq!(client.call("t", json!({})).await.unwrap().error_code(), -32012);
    done(&client).await;
    let records = records(&setup);
    let of = |idx: usize| (records[idx]["response_status"].clone(), context(&records[idx])["credential"].clone());
    for idx in 0..2 {
        assert_eq!(of(idx), (json!("error"), json!({"name": "exchange", "subject": "pairwise-1"})));
    }
    assert_eq!(of(2), (json!("ok"), json!({"name": "exchange", "subject": "pairwise-2"})));
    let subjects =
        backend.seen("tools/call").iter().map(|asked| claims(bearer(asked))["sub"].clone()).collect::<Vec<_>>();
    assert_eq!(subjects, ["pairwise-1", "pairwise-1", "pairwise-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_forgets_the_tokens_on_behalf_of_callers() {
    let backend = BackendStub::start(|_| None).await;
    let server = TokenServer::start(|_| None).await;
    let (mut setup, gatepost) = gateway(&backend, &server, on_behalf);
    let client = caller(&gatepost, Era::Legacy, &subject_token("ann"));
    let exchanges = || server.requests().into_iter().filter(TokenRequest::is_exchange).count();
    done(&client).await;
    done(&client).await;
    assert_eq!(exchanges(), 1);
    setup.role("other", &["example/*"]);
    setup.config_file();
    gatepost.signal(nix::sys::signal::Signal::SIGHUP);
    until_async("the token is exchanged again", SOON, async || {
        done(&client).await;
        exchanges() == 2
    })
    .await;
}
