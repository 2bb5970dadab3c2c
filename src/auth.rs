//! Authentication: identifies the caller by its bearer token or, without one, by its client certificate.
//!
//! A token's `iss` selects the keys: those of `[[auth.keys]]` ([`keys`]), or those that the issuer publishes as a JWKS
//! ([`issuer`]), never another issuer's. The key decides the algorithm, not the token's header: each key verifies only
//! the algorithm that it was configured or published with, so that a token with `none`, or with HS256 and a public key
//! as the secret, is refused. `exp`, `aud`, `iss` and `sub` are required, and `nbf` is checked if present. `aud` is
//! that of the endpoint of the request, or a configured one ([`audience`]). A static token ([`static_tokens`]) is
//! looked up by its hash. A certificate is used only if there is no `Authorization` header.
//!
//! An error's message tells the caller what to do, and its cause is for the log; neither contains the token (I8).

pub mod audience;
pub mod certificate;
mod claims;
pub mod credential;
mod discovery;
mod fetch;
pub mod issuer;
pub mod jwks;
pub mod keys;
mod principal;
pub mod static_tokens;
mod token;
pub mod validity;
pub(crate) mod watched;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use audience::IsEndpoint;
use certificate::Certificate;
use claims::ClaimRules;
use credential::Credential;
use issuer::Issuer;
use jsonwebtoken::{Algorithm, Header};
use keys::Key;
pub use principal::Principal;
use serde_json::{Map, Value};
use static_tokens::StaticTokens;
pub use token::{Claims, MintError, mint};
use validity::Validity;

use crate::audit::record::{Authentication, Identity};
use crate::config;

/// Longest `Authorization` header that is read, in bytes. *Chosen*: common servers accept headers of up to 16 KiB.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Time between two looks at a credential whose end cannot be foreseen. *Chosen*: streams end soon after a token or
/// certificate is withdrawn, and a look costs microseconds.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The message for a `kid` of which the issuer has no key.
const UNKNOWN_KEY: &str = "the token is signed by an unknown key";

/// Authenticates callers. Built once, from the configuration.
#[derive(Debug)]
pub struct Authenticator {
    keys: Vec<Key>,
    published: Vec<Issuer>,
    static_tokens: Option<StaticTokens>,
    /// The roles of each certificate, by the certificate's subject.
    certificates: BTreeMap<String, Vec<String>>,
    /// The rules for the tokens of `[[auth.keys]]`.
    claim_rules: ClaimRules,
    required_scope: Option<String>,
    /// The time for which a token is accepted after its `exp`.
    leeway: Duration,
}

/// A setting of the configuration that cannot be used to authenticate callers.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct LoadError {
    /// The setting, for example `auth.keys[0]`.
    pub key: String,
    /// The reason, which is part of the message and therefore not its source.
    pub reason: LoadReason,
}

/// The reason of a [`LoadError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadReason {
    /// A key of `[[auth.keys]]` cannot be used.
    #[error(transparent)]
    Key(#[from] keys::KeyError),
    /// An issuer cannot be used.
    #[error(transparent)]
    Issuer(#[from] issuer::IssuerError),
    /// The file of static tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] static_tokens::TokensFileError),
}

/// The reason why a caller is not authenticated. The message is for the caller, the source is for the log.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// There is neither an `Authorization` header nor a certificate.
    #[error("no bearer token: send Authorization: Bearer TOKEN")]
    Missing,
    /// The certificate of the connection has expired or is revoked since the handshake.
    #[error("the client certificate has expired or is revoked: connect with a valid one")]
    Certificate,
    /// The `Authorization` header does not contain a bearer token.
    #[error("the Authorization header does not contain a bearer token")]
    NotBearer,
    /// The token is not valid.
    #[error("{public}")]
    Invalid {
        /// The message for the caller.
        public: &'static str,
        /// The cause, for the log.
        #[source]
        cause: Option<jsonwebtoken::errors::Error>,
    },
    /// The token is valid, but not here.
    #[error("the token is for another audience")]
    Audience,
    /// The token may be valid, but its issuer's keys were never fetched.
    #[error("the keys of the token's issuer cannot be fetched now: try again")]
    Unavailable,
    /// The token is valid, but lacks the required scope.
    #[error("the token lacks the scope {scope}")]
    Scope {
        /// The required scope.
        scope: String,
        /// The caller.
        principal: Box<Principal>,
    },
}

