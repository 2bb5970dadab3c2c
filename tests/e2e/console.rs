//! The console in a real Chromium, driven by `tests/e2e/console.mjs`: sign-in, search, one record, Postgres stopped and
//! started while the page is open, use by keyboard alone, and axe-core in light and dark, wide and narrow.
//!
//! Screenshots of this run are left in `target/console/`.

use crate::browser::Browser;
use crate::common::gatepost::Setup;
use crate::common::mcp::{Client, Era};
use crate::common::postgres::Cluster;
use crate::common::postgres_control::stop_server;
use serde_json::json;

async fn calls(client: &Client, text: &str, count: usize) {
    for number in 0..count {
        client.call("echo", json!({ "text": format!("{text} {number}") })).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_works_in_a_browser() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url).set("auth.role_claim", "role");
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "echo").await;
    calls(&client, "the quarter's figures", 12).await;
    client.call("add", json!({ "a": 1, "b": 2 })).await.unwrap();
    client.call("echo", json!({ "text": "<script>alert('a record')</script>" })).await.unwrap();
    let mut browser = Browser::start("console.mjs", &gatepost, "console");
    while let Some(word) = browser.hears() {
        match word.as_str() {
            "stop" => stop_server(&mut cluster),
            "start" => cluster.restart(),
            "call" => calls(&client, "meanwhile", 5).await,
            other => panic!("the driver says {other}"),
        }
        browser.say("done");
    }
    let ended = browser.end();
    assert!(ended.success(), "tests/e2e/console.mjs ended with {ended}: its output is above\n{}", gatepost.log());
}
