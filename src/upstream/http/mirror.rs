//! `Mcp-Param-*` headers in the place of clients that have none to give: of the older era, or on standard input.
//!
//! *Spec*, "Custom Headers from Tool Parameters": a stateless backend may want parameters of a tool in headers too, and
//! refuses a call without them, with 400 and -32020, before it does anything. Most backends want none, so none is asked
//! before the first such refusal; then the tools that want some are remembered until the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{Era, HEADER_MISMATCH, TOOLS_CALL};

use super::super::CallError;
use super::super::message::{self, Request, Response};
use super::parts::value;
use super::{Endpoint, Remote};
use crate::mcp::lines::LINE_BYTES_MAX;

/// Longest time to read all pages of the list of tools. *Chosen*: a call waits for it.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Most pages of the list. *Chosen*: as for every list.
const PAGES_MAX: usize = 100;

/// What a header's name begins with, before what the tool's schema says.
const PREFIX: &str = "mcp-param-";

/// The tools of a backend that want parameters in headers.
#[derive(Debug, Default)]
pub(super) struct Mirrored(Mutex<HashMap<String, Arc<[Param]>>>);

/// A parameter that is wanted in a header.
#[derive(Debug, PartialEq, Eq)]
struct Param {
    header: HeaderName,
    /// The keys that lead to it.
    path: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tool {
    name: String,
    #[serde(default)]
    input_schema: Value,
}

/// Whether the backend refused a call for its headers: nothing was done with it.
fn is_refusal(answer: &Result<Response, CallError>) -> bool {
    matches!(answer, Ok(Response::Error { error, http: Some(400) }) if message::error_code(error) == Some(HEADER_MISMATCH))
}

impl Endpoint {
    /// The headers that `request` is to have for its parameters, as far as is known what its tool wants. `None`: it is not
    /// for the gateway to make any.
    pub(super) fn mirrored(&self, era: Era, request: &Request<'_>) -> Option<HeaderMap> {
        if era != Era::Modern || !request.mirrors || request.method != TOOLS_CALL || !request.headers.is_empty() {
            return None;
        }
        let tool = request.name.as_deref()?;
        let known = self.mirrored.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(params) = known.get(tool).map(Arc::clone) else { return Some(HeaderMap::new()) };
        drop(known);
        let arguments = member(request.params.unwrap_or_default(), "arguments").unwrap_or_default();
        let headers = params.iter().filter_map(|param| Some((param.header.clone(), param.value(&arguments)?)));
        Some(headers.filter_map(|(name, text)| Some((name, value(&text)?))).collect())
    }
}

impl Remote {
    /// Makes one request with these headers, and again where the backend refused it for them and wants others.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn request_mirrored(
        self: &Arc<Self>,
        request: &Request<'_>,
        headers: HeaderMap,
    ) -> Result<Response, CallError> {
        let answer = self.request_once(&request.with_headers(headers.clone())).await;
        if !is_refusal(&answer) || self.learn_mirrored().await.is_err() {
            return answer;
        }
        let wanted = self.endpoint.mirrored(self.era, request).unwrap_or_default();
        if wanted == headers {
            return answer;
        }
        // Nothing was done with it: the backend refused it for its headers.
        self.request_once(&request.with_headers(wanted)).await
    }

    /// Reads which tools want parameters in headers.
    ///
    /// # Errors
    /// [`CallError`]; what was known is known still.
    async fn learn_mirrored(self: &Arc<Self>) -> Result<(), CallError> {
        let read = tokio::time::timeout(LIST_TIMEOUT, self.read_mirrored()).await;
        let found = read.unwrap_or(Err(CallError::TimedOut { after: LIST_TIMEOUT }))?;
        *self.endpoint.mirrored.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }

