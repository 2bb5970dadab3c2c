//! `gatepost outbox drain`: what a dead gateway left arrives in Postgres, once, and its stream is closed.

use crate::common::gatepost::Setup;
use crate::common::mcp::Era;
use crate::common::postgres::Cluster;
use crate::common::trail;
use nix::sys::signal::Signal;
use serde_json::json;

fn drain(setup: &Setup, more: &[&str]) -> (Option<i32>, String, String) {
    let output = setup.command(&[&["outbox", "drain"], more].concat()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A directory that kill -9 left, with four records, undelivered.
async fn killed(setup: &Setup) {
    let gatepost = setup.start();
    let client = gatepost.client(Era::Modern, "admin").await;
    for _ in 0..3 {
        client.call("example__echo", json!({"text": "hi"})).await.unwrap();
    }
    gatepost.end(Signal::SIGKILL);
}

#[tokio::test]
async fn drain_delivers_a_dead_gateways_records_once() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    killed(&setup).await;
    setup.set("postgres.url", &database.url);
    let (code, stdout, stderr) = drain(&setup, &[]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("is closed at 2/2"), "{stdout}");
    let pool = database.pool().await;
    let entries = trail::verify_postgres(&pool).await;
    let methods: Vec<_> = entries.iter().map(|entry| (entry.epoch, entry.method.as_str())).collect();
    let call = (1, "tools/call");
    assert_eq!(methods, [(1, "gateway/opened"), call, call, call, (2, "gateway/opened"), (2, "gateway/closed")]);
    // Again: nothing twice.
    let (code, stdout, stderr) = drain(&setup, &["--json"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert_eq!(trail::verify_postgres(&pool).await.len(), 8);
}

#[tokio::test]
async fn a_failed_drain_says_why_and_loses_nothing() {
    let mut setup = Setup::new();
    killed(&setup).await;
    let (code, _, stderr) = drain(&setup, &[]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("no database to drain to"), "{stderr}");
    // Nobody listens on port 1.
    setup.set("postgres.url", "postgres://gatepost@127.0.0.1:1/audit");
    let (code, _, stderr) = drain(&setup, &["--timeout", "2s"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("6 undelivered records left, stored in "), "{stderr}");
    let output = setup.command(&["outbox", "verify"]).output().unwrap();
    assert!(output.status.success());
}

#[tokio::test]
async fn a_live_gateway_is_not_drained() {
    let mut setup = Setup::new();
    let gatepost = setup.start();
    setup.set("postgres.url", "postgres://gatepost@127.0.0.1:1/audit");
    let (code, _, stderr) = drain(&setup, &["--timeout", "1s"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("is in use by pid"), "{stderr}");
    let client = gatepost.client(Era::Modern, "admin").await;
    client.call("example__echo", json!({"text": "hi"})).await.unwrap();
    assert_eq!(gatepost.terminate(), Some(0));
}
