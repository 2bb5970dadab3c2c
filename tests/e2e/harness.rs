//! The test harness itself: what the other test files trust.

use std::time::Duration;

use crate::common::gatepost::{Setup, token_with};
use crate::common::mcp::Era;
use crate::common::postgres::Cluster;
use crate::common::postgres_control::{freeze, name, socket_url, stop_server, thaw};
use crate::common::tool_names::tool_names;
use crate::common::wait::SOON;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

async fn one(url: &str) -> Result<i32, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await
}

#[tokio::test]
async fn a_shared_cluster_gives_each_test_an_empty_database() {
    let cluster = Cluster::shared();
    let (first, second) = (cluster.create_database().await, cluster.create_database().await);
    assert_ne!(name(&first), name(&second));
    let pool = first.pool().await;
    sqlx::query("CREATE TABLE t (a int)").execute(&pool).await.unwrap();
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        .fetch_one(&second.pool().await)
        .await
        .unwrap();
    assert_eq!(tables, 0);
    assert_eq!(one(&socket_url(cluster, name(&first))).await.unwrap(), 1);
}

#[tokio::test]
async fn a_cluster_keeps_its_address_and_rows_across_stop_and_kill() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (a int); INSERT INTO t VALUES (7)").execute(&mut connection).await.unwrap();
    stop_server(&mut cluster);
    assert!(one(&database.url).await.is_err());
    cluster.restart();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    cluster.kill();
    assert!(sqlx::query("SELECT 1").execute(&mut connection).await.is_err());
    cluster.restart();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let kept: i32 = sqlx::query_scalar("SELECT a FROM t").fetch_one(&mut connection).await.unwrap();
    assert_eq!(kept, 7);
}

#[tokio::test]
async fn a_frozen_cluster_does_not_answer_until_thawed() {
    let cluster = Cluster::start();
    let url = cluster.url("postgres");
    let mut open = PgConnection::connect(&url).await.unwrap();
    freeze(&cluster);
    let asked = tokio::time::timeout(Duration::from_millis(200), sqlx::query("SELECT 1").execute(&mut open)).await;
    assert!(asked.is_err(), "a backend of a frozen cluster answered");
    assert!(tokio::time::timeout(Duration::from_millis(200), one(&url)).await.is_err());
    thaw(&cluster);
    assert_eq!(tokio::time::timeout(SOON, one(&url)).await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_gateway_serves_both_eras_on_free_ports() {
    let setup = Setup::new();
    let gatepost = setup.start();
    for era in [Era::Legacy, Era::Modern] {
        let client = gatepost.client(era, "admin").await;
        assert!(tool_names(&client).await.contains(&"example__echo".to_owned()));
        let reply = client.call("example__echo", json!({"text": "hello"})).await.unwrap();
        assert_eq!(reply.content(), "hello", "{era:?}");
        let client = gatepost.client_at("/mcp/example", era, "echo").await;
        assert_eq!(tool_names(&client).await, ["echo"]);
        assert_eq!(client.call("add", json!({"a": 1, "b": 2})).await.unwrap().error_code(), -32003);
    }
    assert_eq!(gatepost.get_ops("/healthz").0, 200);
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn a_killed_gateway_starts_again_on_the_same_directory() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let first = gatepost.pid;
    gatepost.end(Signal::SIGKILL);
    let gatepost = setup.start();
    assert_ne!(gatepost.pid, first);
    let client = gatepost.client(Era::Modern, "admin").await;
    assert_eq!(client.call("example__echo", json!({"text": "again"})).await.unwrap().content(), "again");
    let mut expired = client.clone();
    expired.token = Some(token_with(&json!({"sub": "x", "role": "admin", "exp": 1})));
    assert_eq!(expired.call("example__echo", json!({})).await.unwrap().status, 401);
}

/// Says whether all that a gateway has stored is delivered. Delivered records may be kept.
pub fn is_all_delivered(setup: &Setup) -> bool {
    let output = setup.command(&["outbox", "stats", "--json"]).output().unwrap();
    let stats: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let streams = stats["streams"].as_array();
    streams.is_some_and(|streams| streams.iter().all(|stream| stream["last"] == stream["delivered"]))
}
