//! OpenTelemetry traces: one span per call, exported to a collector as OTLP over HTTP in JSON.
//!
//! The parent of a call's span is the client's `traceparent`, from the header or from `_meta`; without one the span
//! begins a trace. The backend gets the call's span as its parent in both places. The ids derive from the call's
//! request id, so that a span and an audit record can be matched: the span id is the second half of the request id, and
//! the id of a new trace is the whole request id.
//!
//! Calls never wait for the collector: spans that it does not accept in time are dropped, which is logged. Traces
//! contain neither arguments nor the caller's identity, which only the audit record has.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::audit::record::{RequestId, Status, Timestamp};
use crate::gateway::message::trace_headers::{self, TRACEPARENT};
use crate::mcp::json::Object;
use crate::outbound;

/// Most spans that wait for export. *Chosen*: those of some seconds of a busy gateway, in less than a megabyte.
const SPANS_MAX: usize = 4096;

/// Most spans of one export request. *Spec*: OpenTelemetry's default `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
const BATCH_MAX: usize = 512;

/// Time in which spans are collected into one export request. *Chosen*: the collector gets a span within a second.
const BATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Time limit of an export request. *Spec*: OpenTelemetry's default `OTEL_EXPORTER_OTLP_TIMEOUT`.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The path of traces below the endpoint. *Spec*: OTLP/HTTP.
const TRACES_PATH: &str = "v1/traces";

/// The ids of a call's span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpanContext {
    /// The trace's id, 32 hexadecimal digits.
    trace: String,
    /// The call's span id, 16 hexadecimal digits.
    span: String,
    /// The id of the parent span, if the client named one.
    parent: Option<String>,
    /// True if the trace is recorded, as the client decided.
    sampled: bool,
}

impl SpanContext {
    /// The trace's id.
    pub(crate) fn trace_id(&self) -> &str {
        &self.trace
    }

    /// The context of the call `id`.
    pub(crate) fn new(id: RequestId, headers: &HeaderMap, params: Option<&Object<'_>>) -> Self {
        let id = id.0.simple().to_string();
        let span = id.get(16..).unwrap_or_default().to_owned();
        let traceparent = trace_headers::traceparent(headers)
            .and_then(|value| value.to_str().ok().map(str::to_owned))
            .or_else(|| traceparent_in_meta(params?));
        let parts: Vec<&str> = traceparent.as_deref().map(|text| text.split('-').collect()).unwrap_or_default();
        let [_, trace, parent, flags] = parts[..] else { return Self { trace: id, span, parent: None, sampled: true } };
        let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        Self { trace: trace.to_owned(), span, parent: Some(parent.to_owned()), sampled }
    }

    /// The `traceparent` that the backend gets.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }

    /// Sets the header `traceparent`.
    pub(crate) fn in_headers(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.traceparent()) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

fn traceparent_in_meta(params: &Object<'_>) -> Option<String> {
    let traceparent = params.object("_meta")?.string(TRACEPARENT)?;
    trace_headers::is_traceparent(traceparent.as_bytes()).then_some(traceparent)
}

/// The span of an ended call.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    pub(crate) context: &'a SpanContext,
    pub(crate) request_id: RequestId,
    pub(crate) method: &'a str,
    pub(crate) tool: Option<&'a str>,
    pub(crate) backend: Option<&'a str>,
    pub(crate) role: Option<&'a str>,
    pub(crate) status: Status,
    pub(crate) took: Duration,
}

impl Span<'_> {
    /// The span in OTLP's JSON encoding. Attribute names follow OpenTelemetry's conventions for MCP, where these define
    /// one.
    fn to_json(&self) -> Value {
        let nanos = |micros: i64| micros.unsigned_abs().saturating_mul(1000);
        let end = nanos(Timestamp::now().micros());
        let begin = end.saturating_sub(u64::try_from(self.took.as_nanos()).unwrap_or(u64::MAX));
        let name = self.tool.map_or_else(|| self.method.to_owned(), |tool| format!("{} {tool}", self.method));
        let id = self.request_id.to_string();
        let is_ok = matches!(self.status, Status::Ok | Status::InputRequired);
        let attributes = [
            ("mcp.method.name", Some(self.method)),
            ("gen_ai.tool.name", self.tool.filter(|_| self.method == crate::mcp::protocol::TOOLS_CALL)),
            ("error.type", (!is_ok).then_some(self.status.as_str())),
            ("gatepost.request_id", Some(id.as_str())),
            ("gatepost.backend", self.backend),
            ("gatepost.role", self.role),
            ("gatepost.status", Some(self.status.as_str())),
        ];
        let attributes: Vec<Value> = attributes
            .into_iter()
            .filter_map(|(key, value)| Some(json!({ "key": key, "value": { "stringValue": value? } })))
            .collect();
        json!({
            "traceId": self.context.trace,
            "spanId": self.context.span,
            "parentSpanId": self.context.parent.as_deref().unwrap_or_default(),
            "name": name,
            "kind": 2,
            "startTimeUnixNano": begin.to_string(),
            "endTimeUnixNano": end.to_string(),
            "attributes": attributes,
            "status": { "code": if is_ok { 0 } else { 2 } },
        })
    }
}

