//! One audited call, end to end: real clients, the real binary, real backends, real Postgres.

use crate::clients_and_servers::{node_program, python_client};
use crate::common::gatepost::{Setup, token};
use crate::common::mcp::{Client, Era};
use crate::common::postgres::Cluster;
use crate::common::postgres_control::{freeze, stop_server, thaw};
use crate::common::python::python_program;
use crate::common::raw_backend::raw_backend;
use crate::common::tool_names::tool_names;
use crate::common::wait::{SOON, until_async};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::postgres::{PgPool, PgRow};

/// All rows of calls, in the order of the trail.
async fn rows(pool: &PgPool) -> Vec<PgRow> {
    let sql = "SELECT epoch, seq, request_id, client_subject, client_role, tool_name, backend_name, \
               request_args::text AS request_args, response_status, error_message, latency_ms, method, client_addr \
               FROM audit_log WHERE method NOT IN ('initialize', 'session/close') AND method NOT LIKE 'gateway/%' ORDER BY epoch, seq";
    sqlx::query(sql).fetch_all(pool).await.unwrap()
}

async fn count(pool: &PgPool) -> i64 {
    let sql = "SELECT count(*) FROM audit_log WHERE method NOT IN ('initialize', 'session/close') AND method NOT LIKE 'gateway/%'";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap_or(-1)
}

fn text<'a>(row: &'a PgRow, column: &str) -> Option<&'a str> {
    row.get(column)
}

/// One column of all rows.
fn column<'a>(rows: &'a [PgRow], name: &str) -> Vec<&'a str> {
    rows.iter().map(|row| text(row, name).unwrap_or_default()).collect()
}

