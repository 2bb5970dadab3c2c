//! Refusals in the trail: each is recorded or counted once, and no caller that is refused fills the outbox or takes the
//! room of calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gatepost::audit::outbox::Reader;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::record::{Entry, Status};
use serde_json::{Value, json};

use crate::common::flood::{Answered, Flood};
use crate::common::gatepost::{Gatepost, Setup, token, token_with};
use crate::common::mcp::{Client, Era};
use crate::common::stored_records::stored_records;

/// Requests of one flood. *Chosen*: some hundred times as many as get a record of their own.
const REQUESTS: usize = 4_000;

/// Connections of one flood.
const CONNECTIONS: usize = 4;

fn records(setup: &Setup) -> Vec<Entry> {
    let reader = Reader::offline(Arc::new(DiskFs), &setup.audit_dir()).unwrap();
    stored_records(&reader).into_iter().map(|record| record.entry).collect()
}

/// The size of the outbox's files.
fn outbox_bytes(setup: &Setup) -> u64 {
    let files = std::fs::read_dir(setup.audit_dir()).unwrap().map(|file| file.unwrap());
    let outbox = files.filter(|file| file.file_name().to_string_lossy().starts_with("outbox-"));
    outbox.map(|file| file.metadata().unwrap().len()).sum()
}

fn details(entry: &Entry) -> Value {
    serde_json::from_str(entry.call.request_args.as_deref().unwrap_or("null")).unwrap()
}

/// The refusals in the trail: those with a record of their own, those that windows counted, and those that gaps
/// counted.
fn refusals(records: &[Entry]) -> (u64, u64, u64) {
    let is_refusal = |entry: &&Entry| {
        let refused = [Status::Denied, Status::Malformed, Status::Unauthenticated, Status::RateLimited];
        refused.contains(&entry.response_status)
    };
    let refused: Vec<_> = records.iter().filter(is_refusal).collect();
    let (counted, single): (Vec<_>, Vec<_>) =
        refused.into_iter().partition(|entry| entry.call.method == "gateway/refusals");
    let counted = counted.iter().map(|entry| details(entry)["count"].as_u64().unwrap()).sum();
    let gaps = records.iter().filter(|entry| entry.call.method == "gateway/gap");
    let gaps = gaps.map(|entry| details(entry)["refused"].as_u64().unwrap()).sum();
    (single.len() as u64, counted, gaps)
}

/// A flood beside an authorized client; gives what was answered, and how many of the client's calls were.
async fn flooded(gatepost: &Gatepost, token: Option<&str>) -> (Answered, u64) {
    let is_over = Arc::new(AtomicBool::new(false));
    let client = gatepost.client(Era::Modern, "admin").await;
    let calls = async {
        let mut calls = 0;
        while !is_over.load(Ordering::Relaxed) || calls < 10 {
            assert_eq!(client.call("example__echo", json!({"text": "hi"})).await.unwrap().content(), "hi");
            calls += 1;
        }
        calls
    };
    let host = gatepost.url().strip_prefix("http://").unwrap().to_owned();
    let flooding = (0..CONNECTIONS as u64).map(|seed| {
        let flood = Flood::new(&host, token, seed, REQUESTS / CONNECTIONS);
        tokio::task::spawn_blocking(move || flood.send(|sent| sent < (REQUESTS / CONNECTIONS) as u64))
    });
    let answered = async {
        let answered = futures_util::future::join_all(flooding).await;
        is_over.store(true, Ordering::Relaxed);
        answered.into_iter().map(Result::unwrap).fold(Answered::default(), Answered::plus)
    };
    tokio::join!(answered, calls)
}

