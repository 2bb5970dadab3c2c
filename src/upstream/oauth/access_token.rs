//! A token for requests to a backend.

use std::fmt;
use std::time::Duration;

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tokio::time::Instant;

use crate::auth::validity::Validity;

/// Longest token, in bytes. *Chosen*: common servers accept headers of up to 16 KiB.
const TOKEN_BYTES_MAX: usize = 15 * 1024;

/// The time before its end at which a token is replaced, at most. *Chosen*: a request is under way for seconds, and
/// clocks differ.
const MARGIN_MAX: Duration = Duration::from_secs(30);

/// The lifetime of a token for which the server names none. *Chosen*: shorter than that of real tokens.
const LIFETIME_DEFAULT: Duration = Duration::from_mins(1);

/// Longest lifetime that is counted. *Chosen*: an [`Instant`] can represent it.
const LIFETIME_MAX: Duration = Duration::from_hours(24);

/// The decoder of a JWT's parts. *Chosen*: with or without padding, because many servers accept both: the gateway must
/// see the subject that the backend sees.
const PART: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A token for requests to a backend. The `Debug` output does not contain it.
pub(in crate::upstream) struct AccessToken {
    authorization: HeaderValue,
    subject: Subject,
    issued_at: Instant,
    stale_at: Instant,
}

/// The subject that a token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// The token is not a JWT.
    Opaque,
    /// The one string `sub` of a JWT.
    Named(String),
    /// The token has the form of a JWT, and its payload is not an object with exactly one string `sub`.
    Unreadable,
}

/// The claims of a JWT. Two members `sub` are an error.
#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl AccessToken {
    /// The bearer token `text`, which is valid for `lifetime` from now, if the server says so. `None`: the text is too
    /// long, or is not a token.
    pub(super) fn new(text: &str, lifetime: Option<Duration>) -> Option<Self> {
        // RFC 6750 2.1: the characters of a bearer token.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if text.is_empty() || text.len() > TOKEN_BYTES_MAX || !text.bytes().all(is_token) {
            return None;
        }
        let mut authorization = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        authorization.set_sensitive(true);
        let lifetime = lifetime.unwrap_or(LIFETIME_DEFAULT).min(LIFETIME_MAX);
        let issued_at = Instant::now();
        let stale_at = issued_at + lifetime.saturating_sub(MARGIN_MAX.min(lifetime / 2));
        Some(Self { authorization, subject: subject(text), issued_at, stale_at })
    }

    /// The same token, used no longer than the credential `validity`.
    pub(super) fn within(self, validity: Validity) -> Self {
        let end = validity.left().map(|left| Instant::now() + left);
        Self { stale_at: end.map_or(self.stale_at, |end| end.min(self.stale_at)), ..self }
    }

    /// The time since the token was issued.
    pub(super) fn age(&self) -> Duration {
        self.issued_at.elapsed()
    }

    /// Returns true if another token is requested for the next request.
    pub(in crate::upstream) fn is_stale(&self) -> bool {
        Instant::now() >= self.stale_at
    }

    /// The value of the header `Authorization`.
    pub(in crate::upstream) fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    /// The subject, if the token is a JWT that names one.
    pub(in crate::upstream) fn subject(&self) -> Option<&str> {
        match &self.subject {
            Subject::Named(subject) => Some(subject),
            Subject::Opaque | Subject::Unreadable => None,
        }
    }

    /// The subject, or the reason why there is none.
    pub(super) fn named_subject(&self) -> &Subject {
        &self.subject
    }
}

/// The `sub` of a JWT. Its signature is not verified: the token came from the token server, and the backend verifies
/// it.
fn subject(token: &str) -> Subject {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Subject::Opaque;
    };
    let payload = PART.decode(payload).unwrap_or_default();
    // An array would be read as the members in their order.
    let is_object = payload.trim_ascii_start().starts_with(b"{");
    let claims = serde_json::from_slice::<Claims>(&payload).ok().filter(|_| is_object);
    claims.map_or(Subject::Unreadable, |claims| Subject::Named(claims.sub))
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("subject", &self.subject).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_shortly_before_its_end() {
        for (lifetime, used) in [(Some(300), 270), (Some(20), 10), (None, 30), (Some(u64::MAX), 24 * 3600 - 30_u64)] {
            let token = AccessToken::new("t", lifetime.map(Duration::from_secs)).unwrap();
            tokio::time::advance(Duration::from_millis(used * 1000 - 1)).await;
            assert!(!token.is_stale(), "{lifetime:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(token.is_stale(), "{lifetime:?}");
        }
        assert!(AccessToken::new("t", Some(Duration::ZERO)).unwrap().is_stale());
    }

    #[test]
    fn only_a_jwt_names_a_subject() {
        let found = |text: &str| AccessToken::new(text, None).unwrap().named_subject().clone();
        let padded = |claims: &str| {
            let payload = STANDARD.encode(claims);
            assert!(payload.ends_with('='), "{payload}");
            format!("e30.{payload}.c2ln")
        };
        let ann = Subject::Named("ann".to_owned());
        for text in [jwt(r#"{"sub":"ann","x":[1]}"#), jwt(r#" {"sub":"ann"} "#), padded(r#"{"sub":"ann"}"#)] {
            assert_eq!(found(&text), ann, "{text}");
        }
        for text in ["opaque", "a.b", "a.b.c.d.e", &format!("{}.x", jwt("{}"))] {
            assert_eq!(found(text), Subject::Opaque, "{text}");
        }
        for claims in [
            "{}",
            "",
            "7",
            r#"["ann"]"#,
            r#"{"sub":7}"#,
            r#"{"sub":null}"#,
            r#"{"sub":["ann"]}"#,
            r#"{"Sub":"ann"}"#,
            r#"{"sub":"ann","sub":"eve"}"#,
            r#"{"sub":"ann","s\u0075b":"ann"}"#,
            r#"{"sub":"ann"} {}"#,
        ] {
            assert_eq!(found(&jwt(claims)), Subject::Unreadable, "{claims}");
        }
        for text in ["a.b.c", "..", "e30.+/+/.c2ln", "e30.e30==.c2ln"] {
            assert_eq!(found(text), Subject::Unreadable, "{text}");
        }
    }

    #[test]
    fn i6_i8_a_token_is_bounded_and_not_shown() {
        assert!(AccessToken::new(&"x".repeat(TOKEN_BYTES_MAX), None).is_some());
        for text in ["", "a b", "a\r\nX-Y: 1", "caf\u{e9}", "a,b", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert!(AccessToken::new(text, None).is_none(), "{text}");
        }
        let token = AccessToken::new("hunter2", None).unwrap();
        assert!(!format!("{token:?} {:?}", token.authorization()).contains("hunter2"));
    }
}
