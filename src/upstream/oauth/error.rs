//! The reasons for which there is no credential for a request to a backend.

use std::fmt;

/// A way to get a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The client credentials of the gateway (RFC 6749 4.4).
    ClientCredentials,
    /// The exchange of the caller's token (RFC 8693).
    Exchange,
}

impl Grant {
    /// The name of its tokens in a record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::Exchange => "exchange",
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientCredentials => "the gateway's client credentials",
            Self::Exchange => "the exchange of the caller's token",
        })
    }
}

/// The reason why there is no credential for a request. `server` is the origin of the token server: no message contains
/// a token, or text of the token server besides an error code and a subject (I8).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The caller was not authenticated by a JWT.
    #[error(
        "it is called on behalf of the caller, whose credential cannot be exchanged: use the token of an issuer instead of \
         a static token or a certificate"
    )]
    NoCallerToken,
    /// The tokens of the caller's issuer are not for the token server.
    #[error(
        "it is called on behalf of the caller, and tokens of {issuer:?} are not exchanged for it: use the token of another \
         issuer, or ask an operator to add this one to oauth.subject_issuers"
    )]
    OtherIssuer {
        /// The issuer of the caller's token.
        issuer: String,
    },
    /// The caller's token has expired since the request arrived.
    #[error("it is called on behalf of the caller, whose token has expired")]
    CallerTokenEnded,
    /// The token server cannot be reached, or the connection broke.
    #[error("the token server {server} cannot be reached: {reason}")]
    ServerDown {
        /// The token server.
        server: String,
        /// The reason.
        reason: String,
    },
    /// The token server did not answer in time.
    #[error("the token server {server} did not answer within {seconds} s")]
    ServerTimedOut {
        /// The token server.
        server: String,
        /// The limit.
        seconds: u64,
    },
    /// The token server refused.
    #[error("the token server {server} refused {grant}: HTTP status {status}{}", with_code(.code.as_deref()))]
    ServerRefused {
        /// The token server.
        server: String,
        /// The kind of the request.
        grant: Grant,
        /// The HTTP status.
        status: u16,
        /// The error code (RFC 6749 5.2).
        code: Option<String>,
    },
    /// The answer of the token server cannot be used.
    #[error("the token server {server} sent an answer that cannot be used: {fault}")]
    ServerGarbled {
        /// The token server.
        server: String,
        /// The fault.
        fault: &'static str,
    },
    /// The token server answered with a token of another subject.
    #[error("the token server {server} answered with a token of another subject than the caller's: {found:?}")]
    OtherSubject {
        /// The token server.
        server: String,
        /// The subject of the token.
        found: String,
    },
}

fn with_code(code: Option<&str>) -> String {
    code.map(|code| format!(", {code}")).unwrap_or_default()
}

impl CredentialError {
    /// The text for the caller. What concerns the operator only is in the record.
    #[must_use]
    pub fn public(&self) -> String {
        match self {
            Self::NoCallerToken | Self::OtherIssuer { .. } | Self::CallerTokenEnded => self.to_string(),
            _ => "the gateway got no credential for it".to_owned(),
        }
    }
}
