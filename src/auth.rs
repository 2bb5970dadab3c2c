//! Authentication: identifies the caller by its bearer token or, without one, by its client certificate.
//!
//! A token's `iss` selects the keys: those of `[[auth.keys]]` ([`keys`]), or those that the issuer publishes as a JWKS
//! ([`issuer`]), never another issuer's. The key decides the algorithm, not the token's header: each key verifies only
//! the algorithm that it was configured or published with, so that a token with `none`, or with HS256 and a public key
//! as the secret, is refused. `exp`, `aud`, `iss` and `sub` are required, and `nbf` is checked if present. `aud` is
//! that of the endpoint of the request, or a configured one ([`audience`]). A static token ([`static_tokens`]) is
//! looked up by its hash. A certificate is used only if there is no `Authorization` header. At the console people can
//! sign in at an issuer ([`openid_client`]); the ID token is verified by the same keys ([`id_token`]).
//!
//! An error's message tells the caller what to do, and its cause is for the log; neither contains the token (I8).

pub mod audience;
pub mod certificate;
mod claims;
pub(crate) mod client_secret;
pub mod credential;
mod discovery;
mod fetch;
pub mod id_token;
pub mod issuer;
pub mod jwks;
mod jwt;
pub mod keys;
pub mod openid_client;
mod principal;
pub mod static_tokens;
mod token;
pub mod validity;
pub mod verified_token;
pub(crate) mod watched;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use audience::IsEndpoint;
use certificate::Certificate;
use claims::ClaimRules;
use credential::Credential;
use id_token::Expected;
use issuer::Issuer;
use jsonwebtoken::Header;
use jwt::{JwtError, UNKNOWN_KEY, claimed_issuer, has_scope, header, refuse, verify_by, whole_seconds};
use keys::{ConfiguredKey, Key};
pub use principal::Principal;
use serde_json::Value;
use static_tokens::StaticTokens;
pub use token::{Claims, MintError, mint};
use validity::Validity;
use verified_token::{KeySource, Purpose, VerifiedToken, Withdrawal};

use crate::audit::record::{Authentication, Identity};
use crate::config;

/// Longest `Authorization` header that is read, in bytes. *Chosen*: common servers accept headers of up to 16 KiB.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Time between two looks at a credential whose end cannot be foreseen. *Chosen*: streams end soon after a token or
/// certificate is withdrawn, and a look costs microseconds.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Authenticates callers. Built from the configuration; a reload replaces it as a whole.
#[derive(Debug)]
pub struct Authenticator {
    keys: Vec<ConfiguredKey>,
    /// The values of `aud` in tokens of `keys` that are accepted at every endpoint.
    audiences: Vec<String>,
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
    /// The token may be valid, but its issuer's keys were never fetched, or its key may have been published since.
    #[error("the keys of the token's issuer cannot be fetched now: try again")]
    Unavailable {
        /// The time until they can be fetched.
        retry_in: Duration,
    },
    /// The token is valid, but lacks the required scope.
    #[error("the token lacks the scope {scope}")]
    Scope {
        /// The required scope.
        scope: String,
        /// The caller.
        principal: Box<Principal>,
    },
}

impl From<JwtError> for AuthError {
    fn from(JwtError { public, cause }: JwtError) -> Self {
        Self::Invalid { public, cause }
    }
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
                audiences: auth.audiences.clone(),
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

    /// Takes the place of `old`: what that has fetched from issuers that are in both is not fetched again.
    pub fn replace(&mut self, old: &Self) {
        for issuer in &mut self.published {
            if let Some(known) = old.published.iter().find(|known| known.name == issuer.name) {
                issuer.continue_with(known);
            }
        }
    }

    /// The settings of the keys that `new` has read with other contents, for example `auth.keys[0]`.
    #[must_use]
    pub fn changed_keys(&self, new: &Self) -> Vec<String> {
        // By position: a key that is replaced by another known one must not verify any more under its own name.
        let is_known =
            |(idx, key): &(usize, &ConfiguredKey)| self.keys.get(*idx).is_some_and(|known| known.digest == key.digest);
        let changed = new.keys.iter().enumerate().filter(|key| !is_known(key));
        changed.map(|(idx, _)| format!("auth.keys[{idx}]")).collect()
    }

