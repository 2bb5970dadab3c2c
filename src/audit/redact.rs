//! Redaction: keeps configured arguments out of every record.
//!
//! A path is a JSON pointer (RFC 6901) into the arguments; the segment `*` matches every member or element. The value
//! at a path is replaced by `"[redacted]"`; every other byte of the text is unchanged.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The JSON text that replaces a redacted value.
pub const REDACTED: &str = r#""[redacted]""#;

/// The operator's redaction paths, compiled.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    paths: Vec<Vec<String>>,
}

/// A redaction path that is not a JSON pointer.
#[derive(Debug, thiserror::Error)]
#[error("redaction path {path:?} is not a JSON pointer: begin it with '/', for example /password or /items/*/token")]
pub struct PathError {
    path: String,
}

impl Redaction {
    /// Redacts nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Compiles `paths`.
    ///
    /// # Errors
    /// The first path that does not begin with `/`.
    pub fn new(paths: &[String]) -> Result<Self, PathError> {
        let compile = |path: &String| {
            let rest = path.strip_prefix('/').ok_or_else(|| PathError { path: path.clone() })?;
            Ok(rest.split('/').map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect())
        };
        Ok(Self { paths: paths.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// Returns `json` with the value at every configured path replaced. Text that is not JSON is replaced as a whole,
    /// because paths cannot be resolved in it.
    #[must_use]
    pub fn apply<'a>(&self, json: &'a str) -> Cow<'a, str> {
        self.paths.iter().fold(Cow::Borrowed(json), |text, path| {
            let mut spans = Vec::new();
            if find_spans(&text, 0, path, &mut spans).is_err() {
                return Cow::Borrowed(REDACTED);
            }
            spans.sort_unstable();
            let mut out = text.into_owned();
            for (start, end) in spans.into_iter().rev() {
                out.replace_range(start..end, REDACTED);
            }
            Cow::Owned(out)
        })
    }
}

/// Collects the byte spans of the values at `path` in `json`, which begins at `offset` in the whole text.
fn find_spans(
    json: &str,
    offset: usize,
    path: &[String],
    spans: &mut Vec<(usize, usize)>,
) -> Result<(), serde_json::Error> {
    let Some((segment, rest)) = path.split_first() else {
        spans.push((offset, offset + json.len()));
        return Ok(());
    };
    let offset_of = |raw: &RawValue| offset + (raw.get().as_ptr().addr() - json.as_ptr().addr());
    match json.trim_start().as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(json)?;
            for (key, value) in members {
                if segment == "*" || *segment == key {
                    find_spans(value.get(), offset_of(value), rest, spans)?;
                }
            }
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(json)?;
            for (idx, value) in elements.into_iter().enumerate() {
                if segment == "*" || *segment == idx.to_string() {
                    find_spans(value.get(), offset_of(value), rest, spans)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// An object's members in order, including repeated keys, so that every one is redacted.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(paths: &[&str], json: &str) -> String {
        let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
        Redaction::new(&paths).unwrap().apply(json).into_owned()
    }

    #[test]
    fn only_the_value_at_the_path_changes() {
        let json = r#"{ "user" : "ann", "password":{"a": [1]},  "n":1.0e3 }"#;
        let want = r#"{ "user" : "ann", "password":"[redacted]",  "n":1.0e3 }"#;
        assert_eq!(redact(&["/password"], json), want);
    }

    #[test]
    fn star_matches_every_element_and_member() {
        let json = r#"{"items":[{"token":"a","x":1},{"token":"b"}]}"#;
        let want = r#"{"items":[{"token":"[redacted]","x":1},{"token":"[redacted]"}]}"#;
        assert_eq!(redact(&["/items/*/token"], json), want);
        assert_eq!(redact(&["/items/0/token", "/*"], json), r#"{"items":"[redacted]"}"#);
    }

    #[test]
    fn escaped_keys_match_in_any_spelling() {
        assert_eq!(redact(&["/pass~1word"], r#"{"p\u0061ss/word":1}"#), r#"{"p\u0061ss/word":"[redacted]"}"#);
    }

    #[test]
    fn repeated_keys_are_all_redacted() {
        assert_eq!(redact(&["/k"], r#"{"k":1,"k":2}"#), r#"{"k":"[redacted]","k":"[redacted]"}"#);
    }

    #[test]
    fn a_path_without_a_slash_is_refused() {
        assert!(Redaction::new(&["password".to_owned()]).is_err());
    }
}
