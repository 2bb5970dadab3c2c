//! The official MCP client on real MCP servers through the gateway, and the trail that this leaves in Postgres.
//!
//! What each row must say is I1 and I2 as an operator sees them: one row a call, with the status of what happened.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

mod common;

use common::gatepost::{Setup, token};
use common::postgres::{Cluster, Database};
use common::tools::{node_program, python_client, python_program};
use common::wait::{SOON, until_async};
use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::postgres::{PgPool, PgRow};

/// Waits until `count` calls of tools are delivered and gives their rows, in the order of the stream.
async fn rows(pool: &PgPool, count: usize) -> Vec<PgRow> {
    let select = "SELECT *, request_args::text AS args FROM audit_log WHERE method = 'tools/call' ORDER BY epoch, seq";
    until_async("the rows are delivered", SOON, async || {
        sqlx::query(select).fetch_all(pool).await.is_ok_and(|rows| rows.len() >= count)
    })
    .await;
    let rows = sqlx::query(select).fetch_all(pool).await.unwrap();
    assert_eq!(rows.len(), count, "one row a call");
    rows
}

fn text(row: &PgRow, column: &str) -> String {
    row.get::<Option<String>, _>(column).unwrap_or_default()
}

fn gateway(database: &Database) -> Setup {
    let (time, everything) = (python_program("mcp-server-time"), node_program("mcp-server-everything"));
    let mut setup = Setup::new();
    setup
        .postgres(&database.url)
        .backend("time", &[time.to_str().unwrap(), "--local-timezone", "UTC"])
        .backend("everything", &[everything.to_str().unwrap(), "stdio"])
        .role("clock", &["time/get_*"]);
    setup
}

/// The client's whole visit in one mode, and the rows of it.
async fn visit(mode: &str) {
    let database = Cluster::shared().create_database().await;
    let setup = gateway(&database);
    let gatepost = setup.start();
    let url = format!("{}/mcp", gatepost.url());
    let admin = token("admin");
    let zone = json!({"timezone": "Europe/Berlin"}).to_string();
    let seen = python_client(&[
        &url,
        mode,
        &admin,
        "time__get_current_time",
        &zone,
        "everything__echo",
        r#"{"message": "hello"}"#,
        "time__get_current_time",
        r#"{"timezone": "Nowhere/Land"}"#,
        "example__fail",
        r#"{"message": "as told"}"#,
    ])
    .await;
    let tools: Vec<&str> = seen["tools"].as_array().unwrap().iter().map(|tool| tool.as_str().unwrap()).collect();
    for tool in ["time__get_current_time", "time__convert_time", "everything__echo", "example__echo"] {
        assert!(tools.contains(&tool), "{mode}: {tools:?}");
    }
    let calls = seen["calls"].as_array().unwrap();
    assert!(calls[0]["text"][0].as_str().unwrap().contains("Europe/Berlin"), "{seen}");
    assert_eq!(calls[1]["text"][0], "Echo: hello");
    // How a server says that a tool failed is its own affair: as a result, or as a JSON-RPC error.
    let status = |call: &Value| match (call.get("error").is_some(), &call["is_error"]) {
        (true, _) => "error",
        (false, Value::Bool(true)) => "tool_error",
        _ => "ok",
    };
    let statuses: Vec<&str> = calls.iter().map(status).collect();
    assert_eq!(statuses[..2], ["ok", "ok"]);
    assert_ne!(statuses[2], "ok", "{seen}");
    assert_ne!(statuses[3], "ok", "{seen}");

    let rows = rows(&database.pool().await, 4).await;
    for (row, status) in rows.iter().zip(&statuses) {
        assert_eq!(text(row, "response_status"), *status);
        assert_eq!((text(row, "client_subject").as_str(), text(row, "client_role").as_str()), ("tester", "admin"));
        assert!(row.get::<f64, _>("latency_ms") > 0.0);
        assert_eq!(row.get::<uuid::Uuid, _>("request_id").get_version_num(), 7);
    }
    let called: Vec<(String, String)> =
        rows.iter().map(|row| (text(row, "backend_name"), text(row, "tool_name"))).collect();
    let backends: Vec<&str> = called.iter().map(|(backend, _)| backend.as_str()).collect();
    assert_eq!(backends, ["time", "everything", "time", "example"]);
    let args: Value = serde_json::from_str(&text(&rows[0], "args")).unwrap();
    assert_eq!(args, json!({"timezone": "Europe/Berlin"}));
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn the_official_client_is_served_and_recorded_in_the_legacy_era() {
    visit("legacy").await;
}

#[tokio::test]
async fn the_official_client_is_served_and_recorded_in_the_modern_era() {
    visit("2026-07-28").await;
}

#[tokio::test]
async fn a_restricted_token_sees_its_tools_and_its_denied_call_is_a_row() {
    let database = Cluster::shared().create_database().await;
    let setup = gateway(&database);
    let gatepost = setup.start();
    let url = format!("{}/mcp", gatepost.url());
    for (place, mode) in ["legacy", "2026-07-28"].into_iter().enumerate() {
        let seen = python_client(&[&url, mode, &token("clock"), "example__echo", r#"{"text": "no"}"#]).await;
        assert_eq!(seen["tools"], json!(["time__get_current_time"]), "{mode}");
        assert_eq!(seen["calls"][0]["error"]["code"], -32003, "{mode}");
        let rows = rows(&database.pool().await, place + 1).await;
        let row = &rows[place];
        assert_eq!(text(row, "response_status"), "denied");
        assert!(row.get::<f64, _>("latency_ms") == 0.0);
        assert!(!text(row, "error_message").is_empty(), "the reason is recorded");
        assert_eq!(text(row, "client_subject"), "tester");
    }
}