/// A gateway with the limits that a new installation has.
fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.settings.retain(|key, _| !key.starts_with("limits."));
    setup.role("nothing", &[]).set("log.filter", "warn");
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_a_flood_is_counted_completely_and_leaves_few_records() {
    let nobody = token_with(&json!({"sub": "mallory", "role": "nothing"}));
    for token in [None, Some(nobody.as_str())] {
        let setup = setup();
        let gatepost = setup.start();
        let before = outbox_bytes(&setup);
        let (answered, calls) = flooded(&gatepost, token).await;
        let grown = outbox_bytes(&setup) - before;
        assert_eq!(gatepost.terminate(), Some(0));
        let records = records(&setup);
        let (single, counted, gaps) = refusals(&records);
        assert_eq!(single + counted + gaps, answered.refused, "{single} {counted} {gaps} {answered:?}");
        // The gateway may take longer than a minute, in which each of the buckets gives 60 single records.
        assert!((1..answered.refused / 10).contains(&single), "{single}");
        assert!(grown < 1024 * 1024 + calls * 4096, "{grown}");
        let is_call = |entry: &&Entry| entry.response_status == Status::Ok && entry.call.method == "tools/call";
        assert_eq!(records.iter().filter(is_call).count() as u64, calls);
        let strangers: Vec<_> = records.iter().filter(|entry| entry.call.client_subject == "anonymous").collect();
        if token.is_none() {
            assert_eq!(answered.refused, answered.all);
            // With the numbers, digests and salts, a record of less than 1 KiB.
            let text_bytes = |entry: &&Entry| entry.size_bytes() - size_of::<Entry>();
            assert!(strangers.iter().all(|entry| text_bytes(entry) < 640), "{strangers:#?}");
            let mut named = strangers.iter().filter_map(|entry| entry.call.backend_name.as_deref());
            assert!(named.all(|backend| backend == "example" || backend == "unknown"));
            assert!(strangers.iter().all(|entry| entry.call.session_id.is_none()));
        } else {
            assert!(strangers.is_empty(), "each refusal has its principal: {strangers:#?}");
            assert!(records.iter().any(|entry| entry.response_status == Status::RateLimited));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_refusals_leave_the_last_quarter_of_the_quota_to_calls() {
    const QUOTA: u64 = 64 * 1024 * 1024;
    let mut setup = setup();
    setup.set_toml("audit.outbox_bytes_max", &QUOTA.to_string());
    setup.set_toml("limits.rate_per_principal", "0");
    // A stranger that could fill the outbox would switch the audit of these calls off.
    setup.set("audit.on_failure", "continue").set_toml("audit.continue_for", r#"["example/echo"]"#);
    let gatepost = setup.start();
    let client = gatepost.client(Era::Modern, "admin").await;
    let echo = async |text: &str| {
        assert_eq!(client.call("example__echo", json!({"text": text})).await.unwrap().content(), text);
    };
    let (large, mut calls) = ("x".repeat(60_000), 0);
    while outbox_bytes(&setup) < QUOTA / 4 * 3 {
        echo(&large).await;
        calls += 1;
    }
    let stranger = Client::unconnected(&format!("{}/mcp", gatepost.url()), Era::Legacy, None);
    let bob = gatepost.client_at("/mcp/example", Era::Legacy, "echo").await;
    for _ in 0..10 {
        assert_eq!(stranger.call("example__echo", json!({})).await.unwrap().status, 401);
        assert_eq!(bob.call("add", json!({})).await.unwrap().error_code(), -32003);
    }
    echo("small").await;
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    assert_eq!(refusals(&records), (0, 0, 20));
    let gaps: Vec<Value> = records.iter().filter(|entry| entry.call.method == "gateway/gap").map(details).collect();
    assert!(gaps.iter().all(|gap| gap["unaudited"] == 0), "{gaps:?}");
    let is_call = |entry: &&Entry| entry.response_status == Status::Ok && entry.call.method == "tools/call";
    assert_eq!(records.iter().filter(is_call).count(), calls + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_paths_and_http_methods_have_their_principal() {
    let setup = setup();
    let gatepost = setup.start();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut want = Vec::new();
    for (method, path, status, backend) in [
        ("PUT", "/mcp/example", 405, Some("example")),
        ("PUT", "/mcp/missing", 405, None),
        ("PATCH", "/mcp", 405, None),
        ("POST", "/other", 404, None),
        ("POST", "/mcp/a/b", 404, None),
        ("GET", "/mcp/%ff", 400, None),
    ] {
        for bearer in [Some(token("admin")), Some("a.b.c".to_owned()), None] {
            let request = http.request(method.parse().unwrap(), format!("{}{path}", gatepost.url()));
            let request = bearer.iter().fold(request, reqwest::RequestBuilder::bearer_auth);
            assert_eq!(request.send().await.unwrap().status().as_u16(), status, "{method} {path}");
            let is_known = bearer.is_some_and(|token| token.len() > 100);
            want.push((if is_known { "tester" } else { "anonymous" }, backend));
        }
    }
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    let refused = records.iter().filter(|entry| entry.response_status == Status::Malformed);
    let refused: Vec<_> =
        refused.map(|entry| (entry.call.client_subject.as_str(), entry.call.backend_name.as_deref())).collect();
    assert_eq!(refused, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_every_request_counts_in_the_rate_before_it_is_authorized() {
    let mut setup = setup();
    setup.set_toml("limits.rate_per_principal", "1").set_toml("limits.burst_per_principal", "3");
    let gatepost = setup.start();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let rpc = |method: &str| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "x"}}).to_string();
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/x"}).to_string();
    let cases = [
        ("a list", "POST", "/mcp", rpc("tools/list")),
        ("a denied call", "POST", "/mcp", rpc("tools/call")),
        ("an unknown method", "POST", "/mcp", rpc("x")),
        ("a message that is not valid", "POST", "/mcp", "{".to_owned()),
        ("an unknown backend", "POST", "/mcp/missing", rpc("ping")),
        ("a notification", "POST", "/mcp", notification),
        ("the stream of a session", "GET", "/mcp", String::new()),
        ("the end of a session", "DELETE", "/mcp", String::new()),
        ("an unknown path", "POST", "/missing", String::new()),
    ];
    for (at, (name, method, path, body)) in cases.into_iter().enumerate() {
        let token = token_with(&json!({"sub": format!("caller {at}"), "role": "nothing"}));
        // Faster than one a second, however slow the machine is.
        let mut accepted = 0;
        loop {
            let request = http.request(method.parse().unwrap(), format!("{}{path}", gatepost.url()));
            let request = request.bearer_auth(&token).header("content-type", "application/json");
            let request = request.header("accept", "application/json, text/event-stream").body(body.clone());
            let response = request.send().await.unwrap();
            if response.status() == 429 {
                assert!(response.headers().contains_key("retry-after"), "{name}");
                break;
            }
            accepted += 1;
            assert!(accepted < 1000, "{name} is not limited");
        }
        assert!(accepted >= 3, "{name}: {accepted}");
    }
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_caller_that_may_use_nothing_leave_little() {
    let setup = setup();
    let gatepost = setup.start();
    let nobody = token_with(&json!({"sub": "mallory", "role": "nothing"}));
    let client = Client::unconnected(&format!("{}/mcp", gatepost.url()), Era::Legacy, Some(&nobody));
    let info = json!({"name": "x".repeat(60_000), "version": "1"});
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
    let mut opened = 0;
    while client.request("initialize", params.clone()).await.unwrap().status == 200 {
        opened += 1;
        assert!(opened < 100, "sessions are not limited");
    }
    // A burst of 400 requests, and one session more for each second that this takes.
    assert!((4..40).contains(&opened), "each session counts as a hundred requests: {opened}");
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    let is_opened = |entry: &&Entry| entry.call.method == "initialize" && entry.response_status == Status::Ok;
    for entry in records.iter().filter(is_opened) {
        let context: Value = serde_json::from_str(entry.call.context.as_deref().unwrap()).unwrap();
        assert!(entry.call.request_args.is_none() && entry.call.args_digest.is_some());
        assert!(context["omitted"]["request_args"].as_u64().unwrap() > 60_000, "{context}");
    }
}

/// A role that reads nothing makes no backend search for a resource, and one subscription searches once.
#[tokio::test(flavor = "multi_thread")]
async fn resources_are_searched_only_for_those_who_may_read_them() {
    use crate::http_backend_stub::{BackendStub, modern, result};
    let backend = BackendStub::start(|asked| match asked.method() {
        "resources/list" => Some(result(asked, r#"{"resources":[]}"#)),
        "resources/templates/list" => {
            Some(result(asked, r#"{"resourceTemplates":[{"uriTemplate":"far:{id}","name":"t"}]}"#))
        }
        _ => Some(modern(asked)),
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        setup.role("tools", &["far/t"]).role("reader", &["far/t"]);
        setup.set_toml("roles.reader.resources", r#"["far/*"]"#);
    });
    let lists = || backend.seen("resources/list").len() + backend.seen("resources/templates/list").len();
    let client = gatepost.client(Era::Modern, "tools").await;
    let read = client.request("resources/read", json!({"uri": "far:1"})).await.unwrap();
    assert_eq!((read.error_code(), lists()), (-32602, 0));
    let listen = json!({"notifications": {"resourceSubscriptions": ["far:1"]}});
    assert_eq!(client.request("subscriptions/listen", listen).await.unwrap().error_code(), -32003);
    assert_eq!(lists(), 0);
    let client = gatepost.client(Era::Modern, "reader").await;
    let uris: Vec<String> = (0..50).map(|at| format!("far:{at}")).chain(["near:1".to_owned()]).collect();
    let listen = json!({"notifications": {"resourceSubscriptions": uris}});
    assert_eq!(client.request("subscriptions/listen", listen).await.unwrap().error_code(), -32003);
    assert_eq!(lists(), 2, "51 resources, and each list of the backend was read once");
}
