//! What the rules of roles are written in: patterns, pointers, values, directories.

use toml::Value;

use super::{TEXT_BYTES_MAX, expected, plain};

pub(super) fn pattern(text: &str) -> Result<(), String> {
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [backend, tool] if !backend.is_empty() && !tool.is_empty() => Ok(()),
        [_, _] => Err(format!("{text:?} has an empty half: write backend/tool, as in \"time/*\"")),
        [_] => Err(format!("{text:?} has no '/': write backend/tool, as in \"time/*\" for all tools of time")),
        _ => Err(format!("{text:?} has more than one '/': write backend/tool, as in \"time/*\"")),
    }
}

pub(super) fn resource(text: &str) -> Result<(), String> {
    let written = "write backend/URI, as in \"files/file:///data/*\"";
    match text.split_once('/') {
        Some((backend, uri)) if !backend.is_empty() && !uri.is_empty() => Ok(()),
        Some(_) => Err(format!("{text:?} has an empty half: {written}")),
        None => Err(format!("{text:?} has no '/': {written}, or \"{text}/*\" for all resources of {text}")),
    }
}

pub(super) fn one_pointer(text: &str) -> Result<(), String> {
    pointer(text)?;
    if text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
        return Err(format!("{text:?} has a '~' that is none of ~0 and ~1: write ~0 for '~'"));
    }
    if text.split('/').any(|segment| segment == "*") {
        return Err(format!("{text:?} has a '*', which stands for a member of that name only: name one member"));
    }
    plain(text)
}

pub(super) fn pointer(text: &str) -> Result<(), String> {
    if text.starts_with('/') {
        Ok(())
    } else {
        Err(format!("{text:?} is no JSON pointer: begin it with '/', as in \"/password\" or \"/items/*/token\""))
    }
}

/// A number beyond 2^53 is not the same to all parsers, nor is one with a fraction (RFC 8259 section 6).
pub(super) fn scalar(value: &Value) -> Result<(), String> {
    const EXACT_MAX: u64 = 1 << 53;
    match value {
        Value::String(text) if text.len() > TEXT_BYTES_MAX => {
            Err(format!("is {} bytes, limit {TEXT_BYTES_MAX}: write a shorter text", text.len()))
        }
        Value::Integer(number) if number.unsigned_abs() > EXACT_MAX => {
            Err(format!("{number} is beyond {EXACT_MAX}, up to which all parsers agree: write a smaller number"))
        }
        Value::String(_) | Value::Integer(_) | Value::Boolean(_) => Ok(()),
        other => Err(expected("a text, a whole number, true or false", other)),
    }
}

pub(super) fn directory(text: &str) -> Result<(), String> {
    plain(text)?;
    let is_plain = text.starts_with('/')
        && !text.starts_with("//")
        && !text.chars().any(|c| c.is_control() || c == '\\' || c == '%')
        && !text.split('/').any(|segment| segment == "..");
    let remedy = "write an absolute path without '..', backslash and '%', as in \"/data\"";
    if is_plain { Ok(()) } else { Err(format!("{text:?} is no plain absolute path: {remedy}")) }
}