    /// Returns true if these rules accept all tokens that the `old` ones accepted, by the same keys. The roles may
    /// differ.
    #[must_use]
    pub fn accepts_all_of(&self, old: &Self) -> bool {
        let has_all = |new: &[String], old: &[String]| old.iter().all(|value| new.contains(value));
        let same_key = |one: &ConfiguredKey, other: &ConfiguredKey| {
            let of = |known: &ConfiguredKey| (known.digest, known.key.algorithm);
            of(one) == of(other) && (&one.key.issuer, &one.key.kid) == (&other.key.issuer, &other.key.kid)
        };
        let has_key = |old: &ConfiguredKey| self.keys.iter().any(|key| same_key(key, old));
        let has_issuer = |old: &Issuer| {
            self.published.iter().any(|issuer| {
                (&issuer.name, &issuer.place) == (&old.name, &old.place)
                    && old.algorithms.iter().all(|algorithm| issuer.algorithms.contains(algorithm))
                    && has_all(&issuer.audiences, &old.audiences)
            })
        };
        let tokens_path = |auth: &Self| auth.static_tokens.as_ref().map(|tokens| tokens.path().to_owned());
        old.keys.iter().all(has_key)
            && old.published.iter().all(has_issuer)
            && has_all(&self.audiences, &old.audiences)
            && (self.required_scope.is_none() || self.required_scope == old.required_scope)
            && (old.static_tokens.is_none() || tokens_path(self) == tokens_path(old))
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
        let pinned = self.keys.iter().map(|known| known.key.issuer.as_str());
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
            let is_in_scope =
                self.required_scope().is_none_or(|required| static_tokens::has_scope(scope.as_deref(), required));
            return self.scoped(principal, is_in_scope);
        }
        if self.static_tokens.is_some() && !token.contains('.') {
            return Err(refuse("the token is neither a known static token nor a JWT").into());
        }
        let (verified, claim_rules) = self.verify(token, is_endpoint).await?;
        let claims = &verified.claims;
        // RFC 7519 2: a NumericDate may have a fraction, which is cut off here.
        let expiry = claims.get("exp").and_then(|exp| exp.as_u64().or_else(|| exp.as_f64().map(whole_seconds)));
        let validity = expiry.map_or(Validity::UNLIMITED, |expiry| Validity::until_seconds(expiry, self.leeway));
        // The verification rounds to seconds. Streams end at this moment, and must not be opened again after it.
        if validity.has_ended() {
            return Err(refuse("the token has expired").into());
        }
        let is_in_scope = self.required_scope().is_none_or(|required| has_scope(claims, required));
        let principal = principal(verified, claim_rules, validity)?;
        self.scoped(principal, is_in_scope)
    }

    /// Authenticates the person that an ID token names. The principal ends after [`id_token::SIGNED_IN`].
    ///
    /// # Errors
    /// [`AuthError`]: the token is not valid, or is not the answer to this sign-in.
    pub async fn authenticate_id_token(&self, token: &str, expected: Expected<'_>) -> Result<Principal, AuthError> {
        let (mut verified, _, claim_rules) = self.signed(token).await?;
        id_token::check(&verified.claims, expected)?;
        verified.purpose = Purpose::SignIn;
        principal(verified, claim_rules, id_token::validity())
    }

    /// Returns `true` if the principal's credential is still accepted, and gives the same roles.
    #[must_use]
    pub fn accepts(&self, principal: &Principal) -> bool {
        let has_ended = match &principal.credential {
            Credential::Token(validity, _) => validity.has_ended(),
            Credential::Certificate(certificate) => !certificate.is_valid(),
            Credential::StaticToken(_) => false,
        };
        !has_ended && self.check(principal).is_ok()
    }

    /// Checks that these rules accept the principal's credential, and give the same roles, if it has not ended.
    ///
    /// # Errors
    /// [`Withdrawal`]: they do not.
    pub fn check(&self, principal: &Principal) -> Result<(), Withdrawal> {
        let roles = match &principal.credential {
            Credential::StaticToken(id) => {
                let tokens = self.static_tokens.as_ref().ok_or(Withdrawal::StaticToken)?;
                return tokens.check(*id, principal, self.required_scope());
            }
            Credential::Certificate(certificate) => {
                self.certificates.get(&certificate.subject).cloned().unwrap_or_default()
            }
            Credential::Token(_, token) => {
                let (audiences, claim_rules) = self.rules_of(token, &principal.issuer)?;
                if token.purpose == Purpose::Listed && !audience::is_listed(&token.claims, audiences) {
                    return Err(Withdrawal::Audience);
                }
                let lacks = |scope| token.purpose != Purpose::SignIn && !has_scope(&token.claims, scope);
                if self.required_scope().is_some_and(lacks) {
                    return Err(Withdrawal::Scope);
                }
                claim_rules.roles(&token.claims)
            }
        };
        if principal.has_roles(&roles) { Ok(()) } else { Err(Withdrawal::Roles) }
    }

    /// The listed audiences, and the rules for the claims, of a token that was verified before.
    fn rules_of(&self, token: &VerifiedToken, issuer: &str) -> Result<(&[String], &ClaimRules), Withdrawal> {
        let configured = self.configured(issuer, token.kid.as_deref());
        if !configured.is_empty() {
            let is_known = |known: &&ConfiguredKey| token.key == KeySource::Configured(known.digest);
            return configured
                .iter()
                .any(is_known)
                .then_some((&*self.audiences, &self.claim_rules))
                .ok_or(Withdrawal::Key);
        }
        match self.published.iter().find(|published| published.name == issuer) {
            Some(published) => {
                let same_place = matches!(&token.key, KeySource::Published(place) if *place == published.place);
                let is_known = same_place && published.algorithms.contains(&token.algorithm);
                is_known.then_some((&*published.audiences, &published.claim_rules)).ok_or(Withdrawal::Key)
            }
            None if self.keys.iter().any(|known| known.key.issuer == issuer) => Err(Withdrawal::Key),
            None => Err(Withdrawal::Issuer),
        }
    }

    /// Waits until the principal's credential is not accepted any more.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&self, principal: &Principal) {
        if let Credential::Token(validity, _) = principal.credential {
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
    fn scoped(&self, principal: Principal, is_in_scope: bool) -> Result<Principal, AuthError> {
        match &self.required_scope {
            Some(scope) if !is_in_scope => {
                Err(AuthError::Scope { scope: scope.clone(), principal: Box::new(principal) })
            }
            _ => Ok(principal),
        }
    }

    /// A valid JWT with all its claims, and the rules by which they are read.
    async fn verify(
        &self,
        token: &str,
        is_endpoint: IsEndpoint<'_>,
    ) -> Result<(VerifiedToken, &ClaimRules), AuthError> {
        let (mut verified, audiences, claim_rules) = self.signed(token).await?;
        // First: a reload may take the endpoint's URL off the list, and the token is good there nevertheless.
        if audience::has_audience(&verified.claims, is_endpoint) {
            verified.purpose = Purpose::Endpoint;
        } else if !audience::is_listed(&verified.claims, audiences) {
            return Err(AuthError::Audience);
        }
        Ok((verified, claim_rules))
    }

    /// A JWT that its issuer signed and that has not expired, whatever its audience, with the listed audiences and the
    /// rules by which its claims are read.
    async fn signed(&self, token: &str) -> Result<(VerifiedToken, &[String], &ClaimRules), AuthError> {
        let Header { alg: algorithm, kid, .. } = header(token)?;
        let issuer = claimed_issuer(token)?;
        let configured = self.configured(&issuer, kid.as_deref());
        let (claims, key, audiences, claim_rules) = if configured.is_empty() {
            let Some(published) = self.published.iter().find(|published| published.name == issuer) else {
                let is_known = self.keys.iter().any(|known| known.key.issuer == issuer);
                return Err(refuse(if is_known { UNKNOWN_KEY } else { "the token is from another issuer" }).into());
            };
            let set = published.keys(kid.as_deref(), token).await;
            let set = set.map_err(|issuer::NoKeysError { retry_in }| AuthError::Unavailable { retry_in })?;
            let (claims, _) = verify_by(&set.named(kid.as_deref()), algorithm, token)?;
            let key = KeySource::Published(Arc::clone(&published.place));
            (claims, key, &published.audiences, &published.claim_rules)
        } else {
            let keys: Vec<&Key> = configured.iter().map(|known| &known.key).collect();
            let (claims, at) = verify_by(&keys, algorithm, token)?;
            let digest = configured.get(at).map(|known| known.digest).ok_or_else(|| refuse(UNKNOWN_KEY))?;
            (claims, KeySource::Configured(digest), &self.audiences, &self.claim_rules)
        };
        Ok((VerifiedToken { kid, algorithm, key, purpose: Purpose::Listed, claims }, audiences, claim_rules))
    }

    /// The keys of `[[auth.keys]]` for tokens of this issuer and `kid`.
    fn configured(&self, issuer: &str, kid: Option<&str>) -> Vec<&ConfiguredKey> {
        let is_of = |known: &&ConfiguredKey| known.key.issuer == issuer && known.key.kid.as_deref() == kid;
        self.keys.iter().filter(is_of).collect()
    }
}

