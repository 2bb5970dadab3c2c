//! Legacy sessions through the real gateway: what backends ask their clients, how many there are, how they end.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::common::asking_backend::{asking_backend, messages};
use crate::common::gatepost::{Setup, token, token_with};
use crate::common::mcp::{Client, Era, Reply};
use crate::common::stored_records::stored_records;
use crate::common::wait::{SOON, until, until_async};
use gatepost::audit::outbox::Reader;
use gatepost::audit::outbox::fs::DiskFs;

use gatepost::audit::record::{Entry, Status};
use serde_json::{Value, json};

/// What was heard of this method.
pub fn heard(file: &Path, method: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["method"] == method).collect()
}

const ASK_2: &str =
    r#"{"jsonrpc":"2.0","id":2,"method":"elicitation/create","params":{"_meta":{"progressToken":2},"message":"m"}}"#;
const ASK_7: &str =
    r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"_meta":{"progressToken":7},"message":"m"}}"#;
const CANCEL_2: &str = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn backends_with_equal_request_ids_do_not_interfere() {
    let mut setup = Setup::new();
    let first = asking_backend(&mut setup, "first", [&[ASK_7], &[]]);
    let second = asking_backend(&mut setup, "second", [&[ASK_7, ASK_2], &[CANCEL_2, CANCEL_2]]);
    let gatepost = setup.start();
    let client = gatepost.client(Era::Legacy, "admin").await;
    let asked = messages(&client.call("first__ask", json!({})).await.unwrap().text);
    assert_eq!(asked[0]["id"], 1, "{asked:?}");
    let asked = messages(&client.call("second__ask", json!({})).await.unwrap().text);
    // Each is sent when it is recorded, in whatever order.
    let said: BTreeSet<_> = asked.iter().take(2).map(|message| message["id"].as_u64()).collect();
    assert_eq!(said, [Some(2), Some(3)].into(), "{asked:?}");
    // Its own 2 is the client's 3; the client's 2 is open, and what it was not asked is not cancelled.
    let then = messages(&client.call("second__ask", json!({})).await.unwrap().text);
    let cancelled = then.iter().filter(|message| message["method"] == "notifications/cancelled");
    assert_eq!(cancelled.map(|message| &message["params"]["requestId"]).collect::<Vec<_>>(), [3], "{asked:?}");
    assert!(asked.iter().take(2).all(|message| message["params"]["_meta"]["progressToken"] == message["id"]));
    for (method, params) in [
        ("notifications/progress", json!({"progressToken": 2, "progress": 1})),
        ("notifications/progress", json!({"progressToken": 3, "progress": 1})),
        ("notifications/roots/list_changed", json!({})),
    ] {
        let told = json!({"jsonrpc": "2.0", "method": method, "params": params});
        assert_eq!(client.post(told.to_string(), &[]).await.unwrap().status, 202);
    }
    // What comes last has come to both; progress came before it, to the one that asked.
    for file in [&first, &second] {
        let has_come = async || !heard(file, "notifications/roots/list_changed").is_empty();
        until_async("all backends hear of the roots", SOON, has_come).await;
    }
    let progress = heard(&second, "notifications/progress");
    assert_eq!(progress.iter().map(|message| &message["params"]["progressToken"]).collect::<Vec<_>>(), [7]);
    assert_eq!(heard(&first, "notifications/progress"), Vec::<Value>::new());
    let answer = json!({"jsonrpc": "2.0", "id": 2, "result": {"action": "decline"}});
    assert_eq!(client.post(answer.to_string(), &[]).await.unwrap().status, 202);
    let answered = async || std::fs::read_to_string(&second).unwrap().contains("decline");
    until_async("the answer reaches who asked", SOON, answered).await;
}

/// The records of a gateway that has ended.
pub fn records(setup: &Setup) -> Vec<Entry> {
    let reader = Reader::offline(Arc::new(DiskFs), &setup.audit_dir()).unwrap();
    stored_records(&reader).into_iter().map(|record| record.entry).collect()
}

/// The records of this session's ends: who had it, and the reason.
fn ends(records: &[Entry], session: &str) -> Vec<(String, Option<String>)> {
    let its = records.iter().map(|entry| &entry.call).filter(|call| call.session_id.as_deref() == Some(session));
    let ends = its.filter(|call| call.method == "session/close");
    ends.map(|call| (call.client_subject.to_string(), call.request_args.clone())).collect()
}

