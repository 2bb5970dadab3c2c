//! One span a call: what a collector gets, what a backend is told, and that nobody waits for the collector.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::common::gatepost::Setup;
use crate::common::mcp::Era;
use crate::common::raw_backend::raw_backend;
use crate::common::tool_names::tool_names;
use crate::common::wait::{SOON, until_async};
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector of spans: OTLP over HTTP, as JSON.
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    async fn start() -> Self {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&spans);
        let take = async move |headers: HeaderMap, body: Bytes| {
            assert_eq!(headers["content-type"], "application/json");
            let request: Value = serde_json::from_slice(&body).unwrap();
            let resource = attributes(&request["resourceSpans"][0]["resource"]);
            assert_eq!(resource["service.name"], "gatepost");
            let batch = request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
            taken.lock().unwrap().extend(batch);
            StatusCode::OK
        };
        let router = Router::new().route("/v1/traces", post(take));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, spans }
    }

    fn spans(&self) -> Vec<Value> {
        self.spans.lock().unwrap().clone()
    }

    async fn wait_for(&self, count: usize) -> Vec<Value> {
        until_async("the spans have come", SOON, async || self.spans().len() >= count).await;
        self.spans()
    }
}

fn attributes(of: &Value) -> BTreeMap<String, String> {
    let attribute = |one: &Value| {
        (one["key"].as_str().unwrap().to_owned(), one["value"]["stringValue"].as_str().unwrap().to_owned())
    };
    of["attributes"].as_array().unwrap().iter().map(attribute).collect()
}

fn call(tool: &str, meta: &Value) -> String {
    let params = json!({"name": tool, "arguments": {"text": "secret words"}, "_meta": meta});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_one_span_between_client_and_backend() {
    let collector = Collector::start().await;
    let mut setup = Setup::new();
    let received = raw_backend(&mut setup, "raw");
    setup.set("telemetry.otlp_endpoint", &collector.url).role("raw", &["raw/echo"]);
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/raw", Era::Legacy, "raw").await;
    let parent = format!("00-{TRACE}-{PARENT}-01");
    client.post(call("echo", &json!({"own": 1})), &[("traceparent", &parent)]).await.unwrap();
    client.post(call("echo", &json!({"traceparent": parent})), &[]).await.unwrap();
    client.post(call("echo", &json!({})), &[]).await.unwrap();
    client.post(call("forbidden", &json!({})), &[("traceparent", &parent)]).await.unwrap();
    // Whoever began this trace does not want it recorded.
    client.post(call("echo", &json!({})), &[("traceparent", &parent.replace("-01", "-00"))]).await.unwrap();
    // What is not recorded is no span.
    tool_names(&client).await;
    // The end of the gateway sends what is left.
    assert_eq!(gatepost.terminate(), Some(0));
    let spans = collector.spans();
    assert_eq!(spans.len(), 4, "{spans:#?}");

    let asked = std::fs::read_to_string(received).unwrap();
    let asked: Vec<Value> = asked.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = asked.iter().filter_map(|asked| asked["_meta"]["traceparent"].as_str()).collect();
    assert_eq!(told.len(), 4, "{asked:?}");
    assert_eq!(asked[asked.len() - 4]["_meta"]["own"], 1);
    for (idx, span) in spans.iter().enumerate() {
        let (trace, id) = (span["traceId"].as_str().unwrap(), span["spanId"].as_str().unwrap());
        let attributes = attributes(span);
        let request_id = attributes["gatepost.request_id"].replace('-', "");
        assert_eq!(id, &request_id[16..]);
        let is_child = idx != 2;
        assert_eq!(span["parentSpanId"], if is_child { PARENT } else { "" });
        assert_eq!(trace, if is_child { TRACE } else { &request_id });
        let is_denied = idx == 3;
        let (tool, status) = if is_denied { ("forbidden", "denied") } else { ("echo", "ok") };
        assert_eq!(span["name"], format!("tools/call {tool}"));
        assert_eq!(span["kind"], 2);
        assert_eq!(span["status"]["code"], if is_denied { 2 } else { 0 });
        assert_eq!((attributes["gen_ai.tool.name"].as_str(), attributes["gatepost.status"].as_str()), (tool, status));
        assert_eq!(
            (attributes["mcp.method.name"].as_str(), attributes["gatepost.backend"].as_str()),
            ("tools/call", "raw")
        );
        assert_eq!(attributes["gatepost.role"], "raw");
        let nanos = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
        assert!(nanos("startTimeUnixNano") <= nanos("endTimeUnixNano"));
        assert!(!span.to_string().contains("secret"), "{span}");
        if !is_denied {
            assert_eq!(told[idx], format!("00-{trace}-{id}-01"));
        }
    }
    assert!(told[3].starts_with(&format!("00-{TRACE}-")) && told[3].ends_with("-00"), "{}", told[3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_collector_delays_no_call() {
    // It accepts connections and answers none.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut setup = Setup::new();
    let endpoint = format!("http://{}/", silent.local_addr().unwrap());
    setup.env.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint);
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    for _ in 0..20 {
        assert_eq!(client.call("echo", json!({"text": "x"})).await.unwrap().content(), "x");
    }
    assert_eq!(gatepost.terminate(), Some(0));

    let collector = Collector::start().await;
    setup.env.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), collector.url.clone());
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    client.call("echo", json!({"text": "x"})).await.unwrap();
    assert_eq!(collector.wait_for(1).await.len(), 1);
}
