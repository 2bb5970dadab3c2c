//! The identity that a verified credential gives a caller, beyond its subject.

use std::fmt;

/// The statements of a verified credential about a caller, beyond subject, issuer and roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The way in which the caller was authenticated.
    pub authentication: Authentication,
    /// A name that people can read, from the claim that `auth.issuers[].name_claim` names.
    pub name: Option<String>,
    /// The application: the claim `azp`, else `client_id`.
    pub client_id: Option<String>,
    /// The subjects of the chain of `act` claims (RFC 8693 4.1), the current actor first.
    pub actors: Vec<String>,
    /// The authentication context class (`acr`).
    pub acr: Option<String>,
    /// The authentication methods (`amr`).
    pub amr: Vec<String>,
}

/// A way to authenticate a caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// None: an anonymous caller, or one whose credential was refused.
    #[default]
    None,
    /// A JWT.
    Jwt,
    /// A token of the file of static tokens.
    Static,
    /// A client certificate.
    Mtls,
}

impl Authentication {
    /// The word in a record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Jwt => "jwt",
            Self::Static => "static",
            Self::Mtls => "mtls",
        }
    }
}

impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
