//! Discovery of authorization: which tokens are good at which endpoint, where clients find the authorization server,
//! and where the gateway finds its keys.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode as Status;
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::gatepost::{Gatepost, Setup, token, token_with, write_secret};

const ECHO: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hi"}}}"#;

/// An issuer that clients could ask for a token.
const SERVER: &str = r#"[{ issuer = "https://login.example", jwks_url = "https://login.example/jwks" }]"#;

/// One answer.
struct Answer {
    status: StatusCode,
    challenge: String,
    body: Value,
}

impl Answer {
    fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_else(|| panic!("no error: {}", self.body))
    }
}

async fn send(gatepost: &Gatepost, verb: Method, path: &str, token: &str, headers: &[(&str, &str)]) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = if verb == Method::POST { ECHO } else { "" };
    let mut request = client.request(verb, format!("{}{path}", gatepost.url())).body(body);
    request = request.header("content-type", "application/json");
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let challenge = response.headers().get("www-authenticate").map_or("", |value| value.to_str().unwrap()).to_owned();
    let status = response.status();
    Answer { status, challenge, body: serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default() }
}

async fn call(gatepost: &Gatepost, path: &str, token: &str, headers: &[(&str, &str)]) -> Answer {
    send(gatepost, Method::POST, path, token, headers).await
}

/// A token for one audience.
fn token_for(aud: &str) -> String {
    token_with(&json!({"sub": "ann", "role": "admin", "aud": aud}))
}