/// The principal of a verified token.
fn principal(verified: VerifiedToken, claim_rules: &ClaimRules, validity: Validity) -> Result<Principal, AuthError> {
    let claims = &verified.claims;
    let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let roles = claim_rules.roles(claims);
    Ok(Principal {
        subject: text("sub").ok_or_else(|| refuse("the token's sub is missing or not a string"))?.to_owned(),
        issuer: text("iss").ok_or_else(|| refuse("the token's iss is not a string"))?.to_owned(),
        token_id: text("jti").map(str::to_owned),
        no_role: roles.is_empty().then(|| claim_rules.no_role(claims)),
        roles,
        identity: Arc::new(claim_rules.identity(claims)),
        credential: Credential::Token(validity, Arc::new(verified)),
    })
}

/// The loaded value. Errors are appended to `errors`, each with its setting.
fn collect_errors<T, E: Into<LoadReason>>(
    result: Result<T, Vec<(String, E)>>,
    errors: &mut Vec<LoadError>,
) -> Option<T> {
    let with_key = |(key, reason): (String, E)| LoadError { key, reason: reason.into() };
    result.map_err(|found| errors.extend(found.into_iter().map(with_key))).ok()
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110 11.1).
pub(crate) fn bearer(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value).ok().filter(|value| value.len() <= TOKEN_BYTES_MAX)?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains(' ')).then_some(token)
}

#[cfg(test)]
mod tests;
