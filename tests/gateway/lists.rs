//! Lists of real backends, good and odd, as clients see them at `/mcp`.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::{Client, Era, Reply};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, result};

fn names(reply: &Reply) -> Vec<String> {
    let tools = reply.result()["tools"].as_array().unwrap();
    let names = tools.iter().map(|tool| tool["name"].as_str().unwrap());
    names.filter_map(|name| name.strip_prefix("far__")).map(str::to_owned).collect()
}

/// A page with tools of these one-letter names, and the value of `nextCursor`.
fn page(asked: &ReceivedRequest, tools: &str, cursor: &str) -> Response {
    let tools: Vec<_> =
        tools.chars().map(|name| format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#)).collect();
    result(asked, &format!(r#"{{"tools":[{}],"nextCursor":{cursor}}}"#, tools.join(",")))
}

type Pages = fn(&ReceivedRequest, &Value) -> Response;

#[tokio::test(flavor = "multi_thread")]
async fn of_pages_that_do_not_end_well_the_good_ones_are_listed() {
    let cases: [(&str, &str, Pages); 10] = [
        (
            "two pages",
            "abc",
            |asked, at| if at.is_null() { page(asked, "ab", "\"x\"") } else { page(asked, "c", "null") },
        ),
        ("an empty cursor is the end", "ab", |asked, _| page(asked, "ab", "\"\"")),
        ("a number", "abc", |asked, at| if *at == 7 { page(asked, "c", "null") } else { page(asked, "ab", "7") }),
        ("an empty page in the middle", "abc", |asked, at| match at.as_str() {
            None => page(asked, "ab", "\"x\""),
            Some("x") => page(asked, "", "\"y\""),
            Some(_) => page(asked, "c", "null"),
        }),
        ("the same cursor for ever", "abc", |asked, at| page(asked, if at.is_null() { "ab" } else { "c" }, "\"x\"")),
        ("cursors are not known, and each is new", "ab", |asked, at| {
            page(asked, "ab", &format!("\"{}x\"", at.as_str().unwrap_or_default()))
        }),
        ("the second page overlaps", "abc", |asked, at| match at.as_str() {
            None => page(asked, "ab", "\"x\""),
            Some(_) => page(asked, "bc", "null"),
        }),
        ("the second page is an error", "ab", |asked, at| match at.as_str() {
            None => page(asked, "ab", "\"x\""),
            Some(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }),
        ("the second page has no items", "ab", |asked, at| match at.as_str() {
            None => page(asked, "ab", "\"x\""),
            Some(_) => result(asked, r#"{"tools":null}"#),
        }),
        ("a bad item", "ac", |asked, _| {
            result(
                asked,
                r#"{"tools":[{"name":"a","inputSchema":{"type":"object"}},{"title":"no name"},7,{"name":"b"},
                {"name":"c","inputSchema":{"type":"object"}}]}"#,
            )
        }),
    ];
    for (what, want, pages) in cases {
        let backend = BackendStub::start(move |asked| {
            (asked.method() == "tools/list").then(|| pages(asked, &asked.message["params"]["cursor"]))
        })
        .await;
        let (_setup, gatepost) = backend.gateway(|_| {});
        for era in [Era::Legacy, Era::Modern] {
            let client = gatepost.client(era, "admin").await;
            let listed = client.request("tools/list", json!({})).await.unwrap();
            assert_eq!(names(&listed).concat(), want, "{what} {era:?}");
            // What is on no readable page can be called all the same.
            let last = client.call(&format!("far__{}", &want[want.len() - 1..]), json!({})).await.unwrap();
            assert_eq!(last.content(), "done", "{what} {era:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_asked_only_for_what_they_declared() {
    let backend = BackendStub::start(|asked| {
        let hello =
            r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"far","version":"1"}}"#;
        (asked.method() == "initialize").then(|| ([("mcp-session-id", "s")], result(asked, hello)).into_response())
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    for era in [Era::Legacy, Era::Modern] {
        let client = gatepost.client(era, "admin").await;
        for method in ["tools/list", "resources/list", "resources/templates/list", "prompts/list"] {
            client.request(method, json!({})).await.unwrap().result();
        }
        client.request("resources/read", json!({"uri": "a:b"})).await.unwrap().error_code();
        if era == Era::Legacy {
            client.request("logging/setLevel", json!({"level": "info"})).await.unwrap().result();
        }
    }
    let seen = backend.seen.lock().unwrap();
    let seen: HashSet<&str> = seen.iter().map(ReceivedRequest::method).collect();
    let undeclared: Vec<_> = seen
        .iter()
        .filter(|method| ["resources", "prompts", "logging"].iter().any(|name| method.starts_with(name)))
        .collect();
    assert!(seen.contains("tools/list") && undeclared.is_empty(), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_with_names_that_clients_refuse_can_be_called_and_allowed() {
    let odd = ["a/b", "say it", "x:y", "n.m", &"long".repeat(20), "z__0123abcd"].map(str::to_owned);
    let listed = odd.clone();
    let backend = BackendStub::start(move |asked| match asked.method() {
        "tools/list" => {
            let tools = listed.iter().map(|name| json!({"name": name, "inputSchema": {"type": "object"}}));
            Some(result(asked, &json!({"tools": tools.collect::<Vec<_>>()}).to_string()))
        }
        "tools/call" => {
            let text = asked.message["params"]["name"].as_str().unwrap();
            Some(result(asked, &json!({"content": [{"type": "text", "text": text}]}).to_string()))
        }
        _ => None,
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        // `*` stops at `/` in a rule that allows.
        setup.role("one", &["far/a/b"]).role("all", &["far/*", "far/*/*"]);
    });
    for era in [Era::Legacy, Era::Modern] {
        let client = gatepost.client(era, "all").await;
        let shown = names(&client.request("tools/list", json!({})).await.unwrap());
        assert_eq!(shown.len(), odd.len(), "{shown:?}");
        for (name, own) in shown.iter().zip(&odd) {
            let is_accepted = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
            assert!(is_accepted && name.len() + "far__".len() <= 64, "{name}");
            assert_eq!(client.call(&format!("far__{name}"), json!({})).await.unwrap().content(), own);
        }
        let narrow = gatepost.client(era, "one").await;
        assert_eq!(names(&narrow.request("tools/list", json!({})).await.unwrap()), shown[..1]);
        assert_eq!(narrow.call(&format!("far__{}", shown[0]), json!({})).await.unwrap().content(), "a/b");
        assert_eq!(narrow.call(&format!("far__{}", shown[1]), json!({})).await.unwrap().error_code(), -32003);
    }
}

fn is_up(gatepost: &Gatepost) -> bool {
    gatepost.get_ops("/metrics").1.contains(r#"gatepost_backend_up{backend="far"} 1.0"#)
}

/// Opens the general stream of the client's session.
async fn listen(gatepost: &Gatepost, client: &Client) -> reqwest::Response {
    let request = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("{}/mcp", gatepost.url()));
    let request = request.bearer_auth(token("admin")).header("accept", "text/event-stream");
    request.header("mcp-session-id", client.session.as_deref().unwrap()).send().await.unwrap()
}

/// Reads the stream until its client was told that the tools have changed.
async fn told(stream: &mut reqwest::Response) {
    let mut text = String::new();
    while !text.contains("notifications/tools/list_changed") {
        text.push_str(&String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_hear_when_a_backend_comes_changes_and_goes() {
    // An address at which nothing answers yet.
    let mut first = BackendStub::start(|_| None).await;
    let address = first.address();
    first.stop().await;
    let mut setup = Setup::new();
    setup.set("backends.far.url", &format!("http://{address}/mcp")).set("backends.far.probe_interval", "100ms");
    let gatepost = setup.start();
    let client = gatepost.client(Era::Legacy, "admin").await;
    let list = async || names(&client.request("tools/list", json!({})).await.unwrap());
    let has_t = async || list().await.contains(&"t".to_owned());
    let mut stream = listen(&gatepost, &client).await;
    assert!(!has_t().await);
    let mut backend = BackendStub::start_at(&address, |_| None).await;
    while !has_t().await {
        told(&mut stream).await;
    }
    let is_up = || is_up(&gatepost);
    crate::common::wait::until("the backend is up", crate::common::wait::SOON, is_up);
    backend.stop().await;
    while has_t().await {
        told(&mut stream).await; // It may hear of one change twice.
    }
    crate::common::wait::until("the backend is down", crate::common::wait::SOON, || !is_up());
    let other = |asked: &ReceivedRequest| (asked.method() == "tools/list").then(|| page(asked, "ab", "null"));
    let _backend = BackendStub::start_at(&address, other).await;
    // Without a request of its own.
    told(&mut stream).await;
    while !list().await.contains(&"b".to_owned()) {
        told(&mut stream).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_gateway_knows_that_its_backend_is_up() {
    let backend = BackendStub::start(|_| None).await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        setup.set("backends.far.probe_interval", "1m");
    });
    crate::common::wait::until("the gateway is ready", crate::common::wait::SOON, || {
        let (status, body) = gatepost.get_ops("/readyz");
        status == 200 && !body.contains("degraded")
    });
}

/// Its process answers, and it could not serve a call.
#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_answers_with_errors_is_down_until_it_is_well() {
    static IS_ILL: AtomicBool = AtomicBool::new(false);
    let backend =
        BackendStub::start(|_| IS_ILL.load(Relaxed).then(|| StatusCode::INTERNAL_SERVER_ERROR.into_response())).await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        setup.set("backends.far.probe_interval", "100ms");
    });
    for is_ill in [false, true, false] {
        IS_ILL.store(is_ill, Relaxed);
        crate::common::wait::until("the gateway knows", crate::common::wait::SOON, || is_up(&gatepost) != is_ill);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_declare_what_backends_offer_with_their_instructions() {
    let backend = BackendStub::start(|asked| {
        let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":{}},"instructions":"Be kind.",
            "serverInfo":{"name":"far away","version":"7"}}"#;
        (asked.method() == "initialize").then(|| ([("mcp-session-id", "s")], result(asked, hello)).into_response())
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        setup.role("far", &["far/*"]);
    });
    // The gateway has met the backend.
    let modern = gatepost.client_at("/mcp/far", Era::Modern, "far").await;
    let discovered = modern.request("server/discover", json!({})).await.unwrap();
    let discovered = discovered.result();
    assert_eq!(discovered["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "far away");
    assert_eq!(discovered["capabilities"], json!({"tools": {}, "prompts": {}}));
    assert_eq!(discovered["instructions"], "Be kind.");
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
    let mut all = Client::unconnected(&format!("{}/mcp", gatepost.url()), Era::Legacy, Some(&token("far")));
    let greeted = all.request("initialize", params).await.unwrap();
    let greeted = greeted.result();
    let declared: HashSet<&str> = greeted["capabilities"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(declared, HashSet::from(["tools", "prompts"]));
    let instructions = greeted["instructions"].as_str().unwrap();
    assert!(instructions.contains("# far") && instructions.contains("Be kind."), "{instructions}");
    // A caller who may use nothing of the backend hears nothing of it.
    all.token = Some(token("echo"));
    let greeted =
        all.request("initialize", json!({"protocolVersion": "2025-11-25", "capabilities": {}})).await.unwrap();
    assert!(!greeted.text.contains("Be kind."), "{}", greeted.text);
}
