//! Who calls: the bearer token, verified.
//!
//! The key decides the algorithm, never the token's header alone: a key verifies the one algorithm that it was
//! configured with, so that `none`, or HS256 keyed with a public key, verifies nothing. `exp`, `aud`, `iss` and `sub` are
//! required, `nbf` is checked where it stands. An error says to the caller what to do, and to the log what happened;
//! neither holds the token (I8).

pub mod keys;
mod token;

use crate::audit::record::Caller;
use crate::config;

use keys::{Key, KeyError};
pub use token::{Claims, MintError, mint};

/// Longest token that is looked at, in bytes. *Chosen*: an HTTP header of 16 KiB is what common servers take.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Most roles of one token that count. *Chosen*: far above any real token; bounds the decision's work and the record.
const ROLES_MAX: usize = 64;

/// Verifies tokens. Built once, from the configuration.
#[derive(Debug)]
pub struct Authenticator {
    keys: Vec<Key>,
    role_path: Vec<String>,
    required_scope: Option<String>,
}

/// A caller whose token was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// `sub`.
    pub subject: String,
    /// `iss`.
    pub issuer: String,
    /// `jti`.
    pub token_id: Option<String>,
    /// The roles of the configured claim.
    pub roles: Vec<String>,
}

/// Why a caller is not believed. The message is for the caller; causes stay in the log.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No `Authorization`.
    #[error("no bearer token: send Authorization: Bearer TOKEN")]
    Missing,
    /// `Authorization` that is no bearer token.
    #[error("the Authorization header holds no bearer token")]
    NotBearer,
    /// A token that does not verify.
    #[error("{public}")]
    Invalid {
        /// What the caller may know.
        public: &'static str,
        /// What happened.
        #[source]
        cause: Option<jsonwebtoken::errors::Error>,
    },
    /// A good token without the scope that is demanded of all.
    #[error("the token lacks the scope {scope}")]
    Scope {
        /// The scope.
        scope: String,
        /// Who called.
        principal: Box<Principal>,
    },
}

impl Principal {
    /// The caller as it is recorded, with the role that decided.
    #[must_use]
    pub fn caller(&self, role: Option<&str>) -> Caller {
        Caller {
            subject: self.subject.clone(),
            role: role.map(str::to_owned),
            issuer: Some(self.issuer.clone()),
            token_id: self.token_id.clone(),
        }
    }
}

impl Authenticator {
    /// Loads the keys.
    ///
    /// # Errors
    /// Every key that cannot be used, each with its place and what to do.
    pub fn from_config(auth: &config::Auth) -> Result<Self, Vec<KeyError>> {
        Ok(Self {
            keys: keys::load(auth)?,
            role_path: auth.role_claim.split('.').map(str::to_owned).collect(),
            required_scope: auth.required_scope.clone(),
        })
    }

    /// The issuers whose tokens are believed, in the order of the keys, each once.
    #[must_use]
    pub fn issuers(&self) -> Vec<&str> {
        let mut issuers: Vec<&str> = Vec::new();
        for key in &self.keys {
            if !issuers.contains(&key.issuer.as_str()) {
                issuers.push(&key.issuer);
            }
        }
        issuers
    }

    /// The scope that every token must bear.
    #[must_use]
    pub fn required_scope(&self) -> Option<&str> {
        self.required_scope.as_deref()
    }

    /// Verifies the value of an `Authorization` header.
    ///
    /// # Errors
    /// [`AuthError`]; the caller is to be refused.
    pub fn authenticate(&self, authorization: Option<&[u8]>) -> Result<Principal, AuthError> {
        let value = authorization.ok_or(AuthError::Missing)?;
        let token = bearer(value).ok_or(AuthError::NotBearer)?;
        let claims = self.verify(token)?;
        let text = |name: &str| claims.get(name).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
        let invalid = |public| AuthError::Invalid { public, cause: None };
        let principal = Principal {
            subject: text("sub").ok_or_else(|| invalid("the token's sub is missing or no text"))?.to_owned(),
            issuer: text("iss").ok_or_else(|| invalid("the token's iss is no text"))?.to_owned(),
            token_id: text("jti").map(str::to_owned),
            roles: roles(&claims, &self.role_path),
        };
        match &self.required_scope {
            Some(scope) if !has_scope(&claims, scope) => {
                Err(AuthError::Scope { scope: scope.clone(), principal: Box::new(principal) })
            }
            _ => Ok(principal),
        }
    }

    fn verify(&self, token: &str) -> Result<serde_json::Map<String, serde_json::Value>, AuthError> {
        let invalid = |public| move |cause| AuthError::Invalid { public, cause: Some(cause) };
        let refuse = |public| AuthError::Invalid { public, cause: None };
        let header = jsonwebtoken::decode_header(token).map_err(invalid("the token is no JWT of a known algorithm"))?;
        if header.crit.is_some() {
            // RFC 7515 4.1.11: an extension that must be understood and is not makes the token invalid.
            return Err(refuse("the token demands an extension that is not supported"));
        }
        let mut named = self.keys.iter().filter(|key| key.kid == header.kid).peekable();
        if named.peek().is_none() {
            return Err(refuse("the token is signed by an unknown key"));
        }
        // The key's algorithm, not the header's, decides; the header may only agree with it.
        let mut fitting = named.filter(|key| key.algorithm == header.alg).peekable();
        if fitting.peek().is_none() {
            return Err(refuse("the token's algorithm is not its key's"));
        }
        let mut worst = refuse("the token does not verify");
        for key in fitting {
            match jsonwebtoken::decode(token, &key.decoding, &key.validation) {
                Ok(data) => return Ok(data.claims),
                Err(cause) => worst = AuthError::Invalid { public: public_reason(&cause), cause: Some(cause) },
            }
        }
        Err(worst)
    }
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110 11.1).
fn bearer(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value).ok().filter(|value| value.len() <= TOKEN_BYTES_MAX)?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains(' ')).then_some(token)
}

fn public_reason(cause: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match cause.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => "the token has no exp",
            "aud" => "the token has no aud",
            "iss" => "the token has no iss",
            _ => "the token has no sub",
        },
        ErrorKind::InvalidClaimFormat(_) => "a claim of the token has the wrong type",
        _ => "the token does not verify",
    }
}

/// The roles at `path`: a text, or a list of texts. Anything else is no role.
fn roles(claims: &serde_json::Map<String, serde_json::Value>, path: &[String]) -> Vec<String> {
    let Some((first, rest)) = path.split_first() else {
        return Vec::new();
    };
    let found = rest.iter().try_fold(claims.get(first), |value, segment| value.map(|value| value.get(segment)));
    let named = |value: &serde_json::Value| value.as_str().filter(|role| !role.is_empty()).map(str::to_owned);
    match found.flatten() {
        Some(serde_json::Value::Array(list)) => list.iter().take(ROLES_MAX).filter_map(named).collect(),
        Some(value) => named(value).into_iter().collect(),
        None => Vec::new(), // I10: no claim, no role.
    }
}

/// Whether the token bears `scope`: in `scope`, a text with spaces (RFC 8693 4.2), or in `scp`, a text or list.
fn has_scope(claims: &serde_json::Map<String, serde_json::Value>, scope: &str) -> bool {
    ["scope", "scp"].iter().filter_map(|name| claims.get(*name)).any(|value| match value {
        serde_json::Value::String(text) => text.split(' ').any(|word| word == scope),
        serde_json::Value::Array(list) => list.iter().any(|word| word.as_str() == Some(scope)),
        _ => false,
    })
}

#[cfg(test)]
mod tests;
