//! Each record names the credentials with which backends were called for it, and no other.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::backend_tokens::{context, gateway, on_behalf, subject, subject_token};
use crate::common::gatepost::{Gatepost, Setup, write_secret};
use crate::common::mcp::{Client, Era};
use crate::http_backend_stub::{BackendStub, modern};
use crate::token_server::{TokenServer, refuse};

/// The `credential` and the `credentials` of the newest record of `method`.
fn named(setup: &Setup, method: &str) -> (Value, Value) {
    let newest = newest(setup, method).unwrap_or_else(|| panic!("no record of {method}"));
    let context = context(&newest);
    (context["credential"].clone(), context["credentials"].clone())
}

fn newest(setup: &Setup, method: &str) -> Option<Value> {
    let shown = setup.command(&["audit", "query", "--method", method, "--json"]).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.max_by_key(|record| record["seq"].as_u64())
}

fn client(gatepost: &Gatepost, path: &str, era: Era) -> Client {
    Client::unconnected(&format!("{}{path}", gatepost.url()), era, Some(&subject_token("ann")))
}

/// Three backends: `far` is called on behalf of callers, `near` with a header, and `open` with nothing.
fn three(setup: &mut Setup, backend: &BackendStub) {
    on_behalf(setup);
    let key = setup.dir().join("api-key");
    write_secret(&key, "hunter2\n");
    setup.set("backends.near.url", &backend.url).set("backends.near.header_file.X-Api-Key", key.to_str().unwrap());
    setup.set("backends.open.url", &backend.url);
    setup.set_toml("audit.methods", r#"["tools/list"]"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_name_the_credentials_of_their_backends() {
    let backend = BackendStub::start(|asked| Some(modern(asked))).await;
    let server = TokenServer::start(|_| None).await;
    let (setup, gatepost) = gateway(&backend, &server, |setup| three(setup, &backend));
    let exchange = json!({"name": "exchange", "subject": "ann"});
    let of_all = json!([
        {"backend": "far", "name": "exchange", "subject": "ann"},
        {"backend": "near", "name": "headers"},
    ]);
    for (path, want) in [
        ("/mcp", (Value::Null, of_all)),
        ("/mcp/far", (exchange, Value::Null)),
        ("/mcp/near", (json!({"name": "headers"}), Value::Null)),
        ("/mcp/open", (Value::Null, Value::Null)),
    ] {
        for era in [Era::Legacy, Era::Modern] {
            client(&gatepost, path, era).request("tools/list", json!({})).await.unwrap().result();
            assert_eq!(named(&setup, "tools/list"), want, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_and_one_without_a_token_name_no_credential() {
    let backend = BackendStub::start(|_| None).await;
    let server = TokenServer::start(|request| {
        let is_eve = request.is_exchange() && request.caller()["sub"] == "eve";
        is_eve.then(|| refuse(StatusCode::BAD_REQUEST, "invalid_grant", ""))
    })
    .await;
    let (setup, gatepost) = gateway(&backend, &server, |setup| three(setup, &backend));
    let none = (Value::Null, Value::Null);
    // A tool that does not exist is refused after the list was read for it.
    for (path, tool) in [("/mcp/near", "missing"), ("/mcp", "near__missing")] {
        let refused = client(&gatepost, path, Era::Modern).call(tool, json!({})).await.unwrap();
        assert!(refused.body.get("error").is_some(), "{}", refused.text);
        assert_eq!(newest(&setup, "tools/call").unwrap()["response_status"], "malformed");
        assert_eq!(named(&setup, "tools/call"), none);
    }
    let eve = Client::unconnected(&format!("{}/mcp/far", gatepost.url()), Era::Legacy, Some(&subject_token("eve")));
    assert_eq!(eve.call("t", json!({})).await.unwrap().error_code(), -32012);
    assert_eq!(newest(&setup, "tools/call").unwrap()["response_status"], "error");
    assert_eq!(named(&setup, "tools/call"), none);
    let all = Client::unconnected(&format!("{}/mcp", gatepost.url()), Era::Legacy, Some(&subject_token("eve")));
    all.request("tools/list", json!({})).await.unwrap().result();
    assert_eq!(named(&setup, "tools/list").1, json!([{"backend": "near", "name": "headers"}]));
    let seen = backend.seen.lock().unwrap().clone();
    let mut bearers = seen.iter().filter(|asked| asked.header("authorization").is_some());
    assert!(bearers.all(|asked| subject(asked) != "eve"));
    assert_eq!(client(&gatepost, "/mcp/near", Era::Legacy).call("t", json!({})).await.unwrap().content(), "done");
    assert_eq!(named(&setup, "tools/call"), (json!({"name": "headers"}), Value::Null));
}
