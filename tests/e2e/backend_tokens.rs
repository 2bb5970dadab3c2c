//! Backends that are called on behalf of callers, with a real authorization server: the backend verifies the exchanged
//! tokens by the server's published keys.

use std::process::Command;

use serde_json::{Value, json};

use crate::clients_and_servers::modern_node;
use crate::common::gatepost::{Setup, write_secret};
use crate::common::mcp::{Client, Era};
use crate::common::server::Server;

const SECRET: &str = "the secret of the gateway's client";

fn server(script: &str, argument: &str) -> Server {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/oidc/");
    Server::start(Command::new(modern_node()).arg(format!("{path}{script}")).arg(argument))
}

async fn get(url: &str) -> Value {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    serde_json::from_str(&http.get(url).send().await.unwrap().text().await.unwrap()).unwrap()
}

/// A token of the server for the gateway, whose subject is `client`.
async fn token_of(issuer: &str, client: &str) -> String {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(format!("{issuer}/token")).basic_auth(client, Some("pass"));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = request.body("grant_type=client_credentials&resource=urn:gatepost&scope=mcp").send().await.unwrap();
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// The records of calls, oldest first.
fn records(setup: &Setup) -> Vec<Value> {
    let shown = setup.command(&["outbox", "list", "--json"]).output().unwrap();
    let records = String::from_utf8(shown.stdout).unwrap();
    let records = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut records: Vec<Value> = records.filter(|record| record["method"] == "tools/call").collect();
    records.sort_by_key(|record| record["seq"].as_u64());
    records
}

fn credential(record: &Value) -> Value {
    let context = &record["context"];
    let context = context.as_str().map_or_else(|| context.clone(), |text| serde_json::from_str(text).unwrap());
    context["credential"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_sees_the_caller_and_the_trail_shows_both() {
    let clients = json!({"gatepost": SECRET, "ann": "pass", "bob": "pass", "eve": "pass"});
    let provider = server("token_server.mjs", &clients.to_string());
    let issuer = provider.url.clone();
    let crm = server("backend.mjs", &issuer);
    let mut setup = Setup::new();
    let (path, issuers) =
        (setup.dir().join("client-secret"), format!("[{{ issuer = {issuer:?}, jwks_url = \"{issuer}/jwks\" }}]"));
    write_secret(&path, SECRET);
    setup.set_toml("auth.issuers", &issuers).set_toml("auth.audiences", r#"["urn:gatepost"]"#);
    for (alias, on_behalf) in [("crm", "true"), ("reports", "false")] {
        let key = |name: &str| format!("backends.{alias}.oauth.{name}");
        setup.set(&format!("backends.{alias}.url"), &crm.url);
        setup.set(&key("token_url"), &format!("{issuer}/token")).set(&key("client_id"), "gatepost");
        setup.set(&key("client_secret_file"), path.to_str().unwrap());
        setup.set(&key("resource"), &crm.url).set(&key("scope"), "mcp").set_toml(&key("on_behalf"), on_behalf);
        if on_behalf == "true" {
            setup.set_toml(&key("subject_issuers"), &format!("[{issuer:?}]"));
        }
    }
    let gatepost = setup.start();
    let mut tokens = Vec::new();
    for caller in ["ann", "bob", "eve"] {
        tokens.push(token_of(&issuer, caller).await);
    }
    let client =
        async |caller: usize, era| Client::unconnected(&format!("{}/mcp", gatepost.url()), era, Some(&tokens[caller]));
    for era in [Era::Legacy, Era::Modern] {
        for (caller, tool, subject) in [
            (0, "crm__whoami", "ann"),
            (1, "crm__whoami", "bob"),
            (0, "crm__whoami", "ann"),
            (0, "reports__whoami", "gatepost"),
        ] {
            let reply = client(caller, era).await.call(tool, json!({})).await.unwrap();
            assert_eq!(reply.content(), subject, "{era:?} {tool}\n{}", setup.log());
            let record = records(&setup).pop().unwrap();
            assert_eq!(record["client_subject"], ["ann", "bob"][caller]);
            let name = if tool == "crm__whoami" { "exchange" } else { "client_credentials" };
            assert_eq!(credential(&record), json!({"name": name, "subject": subject}));
        }
    }
    let log = get(&crm.url.replace("/mcp", "/log")).await;
    let log = log.as_array().unwrap();
    let called = log.iter().filter(|line| line["method"] == "tools/call").map(|line| line["subject"].as_str().unwrap());
    let want = ["ann", "bob", "ann", "gatepost"];
    assert!(called.eq(want.iter().chain(&want).copied()), "{log:?}");
    assert!(log.iter().all(|line| line["refused"].is_null()), "{log:?}");
    // The server is down: a caller whose token was exchanged goes on, another is refused, other backends go on.
    drop(provider);
    assert_eq!(client(1, Era::Legacy).await.call("crm__whoami", json!({})).await.unwrap().content(), "bob");
    let failed = client(2, Era::Legacy).await.call("crm__whoami", json!({})).await.unwrap();
    assert!(failed.text.contains("backend crm was not called"), "{}", failed.text);
    let record = records(&setup).pop().unwrap();
    assert_eq!((&record["client_subject"], &record["response_status"]), (&json!("eve"), &json!("error")));
    let message = record["error_message"].as_str().unwrap();
    assert!(message.contains(&format!("the token server {issuer} cannot be reached")), "{message}");
    let other = client(2, Era::Legacy).await.call("example__echo", json!({"text": "hi"})).await.unwrap();
    assert_eq!(other.content(), "hi");
    // I8: no token is in the log or in a record.
    let outputs = [setup.log(), records(&setup).iter().map(Value::to_string).collect()];
    for text in tokens.iter().map(String::as_str).chain([SECRET]) {
        let part = text.split('.').nth(1).unwrap_or(text);
        assert!(!outputs.iter().any(|output| output.contains(part)), "{text}");
    }
}
