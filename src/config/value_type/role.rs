//! The values in rules of roles: patterns, pointers, values to compare with, directories.

use toml::Value;

use crate::audit::redact::ShortenedPath;

use super::text::{TEXT_BYTES_MAX, expected, plain};

pub(super) fn pattern(text: &str) -> Result<(), String> {
    let rule = "write backend/tool, for example \"time/*\"";
    match text.split_once('/') {
        Some((backend, tool)) if !backend.is_empty() && !tool.is_empty() => Ok(()),
        Some(_) => Err(format!("{text:?} has an empty part: {rule}")),
        None => Err(format!("{text:?} has no '/': {rule} for all tools of time")),
    }
}

/// A pattern over the tools of one backend.
pub(super) fn tool_pattern(text: &str) -> Result<(), String> {
    plain(text)?;
    if text.contains(char::is_control) {
        return Err(format!("{text:?} has a control character, which no tool's name has: remove it"));
    }
    Ok(())
}

/// A pattern and a pointer.
pub(super) fn shortened(text: &str) -> Result<(), String> {
    let Some((tools, path)) = text.split_once(":/") else {
        return Err(format!(
            "{text:?} has no ':/': write backend/tool:/path, for example \"files/write_file:/content\""
        ));
    };
    pattern(tools)?;
    ShortenedPath::new(&format!("/{path}")).map(drop).map_err(|error| error.to_string())
}

pub(super) fn resource(text: &str) -> Result<(), String> {
    let rule = "write backend/URI, for example \"files/file:///data/*\"";
    match text.split_once('/') {
        Some((backend, uri)) if !backend.is_empty() && !uri.is_empty() => Ok(()),
        Some(_) => Err(format!("{text:?} has an empty part: {rule}")),
        None => Err(format!("{text:?} has no '/': {rule}, or \"{text}/*\" for all resources of {text}")),
    }
}

/// A pointer to exactly one value.
pub(super) fn one_pointer(text: &str) -> Result<(), String> {
    pointer(text)?;
    if text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
        return Err(format!("{text:?} contains a '~' that is not part of ~0 or ~1: write ~0 for '~'"));
    }
    if text.split('/').any(|segment| segment == "*") {
        return Err(format!("{text:?} contains '*', which would only match a member of that name: name one member"));
    }
    plain(text)
}

pub(super) fn pointer(text: &str) -> Result<(), String> {
    if text.starts_with('/') {
        return Ok(());
    }
    Err(format!("{text:?} is not a JSON pointer: start it with '/', for example \"/password\" or \"/items/*/token\""))
}

/// A value to compare with. Parsers differ on numbers beyond 2^53 and on fractions (RFC 8259 section 6).
pub(super) fn scalar(value: &Value) -> Result<(), String> {
    const EXACT_MAX: u64 = 1 << 53;
    match value {
        Value::String(text) if text.len() > TEXT_BYTES_MAX => {
            Err(format!("is {} bytes long, limit {TEXT_BYTES_MAX}: shorten it", text.len()))
        }
        Value::Integer(number) if number.unsigned_abs() > EXACT_MAX => {
            Err(format!("{number} is beyond {EXACT_MAX}, where JSON parsers differ: use a smaller number"))
        }
        Value::String(_) | Value::Integer(_) | Value::Boolean(_) => Ok(()),
        other => Err(expected("a string, an integer, true or false", other)),
    }
}

pub(super) fn directory(text: &str) -> Result<(), String> {
    plain(text)?;
    let is_plain = text.starts_with('/')
        && !text.starts_with("//")
        && !text.chars().any(|c| c.is_control() || c == '\\' || c == '%')
        && !text.split('/').any(|segment| segment == "..");
    let rule = "write an absolute path without '..', backslash and '%', for example \"/data\"";
    if is_plain { Ok(()) } else { Err(format!("{text:?} is not a plain absolute path: {rule}")) }
}
