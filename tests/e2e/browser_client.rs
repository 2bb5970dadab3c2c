//! MCP clients in Chromium, on pages of an allowed and of another origin.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::clients_and_servers::{modern_node, node_module};
use crate::common::gatepost::{Setup, token};

#[test]
fn pages_of_allowed_origins_call_tools_and_others_cannot() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut setup = Setup::new();
    let server = r#"[{ issuer = "https://login.example", jwks_url = "https://login.example/jwks" }]"#;
    setup.set_toml("auth.issuers", server);
    setup.set_toml("server.allowed_origins", &format!("[\"http://app.example:{port}\"]"));
    let gatepost = setup.start();
    let modules = node_module("playwright-core").parent().unwrap().parent().unwrap().to_owned();
    let mut command = Command::new(modern_node());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/browser_client.mjs")).arg(modules);
    let output = command.args([gatepost.url(), &token("admin"), &port.to_string()]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let pages: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [allowed, other] = pages.as_slice() else { panic!("{output:?}") };
    assert_eq!(allowed["list"], json!([true, true]), "{output:?}");
    assert_eq!(allowed["call"], json!(["from a page", "from a page"]), "{output:?}");
    assert!(allowed["challenge"].as_str().unwrap().starts_with("Bearer "), "{allowed}");
    // The metadata is for any page.
    assert_eq!((&allowed["metadata"], &other["metadata"]), (&json!(200), &json!(200)));
    assert_eq!((&other["list"], &other["challenge"]), (&json!([]), &json!("refused: TypeError")), "{other}");
    assert!(other["call"].as_array().unwrap().iter().all(|call| call.as_str().unwrap().starts_with("refused")));
}
