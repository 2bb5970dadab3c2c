//! Who calls: the bearer token, or in its stead the client certificate, verified.
//!
//! A token's `iss` picks the keys: those of `[[auth.keys]]` ([`keys`]) and those that the issuer publishes as a JWKS
//! ([`issuer`]), never another issuer's. The key decides the algorithm, not the token's header: a key verifies the one
//! algorithm that it was configured or published with, so that `none`, or HS256 keyed with a public key, verifies
//! nothing. `exp`, `aud`, `iss` and `sub` are required, `nbf` is checked where it stands. A static token
//! ([`static_tokens`]) is looked up by its hash. A certificate counts only where there is no `Authorization`.
//!
//! An error says to the caller what to do, and to the log what happened; neither holds the token (I8).

pub mod certificate;
mod fetch;
pub mod issuer;
pub mod jwks;
pub mod keys;
pub mod static_tokens;
mod token;
mod watched;

use std::collections::BTreeMap;

use certificate::Certificate;
use issuer::Issuer;
use jsonwebtoken::{Algorithm, Header};
use keys::Key;
use serde_json::{Map, Value};
use static_tokens::StaticTokens;
pub use token::{Claims, MintError, mint};

use crate::audit::record::Caller;
use crate::config;

/// Longest token that is looked at, in bytes. *Chosen*: an HTTP header of 16 KiB is what common servers take.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Most roles of one token that count. *Chosen*: far above any real token; bounds the decision's work and the record.
const ROLES_MAX: usize = 64;

/// What is said of a `kid` that the issuer has no key of.
const UNKNOWN_KEY: &str = "the token is signed by an unknown key";

/// Verifies callers. Built once, from the configuration.
#[derive(Debug)]
pub struct Authenticator {
    keys: Vec<Key>,
    published: Vec<Issuer>,
    static_tokens: Option<StaticTokens>,
    /// Subject of a certificate to its roles.
    certificates: BTreeMap<String, Vec<String>>,
    role_path: Vec<String>,
    required_scope: Option<String>,
}

/// A caller who was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// `sub`, or what the file of static tokens or the certificate says.
    pub subject: String,
    /// `iss`; `static` or `mtls` for those who come without a JWT.
    pub issuer: String,
    /// `jti`, or the id in the file of static tokens.
    pub token_id: Option<String>,
    /// The roles of the configured claim, or what the configuration gives.
    pub roles: Vec<String>,
}

