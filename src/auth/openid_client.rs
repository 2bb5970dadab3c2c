//! The console as a client of an `OpenID` provider: the authorization code flow with PKCE.
//!
//! *Spec*: `OpenID` Connect Core 1.0 3.1, RFC 7636, RFC 9207. The endpoints are those of the issuer's metadata, which
//! is fetched when the first person signs in, and again when it is older than [`METADATA_TTL`]. The browser is sent to
//! the provider, and comes back with a code; the gateway exchanges the code for the ID token and verifies that as any
//! token of the issuer. Access tokens are not read: providers issue them for other services, and some are opaque.
//!
//! I8: no error or log line contains a code, a token or the client's secret.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use super::client_secret::ClientSecret;
use super::discovery::{MetadataUrls, SignInEndpoints};
use super::fetch::HttpFetch;
use super::issuer::{FETCH_INTERVAL, FETCH_TIMEOUT};
use super::watched::WatchedFile;
use crate::audit::record::Digest;
use crate::config::{Config, SignIn, is_loopback};
use crate::outbound::{self, is_error_code};

/// The path to which the provider sends browsers back, below the console's origin.
pub const CALLBACK_PATH: &str = "/console/callback";

/// The age at which the metadata is fetched again. *Chosen*: as for a fetched JWKS.
const METADATA_TTL: Duration = Duration::from_mins(10);

/// Longest time of a token request. *Chosen*: a person waits for it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer of the token endpoint, in bytes. *Chosen*: an ID token, an access token and a refresh token of the
/// greatest length that the gateway reads.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The console's client at one issuer.
pub struct OpenIdClient {
    issuer: String,
    /// The host of the issuer, as the button names it.
    host: String,
    id: String,
    secret: Option<WatchedFile<ClientSecret>>,
    scope: String,
    redirect_uri: String,
    urls: MetadataUrls,
    fetch: HttpFetch,
    http: reqwest::Client,
    metadata: Mutex<Fetched>,
}

/// The metadata, as it was last fetched.
#[derive(Default)]
struct Fetched {
    endpoints: Option<SignInEndpoints>,
    /// The time of the last fetch, whether or not it succeeded.
    begun: Option<Instant>,
    has_failed: bool,
}

/// The secrets of one sign-in.
pub struct Attempt {
    /// The value that comes back with the browser. *Spec*: RFC 6749 10.12.
    pub state: String,
    /// The value that comes back in the ID token.
    pub nonce: String,
    /// The code verifier of PKCE.
    pub verifier: String,
}

/// The reason why a person cannot sign in at the issuer. The messages are for the person; the cause is in the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenIdError {
    /// The metadata cannot be fetched or used.
    #[error("{0} cannot be reached, or its metadata cannot be used: sign in with a token, or try again later")]
    Metadata(String),
    /// The token endpoint did not answer.
    #[error("{0} did not answer the request for the ID token: sign in with a token, or try again later")]
    Unanswered(String),
    /// The token endpoint refused the code or the client.
    #[error("{host} did not issue an ID token (HTTP {status}, {code}): sign in again")]
    Refused {
        /// The provider.
        host: String,
        /// The status of the answer.
        status: u16,
        /// The error code of OAuth.
        code: String,
    },
    /// The answer has no ID token.
    #[error("{0} issued no ID token: does ops.sign_in.scope have openid?")]
    NoIdToken(String),
}

/// The answer of the token endpoint, as far as it is read.
#[derive(Deserialize)]
struct TokenAnswer {
    id_token: Option<String>,
}

/// The answer with an error.
#[derive(Deserialize)]
struct ErrorAnswer {
    error: String,
}

impl Attempt {
    /// New secrets, each of 244 random bits.
    #[must_use]
    pub fn new() -> Self {
        Self { state: random(), nonce: random(), verifier: random() }
    }
}

impl Default for Attempt {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attempt")
    }
}

impl fmt::Debug for OpenIdClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenIdClient").field("issuer", &self.issuer).field("id", &self.id).finish_non_exhaustive()
    }
}

/// 244 random bits in 64 hexadecimal digits.
#[must_use]
pub fn random() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

impl OpenIdClient {
    /// The client of `[ops.sign_in]`, if that is configured, for a listener that is bound to `bound`.
    ///
    /// # Errors
    /// The setting that cannot be used, and the reason.
    pub fn from_config(config: &Config, bound: SocketAddr) -> Result<Option<Self>, String> {
        let Some(sign_in) = &config.ops.sign_in else { return Ok(None) };
        let issuer = sign_in.issuer(&config.auth).ok_or("ops.sign_in.issuer: is not one of auth.issuers")?;
        let redirect_uri = format!("{}{CALLBACK_PATH}", config.ops.origin(bound));
        Self::new(sign_in, issuer, redirect_uri)
            .map(Some)
            .map_err(|(key, reason)| format!("ops.sign_in.{key}: {reason}"))
    }

    fn new(sign_in: &SignIn, issuer: &str, redirect_uri: String) -> Result<Self, (&'static str, String)> {
        let urls = MetadataUrls::of(issuer).ok_or(("issuer", "is not a URL with metadata".to_owned()))?;
        let no_client = |error| ("issuer", format!("cannot create an HTTP client ({error})"));
        let fetch = HttpFetch::new(&urls.openid).map_err(no_client)?;
        let http = outbound::client_builder(issuer).timeout(REQUEST_TIMEOUT).https_only(!is_loopback(&urls.openid));
        let http = http.build().map_err(no_client)?;
        let open = |path: &std::path::PathBuf| ClientSecret::open(path, sign_in.files);
        let secret = sign_in.client_secret_file.as_ref().map(open).transpose();
        Ok(Self {
            issuer: issuer.to_owned(),
            host: urls.openid.host_str().unwrap_or_default().to_owned(),
            id: sign_in.client_id.clone(),
            secret: secret.map_err(|error| ("client_secret_file", error.to_string()))?,
            scope: sign_in.scope.clone(),
            redirect_uri,
            urls,
            fetch,
            http,
            metadata: Mutex::default(),
        })
    }

