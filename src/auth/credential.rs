//! The credential that a caller was authenticated by.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::certificate::Certificate;
use crate::auth::validity::Validity;
use crate::auth::verified_token::VerifiedToken;

/// The credential that a caller was authenticated by. It tells whether the caller would still be accepted.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A JWT, which is accepted until it expires or a reload does not accept it.
    Token(Validity, Arc<VerifiedToken>),
    /// A static token, which is accepted while its file lists it.
    StaticToken(StaticTokenId),
    /// A client certificate, which is accepted until it expires or is revoked.
    Certificate(Arc<Certificate>),
}

/// The hash of a static token, by which its file lists it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StaticTokenId(pub(super) [u8; 32]);

impl Credential {
    /// The time until the credential ends, if that can be foreseen. The leeway of a token does not count.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        match self {
            Self::Token(validity, _) => validity.left_of_credential(),
            Self::StaticToken(_) | Self::Certificate(_) => None,
        }
    }
}

impl Default for Credential {
    /// A credential that does not end.
    fn default() -> Self {
        Self::Token(Validity::UNLIMITED, Arc::default())
    }
}

impl fmt::Debug for StaticTokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticTokenId")
    }
}
