//! The parameters that tools require in `Mcp-Param-*` headers, from the `x-mcp-header` of their schemas.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::mcp::json::{self, Object};
use crate::mcp::protocol::{PARAM_HEADER_PREFIX, is_header_text};
use crate::upstream::error::CallError;

use super::convert::header_value;

/// The tools that require parameters in headers, by name.
pub(super) type ParamHeaders = HashMap<String, Arc<[HeaderParam]>>;

/// A parameter that a tool requires in a header.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::upstream) struct HeaderParam {
    header: HeaderName,
    /// The keys on the path from the arguments to the parameter.
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

/// Adds the tools of a page of `tools/list` to `found`, and returns the page's `nextCursor`.
///
/// # Errors
/// [`CallError::Garbled`]: the page is not a list of tools.
pub(super) fn read_tools(page: &str, found: &mut ParamHeaders) -> Result<Option<String>, CallError> {
    let page: Page<'_> = serde_json::from_str(page).map_err(|_| CallError::Garbled)?;
    for tool in page.tools {
        let Ok(tool) = serde_json::from_str::<Tool>(tool.get()) else { continue };
        let params = header_params(&tool.input_schema).unwrap_or_default();
        if !params.is_empty() {
            found.insert(tool.name, params.into());
        }
    }
    Ok(page.next_cursor)
}

/// The parameters that a schema requires in headers. `None`: the schema breaks the specification. Its calls get no
/// headers, and the backend may reject them.
fn header_params(schema: &Value) -> Option<Vec<HeaderParam>> {
    let mut params = Vec::<HeaderParam>::new();
    let mut remaining = vec![(schema, Vec::new())];
    while let Some((object, path)) = remaining.pop() {
        for (key, property) in object["properties"].as_object().into_iter().flatten() {
            let mut path: Vec<String> = path.clone();
            path.push(key.clone());
            if let Some(name) = property.get("x-mcp-header") {
                let is_primitive = matches!(property["type"].as_str(), Some("string" | "integer" | "boolean"));
                let name = name.as_str().filter(|name| is_primitive && !name.is_empty())?;
                let header = HeaderName::from_bytes(format!("{PARAM_HEADER_PREFIX}{name}").as_bytes()).ok()?;
                if params.iter().any(|param| param.header == header) {
                    return None;
                }
                params.push(HeaderParam { header, path: path.clone() });
            }
            remaining.push((property, path));
        }
    }
    Some(params)
}

/// The parameters that the tool `json`, an item of a list, requires in headers.
pub(in crate::upstream) fn of_tool(json: &str) -> Option<Arc<[HeaderParam]>> {
    let tool: Tool = serde_json::from_str(json).ok()?;
    header_params(&tool.input_schema).map(Arc::from)
}

/// The name of the first header in `headers` that contradicts `arguments`. A header that none of `params` requires
/// contradicts nothing.
pub(in crate::upstream) fn contradicted<'h>(
    params: &[HeaderParam],
    arguments: Option<&str>,
    headers: &'h HeaderMap,
) -> Option<&'h HeaderName> {
    let arguments = arguments.and_then(Object::parse).unwrap_or_default();
    headers.keys().find(|name| {
        let Some(param) = params.iter().find(|param| param.header == **name) else { return false };
        let mut values = headers.get_all(*name).iter();
        let is_equal = |value: &HeaderValue| {
            let header = value.to_str().ok();
            header.zip(param.value(&arguments)).is_some_and(|(header, value)| is_header_text(header, &value))
        };
        !values.all(is_equal)
    })
}

impl HeaderParam {
    /// The header for the parameter in `arguments`. `None`: the parameter is missing, or a header cannot contain it.
    pub(super) fn header(&self, arguments: &Object<'_>) -> Option<(HeaderName, HeaderValue)> {
        Some((self.header.clone(), header_value(&self.value(arguments)?)?))
    }

    /// The bytes of its texts.
    pub(super) fn bytes(&self) -> usize {
        self.header.as_str().len() + self.path.iter().map(|key| size_of::<String>() + key.len()).sum::<usize>()
    }

    fn value(&self, arguments: &Object<'_>) -> Option<String> {
        let json = value_at(arguments, &self.path)?;
        match json.as_bytes() {
            [b'"', ..] => json::string(&json),
            b"true" | b"false" | [b'-' | b'0'..=b'9', ..] => Some(json),
            _ => None,
        }
    }
}

/// The value at the end of `path`, as JSON text.
fn value_at(object: &Object<'_>, path: &[String]) -> Option<String> {
    match path {
        [] => None,
        [key] => object.get(key).map(str::to_owned),
        [key, rest @ ..] => value_at(&object.object(key)?, rest),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headers_are_compared_with_the_arguments() {
        let tool = json!({"name": "t", "inputSchema": {"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"}, "n": {"type": "integer", "x-mcp-header": "N"}}}});
        let params = of_tool(&tool.to_string()).unwrap();
        let arguments = Some(r#"{"region":"caf\u00e9","n":7}"#);
        for (headers, want) in [
            (vec![], None),
            (vec![("mcp-param-region", "=?base64?Y2Fmw6k=?="), ("mcp-param-n", "7")], None),
            (vec![("mcp-param-other", "x")], None),
            (vec![("mcp-param-region", "cafe")], Some("mcp-param-region")),
            (vec![("mcp-param-n", "07")], Some("mcp-param-n")),
            (vec![("mcp-param-n", "7"), ("mcp-param-n", "8")], Some("mcp-param-n")),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in &headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(contradicted(&params, arguments, &map).map(HeaderName::as_str), want, "{headers:?}");
        }
        let region = HeaderMap::from_iter([(HeaderName::from_static("mcp-param-region"), "x".parse().unwrap())]);
        assert!(contradicted(&params, None, &region).is_some(), "an argument that is missing");
        assert!(contradicted(&params, Some(r#"{"region":null}"#), &region).is_some());
    }

    #[test]
    fn schema_determines_the_headers_of_parameters() {
        let schema = json!({"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "at": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "other": {"type": "string"},
        }});
        let mut params = header_params(&schema).unwrap();
        params.sort_by(|a, b| a.header.as_str().cmp(b.header.as_str()));
        let arguments = r#"{"region":" caf\u00e9","at":{"n":-7},"other":"x"}"#;
        let value = |param: &HeaderParam, arguments| param.value(&Object::parse(arguments)?);
        let got: Vec<_> = params.iter().map(|param| (param.header.as_str(), value(param, arguments))).collect();
        let want = [("mcp-param-n", Some("-7".to_owned())), ("mcp-param-region", Some(" caf\u{e9}".to_owned()))];
        assert_eq!(got, want);
        for arguments in ["", "{}", r#"{"region":null,"at":{"n":[]}}"#, r#"{"region":{},"at":7}"#] {
            assert!(params.iter().all(|param| value(param, arguments).is_none()), "{arguments}");
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
            assert_eq!(header_params(&bad), None, "{property}");
        }
        assert_eq!(header_params(&json!({"type": "object"})), Some(Vec::new()));
    }
}
