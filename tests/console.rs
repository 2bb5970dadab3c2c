//! The console in a real Chromium, driven by `tests/e2e/console.mjs`: signing in, searching, a record, Postgres stopped and
//! started while watching, the keyboard alone, and axe-core in light and dark, wide and narrow.
//!
//! Screenshots of this run are left in `target/console/`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use common::gatepost::{Setup, token_with};
use common::mcp::{Client, Era};
use common::postgres::Cluster;
use common::tools::{modern_node, node_module};
use serde_json::json;

async fn calls(client: &Client, text: &str, count: usize) {
    for number in 0..count {
        client.call("echo", json!({ "text": format!("{text} {number}") })).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_is_used_in_a_browser() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut setup = Setup::new();
    setup.postgres(&database.url).set("auth.role_claim", "role");
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "echo").await;
    calls(&client, "the quarter's figures", 12).await;
    client.call("add", json!({ "a": 1, "b": 2 })).await.unwrap();
    client.call("echo", json!({ "text": "<script>alert('a record')</script>" })).await.unwrap();
    let shots = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/console");
    std::fs::create_dir_all(&shots).unwrap();
    let modules = node_module("playwright-core").parent().unwrap().parent().unwrap().to_owned();
    let auditor = token_with(&json!({ "sub": "olga", "role": "auditor" }));
    let mut command = Command::new(modern_node());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/console.mjs"));
    command.arg(modules).args([gatepost.ops_url(), &auditor]).arg(&shots);
    let mut driver = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answers = driver.stdin.take().unwrap();
    for word in BufReader::new(driver.stdout.take().unwrap()).lines() {
        match word.unwrap().as_str() {
            "stop" => cluster.stop(),
            "start" => cluster.restart(),
            "call" => calls(&client, "meanwhile", 5).await,
            other => panic!("the driver says {other}"),
        }
        writeln!(answers, "done").unwrap();
    }
    let ended = driver.wait().unwrap();
    assert!(ended.success(), "tests/e2e/console.mjs ended with {ended}: its output is above\n{}", gatepost.log());
}