impl Authenticator {
    /// Loads the keys, the key sets in files and the static tokens. Key sets at URLs are fetched later.
    ///
    /// # Errors
    /// Every setting that cannot be used, with the reason and what to do.
    pub fn from_config(auth: &config::Auth) -> Result<Self, Vec<LoadError>> {
        let mut errors = Vec::new();
        let keys = collect_errors(keys::load(auth), &mut errors);
        let published = collect_errors(issuer::load(auth), &mut errors);
        let static_tokens = collect_errors(static_tokens::load(auth).map_err(|error| vec![error]), &mut errors);
        match (keys, published, static_tokens) {
            (Some(keys), Some(published), Some(static_tokens)) => Ok(Self {
                keys,
                published,
                static_tokens,
                certificates: auth.certificates.clone(),
                claim_rules: ClaimRules::new(auth),
                required_scope: auth.required_scope.clone(),
                leeway: auth.leeway,
            }),
            _ => Err(errors),
        }
    }

    /// Fetches each key set at a URL once, all at the same time. Returns the position of its issuer in `auth.issuers`,
    /// with the number of usable keys, or the reason why there are none, without the URL's path and query.
    pub async fn try_issuers(&self) -> Vec<(usize, Result<usize, String>)> {
        let fetched = self.published.iter().map(issuer::Issuer::try_fetch);
        let fetched = futures_util::future::join_all(fetched).await;
        fetched.into_iter().enumerate().filter_map(|(idx, result)| Some((idx, result?))).collect()
    }

    /// The accepted issuers that clients can ask for a token, without duplicates, in the order of the configuration. An
    /// issuer that is not a URL is not an authorization server.
    #[must_use]
    pub fn authorization_servers(&self) -> Vec<&str> {
        let is_url = |issuer: &str| issuer.starts_with("https://") || issuer.starts_with("http://");
        let mut issuers: Vec<&str> = Vec::new();
        let pinned = self.keys.iter().map(|key| key.issuer.as_str());
        for issuer in pinned.chain(self.published.iter().map(|issuer| issuer.name.as_str())) {
            if is_url(issuer) && !issuers.contains(&issuer) {
                issuers.push(issuer);
            }
        }
        issuers
    }

    /// The scope that every token must have, if one is required.
    #[must_use]
    pub fn required_scope(&self) -> Option<&str> {
        self.required_scope.as_deref()
    }

    /// Authenticates a caller by the value of its `Authorization` header or, without one, by the certificate of its
    /// connection. A JWT must be for the endpoint, or for a configured audience. Waits for an issuer's keys if
    /// necessary, for a limited time.
    ///
    /// # Errors
    /// [`AuthError`]: the caller must be refused.
    pub async fn authenticate(
        &self,
        authorization: Option<&[u8]>,
        certificate: Option<&Arc<Certificate>>,
        is_endpoint: IsEndpoint<'_>,
    ) -> Result<Principal, AuthError> {
        let Some(value) = authorization else {
            let certificate = certificate.ok_or(AuthError::Missing)?;
            // The connection may have outlived its certificate.
            return if certificate.is_valid() {
                Ok(self.certificate_principal(certificate))
            } else {
                Err(AuthError::Certificate)
            };
        };
        self.authenticate_header(value, is_endpoint).await
    }

