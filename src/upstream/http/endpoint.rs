//! A configured HTTP backend: its address, credentials and certificates, and what the gateway has learnt about it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::configured_headers::ConfiguredHeaders;
use super::endpoint_error::EndpointError;
use super::param_headers::ParamHeaders;
use crate::config;
use crate::file_access::FileKind;
use crate::upstream::offer::Greeting;
use crate::upstream::timeouts::Timeouts;

/// Longest time to open a TCP and TLS connection. *Chosen*: a name lookup and a TLS handshake across the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest file of certificate authorities, in bytes. *Chosen*: a system's complete list has 220 KiB.
const CA_FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A configured HTTP backend. Its `Debug` output contains no credentials.
#[derive(Debug)]
pub(in crate::upstream) struct Endpoint {
    pub(super) alias: String,
    pub(super) url: String,
    pub(super) client: reqwest::Client,
    pub(super) headers: ConfiguredHeaders,
    pub(super) timeouts: Timeouts,
    /// True if the backend speaks the stateless era, if that is known.
    modern: Mutex<Option<bool>>,
    /// The backend's last answer to the gateway's own handshake.
    greeting: Mutex<Option<Arc<Greeting>>>,
    /// The tools that require parameters in headers, as far as that is known.
    pub(super) param_headers: Mutex<Option<ParamHeaders>>,
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
        // Redirects are not followed, so that credentials are sent to the configured address only.
        let mut client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT);
        if let Some(path) = &config.ca_file {
            let pem = config.files.read(path, FileKind::Trusted, CA_FILE_BYTES_MAX);
            let pem = pem.map_err(|error| error_at("ca_file", error.to_string()))?;
            let bundle = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|bundle| !bundle.is_empty())
                .ok_or_else(|| error_at("ca_file", format!("{} contains no PEM certificate", path.display())))?;
            client = client.tls_certs_merge(bundle);
        }
        let client =
            client.build().map_err(|error| error_at("url", format!("cannot create an HTTP client ({error})")))?;
        let (alias, url) = (alias.to_owned(), url.clone());
        let timeouts = Timeouts { idle: config.idle_timeout, total: config.call_timeout };
        Ok(Some(Self {
            alias,
            url,
            client,
            headers,
            timeouts,
            modern: Mutex::default(),
            greeting: Mutex::default(),
            param_headers: Mutex::default(),
        }))
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
}
