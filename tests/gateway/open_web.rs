//! What stands between clients and the gateway: browsers, proxies, old protocol versions, lost connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::response::IntoResponse;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::{Client, Era};
use crate::http_backend_stub::{BackendStub, result};

/// An issuer that clients could ask for a token.
const SERVER: &str = r#"[{ issuer = "https://login.example", jwks_url = "https://login.example/jwks" }]"#;

const PAGE: &str = "https://app.example";

/// Sends a request with these headers, and no others but reqwest's own.
async fn send(gatepost: &Gatepost, verb: Method, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(verb, format!("{}{path}", gatepost.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

fn header<'a>(answer: &'a reqwest::Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_can_call_from_a_browser() {
    let mut setup = Setup::new();
    setup.set_toml("server.allowed_origins", &format!("[{PAGE:?}]")).set_toml("auth.issuers", SERVER);
    let gatepost = setup.start();
    let wanted = "authorization, content-type, mcp-session-id, mcp-param-region";
    let ask = ("access-control-request-method", "POST");
    for path in ["/mcp", "/mcp/example"] {
        let preflight = [("origin", PAGE), ask, ("access-control-request-headers", wanted)];
        let answer = send(&gatepost, Method::OPTIONS, path, &preflight).await;
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        assert_eq!(header(&answer, "access-control-allow-origin"), PAGE);
        assert!(header(&answer, "access-control-allow-methods").contains("DELETE"));
        assert_eq!(header(&answer, "access-control-allow-headers"), wanted);
        // The page can read what it needs to sign in.
        let refused =
            send(&gatepost, Method::POST, path, &[("origin", PAGE), ("content-type", "application/json")]).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(header(&refused, "access-control-allow-origin"), PAGE);
        // Or a cache would give this answer to another page.
        assert!(header(&refused, "vary").contains("origin"));
        let exposed = header(&refused, "access-control-expose-headers");
        assert!(exposed.contains("www-authenticate") && exposed.contains("mcp-session-id"), "{exposed}");
    }
    // A page on the same machine, too; no other page.
    let local = send(&gatepost, Method::OPTIONS, "/mcp", &[("origin", "http://localhost:6274"), ask]).await;
    assert_eq!(header(&local, "access-control-allow-origin"), "http://localhost:6274");
    for origin in ["https://evil.example", "null", "https://app.example.evil.example"] {
        let answer = send(&gatepost, Method::OPTIONS, "/mcp", &[("origin", origin), ask]).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), "", "{origin}");
        let answer =
            send(&gatepost, Method::POST, "/mcp", &[("origin", origin), ("content-type", "application/json")]).await;
        assert_eq!((answer.status(), header(&answer, "access-control-allow-origin")), (StatusCode::FORBIDDEN, ""));
    }
    // The metadata is public.
    let document = "/.well-known/oauth-protected-resource/mcp";
    let answer = send(&gatepost, Method::GET, document, &[("origin", "https://any.example")]).await;
    assert_eq!((answer.status(), header(&answer, "access-control-allow-origin")), (StatusCode::OK, "*"));
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_named_as_clients_reach_them() {
    let document = async |gatepost: &Gatepost, path: &str, headers: &[(&str, &str)]| {
        let answer = send(gatepost, Method::GET, path, headers).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap()["resource"].as_str().unwrap().to_owned()
    };
    let direct = "/.well-known/oauth-protected-resource/mcp/example";
    {
        let mut setup = Setup::new();
        setup.set_toml("auth.issuers", SERVER).set_toml("server.trusted_proxies", r#"["127.0.0.1"]"#);
        let gatepost = setup.start();
        // Each of several proxies appends what it saw.
        for (proto, scheme) in [("https, http", "https"), ("HTTPS", "https"), ("http, https", "http"), ("", "http")] {
            let found = document(&gatepost, direct, &[("x-forwarded-proto", proto)]).await;
            assert_eq!(found.split_once("://").unwrap().0, scheme, "{proto}");
        }
    }
    {
        // What a client says of itself is not believed.
        let mut setup = Setup::new();
        setup.set_toml("auth.issuers", SERVER);
        let gatepost = setup.start();
        assert!(document(&gatepost, direct, &[("x-forwarded-proto", "https")]).await.starts_with("http://"));
    }
    let mut setup = Setup::new();
    setup.set_toml("auth.issuers", SERVER).set("server.public_url", "https://mcp.example.com/tools/");
    let gatepost = setup.start();
    let resource = "https://mcp.example.com/tools/mcp/example";
    // With the prefix removed by the proxy, with it, and where a client looks by itself.
    for path in [
        direct,
        "/tools/.well-known/oauth-protected-resource/mcp/example",
        "/.well-known/oauth-protected-resource/tools/mcp/example",
    ] {
        assert_eq!(document(&gatepost, path, &[("host", "mcp.example.com")]).await, resource, "{path}");
    }
    let refused = send(&gatepost, Method::POST, "/tools/mcp/example", &[("content-type", "application/json")]).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let metadata = "https://mcp.example.com/tools/.well-known/oauth-protected-resource/mcp/example";
    assert!(header(&refused, "www-authenticate").contains(&format!("resource_metadata=\"{metadata}\"")));
    for path in ["/mcp/example", "/tools/mcp/example"] {
        let client = gatepost.client_at(path, Era::Legacy, "admin").await;
        client.call("echo", json!({"text": "x"})).await.unwrap().result();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_version_was_negotiated_in_a_session_is_accepted_in_it() {
    for version in ["2024-11-05", "2024-10-07", "2025-11-25"] {
        let backend = BackendStub::start(move |asked| {
            let hello = format!(
                r#"{{"protocolVersion":"{version}","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"old","version":"1"}}}}"#
            );
            let answer = || ([("mcp-session-id", "s")], result(asked, &hello)).into_response();
            (asked.method() == "initialize").then(answer)
        })
        .await;
        let (_setup, gatepost) = backend.gateway(|_| {});
        let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
        assert_eq!(client.version, version);
        assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done", "{version}");
        let mut other = client.clone();
        other.version = "2023-01-01".to_owned();
        assert_eq!(other.call("t", json!({})).await.unwrap().error_code(), -32022, "no other version");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_are_null_stand_for_none() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client(Era::Legacy, "admin").await;
    let ask = async |method: &str, params: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}"#);
        client.post(body, &[]).await.unwrap()
    };
    for (method, params) in [
        ("ping", "null"),
        ("tools/list", "null"),
        ("tools/list", r#"{"cursor":null,"_meta":null}"#),
        ("tools/call", r#"{"name":"example__echo","arguments":{"text":"x"},"_meta":null}"#),
    ] {
        ask(method, params).await.result();
    }
}

/// A backend whose call is answered, by a plain JSON body, once the sender says so.
async fn silent() -> (BackendStub, watch::Sender<bool>) {
    let (release, released) = watch::channel(false);
    let backend = BackendStub::start(move |asked| {
        if asked.method() != "tools/call" {
            return None;
        }
        let (mut released, id) = (released.clone(), asked.message["id"].clone());
        let body = Body::from_stream(futures_util::stream::once(async move {
            released.wait_for(|is_released| *is_released).await.unwrap();
            let text = json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": "late"}]}});
            Ok::<_, std::io::Error>(text.to_string())
        }));
        Some(([("content-type", "application/json")], body).into_response())
    });
    (backend.await, release)
}

/// Begins a call, and returns the answer's head, which comes before the backend has answered.
async fn begin_call(client: &Client, url: &str) -> reqwest::Response {
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "t", "arguments": {}}});
    let request = reqwest::Client::builder().no_proxy().build().unwrap().post(url);
    let request = request.header("accept", "application/json, text/event-stream").bearer_auth(token("admin"));
    let request = request.header("mcp-session-id", client.session.as_deref().unwrap());
    request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_call_is_kept_alive_and_can_be_resumed_from_its_beginning() {
    let (backend, release) = silent().await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let url = format!("{}/mcp/far", gatepost.url());
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    let mut answer = begin_call(&client, &url).await;
    assert_eq!(header(&answer, "content-type"), "text/event-stream");
    let first = answer.chunk().await.unwrap().unwrap();
    let first = String::from_utf8(first.to_vec()).unwrap();
    let id = first.strip_prefix("id: ").and_then(|rest| rest.split_once('\n')).unwrap().0.to_owned();
    assert!(id.ends_with("-0") && first.ends_with("data: \n\n"), "{first:?}");
    // The connection breaks before any message; the call goes on.
    drop(answer);
    release.send_replace(true);
    let resumed = reqwest::Client::builder().no_proxy().build().unwrap().get(&url).bearer_auth(token("admin"));
    let resumed = resumed.header("accept", "text/event-stream").header("last-event-id", id);
    let resumed = resumed.header("mcp-session-id", client.session.as_deref().unwrap()).send().await.unwrap();
    assert!(resumed.text().await.unwrap().contains("late"));
    assert_eq!(backend.seen("tools/call").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_handshake_is_kept_alive_and_names_its_session() {
    let (release, released) = watch::channel(false);
    let is_first = Arc::new(AtomicBool::new(true));
    let backend = BackendStub::start(move |asked| {
        if asked.method() != "initialize" || !is_first.swap(false, Ordering::SeqCst) {
            return None;
        }
        let (mut released, id) = (released.clone(), asked.message["id"].clone());
        let body = Body::from_stream(futures_util::stream::once(async move {
            released.wait_for(|is_released| *is_released).await.unwrap();
            let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                "serverInfo": {"name": "slow", "version": "1"}});
            Ok::<_, std::io::Error>(json!({"jsonrpc": "2.0", "id": id, "result": hello}).to_string())
        }));
        Some(([("content-type", "application/json"), ("mcp-session-id", "s")], body).into_response())
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let url = format!("{}/mcp/far", gatepost.url());
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    let request = reqwest::Client::builder().no_proxy().build().unwrap().post(&url).bearer_auth(token("admin"));
    let request =
        request.header("accept", "application/json, text/event-stream").header("content-type", "application/json");
    let answer = request.body(body.to_string()).send().await.unwrap();
    let mut client = Client::unconnected(&url, Era::Legacy, Some(&token("admin")));
    client.session = Some(header(&answer, "mcp-session-id").to_owned());
    release.send_replace(true);
    assert!(answer.text().await.unwrap().contains("slow"));
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_of_two_streams_of_a_session_is_read() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client(Era::Legacy, "admin").await;
    let listen = async || {
        let headers = [("accept", "text/event-stream"), ("mcp-session-id", client.session.as_deref().unwrap())];
        let bearer = format!("Bearer {}", token("admin"));
        let answer = send(&gatepost, Method::GET, "/mcp", &[headers[0], headers[1], ("authorization", &bearer)]).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer
    };
    let old = listen().await;
    let mut new = listen().await;
    assert!(new.chunk().await.unwrap().is_some(), "it begins at once");
    old.text().await.unwrap(); // It ends, although its client did not close it.
}
