//! Fifty sessions of clients on official SDKs while backends are added, changed and removed.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::gatepost::Setup;
use crate::common::wait::{SOON, until};
use crate::session::Clients;

const LIST_CHANGED: &str = "notifications/tools/list_changed";

/// The endpoints, each with so many clients in each era.
const ENDPOINTS: [&str; 5] = ["/mcp", "/mcp/kept", "/mcp/other", "/mcp/changed", "/mcp/removed"];
const CLIENTS: usize = 5;

fn endpoint(client: usize) -> &'static str {
    ENDPOINTS[client / CLIENTS]
}

/// A tool of an endpoint. At `/mcp` it is that of a backend that does not change.
fn tool(client: usize, name: &str) -> String {
    if endpoint(client) == "/mcp" { format!("kept__{name}") } else { name.to_owned() }
}

/// The records of calls in the outbox and in Postgres.
fn records(setup: &Setup, method: &str) -> Vec<Value> {
    let shown = setup.command(&["audit", "query", "--method", method, "--json", "--limit", "1000"]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn only_the_sessions_of_changed_and_removed_backends_notice_a_reload() {
    let example = [env!("CARGO_BIN_EXE_gatepost"), "example-backend"];
    let mut setup = Setup::new();
    for alias in ["kept", "other", "changed", "removed"] {
        setup.backend(alias, &example);
    }
    let gatepost = setup.start();
    let url = |client| format!("{}{}", gatepost.url(), endpoint(client));
    let all = 0..ENDPOINTS.len() * CLIENTS;
    let urls: Vec<_> = all.clone().map(url).collect();
    let mut eras = ["legacy", "modern"].map(|era| (era, Clients::start(&urls, era)));
    let mut calls = 0;
    for (era, clients) in &mut eras {
        for client in all.clone() {
            let said = clients.call(client, &tool(client, "echo"), &json!({"text": "before"}));
            assert_eq!(said.as_deref(), Ok("before"), "{era} {}", endpoint(client));
            calls += 1;
        }
    }
    // A call of each client is open during the change.
    let open: Vec<Vec<u64>> = eras
        .iter_mut()
        .map(|(_, clients)| {
            all.clone().map(|client| clients.begin_call(client, &tool(client, "sleep"), &json!({"ms": 8000}))).collect()
        })
        .collect();
    let is_open = || gatepost.get_ops("/metrics").1.contains(&format!("gatepost_calls_open {}.0", 2 * all.len()));
    until("the calls are open", SOON, is_open);
    setup.backend("added", &example).set_toml("backends.changed.env", r#"{ REGION = "north" }"#);
    setup.settings.retain(|key, _| !key.starts_with("backends.removed."));
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until("it is reloaded", SOON, || setup.log().contains("configuration reloaded"));
    assert!(is_open(), "the calls ended before the change");
    for ((era, clients), open) in eras.iter_mut().zip(open) {
        for (client, id) in open.into_iter().enumerate() {
            assert_eq!(clients.answer(id).as_deref(), Ok("slept 8000 ms"), "{era} {}", endpoint(client));
            calls += 1;
        }
        for client in all.clone() {
            match endpoint(client) {
                "/mcp" | "/mcp/changed" => clients.hears(client, LIST_CHANGED),
                "/mcp/removed" => {
                    let refused = clients.call(client, "echo", &json!({"text": "after"})).unwrap_err();
                    assert!(refused.contains("unknown backend \\\"removed"), "{era}: {refused}");
                    continue;
                }
                _ => {}
            }
            let said = clients.call(client, &tool(client, "echo"), &json!({"text": "after"}));
            assert_eq!(said.as_deref(), Ok("after"), "{era} {}", endpoint(client));
            calls += 1;
            if endpoint(client) == "/mcp" {
                let tools = clients.tools(client);
                let has = |alias: &str| tools.contains(&format!("{alias}__echo"));
                assert!(has("added") && has("changed") && !has("removed"), "{tools:?}");
            } else if endpoint(client) != "/mcp/changed" {
                assert!(clients.heard(client).is_empty(), "{era} {}: {:?}", endpoint(client), clients.heard(client));
            }
        }
    }
    drop(eras);
    assert_eq!(gatepost.terminate(), Some(0));
    let made = records(&setup, "tools/call");
    assert_eq!(made.iter().filter(|record| record["response_status"] == "ok").count(), calls);
    assert_eq!(records(&setup, "gateway/config").len(), 1);
    let verified = setup.command(&["audit", "verify"]).output().unwrap();
    let verified = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.contains("no fault found"), "{verified}");
}