/// Something in the configuration that nobody can be verified with.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {fault}")]
pub struct LoadError {
    /// Its place, as `auth.keys[0]`.
    pub key: String,
    /// What is wrong with it; part of the message already, hence no source of it.
    pub fault: LoadFault,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadFault {
    /// A key.
    #[error(transparent)]
    Key(#[from] keys::KeyFault),
    /// An issuer.
    #[error(transparent)]
    Issuer(#[from] issuer::Fault),
    /// The file of static tokens.
    #[error(transparent)]
    Tokens(#[from] static_tokens::Fault),
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
    /// A token that may be good, of an issuer whose keys nobody has yet.
    #[error("the keys of the token's issuer cannot be fetched now: try again")]
    Unavailable,
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
    /// The caller as it is recorded, with all its roles: none of them has decided yet.
    #[must_use]
    pub fn caller_with_all_roles(&self) -> Caller {
        self.caller((!self.roles.is_empty()).then(|| self.roles.join(",")).as_deref())
    }

    /// The caller of a call that `role` decided.
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
    /// Loads what verifies: keys, sets of keys in files, static tokens. Nothing is fetched yet.
    ///
    /// # Errors
    /// Everything that cannot be used, each with its place and what to do.
    pub fn from_config(auth: &config::Auth) -> Result<Self, Vec<LoadError>> {
        let mut faults = Vec::new();
        let keys = loaded(keys::load(auth), &mut faults);
        let published = loaded(issuer::load(auth), &mut faults);
        let static_tokens = loaded(static_tokens::load(auth).map_err(|fault| vec![fault]), &mut faults);
        match (keys, published, static_tokens) {
            (Some(keys), Some(published), Some(static_tokens)) => Ok(Self {
                keys,
                published,
                static_tokens,
                certificates: auth.certificates.clone(),
                role_path: path(&auth.role_claim),
                required_scope: auth.required_scope.clone(),
            }),
            _ => Err(faults),
        }
    }

    /// The issuers whose tokens are believed, in the order of the configuration, each once.
    #[must_use]
    pub fn issuers(&self) -> Vec<&str> {
        let mut issuers: Vec<&str> = Vec::new();
        let pinned = self.keys.iter().map(|key| key.issuer.as_str());
        for issuer in pinned.chain(self.published.iter().map(|issuer| issuer.name.as_str())) {
            if !issuers.contains(&issuer) {
                issuers.push(issuer);
            }
        }
        issuers
    }

    /// The scope that every token must bear.
    #[must_use]
    pub fn required_scope(&self) -> Option<&str> {
        self.required_scope.as_deref()
    }

    /// Verifies the value of an `Authorization` header or, where there is none, takes the certificate that the
    /// connection was opened with. May wait for an issuer's keys, within a limit.
    ///
    /// # Errors
    /// [`AuthError`]; the caller is to be refused.
    pub async fn authenticate(
        &self,
        authorization: Option<&[u8]>,
        certificate: Option<&Certificate>,
    ) -> Result<Principal, AuthError> {
        let Some(value) = authorization else {
            return certificate.map(|certificate| self.certified(certificate)).ok_or(AuthError::Missing);
        };
        self.authenticate_header(value).await.map(|(principal, _)| principal)
    }

    /// Verifies the value of an `Authorization` header; with the principal comes the token's `exp`, seconds since 1970,
    /// where it has one. May wait for an issuer's keys, within a limit.
    ///
    /// # Errors
    /// As for [`Self::authenticate`].
    pub async fn authenticate_header(&self, authorization: &[u8]) -> Result<(Principal, Option<u64>), AuthError> {
        let token = bearer(authorization).ok_or(AuthError::NotBearer)?;
        if let Some((principal, scope)) = self.static_tokens.as_ref().and_then(|tokens| tokens.find(token)) {
            let has_scope = |wanted: &str| scope.iter().any(|scope| scope.split(' ').any(|word| word == wanted));
            return Ok((self.scoped(principal, has_scope)?, None));
        }
        if self.static_tokens.is_some() && !token.contains('.') {
            return Err(refuse("the token is none of the static ones, and no JWT"));
        }
        let (claims, role_path) = self.verify(token).await?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let principal = Principal {
            subject: text("sub").ok_or_else(|| refuse("the token's sub is missing or no text"))?.to_owned(),
            issuer: text("iss").ok_or_else(|| refuse("the token's iss is no text"))?.to_owned(),
            token_id: text("jti").map(str::to_owned),
            roles: roles(&claims, role_path),
        };
        // RFC 7519 2: a NumericDate may have a fraction, which does not lengthen it here.
        let end = claims.get("exp").and_then(|end| end.as_u64().or_else(|| end.as_f64().map(whole_seconds)));
        Ok((self.scoped(principal, |wanted| has_scope(&claims, wanted))?, end))
    }

    /// Whoever holds the certificate's key; what the certificate may do is the configuration's to say.
    fn certified(&self, certificate: &Certificate) -> Principal {
        Principal {
            subject: certificate.subject.clone(),
            issuer: certificate::ISSUER.to_owned(),
            token_id: None,
            // I10: a certificate that is not listed has no role.
            roles: self.certificates.get(&certificate.subject).cloned().unwrap_or_default(),
        }
    }

    /// The principal, if it has the scope that is demanded of all tokens.
    fn scoped(&self, principal: Principal, has_scope: impl Fn(&str) -> bool) -> Result<Principal, AuthError> {
        match &self.required_scope {
            Some(scope) if !has_scope(scope) => {
                Err(AuthError::Scope { scope: scope.clone(), principal: Box::new(principal) })
            }
            _ => Ok(principal),
        }
    }

    /// The claims of a JWT, and where in them the roles are.
    async fn verify(&self, token: &str) -> Result<(Map<String, Value>, &[String]), AuthError> {
        let header = header(token)?;
        let issuer = claimed_issuer(token)?;
        let kid = header.kid.as_deref();
        let pinned = self.pinned(&issuer, kid);
        if !pinned.is_empty() {
            return Ok((verify_by(&pinned, header.alg, token)?, &self.role_path));
        }
        match self.published.iter().find(|published| published.name == issuer) {
            Some(published) => {
                let set = published.keys(kid).await.map_err(|issuer::NoKeys| AuthError::Unavailable)?;
                Ok((verify_by(&set.named(kid), header.alg, token)?, &published.role_path))
            }
            None if self.keys.iter().any(|key| key.issuer == issuer) => Err(refuse(UNKNOWN_KEY)),
            None => Err(refuse("the token is from another issuer")),
        }
    }

    /// The keys of the configuration that may have signed a token of this issuer and `kid`.
    fn pinned(&self, issuer: &str, kid: Option<&str>) -> Vec<&Key> {
        self.keys.iter().filter(|key| key.issuer == issuer && key.kid.as_deref() == kid).collect()
    }
}

/// What was loaded; the faults of it, with their places, go to the others.
fn loaded<T, F: Into<LoadFault>>(result: Result<T, Vec<(String, F)>>, faults: &mut Vec<LoadError>) -> Option<T> {
    let with_place = |(key, fault): (String, F)| LoadError { key, fault: fault.into() };
    result.map_err(|found| faults.extend(found.into_iter().map(with_place))).ok()
}

/// The token's header, if it is one that can be dealt with.
fn header(token: &str) -> Result<Header, AuthError> {
    let header = jsonwebtoken::decode_header(token).map_err(|cause| AuthError::Invalid {
        public: "the token is no JWT of a known algorithm",
        cause: Some(cause),
    })?;
    if header.crit.is_some() {
        // RFC 7515 4.1.11: an extension that must be understood and is not makes the token invalid.
        return Err(refuse("the token demands an extension that is not supported"));
    }
    if header.typ.as_deref().is_some_and(|typ| !is_access_token(typ)) {
        return Err(refuse("the token's typ is neither JWT nor at+jwt"));
    }
    Ok(header)
}

/// The `iss` that the token claims. It is not believed: it picks the keys, each of which verifies it again.
fn claimed_issuer(token: &str) -> Result<String, AuthError> {
    // The cause would quote them.
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Map<String, Value>>(token)
        .map_err(|_| refuse("the token's claims are no JSON object"))?;
    match claims.get("iss") {
        Some(Value::String(issuer)) => Ok(issuer.clone()),
        Some(_) => Err(refuse("the token's iss is no text")),
        None => Err(refuse("the token has no iss")),
    }
}

/// The claims, if one of the keys verifies the token.
fn verify_by(named: &[&Key], algorithm: Algorithm, token: &str) -> Result<Map<String, Value>, AuthError> {
    if named.is_empty() {
        return Err(refuse(UNKNOWN_KEY));
    }
    // The key's algorithm, not the header's, decides; the header may only agree with it.
    let mut fitting = named.iter().filter(|key| key.algorithm == algorithm).peekable();
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

fn refuse(public: &'static str) -> AuthError {
    AuthError::Invalid { public, cause: None }
}

/// Whether a token of this `typ` is for a resource such as this gateway (RFC 9068 4), and not an ID token, a logout token
/// or the like that says so. RFC 7515 4.1.9: the case does not matter, and `application/` may be left out.
fn is_access_token(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float is clamped")]
fn whole_seconds(seconds: f64) -> u64 {
    seconds as u64
}

/// The names that lead to a claim.
fn path(claim: &str) -> Vec<String> {
    claim.split('.').map(str::to_owned).collect()
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
fn roles(claims: &Map<String, Value>, path: &[String]) -> Vec<String> {
    let Some((first, rest)) = path.split_first() else {
        return Vec::new();
    };
    let found = rest.iter().try_fold(claims.get(first), |value, segment| value.map(|value| value.get(segment)));
    let named = |value: &Value| value.as_str().filter(|role| !role.is_empty()).map(str::to_owned);
    match found.flatten() {
        Some(Value::Array(list)) => list.iter().take(ROLES_MAX).filter_map(named).collect(),
        Some(value) => named(value).into_iter().collect(),
        None => Vec::new(), // I10: no claim, no role.
    }
}

/// Whether the token bears `scope`: in `scope`, a text with spaces (RFC 8693 4.2), or in `scp`, a text or list.
fn has_scope(claims: &Map<String, Value>, scope: &str) -> bool {
    ["scope", "scp"].iter().filter_map(|name| claims.get(*name)).any(|value| match value {
        Value::String(text) => text.split(' ').any(|word| word == scope),
        Value::Array(list) => list.iter().any(|word| word.as_str() == Some(scope)),
        _ => false,
    })
}

#[cfg(test)]
mod tests;
