//! `gatepost stdio`: the gateway as a stdio server, with the same identity, decisions and records as over HTTP.

use std::io::Write as _;
use std::process::Stdio;

use crate::common::gatepost::{Setup, token};
use crate::common::stdio_client::StdioClient;
use serde_json::{Value, json};

fn modern(name: &str, arguments: &Value) -> Value {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({"name": name, "arguments": arguments, "_meta": meta})
}

fn records(setup: &Setup) -> Vec<Value> {
    let output = setup.command(&["outbox", "list", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|record| !record["method"].as_str().unwrap().starts_with("gateway/")).collect()
}

#[test]
fn a_stdio_client_is_served_and_recorded_like_an_http_client() {
    let setup = Setup::new();
    let mut client = StdioClient::start(&setup, "example", "echo", Stdio::null());
    let hello = client.initialize();
    assert_eq!(hello["result"]["serverInfo"]["name"], "gatepost-example", "{hello}");
    let listed = client.ask(2, "tools/list", &json!({}));
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 1, "{listed}");
    let echoed = client.ask(3, "tools/call", &json!({"name": "echo", "arguments": {"text": "hi"}}));
    assert_eq!(echoed["result"]["content"][0]["text"], "hi");
    let denied = client.ask(4, "tools/call", &json!({"name": "add", "arguments": {"a": 1, "b": 2}}));
    assert_eq!(denied["error"]["code"], -32003);
    let echoed = client.ask(5, "tools/call", &modern("echo", &json!({"text": "modern"})));
    assert_eq!(echoed["result"]["content"][0]["text"], "modern", "{echoed}");
    client.input.as_mut().unwrap().write_all(b"{\n").unwrap();
    assert_eq!(client.read()["error"]["code"], -32700);
    assert_eq!(client.leave(), Some(0));
    let records = records(&setup);
    let seen = |field: &str| records.iter().map(|record| record[field].clone()).collect::<Vec<_>>();
    assert_eq!(seen("response_status"), ["ok", "ok", "denied", "ok", "malformed", "ok"], "{records:#?}");
    assert!(seen("client_subject").iter().all(|subject| subject == "tester"), "{records:#?}");
}

#[test]
fn cancelled_calls_of_both_eras_are_recorded_as_cancelled() {
    let setup = Setup::new();
    let mut client = StdioClient::start(&setup, "all", "admin", Stdio::null());
    client.initialize();
    let slow = json!({"ms": 60_000});
    let calls = [(7, json!({"name": "example__sleep", "arguments": slow})), (8, modern("example__sleep", &slow))];
    for (id, params) in calls {
        client.send(&json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}));
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        client.send(&cancel);
        let (answer, _) = client.response(id);
        assert!(answer["error"]["message"].as_str().unwrap().contains("cancelled"), "{answer}");
    }
    assert_eq!(client.leave(), Some(0));
    let statuses: Vec<_> = records(&setup).iter().map(|record| record["response_status"].clone()).collect();
    assert_eq!(statuses, ["ok", "cancelled", "cancelled", "ok"], "from initialize to session/close");
}

#[test]
fn an_invalid_token_or_backend_fails_the_start() {
    let setup = Setup::new();
    for (backend, role, said) in [("example", None, "GATEPOST_TOKEN"), ("missing", Some("admin"), "is not configured")]
    {
        let mut command = setup.command(&["stdio", "--backend", backend]);
        if let Some(role) = role {
            command.env("GATEPOST_TOKEN", token(role));
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
    let mut command = setup.command(&["stdio"]);
    let output = command.env("GATEPOST_TOKEN", "a.b.c").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("the token is refused") && !log.contains("a.b.c"), "{log}");
}
