//! A configured HTTP backend: its address, credentials and certificates, and what the gateway has learnt about it.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use parking_lot::Mutex;

use super::client::BackendClient;
use super::configured_headers::ConfiguredHeaders;
use super::endpoint_error::EndpointError;
use super::known_param_headers::KnownParamHeaders;
use crate::certificate_end::CertificateEnd;
use crate::config;
use crate::upstream::error::CallError;
use crate::upstream::oauth::{AccessToken, CallerToken, OAuthClient};
use crate::upstream::offer::Greeting;
use crate::upstream::timeouts::Timeouts;

/// A configured HTTP backend. Its `Debug` output contains no credentials.
#[derive(Debug)]
pub(in crate::upstream) struct Endpoint {
    pub(super) alias: String,
    pub(super) url: String,
    pub(super) client: BackendClient,
    pub(super) headers: ConfiguredHeaders,
    /// Gets the tokens of its requests.
    pub(super) oauth: Option<OAuthClient>,
    pub(super) timeouts: Timeouts,
    /// True if the backend speaks the stateless era, if that is known.
    modern: Mutex<Option<bool>>,
    /// The backend's last answer to the gateway's own handshake.
    greeting: Mutex<Option<Arc<Greeting>>>,
    /// The tools that require parameters in headers, as far as that is known.
    pub(super) param_headers: KnownParamHeaders,
}

impl Endpoint {
    /// Reads the credentials and certificates of a backend. `None`: the backend has no `url`.
    ///
    /// # Errors
    /// [`EndpointError`]; its message contains no credentials.
    pub(in crate::upstream) fn new(alias: &str, config: &config::Backend) -> Result<Option<Self>, EndpointError> {
        let Some(url) = &config.url else { return Ok(None) };
        let error_at = |key: &str, message: String| EndpointError::new(alias, key, message);
        let headers = ConfiguredHeaders::load(alias, config)?;
        let oauth = config.oauth.as_ref().map(|oauth| OAuthClient::new(oauth, config)).transpose();
        let oauth = oauth.map_err(|(key, message)| error_at(&format!("oauth.{key}"), message))?;
        let client = BackendClient::new(url, config).map_err(|(key, message)| error_at(key, message))?;
        let (alias, url) = (alias.to_owned(), url.clone());
        let timeouts = Timeouts { idle: config.idle_timeout, total: config.call_timeout };
        Ok(Some(Self {
            alias,
            url,
            client,
            headers,
            oauth,
            timeouts,
            modern: Mutex::default(),
            greeting: Mutex::default(),
            param_headers: KnownParamHeaders::default(),
        }))
    }

    /// The end of the backend's certificate, if one was seen.
    pub(in crate::upstream) fn certificate_end(&self) -> Option<CertificateEnd> {
        self.client.certificate_end()
    }

    /// Returns true if its requests are made with tokens that expire.
    pub(in crate::upstream) fn has_oauth(&self) -> bool {
        self.oauth.is_some()
    }

    /// Returns true if requests of callers are made on their behalf.
    pub(in crate::upstream) fn is_on_behalf(&self) -> bool {
        self.oauth.as_ref().is_some_and(OAuthClient::is_on_behalf)
    }

    /// The name of the credential of a request, as in a record; `None`: it has none. `caller` is the token of a caller
    /// on whose behalf it is made.
    pub(in crate::upstream) fn credential_name(&self, caller: Option<&Arc<CallerToken>>) -> Option<&'static str> {
        match &self.oauth {
            Some(_) => Some(OAuthClient::grant(caller).as_str()),
            None => (!self.headers.is_empty()).then_some("headers"),
        }
    }

    /// The token of a request; `None`: the backend has no OAuth client. `caller` is as for
    /// [`Endpoint::credential_name`].
    ///
    /// # Errors
    /// [`CallError::Credential`].
    pub(in crate::upstream) async fn token(
        &self,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Option<Arc<AccessToken>>, CallError> {
        let Some(oauth) = &self.oauth else { return Ok(None) };
        // Boxed: tokens are rare, and would make the future of every call larger.
        Ok(Some(Box::pin(oauth.token(caller)).await?))
    }

    /// Adds the token of a request to its `headers`, and returns it.
    ///
    /// # Errors
    /// As for [`Endpoint::token`].
    pub(super) async fn authorize(
        &self,
        headers: &mut HeaderMap,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<Option<Arc<AccessToken>>, CallError> {
        let token = self.token(caller).await?;
        if let Some(token) = &token {
            headers.insert(header::AUTHORIZATION, token.authorization().clone());
        }
        Ok(token)
    }

    /// The failure of a request with an HTTP status that is not a response.
    pub(super) fn status_error(&self, status: u16, caller: Option<&Arc<CallerToken>>) -> CallError {
        match self.credential_name(caller) {
            Some(credential) if status == 401 => CallError::Rejected { credential, status },
            _ => CallError::Http { status },
        }
    }

    /// Forgets the tokens of callers whose own tokens have ended, or of all callers.
    pub(in crate::upstream) fn forget_exchanged(&self, all: bool) {
        self.oauth.iter().for_each(|oauth| oauth.forget_exchanged(all));
    }

    /// The backend's last answer to the gateway's own handshake.
    pub(in crate::upstream) fn greeting(&self) -> Option<Arc<Greeting>> {
        self.greeting.lock().clone()
    }

    /// Remembers the backend's answer to the gateway's own handshake.
    pub(super) fn set_greeting(&self, greeting: &Arc<Greeting>) {
        *self.greeting.lock() = Some(Arc::clone(greeting));
    }

    /// Returns whether the backend speaks the stateless era, if that is known.
    pub(in crate::upstream) fn is_modern(&self) -> Option<bool> {
        *self.modern.lock()
    }

    /// Remembers the era, or that it is unknown. Returns the previous value.
    pub(super) fn set_modern(&self, modern: Option<bool>) -> Option<bool> {
        std::mem::replace(&mut *self.modern.lock(), modern)
    }

    /// Remembers the older era if none is known. The backend has rejected a caller's probe and opened a session for the
    /// same caller, so that the rejection was not about the token.
    pub(in crate::upstream) fn confirm_legacy(&self) {
        let mut modern = self.modern.lock();
        if modern.is_none() {
            *modern = Some(false);
            tracing::info!(backend = self.alias, modern = false, "backend era determined");
        }
    }
}