    /// Authenticates a caller by the value of its `Authorization` header. A JWT must be for the endpoint, or for a
    /// configured audience. Waits for an issuer's keys if necessary, for a limited time.
    ///
    /// # Errors
    /// [`AuthError`], as for [`Self::authenticate`].
    pub async fn authenticate_header(
        &self,
        authorization: &[u8],
        is_endpoint: IsEndpoint<'_>,
    ) -> Result<Principal, AuthError> {
        let token = bearer(authorization).ok_or(AuthError::NotBearer)?;
        if let Some((principal, scope)) = self.static_tokens.as_ref().and_then(|tokens| tokens.find(token)) {
            let has_scope = |required: &str| scope.iter().any(|scope| scope.split(' ').any(|word| word == required));
            return self.scoped(principal, has_scope);
        }
        if self.static_tokens.is_some() && !token.contains('.') {
            return Err(refuse("the token is neither a known static token nor a JWT"));
        }
        let (claims, claim_rules) = self.verify(token, is_endpoint).await?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        // RFC 7519 2: a NumericDate may have a fraction, which is cut off here.
        let expiry = claims.get("exp").and_then(|exp| exp.as_u64().or_else(|| exp.as_f64().map(whole_seconds)));
        let validity = expiry.map_or(Validity::UNLIMITED, |expiry| Validity::until_seconds(expiry, self.leeway));
        // The verification rounds to seconds. Streams end at this moment, and must not be opened again after it.
        if validity.has_ended() {
            return Err(refuse("the token has expired"));
        }
        let roles = claim_rules.roles(&claims);
        let principal = Principal {
            subject: text("sub").ok_or_else(|| refuse("the token's sub is missing or not a string"))?.to_owned(),
            issuer: text("iss").ok_or_else(|| refuse("the token's iss is not a string"))?.to_owned(),
            token_id: text("jti").map(str::to_owned),
            no_role: roles.is_empty().then(|| claim_rules.no_role(&claims)),
            roles,
            identity: Arc::new(claim_rules.identity(&claims)),
            credential: Credential::Token(validity),
        };
        self.scoped(principal, |required| has_scope(&claims, required))
    }

    /// Returns `true` if the principal's credential is still accepted, and gives the same roles.
    #[must_use]
    pub fn accepts(&self, principal: &Principal) -> bool {
        match &principal.credential {
            Credential::Token(validity) => !validity.has_ended(),
            Credential::StaticToken(id) => {
                self.static_tokens.as_ref().is_some_and(|tokens| tokens.lists(*id, principal))
            }
            Credential::Certificate(certificate) => certificate.is_valid(),
        }
    }

    /// Waits until the principal's credential is not accepted any more.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&self, principal: &Principal) {
        if let Credential::Token(validity) = principal.credential {
            return validity.ended().await;
        }
        while self.accepts(principal) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// The principal of a certificate, with the roles that the configuration gives it.
    fn certificate_principal(&self, certificate: &Arc<Certificate>) -> Principal {
        // I10: a certificate that is not listed has no role.
        let roles = self.certificates.get(&certificate.subject).cloned().unwrap_or_default();
        Principal {
            subject: certificate.subject.clone(),
            issuer: certificate::ISSUER.to_owned(),
            token_id: None,
            no_role: roles.is_empty().then(|| "the certificate has no role in auth.certificates".to_owned()),
            roles,
            identity: Arc::new(Identity { authentication: Authentication::Mtls, ..Identity::default() }),
            credential: Credential::Certificate(Arc::clone(certificate)),
        }
    }

    /// The principal, if it has the scope that every token must have.
    fn scoped(&self, principal: Principal, has_scope: impl Fn(&str) -> bool) -> Result<Principal, AuthError> {
        match &self.required_scope {
            Some(scope) if !has_scope(scope) => {
                Err(AuthError::Scope { scope: scope.clone(), principal: Box::new(principal) })
            }
            _ => Ok(principal),
        }
    }

    /// The claims of a valid JWT, and the rules by which they are read.
    async fn verify(
        &self,
        token: &str,
        is_endpoint: IsEndpoint<'_>,
    ) -> Result<(Map<String, Value>, &ClaimRules), AuthError> {
        let header = header(token)?;
        let issuer = claimed_issuer(token)?;
        let kid = header.kid.as_deref();
        let pinned = self.pinned(&issuer, kid);
        if !pinned.is_empty() {
            return Ok((verify_by(&pinned, header.alg, token, is_endpoint)?, &self.claim_rules));
        }
        match self.published.iter().find(|published| published.name == issuer) {
            Some(published) => {
                let set = published.keys(kid).await.map_err(|issuer::NoKeysError| AuthError::Unavailable)?;
                Ok((verify_by(&set.named(kid), header.alg, token, is_endpoint)?, &published.claim_rules))
            }
            None if self.keys.iter().any(|key| key.issuer == issuer) => Err(refuse(UNKNOWN_KEY)),
            None => Err(refuse("the token is from another issuer")),
        }
    }

