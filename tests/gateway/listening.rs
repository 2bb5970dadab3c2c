//! What a client that listens hears of backends that are down, break off, come back, or have no subscriptions.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::Era;
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, event, held, modern, result};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use tokio::sync::watch;

const TOOLS: &str = "notifications/tools/list_changed";
const PROMPTS: &str = "notifications/prompts/list_changed";
const UPDATED: &str = "notifications/resources/updated";

/// A stream that a client reads.
pub struct Told {
    response: reqwest::Response,
    text: String,
}

impl Told {
    /// Subscribes as a client of the stateless era does.
    pub async fn subscribe(gatepost: &Gatepost, path: &str, filter: &Value) -> Self {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let params = json!({"notifications": filter, "_meta": meta});
        let body = json!({"jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": params});
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.post(format!("{}{path}", gatepost.url())).bearer_auth(token("admin"));
        let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "subscriptions/listen");
        let request = request.header("content-type", "application/json");
        let request = request.header("accept", "application/json, text/event-stream").body(body.to_string());
        Self { response: request.send().await.unwrap(), text: String::new() }
    }

    /// Opens the stream of a session of the older era.
    pub async fn of_session(gatepost: &Gatepost, path: &str) -> Self {
        let client = gatepost.client_at(path, Era::Legacy, "admin").await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.get(format!("{}{path}", gatepost.url())).bearer_auth(token("admin"));
        let request = request.header("mcp-session-id", client.session.as_deref().unwrap());
        Self { response: request.header("accept", "text/event-stream").send().await.unwrap(), text: String::new() }
    }

    /// Reads until a message of this method came; gives it, and lets go of it and all before.
    pub async fn next(&mut self, method: &str) -> Value {
        let read = async {
            loop {
                let end = self.text.find("\n\n");
                if let Some(end) = end {
                    let event: String = self.text.drain(..end + 2).collect();
                    let data = event.lines().filter_map(|line| line.strip_prefix("data:")).collect::<String>();
                    let message: Value = serde_json::from_str(data.trim()).unwrap_or_default();
                    if message["method"] == method {
                        return message;
                    }
                    continue;
                }
                let piece = self.response.chunk().await.unwrap().expect("the stream goes on");
                self.text.push_str(&String::from_utf8_lossy(&piece));
            }
        };
        tokio::time::timeout(SOON, read).await.unwrap_or_else(|_| panic!("no {method}"))
    }

    /// The text of all messages that follow, until the stream ends.
    pub async fn rest(self) -> String {
        let Self { response, text } = self;
        let rest = tokio::time::timeout(SOON, response.text()).await.expect("the stream ends");
        text + &rest.unwrap()
    }

    /// What was acknowledged: the first message.
    pub async fn acknowledged(&mut self) -> Value {
        self.next("notifications/subscriptions/acknowledged").await["params"]["notifications"].clone()
    }
}

/// The acknowledgment of a backend that honours all of what it is asked.
fn acknowledges(asked: &ReceivedRequest) -> String {
    let (id, filter) = (&asked.message["id"], &asked.message["params"]["notifications"]);
    let params = json!({"_meta": {"io.modelcontextprotocol/subscriptionId": id}, "notifications": filter});
    let method = "notifications/subscriptions/acknowledged";
    event(&json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string())
}

/// A backend of the stateless era with subscriptions and one resource.
fn subscribed(asked: &ReceivedRequest, broken: &watch::Receiver<u32>) -> axum::response::Response {
    match asked.method() {
        "subscriptions/listen" => held(vec![acknowledges(asked)], broken.clone()),
        "resources/list" => result(asked, r#"{"resources":[{"uri":"far:1","name":"1"}]}"#),
        "resources/templates/list" => result(asked, r#"{"resourceTemplates":[]}"#),
        _ => modern(asked),
    }
}

/// A backend of the older era that tells of its tools' changes on a stream that is held open.
fn older(asked: &ReceivedRequest, broken: &watch::Receiver<u32>) -> Option<axum::response::Response> {
    match (asked.verb.as_str(), asked.method()) {
        ("GET", _) => Some(held(vec![": open\n\n".to_owned()], broken.clone())),
        ("POST", "initialize") => {
            let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"resources":{}},"serverInfo":{"name":"far","version":"1"}}"#;
            Some(([("mcp-session-id", "s")], result(asked, hello)).into_response())
        }
        _ => None,
    }
}

