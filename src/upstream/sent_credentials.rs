//! The credentials that were sent to a backend with one request, and their removal from what the backend says.
//!
//! A backend may repeat a credential in the text of an error, to help its operator. I8: the errors and questions of a
//! backend are relayed, recorded and logged without it. A result reaches its caller as it is, and its record has it
//! without.

use std::borrow::Cow;
use std::fmt;

use axum::http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use crate::audit::redact::RedactedValues;

/// The credentials that were sent to one backend with one request. The `Debug` output contains none.
#[derive(Default)]
pub struct SentCredentials(Mutex<Sent>);

#[derive(Clone, Default)]
struct Sent {
    backend: String,
    values: Vec<HeaderValue>,
}

impl SentCredentials {
    /// Adds the credentials in the `headers` of a request to `backend`: all values that are marked as sensitive.
    pub(super) fn add(&self, backend: &str, headers: &HeaderMap) {
        let mut secrets = headers.values().filter(|value| value.is_sensitive()).peekable();
        if secrets.peek().is_some() {
            let mut sent = self.0.lock();
            backend.clone_into(&mut sent.backend);
            sent.values.extend(secrets.cloned());
        }
    }

    /// Returns true if the request had no credential.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().values.is_empty()
    }

    /// The values to look for; `None`: no credential was sent.
    fn values(&self) -> Option<RedactedValues> {
        let Sent { backend, values } = self.0.lock().clone();
        let texts = values.iter().filter_map(|value| value.to_str().ok());
        // `Bearer x` is also looked for as `x`.
        let texts = texts.flat_map(|text| [Some(text), text.split_once(' ').map(|(_, secret)| secret.trim())]);
        let found = RedactedValues::replaced_by(format!("[credential of backend {backend}]"), texts.flatten());
        (!found.is_empty()).then_some(found)
    }

    /// Returns `text` with each occurrence of a credential replaced, however it is escaped.
    #[must_use]
    pub fn redacted<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(values) = self.values() else { return Cow::Borrowed(text) };
        match values.replaced_in_text(text) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(text) => Cow::Owned(text),
        }
    }

    /// The same for JSON text, which stays valid.
    #[must_use]
    pub fn redacted_json<'t>(&self, json: &'t str) -> Cow<'t, str> {
        let Some(values) = self.values() else { return Cow::Borrowed(json) };
        match values.replaced_in_json(json) {
            Cow::Borrowed(_) => Cow::Borrowed(json),
            Cow::Owned(json) => Cow::Owned(json),
        }
    }
}

impl fmt::Debug for SentCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SentCredentials({})", self.0.lock().values.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> SentCredentials {
        let mut headers = HeaderMap::new();
        for (name, text) in [("authorization", "Bearer a/b+c=="), ("x-key", "hunter2"), ("x-pin", "123")] {
            let mut value = HeaderValue::from_static(text);
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        headers.insert("accept", HeaderValue::from_static("application/json"));
        let sent = SentCredentials::default();
        sent.add("far", &headers);
        sent
    }

    #[test]
    fn i8_a_credential_is_found_with_and_without_its_scheme_and_however_it_is_escaped() {
        let by = "[credential of backend far]";
        for (text, want) in [
            ("no token", "no token".to_owned()),
            ("got Bearer a/b+c==, sorry", format!("got {by}, sorry")),
            ("a/b+c== is bad", format!("{by} is bad")),
            ("a\\/b\\u002bc== is bad", format!("{by} is bad")),
            ("hunter2hunter2", format!("{by}{by}")),
            ("application/json 123", "application/json 123".to_owned()),
        ] {
            assert_eq!(sent().redacted(text), want, "{text}");
        }
        let json = r#"{"hunter2":["a\/b+c==",1.0]}"#;
        assert_eq!(sent().redacted_json(json), format!(r#"{{"{by}":["{by}",1.0]}}"#));
        assert!(!format!("{:?}", sent()).contains("hunter2"));
    }

    #[test]
    fn without_a_credential_a_text_is_not_read() {
        let none = SentCredentials::default();
        assert!(matches!(none.redacted("hunter2"), Cow::Borrowed("hunter2")));
    }
}