async fn initialize(client: &Client) -> Reply {
    let info = json!({"name": "gatepost-tests", "version": "1"});
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
    client.request("initialize", params).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_sessions_evict_the_principals_oldest() {
    let mut setup = Setup::new();
    setup.set_toml("limits.sessions_per_principal", "2");
    let gatepost = setup.start();
    let url = format!("{}/mcp", gatepost.url());
    let other = token_with(&json!({"sub": "other", "role": "admin"}));
    let others = Client::connect(&url, Era::Legacy, Some(&other)).await;
    let mut own = Vec::new();
    for _ in 0..4 {
        own.push(Client::connect(&url, Era::Legacy, Some(&token("admin"))).await);
    }
    for (number, client) in own.iter().enumerate() {
        let want = if number < 2 { 404 } else { 200 };
        assert_eq!(client.request("ping", json!({})).await.unwrap().status, want, "session {number}");
    }
    assert_eq!(others.request("ping", json!({})).await.unwrap().status, 200);
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    let reason = |reason: &str| Some(json!({ "reason": reason }).to_string());
    let evicted = reason("its principal opened more than limits.sessions_per_principal");
    let stopped = reason("the gateway stopped");
    for (number, client) in own.iter().enumerate() {
        let want = if number < 2 { &evicted } else { &stopped };
        let ends = ends(&records, client.session.as_deref().unwrap());
        assert_eq!(ends, [("tester".to_owned(), want.clone())], "session {number}");
    }
    assert_eq!(ends(&records, others.session.as_deref().unwrap()), [("other".to_owned(), stopped)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_sessions_counts_towards_the_principals_rate() {
    let mut setup = Setup::new();
    setup.set_toml("limits.rate_per_principal", "1").set_toml("limits.burst_per_principal", "20");
    let gatepost = setup.start();
    let url = format!("{}/mcp", gatepost.url());
    let client = Client::unconnected(&url, Era::Legacy, Some(&token("admin")));
    let mut opened = 0;
    // Faster than one a second, however slow the machine is.
    let refused = loop {
        let reply = initialize(&client).await;
        match reply.status {
            200 if opened < 1000 => opened += 1,
            _ => break reply,
        }
    };
    assert_eq!(refused.status, 429, "{}", refused.text);
    assert!((2..20).contains(&opened), "each counts as ten requests: {opened}");
    let mut other = client.clone();
    other.token = Some(token_with(&json!({"sub": "other", "role": "admin"})));
    assert_eq!(initialize(&other).await.status, 200);
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    let is_limited = |entry: &&Entry| entry.response_status == Status::RateLimited;
    let limited: Vec<_> = records.iter().filter(is_limited).map(|entry| entry.call.method.as_str()).collect();
    assert_eq!(limited, ["initialize"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_recorded_once_each_when_audit_methods_names_them() {
    let mut setup = Setup::new();
    asking_backend(&mut setup, "one", [&[], &[]]);
    setup.set_toml("audit.methods", r#"["tools/list"]"#);
    let gatepost = setup.start();
    until("the backends are up", SOON, || !gatepost.get_ops("/readyz").1.contains("degraded"));
    for era in [Era::Legacy, Era::Modern] {
        let client = gatepost.client(era, "admin").await;
        let list = client.request("tools/list", json!({})).await.unwrap();
        assert!(list.text.contains("one__ask"), "{}", list.text);
        assert!(list.text.contains("io.gatepost/request_id"), "{}", list.text);
        assert!(!client.request("prompts/list", json!({})).await.unwrap().text.is_empty());
        let client = gatepost.client_at("/mcp/one", era, "admin").await;
        let list = client.request("tools/list", json!({})).await.unwrap();
        assert!(list.text.contains("\"ask\""), "{}", list.text);
    }
    let unknown = gatepost.client(Era::Legacy, "admin").await;
    assert!(unknown.request("tools/list", json!({"cursor": "x"})).await.unwrap().error_code() < 0);
    gatepost.terminate();
    let records = records(&setup);
    let lists: Vec<_> = records.iter().filter(|entry| entry.call.method.ends_with("/list")).collect();
    let told: Vec<_> = lists
        .iter()
        .map(|entry| (entry.call.method.as_str(), entry.call.backend_name.as_deref(), entry.response_status))
        .collect();
    let (all, one) = (("tools/list", None, Status::Ok), ("tools/list", Some("one"), Status::Ok));
    assert_eq!(told, [all, one, all, one, ("tools/list", None, Status::Error)]);
    assert!(lists.iter().all(|entry| entry.response_digest.is_some()));
}
