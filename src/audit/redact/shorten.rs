//! Shortening: of long values that the operator names, the record has the beginning and the end.

use std::borrow::Cow;

use serde::Serialize;

use super::path::{Path, PathError, Step};
use super::walk::{Walk, unquoted};
use crate::audit::record::{Digest, RecordKey};
use crate::mcp::json;

/// The bytes of the beginning and of the end that are kept. *Spec*: docs/trail.md, "Shortening".
const KEPT_BYTES: usize = 1024;

/// The text between beginning and end.
const OMITTED: &str = " [...] ";

/// Most values of a request that are shortened; further ones stay whole. *Derived*: `context`, which has them all, has
/// at most 4 KiB.
pub const SHORTENED_MAX: usize = 8;

/// A path of `audit.shorten`.
#[derive(Clone, Debug)]
pub struct ShortenedPath(Path);

/// A value that was shortened in `request_args`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShortenedValue {
    /// The JSON pointer to it.
    pub path: String,
    /// The length of its JSON text before it was shortened, in bytes.
    pub bytes: usize,
    /// Keyed digest of this text.
    pub digest: Digest,
}

impl ShortenedPath {
    /// Compiles `path`.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn new(path: &str) -> Result<Self, PathError> {
        Path::new(path).map(Self)
    }

    /// The path below the member `name` of the root.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        Self(self.0.below(&[name]))
    }
}

/// Returns `arguments`, JSON text after redaction, with the long values at `paths` shortened, and what these were.
/// `key` is that of the record.
#[must_use]
pub fn shortened<'a>(
    paths: &[ShortenedPath],
    arguments: &'a str,
    key: &RecordKey,
) -> (Cow<'a, str>, Vec<ShortenedValue>) {
    let mut values = Vec::new();
    let paths: Vec<Path> = paths.iter().map(|path| path.0.clone()).collect();
    let edited = Walk { paths: &paths, is_anywhere: false }.edited(arguments, |steps, value| {
        let text = if value.starts_with('"') { unquoted(value) } else { Cow::Borrowed(value) };
        let short = around(&text).filter(|_| values.len() < SHORTENED_MAX)?;
        values.push(ShortenedValue { path: pointer(steps), bytes: value.len(), digest: key.digest(value.as_bytes()) });
        Some(json::quoted(&short))
    });
    match edited {
        Ok(edited) => (edited, values),
        // Text that cannot be followed stays whole.
        Err(_) => (Cow::Borrowed(arguments), Vec::new()),
    }
}

/// The beginning and the end of `text`, cut at characters. `None`: it would not be shorter.
fn around(text: &str) -> Option<String> {
    if text.len() <= 2 * KEPT_BYTES + OMITTED.len() {
        return None;
    }
    let (begin, end) = (text.floor_char_boundary(KEPT_BYTES), text.ceil_char_boundary(text.len() - KEPT_BYTES));
    Some(format!("{}{OMITTED}{}", &text[..begin], &text[end..]))
}

/// The JSON pointer to the value that `steps` lead to.
fn pointer(steps: &[Step<'_>]) -> String {
    let mut out = String::new();
    for step in steps {
        out.push('/');
        match step {
            Step::Member(name) => out.push_str(&name.replace('~', "~0").replace('/', "~1")),
            Step::Element(index) => out.push_str(&index.to_string()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> RecordKey {
        RecordKey::from_bytes([7; 32])
    }

    fn shorten(paths: &[&str], json: &str) -> (String, Vec<ShortenedValue>) {
        let paths: Vec<_> = paths.iter().map(|path| ShortenedPath::new(path).unwrap()).collect();
        let (text, values) = shortened(&paths, json, &key());
        (text.into_owned(), values)
    }

    #[test]
    fn a_long_value_has_its_beginning_and_its_end() {
        let long = format!("{}{}{}", "\u{e9}".repeat(1000), "m".repeat(100_000), "\u{1f600}".repeat(1000));
        let quoted = serde_json::json!(long).to_string();
        let json = format!(r#"{{ "content": {quoted}, "path":"/a" }}"#);
        let (text, values) = shorten(&["/content"], &json);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (begin, end) = read["content"].as_str().unwrap().split_once(OMITTED).unwrap();
        assert!(long.starts_with(begin) && long.ends_with(end));
        assert!((1021..=1024).contains(&begin.len()) && (1021..=1024).contains(&end.len()));
        assert!(text.starts_with("{ \"content\": \"") && text.ends_with(r#", "path":"/a" }"#));
        let expected = ShortenedValue {
            path: "/content".to_owned(),
            bytes: quoted.len(),
            digest: key().digest(quoted.as_bytes()),
        };
        assert_eq!(values, [expected]);
        assert_eq!(shorten(&["/path", "/other"], &json), (json.clone(), Vec::new()));
    }

    #[test]
    fn values_of_every_kind_are_shortened_only_if_that_is_shorter() {
        let text = |length: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(length));
        let most = 2 * KEPT_BYTES + OMITTED.len();
        assert_eq!(shorten(&["/a"], &text(most)), (text(most), Vec::new()));
        assert_eq!(shorten(&["/a"], &text(most + 1)).1.len(), 1);
        let list = format!(r#"{{"a":[{}1]}}"#, "1,".repeat(3000));
        let (short, values) = shorten(&["/a"], &list);
        assert!(short.starts_with(r#"{"a":"[1,1,"#) && short.len() < 2100, "{short:.20}");
        assert_eq!(values[0].bytes, 6003);
        let files = format!(r#"{{"files":[{}0]}}"#, format!(r#"{{"a~/b":"{}"}},"#, "x".repeat(3000)).repeat(20));
        let (short, values) = shorten(&["/files/*/a~0~1b"], &files);
        assert_eq!((values.len(), values[7].path.as_str()), (SHORTENED_MAX, "/files/7/a~0~1b"));
        assert!(short.len() > 12 * 3000, "the others stay whole");
    }
}