    /// The keys of `[[auth.keys]]` for tokens of this issuer and `kid`.
    fn pinned(&self, issuer: &str, kid: Option<&str>) -> Vec<&Key> {
        self.keys.iter().filter(|key| key.issuer == issuer && key.kid.as_deref() == kid).collect()
    }
}

/// The loaded value. Errors are appended to `errors`, each with its setting.
fn collect_errors<T, E: Into<LoadReason>>(
    result: Result<T, Vec<(String, E)>>,
    errors: &mut Vec<LoadError>,
) -> Option<T> {
    let with_key = |(key, reason): (String, E)| LoadError { key, reason: reason.into() };
    result.map_err(|found| errors.extend(found.into_iter().map(with_key))).ok()
}

/// The token's header, if it is supported.
fn header(token: &str) -> Result<Header, AuthError> {
    let header = jsonwebtoken::decode_header(token).map_err(|cause| AuthError::Invalid {
        public: "the token is not a JWT with a known algorithm",
        cause: Some(cause),
    })?;
    if header.crit.is_some() {
        // RFC 7515 4.1.11: a token is invalid if it has a critical extension that is not supported.
        return Err(refuse("the token requires an extension that is not supported"));
    }
    if header.typ.as_deref().is_some_and(|typ| !is_access_token(typ)) {
        return Err(refuse("the token's typ is neither JWT nor at+jwt"));
    }
    Ok(header)
}

/// The token's unverified `iss`, which selects the keys. Verification checks it again.
fn claimed_issuer(token: &str) -> Result<String, AuthError> {
    // I8: the cause would quote the claims.
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Map<String, Value>>(token)
        .map_err(|_| refuse("the token's claims are not a JSON object"))?;
    match claims.get("iss") {
        Some(Value::String(issuer)) => Ok(issuer.clone()),
        Some(_) => Err(refuse("the token's iss is not a string")),
        None => Err(refuse("the token has no iss")),
    }
}

/// The claims, if one of the keys verifies the token.
fn verify_by(
    keys: &[&Key],
    algorithm: Algorithm,
    token: &str,
    is_endpoint: IsEndpoint<'_>,
) -> Result<Map<String, Value>, AuthError> {
    if keys.is_empty() {
        return Err(refuse(UNKNOWN_KEY));
    }
    // The key decides the algorithm; the token's header must agree with it.
    let mut matching = keys.iter().filter(|key| key.algorithm == algorithm).peekable();
    if matching.peek().is_none() {
        return Err(refuse("the token's algorithm does not match its key"));
    }
    let mut last_error = refuse("the token cannot be verified");
    for key in matching {
        match jsonwebtoken::decode(token, &key.decoding, &key.validation) {
            Ok(data) if audience::is_accepted(&data.claims, &key.audiences, is_endpoint) => return Ok(data.claims),
            Ok(_) => return Err(AuthError::Audience),
            Err(cause) => last_error = AuthError::Invalid { public: public_reason(&cause), cause: Some(cause) },
        }
    }
    Err(last_error)
}

fn refuse(public: &'static str) -> AuthError {
    AuthError::Invalid { public, cause: None }
}

/// Returns true if `typ` is that of an access token (RFC 9068 4), and not that of an ID token, a logout token or
/// another kind.
///
/// The case of `typ` does not matter, and `application/` may be omitted (RFC 7515 4.1.9).
fn is_access_token(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float is clamped")]
fn whole_seconds(seconds: f64) -> u64 {
    seconds as u64
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110 11.1).
pub(crate) fn bearer(value: &[u8]) -> Option<&str> {
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
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => "the token has no exp",
            "aud" => "the token has no aud",
            "iss" => "the token has no iss",
            _ => "the token has no sub",
        },
        ErrorKind::InvalidClaimFormat(_) => "a claim of the token has the wrong type",
        _ => "the token cannot be verified",
    }
}

/// Returns true if the claims contain `scope`: in `scope`, a string of words (RFC 8693 4.2), or in `scp`, a string or
/// an array.
fn has_scope(claims: &Map<String, Value>, scope: &str) -> bool {
    ["scope", "scp"].iter().filter_map(|name| claims.get(*name)).any(|value| match value {
        Value::String(text) => text.split(' ').any(|word| word == scope),
        Value::Array(list) => list.iter().any(|word| word.as_str() == Some(scope)),
        _ => false,
    })
}

#[cfg(test)]
mod tests;
