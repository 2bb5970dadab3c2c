//! The token of a caller, which is exchanged for a token for a backend.

use std::fmt;

use crate::audit::record::{Digest, Timestamp};
use crate::auth::validity::Validity;

/// The token of a caller. It is sent to token servers only. The `Debug` output does not contain it.
#[derive(Clone)]
pub struct CallerToken {
    issuer: String,
    subject: String,
    text: String,
    digest: Digest,
    validity: Validity,
}

impl CallerToken {
    /// The token `text` of this principal, which is accepted for `validity`.
    #[must_use]
    pub fn new(issuer: &str, subject: &str, text: &str, validity: Validity) -> Self {
        let digest = Digest::of(text.as_bytes());
        Self { issuer: issuer.to_owned(), subject: subject.to_owned(), text: text.to_owned(), digest, validity }
    }

    /// The digest of the token, which identifies it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns true if the token is not accepted any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.validity.has_ended()
    }

    /// The time for which it is accepted.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The same token, which is not accepted any more.
    pub(in crate::upstream) fn ended(&self) -> Self {
        Self { validity: Validity::until(Timestamp::from_micros(0)), ..self.clone() }
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    pub(in crate::upstream) fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for CallerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallerToken").field("subject", &self.subject).finish_non_exhaustive()
    }
}
