//! Checks of text that several types share.

use toml::Value;

/// Longest text setting, in bytes. *Chosen*: far above the longest file names and URLs in use.
pub(super) const TEXT_BYTES_MAX: usize = 4096;

/// The message for a value of the wrong type. The value itself is not shown: it may be a secret in the wrong place.
pub(super) fn expected(what: &str, value: &Value) -> String {
    format!("expected {what}, got {}", type_name(value))
}

/// The type of a value, with its article.
pub(in crate::config) fn type_name(value: &Value) -> String {
    let article = if matches!(value, Value::Integer(_) | Value::Array(_)) { "an" } else { "a" };
    format!("{article} {}", value.type_str())
}

/// A text that is not empty or too long.
pub(super) fn plain(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty: set a value, or remove the key".to_owned());
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("is {} bytes long, limit {TEXT_BYTES_MAX}: shorten it", text.len()));
    }
    without_nul(text)
}

pub(super) fn without_nul(text: &str) -> Result<(), String> {
    if text.contains('\0') { Err("contains a NUL character: remove it".to_owned()) } else { Ok(()) }
}

/// Words in code style, for the documentation.
pub(super) fn quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