#[tokio::test]
async fn a_token_for_one_endpoint_is_good_there_and_one_for_all_is_good_everywhere() {
    let mut setup = Setup::new();
    setup
        .set_toml("server.allowed_hosts", r#"["gate.example"]"#)
        .set_toml("server.trusted_proxies", r#"["127.0.0.1"]"#);
    let other = setup.settings["backends.example.command"].clone();
    setup.set_toml("backends.other.command", &other);
    let gatepost = setup.start();
    let base = gatepost.url();
    let named = [("host", "gate.example"), ("x-forwarded-proto", "https, http")];
    let cases: [(&str, &[(&str, &str)]); 2] = [(base, &[]), ("https://gate.example", &named)];
    for (base, headers) in cases {
        for (aud, path, is_good) in [
            ("/mcp/example", "/mcp/example", true),
            ("/mcp", "/mcp/example", true),
            ("/mcp", "/mcp/other", true),
            ("/mcp/example", "/mcp/other", false),
            ("/mcp/other", "/mcp/example", false),
        ] {
            let answer = call(&gatepost, path, &token_for(&format!("{base}{aud}")), headers).await;
            assert_eq!(answer.status == StatusCode::OK, is_good, "{base} {aud} at {path}: {}", answer.body);
            if !is_good {
                let wanted = format!("the token is for another audience: get one for {base}{path}");
                assert_eq!((answer.status, answer.message()), (StatusCode::UNAUTHORIZED, &*wanted));
            }
        }
    }
    // The configured audience is good everywhere; it can be replaced.
    assert_eq!(call(&gatepost, "/mcp/other", &token_for("gatepost"), &[]).await.status, StatusCode::OK);
    drop(gatepost);
    setup.set_toml("auth.audiences", r#"["one", "two"]"#);
    let gatepost = setup.start();
    for (aud, status) in [("one", 200), ("two", 200), ("gatepost", 401)] {
        assert_eq!(call(&gatepost, "/mcp/example", &token_for(aud), &[]).await.status, status, "{aud}");
    }
}

#[tokio::test]
async fn a_token_for_the_public_url_is_good_through_any_proxy() {
    let mut setup = Setup::new();
    setup.set("server.public_url", "https://mcp.example.com/tools");
    let gatepost = setup.start();
    let good = token_for("https://mcp.example.com/tools/mcp/example");
    for path in ["/mcp/example", "/tools/mcp/example"] {
        assert_eq!(call(&gatepost, path, &good, &[]).await.status, StatusCode::OK, "{path}");
    }
    let own = token_for(&format!("{}/mcp/example", gatepost.url()));
    let refused = call(&gatepost, "/mcp/example", &own, &[]).await;
    assert_eq!(
        refused.message(),
        "the token is for another audience: get one for https://mcp.example.com/tools/mcp/example"
    );
}

#[tokio::test]
async fn a_host_whose_port_nobody_named_is_no_audience_and_the_message_says_so() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let token = token_for("http://localhost:9000/mcp/example");
    let refused = call(&gatepost, "/mcp/example", &token, &[("host", "localhost:9000")]).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let message = refused.message();
    assert!(message.contains("name this Host with its port in server.allowed_hosts"), "{message}");
    drop(gatepost);
    let mut setup = setup;
    setup.set_toml("server.allowed_hosts", r#"["localhost:9000"]"#);
    let gatepost = setup.start();
    let served = call(&gatepost, "/mcp/example", &token, &[("host", "localhost:9000")]).await;
    assert_eq!(served.status, StatusCode::OK, "{}", served.body);
}

#[tokio::test]
async fn a_refusal_leads_to_the_metadata_with_the_scope() {
    let mut setup = Setup::new();
    setup.set_toml("auth.issuers", SERVER).set("auth.required_scope", "mcp");
    let gatepost = setup.start();
    for path in ["/mcp", "/mcp/example"] {
        let metadata = format!("{}/.well-known/oauth-protected-resource{path}", gatepost.url());
        let leads = format!(r#"scope="mcp", resource_metadata="{metadata}""#);
        let missing = call(&gatepost, path, "", &[]).await;
        assert_eq!((missing.status, missing.challenge), (StatusCode::UNAUTHORIZED, format!("Bearer {leads}")));
        let invalid = call(&gatepost, path, "a.b.c", &[]).await;
        let start = r#"Bearer error="invalid_token", error_description=""#;
        assert!(invalid.challenge.starts_with(start) && invalid.challenge.ends_with(&leads), "{}", invalid.challenge);
        let narrow = call(&gatepost, path, &token("admin"), &[]).await;
        let wanted = format!(r#"Bearer error="insufficient_scope", {leads}"#);
        assert_eq!((narrow.status, narrow.challenge), (StatusCode::FORBIDDEN, wanted));
        let document = send(&gatepost, Method::GET, &metadata[gatepost.url().len()..], "", &[]).await;
        let wanted = json!({
            "resource": format!("{}{path}", gatepost.url()),
            "authorization_servers": ["https://login.example"],
            "bearer_methods_supported": ["header"],
            "resource_name": "Gatepost",
            "scopes_supported": ["mcp"],
        });
        assert_eq!((document.status, document.body), (StatusCode::OK, wanted));
    }
}

#[tokio::test]
async fn without_an_authorization_server_no_client_is_sent_to_find_one() {
    let mut setup = Setup::new();
    let tokens = setup.dir().join("tokens.toml");
    write_secret(&tokens, "");
    setup.set("auth.tokens_file", tokens.to_str().unwrap());
    let gatepost = setup.start();
    let missing = call(&gatepost, "/mcp/example", "", &[]).await;
    assert_eq!((missing.status, &*missing.challenge), (StatusCode::UNAUTHORIZED, r#"Bearer realm="gatepost""#));
    let reason = "the token is neither a known static token nor a JWT";
    let wrong = call(&gatepost, "/mcp/example", "wrong", &[]).await;
    let challenge = format!(r#"Bearer error="invalid_token", error_description="{reason}""#);
    assert_eq!(
        (wrong.status, wrong.message(), wrong.challenge.as_str()),
        (StatusCode::UNAUTHORIZED, reason, &*challenge)
    );
    for path in ["", "/mcp", "/mcp/example"] {
        let path = format!("/.well-known/oauth-protected-resource{path}");
        assert_eq!(send(&gatepost, Method::GET, &path, "", &[]).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    // Some clients then take the gateway for the authorization server, and show this answer.
    let register = call(&gatepost, "/register", "wrong", &[]).await;
    let message = format!("no such path; use /mcp or /mcp/BACKEND; {reason}");
    assert_eq!((register.status, register.message()), (StatusCode::NOT_FOUND, &*message));
}

/// An issuer on this machine: its URL, and its documents by path, which a test may change.
async fn issuer() -> (String, Arc<Mutex<Vec<(String, Value)>>>) {
    let documents = Arc::new(Mutex::new(Vec::<(String, Value)>::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = Arc::clone(&documents);
    let document = move |uri: axum::http::Uri| {
        let found = served.lock().iter().find(|(path, _)| path == uri.path()).map(|(_, document)| document.to_string());
        std::future::ready(found.ok_or(Status::NOT_FOUND))
    };
    let router = Router::new().fallback(get(document));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, documents)
}

fn key() -> EncodingKey {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/es256_private.pem");
    EncodingKey::from_ec_pem(&std::fs::read(file).unwrap()).unwrap()
}

#[tokio::test]
async fn the_issuer_alone_suffices_and_only_its_own_metadata_is_believed() {
    let (issuer, documents) = issuer().await;
    let mut jwk = Jwk::from_encoding_key(&key(), Algorithm::ES256).unwrap();
    jwk.common.key_id = Some("k".to_owned());
    let keys = ("/keys".to_owned(), json!({ "keys": [jwk] }));
    let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::ES256) };
    let exp = jsonwebtoken::get_current_timestamp() + 600;
    let claims = json!({"iss": issuer, "sub": "ann", "aud": "gatepost", "role": "echo", "exp": exp});
    let token = jsonwebtoken::encode(&header, &claims, &key()).unwrap();
    let metadata = |path: &str, of: &str, keys: &str| (path.to_owned(), json!({ "issuer": of, "jwks_uri": keys }));
    let (openid, oauth) = ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server");
    let good = format!("{issuer}/keys");
    for (document, fault) in [
        (metadata(openid, &issuer, &good), None),
        (metadata(oauth, &issuer, &good), None),
        (metadata(openid, "https://evil.example", &good), Some("is that of another issuer")),
        (metadata(openid, &format!("{issuer}/"), &good), Some("is that of another issuer")),
        (
            metadata(openid, &issuer, "http://evil.example/keys"),
            Some("jwks_uri in the issuer's metadata is missing or not a URL with https"),
        ),
        (metadata("/elsewhere", &issuer, &good), Some("the issuer responded with HTTP status 404")),
    ] {
        *documents.lock() = vec![keys.clone(), document.clone()];
        let mut setup = Setup::new();
        setup.set_toml("auth.issuers", &format!("[{{ issuer = {issuer:?} }}]"));
        let gatepost = setup.start();
        let answer = call(&gatepost, "/mcp/example", &token, &[]).await;
        let Some(fault) = fault else {
            assert_eq!(answer.status, StatusCode::OK, "{document:?}: {}", answer.body);
            continue;
        };
        assert_eq!((answer.status, &*answer.challenge), (StatusCode::SERVICE_UNAVAILABLE, ""), "{document:?}");
        setup.wait_for_log("cannot fetch the issuer's keys");
        assert!(setup.log().contains(fault), "{fault}: {}", setup.log());
        let listed = setup.command(&["outbox", "list", "--json"]).output().unwrap();
        let records = String::from_utf8(listed.stdout).unwrap();
        let records = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let refused = records.filter(|record| record["response_status"] == "unauthenticated").count();
        assert_eq!(refused, 1, "I2: {document:?}");
    }
}
