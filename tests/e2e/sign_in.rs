//! Clients that sign in by themselves, against a real `OpenID` provider: the Python SDK, both versions of the
//! TypeScript SDK and mcp-remote discover it, register, sign a person in and call. And what a person sees of each of
//! them if the token is not good.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::clients_and_servers::modern_node;
use crate::common::gatepost::{Gatepost, Setup, token_with, write_secret};
use crate::common::python::python_program;
use crate::common::server::Server;

const CLIENTS: [&str; 4] = ["python", "ts_v1", "ts_v2", "mcp_remote"];

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/oidc").join(name)
}

/// An `OpenID` provider with these options (see `provider.mjs`); its URL is the issuer.
pub fn provider(options: &Value) -> Server {
    Server::start(Command::new(modern_node()).arg(script("provider.mjs")).arg(options.to_string()))
}

/// A gateway whose only setting besides the usual ones is the issuer.
fn with_issuer(provider: &Server) -> Setup {
    let mut setup = Setup::new();
    setup.set_toml("auth.issuers", &format!("[{{ issuer = {:?} }}]", provider.url));
    setup
}

/// The end of one client: `text` of its call or `error`, and all that it has shown.
#[derive(Debug)]
struct End {
    text: Option<String>,
    shown: String,
}

/// Runs a client at `path` until its call has ended.
fn run(client: &str, gatepost: &Gatepost, path: &str, options: &Value) -> End {
    let mut options = options.clone();
    options["tool"] = json!(if path == "/mcp" { "example__echo" } else { "echo" });
    let mut command = match client {
        "python" => Command::new(python_program("python")),
        _ => Command::new(modern_node()),
    };
    match client {
        "python" => command.arg(script("sign_in.py")),
        name => command.arg(script("sign_in.mjs")).arg(name),
    };
    let output = command.arg(format!("{}{path}", gatepost.url())).arg(options.to_string()).output().unwrap();
    let end: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let shown = ["error", "shown"].map(|key| end[key].as_str().unwrap_or_default().to_owned()).join("\n");
    End { text: end["text"].as_str().map(str::to_owned), shown }
}

/// The callers of the calls that succeeded: issuer and subject.
fn callers(setup: &Setup) -> BTreeSet<(String, String)> {
    let output = setup.command(&["outbox", "list", "--json"]).output().unwrap();
    let records = String::from_utf8(output.stdout).unwrap();
    let records = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let calls = records.filter(|record| record["method"] == "tools/call" && record["response_status"] == "ok");
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    calls.map(|record| (text(&record, "client_issuer"), text(&record, "client_subject"))).collect()
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn clients_sign_in_by_themselves_at_every_endpoint() {
    let provider = provider(&json!({}));
    for scope in [None, Some("mcp")] {
        let mut setup = with_issuer(&provider);
        if let Some(scope) = scope {
            setup.set("auth.required_scope", scope);
        }
        let gatepost = setup.start();
        for path in ["/mcp", "/mcp/example"] {
            for client in CLIENTS {
                let end = run(client, &gatepost, path, &json!({}));
                assert_eq!(end.text.as_deref(), Some("signed in"), "{client} at {path}: {end:?}\n{}", setup.log());
            }
        }
        assert_eq!(callers(&setup), BTreeSet::from([(provider.url.clone(), "ann".to_owned())]));
    }
}

#[test]
fn clients_with_a_registered_id_sign_in_without_registration() {
    let port = free_port();
    let redirects = [format!("http://127.0.0.1:{port}/callback"), format!("http://localhost:{port}/oauth/callback")];
    let registered =
        json!([{"client_id": "desktop", "redirect_uris": redirects, "grant_types": ["authorization_code"]}]);
    let provider = provider(&json!({"registration": false, "clients": registered}));
    let setup = with_issuer(&provider);
    let gatepost = setup.start();
    for path in ["/mcp", "/mcp/example"] {
        for client in CLIENTS {
            let end = run(client, &gatepost, path, &json!({"client_id": "desktop", "port": port}));
            assert_eq!(end.text.as_deref(), Some("signed in"), "{client} at {path}: {end:?}\n{}", setup.log());
        }
    }
}

/// Each client ends with an error that has all of `wanted`.
fn all_show(gatepost: &Gatepost, options: &Value, wanted: &[(&str, &str)]) {
    for (client, wanted) in wanted {
        let end = run(client, gatepost, "/mcp/example", options);
        assert!(end.text.is_none() && end.shown.contains(wanted), "{client}: no {wanted:?} in {end:#?}");
    }
}

#[test]
fn a_person_sees_why_a_token_of_the_provider_fails() {
    // The provider issues its tokens for something else.
    let elsewhere = provider(&json!({"audience": "https://elsewhere.example"}));
    let setup = with_issuer(&elsewhere);
    let gatepost = setup.start();
    let reason = format!("the token is for another audience: get one for {}/mcp/example", gatepost.url());
    let wanted = [
        ("python", &*reason),
        ("ts_v1", "Unauthorized"),
        ("ts_v2", "Unauthorized"),
        ("mcp_remote", "The server rejected a token it had just issued"),
    ];
    all_show(&gatepost, &json!({}), &wanted);
    assert!(callers(&setup).is_empty());
    setup.wait_for_log(&reason);
    // The person does not agree to the scope.
    let narrow = provider(&json!({"refuse": true}));
    let mut setup = with_issuer(&narrow);
    setup.set("auth.required_scope", "mcp");
    let gatepost = setup.start();
    let wanted = [
        ("python", "the token lacks the scope mcp"),
        ("ts_v1", "Unauthorized"),
        ("ts_v2", "Unauthorized"),
        ("mcp_remote", "Already attempted reconnection"),
    ];
    all_show(&gatepost, &json!({}), &wanted);
    assert!(callers(&setup).is_empty());
    // The log says it, where a client does not.
    setup.wait_for_log("the token lacks the scope mcp");
}

#[test]
fn a_person_whose_token_has_expired_signs_in_again() {
    let provider = provider(&json!({}));
    let setup = with_issuer(&provider);
    let gatepost = setup.start();
    let expired = token_with(&json!({"sub": "ann", "role": "admin", "exp": 1_000_000_000}));
    for client in CLIENTS {
        let end = run(client, &gatepost, "/mcp/example", &json!({"kept": expired}));
        assert_eq!(end.text.as_deref(), Some("signed in"), "{client}: {end:?}\n{}", setup.log());
    }
    setup.wait_for_log("the token has expired");
}

#[test]
fn a_person_with_a_token_sees_why_it_fails_and_is_not_sent_to_sign_in() {
    let mut setup = Setup::new();
    let tokens = setup.dir().join("tokens.toml");
    write_secret(&tokens, "");
    setup.set("auth.tokens_file", tokens.to_str().unwrap());
    let gatepost = setup.start();
    let expired = token_with(&json!({"sub": "ann", "role": "admin", "exp": 1_000_000_000}));
    let other = token_with(&json!({"sub": "ann", "role": "admin", "aud": "another"}));
    for (token, reason) in [
        ("wrong", "the token is neither a known static token nor a JWT"),
        (&expired, "the token has expired"),
        (&other, "the token is for another audience"),
    ] {
        let wanted = CLIENTS.map(|client| (client, reason));
        all_show(&gatepost, &json!({"token": token}), &wanted);
    }
    assert!(callers(&setup).is_empty());
}
