//! Entries of tables whose keys the operator chooses: environment variables, headers, lists.

use axum::http::HeaderName;
use toml::Value;

use super::text::{expected, plain, without_nul};
use crate::mcp::envelope::NAME_BYTES_MAX;
use crate::mcp::names::is_name_byte;

/// Headers that no operator sets for a backend. *Spec*: RFC 9110, and MCP's transport.
const RESERVED_HEADERS: [&str; 7] =
    ["host", "content-length", "content-type", "accept", "connection", "transfer-encoding", "last-event-id"];

pub(super) fn variable(name: &str, value: &Value) -> Result<(), String> {
    match value {
        _ if name.is_empty() || name.contains(['=', '\0']) => {
            Err("is not a valid name of an environment variable: remove '=' and NUL from it".to_owned())
        }
        Value::String(text) => without_nul(text),
        other => Err(expected("a string", other)),
    }
}

pub(super) fn header(name: &str, value: &Value) -> Result<(), String> {
    let name: Result<HeaderName, _> = name.parse();
    match (name, value) {
        (Err(_), _) => Err("is not a valid header name: use one like Authorization".to_owned()),
        // These belong to the transport: another value would break it, or make one session pass for another.
        (Ok(name), _) if name.as_str().starts_with("mcp-") || RESERVED_HEADERS.contains(&name.as_str()) => {
            Err("is a header that the gateway sets itself: remove it".to_owned())
        }
        (Ok(_), Value::String(text)) => plain(text),
        (Ok(_), other) => Err(expected("a string", other)),
    }
}

/// A tool's own name, and the one under which it is listed.
pub(super) fn tool_name(own: &str, listed: &Value) -> Result<(), String> {
    let Value::String(listed) = listed else { return Err(expected("a string", listed)) };
    if own.is_empty() || own.len() > NAME_BYTES_MAX || own.contains(char::is_control) {
        return Err(format!("is not a name of a tool: use 1 to {NAME_BYTES_MAX} bytes without control characters"));
    }
    plain(listed)?;
    if !listed.bytes().all(is_name_byte) {
        return Err(format!("{listed:?} is a name that clients refuse: use letters, digits, '_' and '-'"));
    }
    Ok(())
}

pub(super) fn list(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| match item {
            Value::String(text) => plain(text),
            other => Err(expected("a string", other)),
        }),
        other => Err(expected("a list of strings", other)),
    }
}