fn opens(backend: &BackendStub) -> usize {
    let seen = backend.seen.lock().unwrap();
    seen.iter().filter(|asked| asked.verb == "GET" || asked.method() == "subscriptions/listen").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_subscription_reports_possibly_missed_changes() {
    let (breaks, broken) = watch::channel(0);
    let backend = BackendStub::start(move |asked| Some(subscribed(asked, &broken))).await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        setup.set_toml("roles.admin.resources", r#"["*/*"]"#);
    });
    let filter = json!({"toolsListChanged": true, "resourceSubscriptions": ["far:1"]});
    let mut told = Told::subscribe(&gatepost, "/mcp", &filter).await;
    assert_eq!(told.acknowledged().await, filter);
    for round in 1..3 {
        until_async("it is listened to", SOON, async || opens(&backend) == round).await;
        breaks.send_modify(|count| *count += 1);
        // The first that the client hears is this, and of nothing that it did not ask for.
        let message = told.next(TOOLS).await;
        assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l");
        assert_eq!(told.next(UPDATED).await["params"]["uri"], "far:1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_reaches_a_backend_that_starts_later() {
    for is_modern in [true, false] {
        let mut away = BackendStub::start(|_| None).await;
        let (_setup, gatepost) = away.gateway(|_| {});
        away.stop().await;
        // What only a backend can honour is acknowledged when that is known: it was found to be down.
        let mut told =
            Told::subscribe(&gatepost, "/mcp", &json!({"toolsListChanged": true, "resourceSubscriptions": []})).await;
        assert_eq!(told.acknowledged().await, json!({"toolsListChanged": true}));
        let (breaks, broken) = watch::channel(0);
        let backend = BackendStub::start_at(&away.address(), move |asked| {
            if is_modern { Some(subscribed(asked, &broken)) } else { older(asked, &broken) }
        })
        .await;
        told.next(TOOLS).await;
        until_async("it is listened to", SOON, async || opens(&backend) == 1).await;
        drop(breaks);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_survives_a_backends_change_of_era() {
    let (breaks, broken) = watch::channel(0);
    let still = broken.clone();
    let mut backend = BackendStub::start(move |asked| older(asked, &still)).await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let mut told = Told::subscribe(&gatepost, "/mcp", &json!({"toolsListChanged": true})).await;
    told.acknowledged().await;
    until_async("it is listened to", SOON, async || opens(&backend) == 1).await;
    breaks.send_modify(|count| *count += 1);
    backend.stop().await;
    let still = broken.clone();
    let mut backend = BackendStub::start_at(&backend.address(), move |asked| Some(subscribed(asked, &still))).await;
    until_async("it is subscribed to", SOON, async || {
        opens(&backend) > 0 && backend.seen("subscriptions/listen").len() == 1
    })
    .await;
    told.next(TOOLS).await;
    breaks.send_modify(|count| *count += 1);
    backend.stop().await;
    let backend = BackendStub::start_at(&backend.address(), move |asked| older(asked, &broken)).await;
    told.next(TOOLS).await;
    until_async("it is listened to again", SOON, async || opens(&backend) > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_backends_stream_is_reopened_after_errors_and_breaks() {
    for of_session in [true, false] {
        let (breaks, broken) = watch::channel(0);
        let gets = AtomicUsize::new(0);
        let backend = BackendStub::start(move |asked| {
            let bad = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY];
            let at = if asked.verb == "GET" { gets.fetch_add(1, Ordering::SeqCst) } else { usize::MAX };
            bad.get(at).map(|status| status.into_response()).or_else(|| older(asked, &broken))
        })
        .await;
        let (_setup, gatepost) = backend.gateway(|_| {});
        let mut told = if of_session {
            Told::of_session(&gatepost, "/mcp/far").await
        } else {
            let mut told = Told::subscribe(&gatepost, "/mcp", &json!({"toolsListChanged": true})).await;
            told.acknowledged().await;
            told
        };
        // What was sent before the stream was there is lost, and so it is where it broke.
        told.next(TOOLS).await;
        until_async("its stream is read", SOON, async || opens(&backend) == 3).await;
        breaks.send_modify(|count| *count += 1);
        told.next(TOOLS).await;
        assert_eq!(opens(&backend), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_a_child_process_is_announced() {
    let mut setup = Setup::new();
    let script = r#"
        while read -r line; do
            id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
            case "$line" in
            *'"initialize"'*) result='{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"a","version":"1"}}';;
            *'"tools/list"'*) result='{"tools":[{"name":"die","inputSchema":{"type":"object"}}]}';;
            *'"tools/call"'*) exit 1;;
            *'"server/discover"'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"m"}}\n' "$id"; continue;;
            *) continue;;
            esac
            printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$result"
        done"#;
    setup.backend("near", &["/bin/sh", "-c", script]);
    // The call ends the process that the gateway listens to.
    setup.set_toml("backends.near.shared", "true");
    let gatepost = setup.start();
    let mut told =
        Told::subscribe(&gatepost, "/mcp", &json!({"toolsListChanged": true, "resourceSubscriptions": []})).await;
    // The acknowledgment waits until it is known that no backend tells of the others: each is listened to.
    told.acknowledged().await;
    let client = gatepost.client(Era::Modern, "admin").await;
    assert_eq!(client.call("near__die", json!({})).await.unwrap().error_code(), -32012);
    told.next(TOOLS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_supported_subscriptions_are_acknowledged() {
    let filter = json!({
        "toolsListChanged": true,
        "promptsListChanged": true,
        "resourceSubscriptions": ["far:1", "far:2"],
    });
    let lists = json!({"toolsListChanged": true, "promptsListChanged": true});
    let listed = r#"{"resources":[{"uri":"far:1","name":"1"},{"uri":"far:2","name":"2"}]}"#;
    let some = json!({
        "toolsListChanged": true,
        "promptsListChanged": true,
        "resourceSubscriptions": ["far:2"],
    });
    for (name, want) in [("older", &lists), ("without", &lists), ("some", &some)] {
        let (_breaks, broken) = watch::channel(0);
        let backend = BackendStub::start(move |asked| {
            let list = (asked.method() == "resources/list").then(|| result(asked, listed));
            list.or_else(|| match (name, asked.method()) {
                ("older", _) => older(asked, &broken),
                ("some", "subscriptions/listen") => {
                    let told = r#"{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}"#;
                    let mut some = asked.clone();
                    some.message["params"]["notifications"] = json!({"resourceSubscriptions": ["far:2"]});
                    Some(held(vec![acknowledges(&some), event(told)], broken.clone()))
                }
                _ => Some(modern(asked)),
            })
        })
        .await;
        for path in ["/mcp", "/mcp/far"] {
            let (_setup, gatepost) = backend.gateway(|setup| {
                setup.set_toml("roles.admin.resources", r#"["*/*"]"#).set_toml("roles.admin.prompts", r#"["*/*"]"#);
            });
            let mut told = Told::subscribe(&gatepost, path, &filter).await;
            let got = told.acknowledged().await;
            // Of its one backend the client hears what that one says.
            let relayed = json!({"resourceSubscriptions": ["far:2"]});
            let want = if (name, path) == ("some", "/mcp/far") { &relayed } else { want };
            assert_eq!(&got, want, "{name} {path}");
            if name == "some" {
                told.next(PROMPTS).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_gets_only_subscriptions_to_its_own_resources() {
    let (_breaks, still) = watch::channel(0);
    let asks = |uri: &'static str| {
        let broken = still.clone();
        move |asked: &ReceivedRequest| {
            let listed = format!(r#"{{"resources":[{{"uri":"{uri}","name":"n"}}]}}"#);
            Some(match asked.method() {
                "resources/list" => result(asked, &listed),
                _ => subscribed(asked, &broken),
            })
        }
    };
    let (first, second) = (BackendStub::start(asks("far:1")).await, BackendStub::start(asks("near:1")).await);
    let (_setup, gatepost) = first.gateway(|setup| {
        setup.set("backends.near.url", &second.url).set_toml("roles.admin.resources", r#"["*/*"]"#);
    });
    let mut told = Told::subscribe(&gatepost, "/mcp", &json!({"resourceSubscriptions": ["far:1", "near:1"]})).await;
    assert_eq!(told.acknowledged().await, json!({"resourceSubscriptions": ["far:1", "near:1"]}));
    for (backend, uri) in [(&first, "far:1"), (&second, "near:1")] {
        let asked = backend.seen("subscriptions/listen");
        assert_eq!(asked[0].message["params"]["notifications"], json!({"resourceSubscriptions": [uri]}));
    }
}