    async fn read_mirrored(self: &Arc<Self>) -> Result<HashMap<String, Arc<[Param]>>, CallError> {
        let (mut found, mut bytes, mut cursor) = (HashMap::new(), 0_usize, None::<String>);
        for _ in 0..PAGES_MAX {
            let meta = message::modern_meta(&Object::default());
            let quoted = cursor.as_deref().map(json::quoted);
            let members = [("_meta", Some(meta.as_str())), ("cursor", quoted.as_deref())];
            let params = json::object(members.into_iter().filter_map(|(key, value)| Some((key, value?))));
            let page = match self.ask_once(&Request::new("tools/list", Some(&params))).await? {
                Response::Result(page) => page,
                Response::Error { .. } => return Err(CallError::List { fault: "is an error" }),
            };
            bytes = bytes.saturating_add(page.text().len());
            // I6: what is remembered is a part of what was read, and that is bounded.
            if bytes > LINE_BYTES_MAX {
                return Err(CallError::List { fault: "is too long" });
            }
            let page: Page<'_> = serde_json::from_str(page.text()).map_err(|_| CallError::Garbled)?;
            for tool in page.tools {
                let Ok(tool) = serde_json::from_str::<Tool>(tool.get()) else { continue };
                let params = wanted(&tool.input_schema).unwrap_or_default();
                if !params.is_empty() {
                    found.insert(tool.name, params.into());
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(found);
            }
        }
        Err(CallError::List { fault: "has too many pages" })
    }
}

/// The parameters that a schema wants in headers. `None`: it wants them in a way that the specification forbids, and is left
/// to the backend to refuse.
fn wanted(schema: &Value) -> Option<Vec<Param>> {
    let mut params = Vec::<Param>::new();
    let mut open = vec![(schema, Vec::new())];
    while let Some((object, path)) = open.pop() {
        for (key, property) in object["properties"].as_object().into_iter().flatten() {
            let mut path: Vec<String> = path.clone();
            path.push(key.clone());
            if let Some(name) = property.get("x-mcp-header") {
                let is_primitive = matches!(property["type"].as_str(), Some("string" | "integer" | "boolean"));
                let name = name.as_str().filter(|name| is_primitive && !name.is_empty())?;
                let header = HeaderName::from_bytes(format!("{PREFIX}{name}").as_bytes()).ok()?;
                if params.iter().any(|param| param.header == header) {
                    return None;
                }
                params.push(Param { header, path: path.clone() });
            }
            open.push((property, path));
        }
    }
    Some(params)
}

impl Param {
    /// The text of its value in `arguments`; `None` where there is none, or none that a header can hold.
    fn value(&self, arguments: &str) -> Option<String> {
        let mut found = arguments.to_owned();
        for key in &self.path {
            found = member(&found, key)?;
        }
        match found.as_bytes() {
            [b'"', ..] => serde_json::from_str(&found).ok(),
            b"true" | b"false" | [b'-' | b'0'..=b'9', ..] => Some(found),
            _ => None,
        }
    }
}

fn member(json: &str, key: &str) -> Option<String> {
    let members = json::members(json)?;
    members.iter().find(|member| member.key == key).map(|member| member.value.get().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_says_which_parameters_are_wanted_where() {
        let schema = json!({"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "at": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "other": {"type": "string"},
        }});
        let mut params = wanted(&schema).unwrap();
        params.sort_by(|a, b| a.header.as_str().cmp(b.header.as_str()));
        let arguments = r#"{"region":" caf\u00e9","at":{"n":-7},"other":"x"}"#;
        let got: Vec<_> = params.iter().map(|param| (param.header.as_str(), param.value(arguments))).collect();
        let want = [("mcp-param-n", Some("-7".to_owned())), ("mcp-param-region", Some(" caf\u{e9}".to_owned()))];
        assert_eq!(got, want);
        for arguments in ["", "{}", r#"{"region":null,"at":{"n":[]}}"#, r#"{"region":{},"at":7}"#] {
            assert!(params.iter().all(|param| param.value(arguments).is_none()), "{arguments}");
        }
        for property in [
            json!({"type": "number", "x-mcp-header": "A"}),
            json!({"type": "string", "x-mcp-header": ""}),
            json!({"type": "string", "x-mcp-header": "a b"}),
            json!({"type": "string", "x-mcp-header": "region"}),
            json!({"type": "string", "x-mcp-header": 7}),
        ] {
            let mut bad = schema.clone();
            bad["properties"]["bad"] = property.clone();
            assert_eq!(wanted(&bad), None, "{property}");
        }
        assert_eq!(wanted(&json!({"type": "object"})), Some(Vec::new()));
    }
}