/// Accepts the spans of ended calls; does nothing without an endpoint.
#[derive(Debug)]
pub(crate) struct Tracer(Option<SpanQueue>);

#[derive(Debug)]
struct SpanQueue {
    spans: mpsc::Sender<Value>,
    dropped: AtomicU64,
}

impl Tracer {
    /// Builds a tracer, and the task that exports its spans to the collector at `endpoint`. After `stop` the task
    /// exports the remaining spans and ends.
    pub(crate) fn new(
        endpoint: Option<&str>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let url = endpoint.map(|base| format!("{}/{TRACES_PATH}", base.trim_end_matches('/')));
        let (spans, queued) = mpsc::channel(SPANS_MAX);
        let tracer = Self(url.is_some().then(|| SpanQueue { spans, dropped: AtomicU64::new(0) }));
        let export = async move {
            if let Some(url) = url {
                export_until(&url, queued, &stop).await;
            }
        };
        (tracer, export)
    }

    /// The context of the call `id`. `None`: calls are not traced.
    pub(crate) fn context(
        &self,
        id: RequestId,
        headers: &HeaderMap,
        params: Option<&Object<'_>>,
    ) -> Option<SpanContext> {
        self.0.is_some().then(|| SpanContext::new(id, headers, params))
    }

    /// Queues the span of an ended call, or drops it if the queue is full. Never waits.
    pub(crate) fn ended(&self, span: &Span<'_>) {
        let Some(SpanQueue { spans, dropped }) = self.0.as_ref().filter(|_| span.context.sampled) else { return };
        if spans.try_send(span.to_json()).is_err() {
            let dropped = dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "the collector at telemetry.otlp_endpoint is too slow; dropping spans");
            }
        }
    }
}

/// Exports spans until `stop`, then the remaining ones.
async fn export_until(url: &str, mut spans: mpsc::Receiver<Value>, stop: &CancellationToken) {
    let client = match outbound::client_builder(url).timeout(EXPORT_TIMEOUT).build() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(error = %error.without_url(), "cannot export spans: the HTTP client failed to start");
            return;
        }
    };
    let mut failing = false;
    loop {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        if stop.run_until_cancelled(spans.recv_many(&mut batch, BATCH_MAX)).await.is_some() {
            // More calls usually follow soon.
            stop.run_until_cancelled(tokio::time::sleep(BATCH_INTERVAL)).await;
        }
        while batch.len() < BATCH_MAX
            && let Ok(span) = spans.try_recv()
        {
            batch.push(span);
        }
        if batch.is_empty() {
            return;
        }
        let count = batch.len();
        match send(&client, url, batch).await {
            Ok(()) => failing = false,
            Err(error) if failing => tracing::debug!(error, count, "dropped spans"),
            Err(error) => {
                failing = true;
                tracing::warn!(
                    error,
                    count,
                    "the collector at telemetry.otlp_endpoint does not accept spans; dropping them"
                );
            }
        }
    }
}

async fn send(client: &reqwest::Client, url: &str, spans: Vec<Value>) -> Result<(), String> {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let resource = [text("service.name", "gatepost"), text("service.version", env!("CARGO_PKG_VERSION"))];
    let body = json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "gatepost" }, "spans": spans }],
    }] });
    let request = client.post(url).header("content-type", "application/json").body(body.to_string());
    let response = request.send().await.map_err(|error| error.without_url().to_string())?;
    let status = response.status();
    if status.is_success() { Ok(()) } else { Err(format!("the collector responded with {status}")) }
}
