//! A small MCP client of both eras, which shows what came back exactly as it came.

use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

/// The protocol revisions that the client speaks.
pub const LEGACY: &str = "2025-11-25";
pub const MODERN: &str = "2026-07-28";

/// How a client talks: with `initialize` and a session, or stateless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    Legacy,
    Modern,
}

/// A client of one endpoint.
#[derive(Clone, Debug)]
pub struct Client {
    pub http: reqwest::Client,
    pub url: String,
    era: Era,
    /// The token that requests carry.
    pub token: Option<String>,
    /// The id of the legacy session.
    pub session: Option<String>,
    /// The protocol version that was negotiated in it.
    pub version: String,
    next_id: std::sync::Arc<AtomicU64>,
}

/// One HTTP answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    /// The JSON-RPC message, from a JSON body or the last event of a stream; `Null` if there is none.
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

impl Reply {
    /// The `result`; panics with the whole answer if there is none.
    pub fn result(&self) -> &Value {
        self.body.get("result").unwrap_or_else(|| panic!("no result: {} {}", self.status, self.text))
    }

    /// The code of the JSON-RPC error; panics with the whole answer if there is none.
    pub fn error_code(&self) -> i64 {
        self.body["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {} {}", self.status, self.text))
    }

    /// The first text of a tool's result.
    pub fn content(&self) -> &str {
        self.result()["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {}", self.text))
    }

    /// A header's value, or "".
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Client {
    /// Connects: initializes a legacy session, or asks a modern server what it is.
    pub async fn connect(url: &str, era: Era, token: Option<&str>) -> Self {
        let mut client = Self::unconnected(url, era, token);
        match era {
            Era::Modern => {
                client.request("server/discover", json!({})).await.unwrap().result();
            }
            Era::Legacy => {
                let info = json!({"name": "gatepost-tests", "version": "1"});
                let params = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": info});
                let reply = client.request("initialize", params).await.unwrap();
                if let Some(version) = reply.result()["protocolVersion"].as_str() {
                    version.clone_into(&mut client.version);
                }
                client.session = Some(reply.header("mcp-session-id").to_owned()).filter(|id| !id.is_empty());
                let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
                let reply = client.post(initialized.to_string(), &[]).await.unwrap();
                assert_eq!(reply.status, 202, "{}", reply.text);
            }
        }
        client
    }

    /// A client that has said nothing yet.
    pub fn unconnected(url: &str, era: Era, token: Option<&str>) -> Self {
        Self {
            http: reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().unwrap(),
            url: url.to_owned(),
            era,
            token: token.map(str::to_owned),
            session: None,
            version: LEGACY.to_owned(),
            next_id: std::sync::Arc::new(AtomicU64::new(1)),
        }
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// The connection broke: no answer is known.
    pub async fn call(&self, tool: &str, arguments: Value) -> reqwest::Result<Reply> {
        self.request("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// Any request, with what its era demands in body and headers.
    ///
    /// # Errors
    /// The connection broke: no answer is known.
    pub async fn request(&self, method: &str, mut params: Value) -> reqwest::Result<Reply> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let name = params.get("name").or_else(|| params.get("uri")).and_then(Value::as_str).map(str::to_owned);
        let mut headers = vec![];
        if self.era == Era::Modern {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "gatepost-tests", "version": "1"},
            });
            headers.push(("mcp-method", method));
            headers.extend(name.as_deref().map(|name| ("mcp-name", name)));
        }
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.post(body.to_string(), &headers).await
    }

    /// Posts `body` as it is, with the usual headers and these.
    ///
    /// # Errors
    /// The connection broke: no answer is known.
    pub async fn post(&self, body: impl Into<String>, headers: &[(&str, &str)]) -> reqwest::Result<Reply> {
        let version =
            if self.era == Era::Modern { Some(MODERN) } else { self.session.as_ref().map(|_| self.version.as_str()) };
        let mut request = self
            .http
            .post(&self.url)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(version) = version {
            request = request.header("mcp-protocol-version", version);
        }
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body.into()).send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await?;
        let stream = headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let message = if stream { last_event(&text) } else { text.clone() };
        Ok(Reply { status, headers, body: serde_json::from_str(&message).unwrap_or_default(), text })
    }
}

/// The data of a stream's last event that has any.
fn last_event(text: &str) -> String {
    let events = text.replace("\r\n", "\n");
    let data = |event: &str| {
        let lines: Vec<&str> =
            event.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
        lines.join("\n")
    };
    events.split("\n\n").map(data).filter(|data| !data.is_empty()).last().unwrap_or_default()
}
