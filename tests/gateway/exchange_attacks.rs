//! Attacks on the exchange of callers' tokens with credentials that are real, and for another place, time or issuer.

use serde_json::{Value, json};

use crate::backend_tokens::{caller, context, done, gateway, on_behalf, subject_token};
use crate::common::gatepost::{ISSUER, Setup, token_with};
use crate::common::mcp::Era;
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::BackendStub;
use crate::token_server::{TokenRequest, TokenServer};

const PARTNER: &str = "partner";

/// The records with this status, oldest first.
fn records(setup: &Setup, status: &str) -> Vec<Value> {
    let shown = setup.command(&["audit", "query", "--status", status, "--json", "--limit", "1000"]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    records.sort_by_key(|record| record["seq"].as_u64());
    records
}

/// The key of the tests is that of two issuers, and only the tokens of one may be exchanged.
fn two_issuers(setup: &mut Setup) {
    on_behalf(setup);
    let secret = setup.dir().join("secret").display().to_string();
    let key =
        |issuer| format!("{{ kid = \"test\", algorithm = \"HS256\", issuer = {issuer:?}, secret_file = {secret:?} }}");
    setup.set_toml("auth.keys", &format!("[{}, {}]", key(ISSUER), key(PARTNER)));
    setup.set_toml("backends.far.oauth.subject_issuers", &format!("[{ISSUER:?}]"));
    setup.set("auth.leeway", "0s").set_toml("audit.refusals_singly_max", "1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn real_tokens_of_another_place_time_or_issuer_are_refused_and_recorded() {
    let backend = BackendStub::start(|_| None).await;
    let server = TokenServer::start(|_| None).await;
    let (setup, gatepost) = gateway(&backend, &server, two_issuers);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // A thief has this one; its owner has used it, so that the gateway has a token for the backend that is still good.
    let stolen = token_with(&json!({"sub": "ann", "role": "admin", "exp": now + 6}));
    done(&caller(&gatepost, Era::Modern, &stolen)).await;
    let exchanged = server.issued.lock().unwrap().last().unwrap().clone();
    let has_expired =
        async || caller(&gatepost, Era::Modern, &stolen).call("t", json!({})).await.unwrap().status == 401;
    until_async("it has expired", SOON, has_expired).await;
    let at_other = format!("{}/mcp/example", gatepost.url());
    let called = backend.seen("tools/call").len();
    for (name, token) in [
        ("a stolen token after its end", stolen.clone()),
        ("a token that was issued for the backend", exchanged),
        ("a token for another service", token_with(&json!({"sub": "ann", "role": "admin", "aud": "mail"}))),
        ("a token for another endpoint", token_with(&json!({"sub": "ann", "role": "admin", "aud": at_other}))),
    ] {
        for era in [Era::Legacy, Era::Modern] {
            let before = records(&setup, "unauthenticated").len();
            let refused = caller(&gatepost, era, &token).call("t", json!({})).await.unwrap();
            assert_eq!(refused.status, 401, "{name}: {}", refused.text);
            let recorded = records(&setup, "unauthenticated");
            assert_eq!(recorded.len(), before + 1, "{name}");
            assert!(recorded.last().unwrap()["error_message"].as_str().is_some_and(|why| !why.is_empty()), "{name}");
        }
    }
    // A server to which the tokens of another issuer are sent could use them at the gateway.
    for era in [Era::Legacy, Era::Modern] {
        let partner = token_with(&json!({"iss": PARTNER, "sub": "ann", "role": "admin"}));
        let client = caller(&gatepost, era, &partner);
        for method in ["tools/list", "prompts/list"] {
            let refused = client.request(method, json!({})).await.unwrap();
            assert!(refused.text.contains("are not exchanged for it"), "{method}: {}", refused.text);
        }
        let refused = client.call("t", json!({})).await.unwrap();
        assert!(refused.text.contains("tokens of \\\"partner\\\" are not exchanged for it"), "{}", refused.text);
        let record = records(&setup, "denied").pop().unwrap();
        assert_eq!(record["decided_by"], "backends.far.oauth.subject_issuers");
        assert!(record["client_issuer"] == PARTNER && context(&record)["credential"].is_null(), "{record}");
    }
    assert_eq!(backend.seen("tools/call").len(), called);
    let sent: Vec<_> = server.requests().into_iter().filter(TokenRequest::is_exchange).collect();
    assert!(sent.iter().all(|request| request.form["subject_token"] == stolen), "{sent:?}");
    // The issuer that is named is served.
    done(&caller(&gatepost, Era::Modern, &subject_token("bob"))).await;
}