    /// The issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The host of the issuer, for people.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The client's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The URL to which the provider sends browsers back.
    #[must_use]
    pub fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    /// The URL of the provider at which a person signs in.
    ///
    /// # Errors
    /// [`OpenIdError::Metadata`].
    pub async fn authorization_url(&self, attempt: &Attempt) -> Result<Url, OpenIdError> {
        let mut url = self.endpoints().await?.authorization;
        let challenge = URL_SAFE_NO_PAD.encode(Digest::of(attempt.verifier.as_bytes()).0);
        url.query_pairs_mut().extend_pairs([
            ("response_type", "code"),
            ("client_id", &self.id),
            ("redirect_uri", &self.redirect_uri),
            ("scope", &self.scope),
            ("state", &attempt.state),
            ("nonce", &attempt.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        Ok(url)
    }

    /// Returns true if a response to the browser that names `issuer` may be this issuer's. *Spec*: RFC 9207 2.4.
    ///
    /// # Errors
    /// [`OpenIdError::Metadata`]: whether it must name one is not known.
    pub async fn is_from_issuer(&self, issuer: Option<&str>) -> Result<bool, OpenIdError> {
        match issuer {
            Some(issuer) => Ok(issuer == self.issuer),
            None => Ok(!self.endpoints().await?.names_issuer),
        }
    }

    /// Exchanges a code for an ID token, which is not verified yet.
    ///
    /// # Errors
    /// [`OpenIdError`].
    pub async fn id_token(&self, code: &str, verifier: &str) -> Result<String, OpenIdError> {
        let request = self.token_request(self.endpoints().await?, code, verifier)?;
        let response = request.send().await.map_err(|error| self.unanswered(error))?;
        let status = response.status();
        // I6: the answer is bounded.
        let answer = outbound::body(response, ANSWER_BYTES_MAX).await.map_err(|error| self.unanswered(error))?;
        let answer = answer.unwrap_or_default();
        if status != StatusCode::OK {
            let code = serde_json::from_slice::<ErrorAnswer>(&answer).ok().map(|answer| answer.error);
            let code = code.filter(|code| is_error_code(code)).unwrap_or_else(|| "without an error code".to_owned());
            return Err(OpenIdError::Refused { host: self.host.clone(), status: status.as_u16(), code });
        }
        let answer = serde_json::from_slice::<TokenAnswer>(&answer).ok();
        answer.and_then(|answer| answer.id_token).ok_or_else(|| OpenIdError::NoIdToken(self.host.clone()))
    }

    /// The request of an ID token. *Spec*: `OpenID` Connect Core 1.0 3.1.3.1.
    fn token_request(
        &self,
        endpoints: SignInEndpoints,
        code: &str,
        verifier: &str,
    ) -> Result<reqwest::RequestBuilder, OpenIdError> {
        let mut body = Serializer::new(String::new());
        body.extend_pairs([
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.redirect_uri),
            ("code_verifier", verifier),
        ]);
        let mut request = self.http.post(endpoints.token);
        match self.secret.as_ref().map(WatchedFile::get) {
            Some(secret) if endpoints.is_secret_in_body => {
                body.append_pair("client_id", &self.id).append_pair("client_secret", secret.text());
            }
            Some(secret) => {
                let basic = secret.basic(&self.id).ok_or_else(|| OpenIdError::Unanswered(self.host.clone()))?;
                request = request.header(header::AUTHORIZATION, basic);
            }
            None => {
                body.append_pair("client_id", &self.id);
            }
        }
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        Ok(request.header(header::ACCEPT, "application/json").body(body.finish()))
    }

    fn unanswered(&self, error: reqwest::Error) -> OpenIdError {
        // I8: without the URL.
        let error = anyhow::Error::new(error.without_url());
        tracing::warn!(issuer = self.issuer, error = format!("{error:#}"), "the token endpoint of the issuer failed");
        OpenIdError::Unanswered(self.host.clone())
    }

    /// The endpoints, which are fetched if they are not known or old. While they cannot be fetched, old ones are used.
    async fn endpoints(&self) -> Result<SignInEndpoints, OpenIdError> {
        // Others wait for the one that fetches.
        let mut fetched = self.metadata.lock().await;
        let age = fetched.begun.map(|begun| begun.elapsed());
        // I6: however many people sign in, fetches are rare.
        let is_due = age.is_none_or(|age| age >= if fetched.has_failed { FETCH_INTERVAL } else { METADATA_TTL });
        if is_due {
            // A fetch that is cancelled has failed.
            (fetched.begun, fetched.has_failed) = (Some(Instant::now()), true);
            let metadata = tokio::time::timeout(FETCH_TIMEOUT, self.urls.fetch(&self.issuer, &self.fetch)).await;
            let error = match metadata.map(|metadata| metadata.and_then(|metadata| metadata.sign_in())) {
                Ok(Ok(endpoints)) => {
                    fetched.endpoints = Some(endpoints);
                    None
                }
                Ok(Err(error)) => Some(format!("{:#}", anyhow::Error::new(error))),
                Err(_) => Some(format!("no response within {} s", FETCH_TIMEOUT.as_secs())),
            };
            fetched.has_failed = error.is_some();
            if let Some(error) = error {
                tracing::warn!(issuer = self.issuer, error, "cannot fetch the issuer's metadata for a sign-in");
            }
        }
        fetched.endpoints.clone().ok_or_else(|| OpenIdError::Metadata(self.host.clone()))
    }
}
