//! OpenTelemetry traces: one span a call, sent to a collector as OTLP over HTTP, in its JSON encoding.
//!
//! A call's span is the child of what the client names (`traceparent` as a header, or in `_meta`, as MCP has it), or begins a
//! trace; the backend is given the span as its parent, both ways. Its ids come from the call's request id, so that a span
//! tells its record and the other way round: the span id is the request id's second half, the id of a trace that begins
//! here all of it.
//!
//! No call waits for the collector: spans that it does not take in time are dropped and counted in the log. The entry is
//! the audit's affair; a trace has neither arguments nor who called.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::audit::record::{RequestId, Status, Timestamp};
use crate::gateway::message::trace_headers::{self, TRACEPARENT};
use crate::mcp::json::Object;

/// Spans that wait for the collector. *Chosen*: seconds of a busy gateway, in less than a megabyte.
const SPANS_MAX: usize = 4096;

/// Spans in one request. *Spec*: OpenTelemetry's default `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
const BATCH_MAX: usize = 512;

/// How long spans are gathered for one request. *Chosen*: the collector sees a call within a second.
const GATHER: Duration = Duration::from_millis(500);

/// How long the collector may take. *Spec*: OpenTelemetry's default `OTEL_EXPORTER_OTLP_TIMEOUT`.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the spans go, below the endpoint. *Spec*: OTLP/HTTP.
const TRACES_PATH: &str = "v1/traces";

/// A call's place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    /// 32 hexadecimal digits.
    trace: String,
    /// The span of the call, 16 hexadecimal digits.
    span: String,
    /// The span that it is in, where the client named one.
    parent: Option<String>,
    /// Whether whoever began the trace wants it recorded.
    sampled: bool,
}

impl Context {
    /// The place of call `id`.
    pub(crate) fn of(id: RequestId, headers: &HeaderMap, params: Option<&Object<'_>>) -> Self {
        let id = id.0.simple().to_string();
        let span = id.get(16..).unwrap_or_default().to_owned();
        let named = trace_headers::traceparent(headers)
            .and_then(|value| value.to_str().ok().map(str::to_owned))
            .or_else(|| in_meta(params?));
        let parts: Vec<&str> = named.as_deref().map(|text| text.split('-').collect()).unwrap_or_default();
        let [_, trace, parent, flags] = parts[..] else { return Self { trace: id, span, parent: None, sampled: true } };
        let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        Self { trace: trace.to_owned(), span, parent: Some(parent.to_owned()), sampled }
    }

    /// The call as what is asked of the backend names it.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }

    /// The headers with the call's span.
    pub(crate) fn in_headers(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.traceparent()) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

fn in_meta(params: &Object<'_>) -> Option<String> {
    let parent = params.object("_meta")?.string(TRACEPARENT)?;
    trace_headers::is_traceparent(parent.as_bytes()).then_some(parent)
}

/// A call that has ended.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    pub(crate) context: &'a Context,
    pub(crate) request_id: RequestId,
    pub(crate) method: &'a str,
    pub(crate) tool: Option<&'a str>,
    pub(crate) backend: Option<&'a str>,
    pub(crate) role: Option<&'a str>,
    pub(crate) status: Status,
    pub(crate) took: Duration,
}

impl Span<'_> {
    /// As OTLP has it in JSON. Names of attributes: OpenTelemetry's conventions for MCP where they have one.
    fn to_json(&self) -> Value {
        let nanos = |micros: i64| micros.unsigned_abs().saturating_mul(1000);
        let end = nanos(Timestamp::now().micros());
        let begin = end.saturating_sub(u64::try_from(self.took.as_nanos()).unwrap_or(u64::MAX));
        let name = self.tool.map_or_else(|| self.method.to_owned(), |tool| format!("{} {tool}", self.method));
        let id = self.request_id.to_string();
        let is_well = matches!(self.status, Status::Ok | Status::InputRequired);
        let attributes = [
            ("mcp.method.name", Some(self.method)),
            ("gen_ai.tool.name", self.tool.filter(|_| self.method == crate::mcp::protocol::TOOLS_CALL)),
            ("error.type", (!is_well).then_some(self.status.as_str())),
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
            "status": { "code": if is_well { 0 } else { 2 } },
        })
    }
}

/// Takes spans; one that is off takes none.
#[derive(Debug)]
pub(crate) struct Tracer(Option<On>);

#[derive(Debug)]
struct On {
    spans: mpsc::Sender<Value>,
    dropped: AtomicU64,
}

impl Tracer {
    /// One for the collector at `endpoint`, and the work of sending; `stop` lets that send what is left, and end.
    pub(crate) fn new(
        endpoint: Option<&str>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let url = endpoint.map(|base| format!("{}/{TRACES_PATH}", base.trim_end_matches('/')));
        let (spans, taken) = mpsc::channel(SPANS_MAX);
        let tracer = Self(url.is_some().then(|| On { spans, dropped: AtomicU64::new(0) }));
        let work = async move {
            if let Some(url) = url {
                export(&url, taken, &stop).await;
            }
        };
        (tracer, work)
    }

    /// The place of call `id`; `None` where nothing is traced.
    pub(crate) fn context(&self, id: RequestId, headers: &HeaderMap, params: Option<&Object<'_>>) -> Option<Context> {
        self.0.is_some().then(|| Context::of(id, headers, params))
    }

    /// Takes a span, or drops it where the collector is behind. Waits for nothing.
    pub(crate) fn ended(&self, span: &Span<'_>) {
        let Some(On { spans, dropped }) = self.0.as_ref().filter(|_| span.context.sampled) else { return };
        if spans.try_send(span.to_json()).is_err() {
            let dropped = dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "the collector of telemetry.otlp_endpoint is behind: spans are dropped");
            }
        }
    }
}

/// Sends spans until `stop`, and then those that are left.
async fn export(url: &str, mut spans: mpsc::Receiver<Value>, stop: &CancellationToken) {
    let client = reqwest::Client::builder().timeout(EXPORT_TIMEOUT).redirect(reqwest::redirect::Policy::none()).build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(error = %error.without_url(), "telemetry.otlp_endpoint is of no use");
            return;
        }
    };
    let mut failing = false;
    loop {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        if stop.run_until_cancelled(spans.recv_many(&mut batch, BATCH_MAX)).await.is_some() {
            // A call seldom comes alone.
            stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
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
            Err(error) if failing => tracing::debug!(error, count, "spans were not taken"),
            Err(error) => {
                failing = true;
                tracing::warn!(error, count, "the collector of telemetry.otlp_endpoint does not take spans: dropped");
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
    if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
}