#[tokio::test]
async fn each_call_of_the_official_python_client_is_one_row() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup
        .set("postgres.url", &database.url)
        .backend("time", &[python_program("mcp-server-time").to_str().unwrap(), "--local-timezone", "UTC"]);
    setup.backend("everything", &[node_program("mcp-server-everything").to_str().unwrap(), "stdio"]);
    let gatepost = setup.start();
    let (pool, token) = (database.pool().await, token("admin"));
    for mode in ["legacy", "2026-07-28"] {
        let url = format!("{}/mcp/time", gatepost.url());
        let good = json!({"timezone": "Europe/Paris"}).to_string();
        let bad = json!({"timezone": "Nowhere/Atlantis"}).to_string();
        let said = python_client(&[&url, mode, &token, "get_current_time", &good, "get_current_time", &bad]).await;
        assert_eq!(said["tools"], json!(["get_current_time", "convert_time"]), "{mode}");
        assert!(said["calls"][0]["text"][0].as_str().unwrap().contains("Europe/Paris"), "{mode}: {said}");
        assert_eq!(said["calls"][1]["is_error"], true, "{mode}: {said}");

        let url = format!("{}/mcp", gatepost.url());
        let said =
            python_client(&[&url, mode, &token, "everything__echo", r#"{"message":"hi"}"#, "time__no_such", "{}"])
                .await;
        let tools = said["tools"].as_array().unwrap();
        for name in ["everything__echo", "time__get_current_time", "example__add"] {
            assert!(tools.contains(&json!(name)), "{mode}: {name} is not in {tools:?}");
        }
        assert_eq!(said["calls"][0]["text"], json!(["Echo: hi"]), "{mode}");
        assert_eq!(said["calls"][1]["error"]["code"], -32602, "{mode}: {said}");
    }
    until_async("all calls are delivered", SOON, async || count(&pool).await == 8).await;
    let rows = rows(&pool).await;
    // A legacy session's backend says by itself that it has no such tool; for the others the gateway looks it up, and
    // a refusal names only what exists.
    for (calls, (unknown, name)) in rows.chunks(4).zip([("error", "no_such"), ("malformed", "unknown")]) {
        assert_eq!(column(calls, "tool_name"), ["get_current_time", "get_current_time", "echo", name]);
        assert_eq!(column(calls, "backend_name"), ["time", "time", "everything", "time"]);
        assert_eq!(column(calls, "response_status"), ["ok", "tool_error", "ok", unknown]);
        let arguments: Value = serde_json::from_str(text(&calls[0], "request_args").unwrap()).unwrap();
        assert_eq!(arguments, json!({"timezone": "Europe/Paris"}));
        for call in &calls[..3] {
            assert_eq!((text(call, "client_subject"), text(call, "client_role")), (Some("tester"), Some("admin")));
            assert!(call.get::<f64, _>("latency_ms") > 0.0);
            assert!(text(call, "client_addr").unwrap().starts_with("127.0.0.1:"));
        }
        assert!(
            text(&calls[1], "error_message").unwrap().contains("Atlantis"),
            "{:?}",
            text(&calls[1], "error_message")
        );
    }
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn errors_of_tools_and_of_backends_are_not_ok() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    let received = raw_backend(&mut setup, "raw");
    // A backend that cannot start, beside two that can.
    setup.set("postgres.url", &database.url).backend("dead", &["/bin/false"]);
    let gatepost = setup.start();
    let pool = database.pool().await;
    for era in [Era::Legacy, Era::Modern] {
        let client = gatepost.client_at("/mcp/example", era, "admin").await;
        let raw = gatepost.client_at("/mcp/raw", era, "admin").await;
        let dead = Client::unconnected(&format!("{}/mcp/dead", gatepost.url()), era, Some(&token("admin")));
        let failed = client.call("fail", json!({"message": "no such file"})).await.unwrap();
        assert_eq!(failed.result()["isError"], true);
        let refused = raw.call("rpc_error", json!({})).await.unwrap();
        assert_eq!(refused.error_code(), -32050);
        assert!(
            refused.text.contains(r#""data": {"why": [1, 2.5],"_meta":{"io.gatepost/receipt":"#),
            "{}",
            refused.text
        );
        assert!(dead.call("anything", json!({})).await.unwrap().error_code() < 0);
        // A backend that dies under a call: that call fails, nothing is sent twice, and the next one works.
        let died = raw.call("die", json!({})).await.unwrap();
        assert!(died.error_code() < 0);
        until_async("the backend is up again", SOON, async || {
            gatepost.get_ops("/readyz").1.contains(r#"{"configured":3,"up":2}"#)
        })
        .await;
        assert_eq!(raw.call("echo", json!({"text": "back"})).await.unwrap().content(), "back");
        assert_eq!(client.call("echo", json!({"text": "still here"})).await.unwrap().content(), "still here");
    }
    until_async("all calls are delivered", SOON, async || count(&pool).await == 12).await;
    let rows = rows(&pool).await;
    for calls in rows.chunks(6) {
        assert_eq!(column(calls, "response_status"), ["tool_error", "error", "error", "error", "ok", "ok"]);
        let errors = column(calls, "error_message");
        assert_eq!(errors[..2], ["no such file", "-32050: no luck today"]);
        assert!(errors[2..4].iter().all(|error| error.len() > 10), "{errors:?}");
        assert_eq!(errors[4..], ["", ""]);
    }
    let received = std::fs::read_to_string(received).unwrap();
    assert_eq!(received.matches("\"die\"").count(), 2, "{received}");
}

#[tokio::test]
async fn a_result_is_relayed_byte_for_byte_and_lists_hold_all_pages() {
    let mut setup = Setup::new();
    raw_backend(&mut setup, "raw");
    let gatepost = setup.start();
    let exact = concat!(
        r#""zeta":1,"content":[{"type":"text","text":"caf\u00e9 \ud83d\ude00","_x":{"b":2,"a":1}}],"#,
        r#""unknown":{"n":12345678901234567890123,"f":1.0e400,"deep":[[],{}]},"isError":false, "spaced" : true}"#
    );
    for era in [Era::Legacy, Era::Modern] {
        for path in ["/mcp/raw", "/mcp"] {
            let client = gatepost.client_at(path, era, "admin").await;
            let prefix = if path == "/mcp" { "raw__" } else { "" };
            let reply = client.call(&format!("{prefix}exact"), json!({})).await.unwrap();
            assert!(reply.text.contains(exact), "{era:?} {path}: {}", reply.text);
            let list = tool_names(&client).await;
            for name in ["exact", "rpc_error", "die", "echo"] {
                assert!(list.contains(&format!("{prefix}{name}")), "{era:?} {path}: {name} is not in {list:?}");
            }
        }
    }
    // What was evaluated is what is forwarded, and what is recorded.
    let client = gatepost.client_at("/mcp/raw", Era::Legacy, "admin").await;
    let arguments = r#"{ "text":"a", "n": 1.00, "s":"\u0041" }"#;
    let params = format!(r#"{{"name":"echo","arguments":{arguments}}}"#);
    let body = format!(r#"{{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{params}}}"#);
    assert_eq!(client.post(body, &[]).await.unwrap().content(), "a");
    let record = shown(&setup, &["audit", "query", "--tool", "echo", "--json"]);
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["request_args"], arguments);
    assert_eq!(record["rpc_id"], "x");
}

#[tokio::test]
async fn i9_values_that_postgres_would_refuse_are_recorded() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    raw_backend(&mut setup, "raw");
    let gatepost = setup.start();
    let pool = database.pool().await;
    let client = gatepost.client_at("/mcp/raw", Era::Legacy, "admin").await;
    let name = format!("\"{}\"", "n".repeat(9000));
    let deep = format!(r#"{{"text":"x","deep":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    let poison: [(&str, &str, &str); 8] = [
        (r#""echo""#, r#"{"text":"a\u0000b"}"#, "ok"),
        (r#""echo""#, r#"{"text":"\ud800"}"#, "ok"),
        (r#""echo""#, r#"{"text":"x","n":1e200000}"#, "ok"),
        (r#""echo""#, r#"{"text":"x","n":-0.0000000000000000000000000000000000000000000000000000000001}"#, "ok"),
        (r#""ec\u0000ho""#, "{}", "malformed"),
        (r#""\ud800""#, "{}", "malformed"),
        (&name, "{}", "malformed"),
        (r#""echo""#, &deep, "malformed"),
    ];
    for (name, arguments, _) in &poison {
        let params = format!(r#"{{"name":{name},"arguments":{arguments}}}"#);
        let body = format!(r#"{{"jsonrpc":"2.0","id":"a\u0000b","method":"tools/call","params":{params}}}"#);
        client.post(body, &[]).await.unwrap();
    }
    client.call("echo", json!({"text": "behind them"})).await.unwrap();
    until_async("all are delivered", SOON, async || count(&pool).await == 9).await;
    let rows = rows(&pool).await;
    let expected: Vec<_> = poison.iter().map(|(_, _, status)| *status).chain(["ok"]).collect();
    assert_eq!(column(&rows, "response_status"), expected);
    for (row, (_, arguments, _)) in rows.iter().zip(&poison[..4]) {
        assert_eq!(text(row, "request_args"), Some(*arguments), "every byte is kept");
    }
    assert!(text(&rows[6], "tool_name").unwrap().len() <= 1024);
    assert!(text(&rows[6], "error_message").unwrap().contains("normalised: "), "{:?}", text(&rows[6], "error_message"));
    let quarantined: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_quarantine").fetch_one(&pool).await.unwrap();
    assert_eq!(quarantined, 0);
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn i10_a_denied_call_is_a_row_with_its_reason_and_no_latency() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    let gatepost = setup.set("postgres.url", &database.url).start();
    let pool = database.pool().await;
    for era in [Era::Legacy, Era::Modern] {
        let client = gatepost.client_at("/mcp/example", era, "echo").await;
        assert_eq!(tool_names(&client).await, ["echo"], "the list shows what may be called and nothing else");
        let denied = client.call("add", json!({"a": 1, "b": 2})).await.unwrap();
        assert_eq!((denied.status, denied.error_code()), (200, -32003));
        // A role without rules, and one that nobody configured.
        let everywhere = gatepost.client_at("/mcp", era, "unheard-of").await;
        assert_eq!(tool_names(&everywhere).await, [""; 0]);
        let nobody = Client::unconnected(&format!("{}/mcp/example", gatepost.url()), era, Some(&token("unheard-of")));
        assert_eq!(nobody.call("echo", json!({"text": "x"})).await.unwrap().error_code(), -32003);
    }
    until_async("all refusals are delivered", SOON, async || count(&pool).await == 4).await;
    let rows = rows(&pool).await;
    assert_eq!(column(&rows, "response_status"), ["denied"; 4]);
    assert!(rows.iter().all(|row| row.get::<f64, _>("latency_ms") == 0.0));
    assert_eq!(text(&rows[0], "error_message"), Some("role echo may not call example/add"));
    assert_eq!(text(&rows[0], "request_args"), Some(r#"{"a":1,"b":2}"#));
}

#[tokio::test]
async fn a_tight_loop_without_postgres_loses_nothing() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut setup = Setup::new();
    // A ring of 1,024 entries, filled several times over.
    setup.set("postgres.url", &database.url).set_toml("audit.ring_records_max", "1024");
    let gatepost = setup.start();
    stop_server(&mut cluster);
    let calls = 3_000_usize;
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    let tasks = (0..16).map(|worker| {
        let client = client.clone();
        tokio::spawn(async move {
            for call in (worker..calls).step_by(16) {
                let reply = client.call("echo", json!({"text": call.to_string()})).await.unwrap();
                assert_eq!(reply.content(), call.to_string());
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(gatepost.get_ops("/readyz").1.contains(r#""status":"degraded""#));
    assert!(!gatepost.log().to_lowercase().contains("dropping"));
    cluster.restart();
    let pool = database.pool().await;
    until_async("all calls are delivered", 2 * SOON, async || count(&pool).await == 3_000).await;
    let distinct: i64 = sqlx::query_scalar(
        "SELECT count(DISTINCT request_args::text) FROM audit_log WHERE response_status = 'ok' AND tool_name = 'echo'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(distinct, 3_000, "each call once");
    assert!(gatepost.get_ops("/readyz").1.contains(r#""status":"ready""#));
    assert_eq!(gatepost.terminate(), Some(0));
}

/// What a subcommand prints.
fn shown(setup: &Setup, args: &[&str]) -> String {
    let output = setup.command(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn store_only_records_are_delivered_once_postgres_is_configured() {
    let mut setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "admin").await;
    client.call("add", json!({"a": 1, "b": 2})).await.unwrap();
    client.call("fail", json!({"message": "broken"})).await.unwrap();
    for live in [true, false] {
        let list = shown(&setup, &["outbox", "list", "--json"]);
        let records: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let tools: Vec<_> = records.iter().filter_map(|record| record["tool_name"].as_str()).collect();
        assert_eq!(tools, ["add", "fail"], "live: {live}");
        let added = records.iter().find(|record| record["tool_name"] == "add").unwrap();
        let errors = shown(&setup, &["audit", "query", "--status", "tool_error"]);
        assert!(errors.contains("broken") && !errors.contains("example/add"), "{errors}");
        let one = shown(&setup, &["outbox", "show", added["request_id"].as_str().unwrap()]);
        assert!(one.contains("response_status: ok") && one.contains(r#"request_args: {"a":1,"b":2}"#), "{one}");
        assert!(shown(&setup, &["outbox", "stats"]).contains(" in 1 file\n"));
        if live {
            gatepost.signal(nix::sys::signal::Signal::SIGKILL);
            until_async("the gateway is gone", SOON, async || {
                setup
                    .command(&["outbox", "stats", "--json"])
                    .output()
                    .unwrap()
                    .stdout
                    .windows(6)
                    .all(|w| w != b"\"ring\"")
                    && setup.command(&["outbox", "stats"]).output().unwrap().status.success()
            })
            .await;
        }
    }
    drop(gatepost);
    let database = Cluster::shared().create_database().await;
    let gatepost = setup.set("postgres.url", &database.url).start();
    let pool = database.pool().await;
    until_async("both calls are delivered", SOON, async || count(&pool).await == 2).await;
    assert!(shown(&setup, &["audit", "query", "--tool", "add"]).contains("example/add"));
    assert_eq!(gatepost.terminate(), Some(0));
    let events: Vec<(i64, String)> =
        sqlx::query_as("SELECT epoch, method FROM audit_log WHERE method LIKE 'gateway/%' ORDER BY epoch, seq")
            .fetch_all(&pool)
            .await
            .unwrap();
    let events: Vec<_> = events.iter().map(|(epoch, method)| (*epoch, method.as_str())).collect();
    let expected =
        [(1, "gateway/opened"), (1, "gateway/read"), (2, "gateway/opened"), (2, "gateway/read"), (2, "gateway/closed")];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn level_queued_uses_no_disk_until_postgres_hangs() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url).set("audit.level", "queued");
    let gatepost = setup.start();
    let pool = database.pool().await;
    let stats = || {
        let output = setup.command(&["outbox", "stats", "--json"]).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let in_step = |stats: &Value| stats["live"]["delivered"] == stats["live"]["last_seq"];
    until_async("the opening is delivered and forgotten", SOON, async || {
        stats()["streams"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
    let modified = || {
        let files = std::fs::read_dir(setup.audit_dir()).unwrap().map(Result::unwrap);
        let files = files.filter(|file| file.file_name().to_str().unwrap().starts_with("outbox-"));
        files.map(|file| file.metadata().unwrap().modified().unwrap()).max().unwrap()
    };
    let before = modified();
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    for call in 0..300 {
        client.call("echo", json!({"text": call.to_string()})).await.unwrap();
    }
    until_async("the calls are delivered", SOON, async || count(&pool).await == 300).await;
    assert_eq!(modified(), before, "the outbox was written while Postgres was healthy");

    freeze(&cluster);
    for call in 300..600 {
        client.call("echo", json!({"text": call.to_string()})).await.unwrap();
    }
    until_async("the ring has spilled", SOON, async || stats()["live"]["queued"] == 0).await;
    thaw(&cluster);
    // A record has its place, and counts as stamped, a moment after its call has returned.
    let is_gone = async || in_step(&stats()) && count(&pool).await >= 600;
    until_async("the backlog is gone", SOON, is_gone).await;
    assert_eq!(count(&pool).await, 600);
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn i8_no_token_enters_a_record_or_a_log_line() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url).set("log.filter", "trace").set_toml("audit.redact", r#"["/text"]"#);
    let gatepost = setup.start();
    let pool = database.pool().await;
    let good = token("admin");
    let forged = format!("{}x", token("echo"));
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "admin").await;
    assert_eq!(client.call("echo", json!({"text": "hunter2"})).await.unwrap().content(), "hunter2");
    let mut stranger = client.clone();
    stranger.token = Some(forged.clone());
    let refused = stranger.call("echo", json!({"text": "hunter2"})).await.unwrap();
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").starts_with("Bearer "));
    until_async("both calls are delivered", SOON, async || count(&pool).await == 2).await;
    assert_eq!(gatepost.terminate(), Some(0));
    let dump: Vec<String> =
        sqlx::query_scalar("SELECT to_json(audit_log)::text FROM audit_log").fetch_all(&pool).await.unwrap();
    let log = std::fs::read_to_string(setup.dir().join("log")).unwrap();
    assert!(log.contains("DEBUG"), "the log is loud");
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    for secret in [signature(&good), signature(&forged), "hunter2".to_owned()] {
        assert!(!dump.join("\n").contains(&secret), "a record holds {secret}");
        assert!(!log.contains(&secret), "a log line holds {secret}");
    }
    assert!(dump.join("\n").contains("[redacted]"));
}

#[tokio::test]
async fn a_gateway_without_postgres_is_degraded_and_can_be_aborted() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    stop_server(&mut cluster);
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url).set("postgres.drain_timeout", "10m");
    let gatepost = setup.start();
    let (status, ready) = gatepost.get_ops("/readyz");
    assert_eq!(status, 200);
    assert!(ready.contains(r#""status":"degraded""#), "{ready}");
    assert_eq!(gatepost.get_ops("/healthz").0, 200);
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    assert_eq!(client.call("echo", json!({"text": "x"})).await.unwrap().content(), "x");
    // The first signal waits for Postgres; the second does not.
    gatepost.signal(nix::sys::signal::Signal::SIGTERM);
    until_async("the stop has begun", SOON, async || gatepost.log().contains("calls drained")).await;
    assert_eq!(gatepost.terminate(), Some(130));
    cluster.restart();
    let gatepost = setup.start();
    let pool = database.pool().await;
    until_async("the call is delivered", SOON, async || count(&pool).await == 1).await;
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn i2_a_client_that_disconnects_leaves_its_record() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    let gatepost = setup.set("postgres.url", &database.url).start();
    let pool = database.pool().await;
    // To a modern client a closed stream means cancel; to a legacy one it means nothing, and the call goes on.
    for (era, ms) in [(Era::Modern, 60_000), (Era::Legacy, 300)] {
        let client = gatepost.client_at("/mcp/example", era, "admin").await;
        let call = tokio::spawn(async move { client.call("sleep", json!({"ms": ms})).await });
        until_async("the call is open", SOON, async || {
            !shown(&setup, &["outbox", "list", "--intents", "--json"]).is_empty()
        })
        .await;
        call.abort();
        until_async("the call has ended", SOON, async || {
            shown(&setup, &["outbox", "list", "--intents", "--json"]).is_empty()
        })
        .await;
    }
    until_async("both calls are delivered", SOON, async || count(&pool).await == 2).await;
    let rows = rows(&pool).await;
    assert_eq!(column(&rows, "response_status"), ["cancelled", "ok"]);
    assert!(rows[1].get::<f64, _>("latency_ms") >= 300.0);
}

#[tokio::test]
async fn two_gateways_do_not_share_a_directory() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let second = setup.command(&["serve"]).output().unwrap();
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("is in use by pid") && said.contains(&gatepost.pid.to_string()), "{said}");
}

#[tokio::test]
async fn a_client_without_a_session_gets_an_error_that_is_recorded() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    let gatepost = setup.set("postgres.url", &database.url).start();
    let pool = database.pool().await;
    let url = format!("{}/mcp/example", gatepost.url());
    let client = Client::unconnected(&url, Era::Legacy, Some(&token("admin")));
    let call = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
    let bodies = [
        ("no JSON".to_owned(), "{", -32700),
        ("a batch".to_owned(), "[", -32600),
        (call(r#"{"name":"echo","name":"add"}"#), "duplicate", -32600),
        (call(r#"{"name":"echo","arguments":[]}"#), "arguments", -32602),
        (call(r#"{"arguments":{}}"#), "name", -32602),
        (
            call(&format!(r#"{{"name":"echo","arguments":{{"text":"{}"}}}}"#, "x".repeat(5_000_000))),
            "larger than",
            -32600,
        ),
    ];
    let mut codes = Vec::new();
    for (body, _, _) in &bodies {
        let body = if body == "a batch" { format!("[{}]", call(r#"{"name":"echo"}"#)) } else { body.clone() };
        let reply = client.post(body, &[]).await.unwrap();
        assert!(reply.body["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{}", reply.text);
        codes.push(reply.error_code());
    }
    assert_eq!(codes.len(), bodies.len());
    until_async("all refusals are delivered", SOON, async || count(&pool).await == 6).await;
    let rows = rows(&pool).await;
    assert_eq!(column(&rows, "response_status"), ["malformed"; 6]);
    let messages = column(&rows, "error_message");
    for ((_, word, code), (message, got)) in bodies.iter().zip(messages.iter().zip(&codes)) {
        assert_eq!(code, got, "{message}");
        assert!(*word == "{" || *word == "[" || message.contains(word), "{message} does not say {word}");
    }
}

#[tokio::test]
async fn a_gateway_that_cannot_audit_is_not_ready_until_it_can() {
    let mut setup = Setup::new();
    setup.set("audit.store_timeout", "1s");
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    assert_eq!(gatepost.get_ops("/readyz").0, 200);
    // The outbox cannot be written where its directory has gone.
    let away = setup.audit_dir().with_extension("away");
    std::fs::rename(setup.audit_dir(), &away).unwrap();
    let refused = client.call("echo", json!({"text": "x"})).await.unwrap();
    assert_eq!(refused.status, 503);
    let readyz = || gatepost.get_ops("/readyz");
    until_async("it is not ready", SOON, async || readyz().0 == 503).await;
    assert!(readyz().1.contains(r#""status":"failed""#), "{}", readyz().1);
    assert_eq!(gatepost.get_ops("/healthz").0, 200, "a restart would mend nothing");
    std::fs::rename(&away, setup.audit_dir()).unwrap();
    until_async("it is ready again", SOON, async || readyz().0 == 200).await;
    assert_eq!(client.call("echo", json!({"text": "x"})).await.unwrap().content(), "x");
    assert_eq!(gatepost.terminate(), Some(0));
}
