//! A configuration that changes under a running gateway: taken up whole or not at all, and recorded.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

mod common;

use common::gatepost::Setup;
use common::mcp::Era;
use common::wait::{SOON, until_async};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn config_records(setup: &Setup) -> Vec<Value> {
    let output = setup.command(&["outbox", "list", "--json", "--limit", "1000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|record| record["method"] == "gateway/config").collect()
}

#[tokio::test]
async fn i10_a_role_that_loses_its_rule_is_denied_at_the_next_call_and_the_change_is_recorded() {
    let mut setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Modern, "echo").await;
    assert_eq!(client.call("echo", json!({"text": "before"})).await.unwrap().content(), "before");
    assert!(config_records(&setup).is_empty());
    // A bad configuration is told of, and changes nothing.
    setup.role("echo", &["example"]);
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until_async("the fault is told", SOON, async || setup.log().contains("roles.echo.allow[0]")).await;
    assert_eq!(client.call("echo", json!({"text": "still"})).await.unwrap().content(), "still");
    assert!(config_records(&setup).is_empty());
    // A good one is recorded before anybody is decided on by it.
    setup.role("echo", &["example/add"]);
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until_async("the role has lost its rule", SOON, async || {
        let reply = client.call("echo", json!({"text": "after"})).await.unwrap();
        reply.body["error"]["code"] == -32003
    })
    .await;
    let changed = config_records(&setup);
    assert_eq!(changed.len(), 1, "{changed:?}");
    let said = changed[0]["request_args"].to_string();
    assert!(said.contains("roles"), "{said}");
    assert_eq!(client.call("add", json!({"a": 1, "b": 2})).await.unwrap().content(), "3");
}
