//! The credentials that were sent to a backend, with one request or in one conversation, and their removal from what
//! the backend says.
//!
//! A backend may repeat a credential in the text of an error, to help its operator. I8: the errors, questions and
//! handshakes of a backend are relayed, recorded and logged without it. Another result reaches its caller as it is, and
//! its record has it without.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use crate::audit::redact::RedactedValues;

/// Most credentials that are kept, those that were sent last. *Chosen*: an older token has ended, and each session of a
/// client keeps them.
const KEPT_MAX: usize = 16;

/// The credentials that were sent to one backend with one request, or in one conversation. The `Debug` output contains
/// none.
#[derive(Default)]
pub struct SentCredentials(Mutex<Sent>);

#[derive(Default)]
struct Sent {
    backend: String,
    values: Vec<HeaderValue>,
    /// Those of the conversation of the request.
    conversation: Option<Arc<SentCredentials>>,
}

impl SentCredentials {
    /// Adds the credentials in the `headers` of a request to `backend`: all values that are marked as sensitive.
    pub(super) fn add(&self, backend: &str, headers: &HeaderMap) {
        let mut secrets = headers.values().filter(|value| value.is_sensitive()).peekable();
        if secrets.peek().is_some() {
            let mut sent = self.0.lock();
            backend.clone_into(&mut sent.backend);
            for secret in secrets {
                sent.values.retain(|known| known != secret);
                sent.values.push(secret.clone());
            }
            // I6: their number is bounded.
            let excess = sent.values.len().saturating_sub(KEPT_MAX);
            sent.values.drain(..excess);
        }
    }

    /// The request is made in this `conversation`: the backend may repeat what was sent in it before.
    pub(super) fn join(&self, conversation: &Arc<Self>) {
        self.0.lock().conversation = Some(Arc::clone(conversation));
    }

    /// Returns true if there is no credential.
    pub(super) fn is_empty(&self) -> bool {
        let sent = self.0.lock();
        sent.values.is_empty() && sent.conversation.as_ref().is_none_or(|conversation| conversation.is_empty())
    }

    /// The values to look for.
    fn values(&self) -> RedactedValues {
        let sent = self.0.lock();
        let earlier = sent.conversation.as_ref().map(|conversation| conversation.0.lock().values.clone());
        let texts = sent.values.iter().chain(earlier.iter().flatten()).filter_map(|value| value.to_str().ok());
        // `Bearer x` is also looked for as `x`.
        let texts = texts.flat_map(|text| [Some(text), text.split_once(' ').map(|(_, secret)| secret.trim())]);
        RedactedValues::replaced_by(format!("[credential of backend {}]", sent.backend), texts.flatten())
    }

    /// Returns `text` with each occurrence of a credential replaced, however it is escaped.
    #[must_use]
    pub fn redacted<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.replaced(text, RedactedValues::replaced_in_text)
    }

    /// The same for JSON text, which stays valid.
    #[must_use]
    pub fn redacted_json<'t>(&self, json: &'t str) -> Cow<'t, str> {
        self.replaced(json, RedactedValues::replaced_in_json)
    }

    fn replaced<'t>(
        &self,
        text: &'t str,
        replace: impl for<'v> Fn(&'v RedactedValues, &'v str) -> Cow<'v, str>,
    ) -> Cow<'t, str> {
        if self.is_empty() {
            return Cow::Borrowed(text);
        }
        match replace(&self.values(), text) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(text) => Cow::Owned(text),
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
    fn i8_a_request_knows_the_credentials_of_its_conversation_and_their_number_is_bounded() {
        let key = |text: &str| {
            let mut value = HeaderValue::from_str(text).unwrap();
            value.set_sensitive(true);
            HeaderMap::from_iter([(axum::http::header::AUTHORIZATION, value)])
        };
        let (conversation, request) = (Arc::new(SentCredentials::default()), SentCredentials::default());
        request.join(&conversation);
        assert!(request.is_empty());
        conversation.add("far", &key("Bearer earlier"));
        request.add("far", &key("Bearer own-token"));
        conversation.add("far", &key("Bearer later"));
        assert_eq!(request.redacted("earlier own-token later"), ["[credential of backend far]"; 3].join(" "));
        for number in 0..KEPT_MAX {
            conversation.add("far", &key(&format!("Bearer token-{number}")));
            conversation.add("far", &key("Bearer earlier"));
        }
        assert_eq!(conversation.0.lock().values.len(), KEPT_MAX);
        let both = "earlier token-0";
        assert_eq!(conversation.redacted(both), "[credential of backend far] token-0", "those that were sent last");
    }

    #[test]
    fn without_a_credential_a_text_is_not_read() {
        let none = SentCredentials::default();
        assert!(matches!(none.redacted("hunter2"), Cow::Borrowed("hunter2")));
    }
}
