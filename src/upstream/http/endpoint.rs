//! What is configured of a Streamable HTTP backend: address, credentials, certificates; and what is known of it.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::era::Known;
use super::mirror::Mirrored;
use crate::config;
use crate::upstream::timeouts::Timeouts;

/// Longest time for a connection to come up. *Chosen*: a name lookup and a TLS handshake across the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A backend that cannot be reached as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {message}")]
pub struct EndpointFault {
    key: String,
    message: String,
}

/// What is configured of a backend. Its `Debug` shows no credential.
#[derive(Debug)]
pub(in crate::upstream) struct Endpoint {
    pub(super) alias: String,
    pub(super) url: String,
    pub(super) client: reqwest::Client,
    pub(super) headers: HeaderMap,
    pub(super) timeouts: Timeouts,
    /// What is known of the era that is spoken.
    pub(super) known: Known,
    /// What is known of parameters that are wanted in headers.
    pub(super) mirrored: Mirrored,
}

impl Endpoint {
    /// Reads credentials and certificates. `None` for a backend without `url`.
    ///
    /// # Errors
    /// [`EndpointFault`] with the key, what is wrong, and never a credential.
    pub(in crate::upstream) fn new(alias: &str, config: &config::Backend) -> Result<Option<Self>, EndpointFault> {
        let Some(url) = &config.url else { return Ok(None) };
        let fault = |key: &str, message: String| EndpointFault { key: format!("backends.{alias}.{key}"), message };
        let mut headers = HeaderMap::new();
        let mut insert = |key: String, name: &str, value: &str| {
            let name: HeaderName = name.parse().map_err(|_| fault(&key, "is no header name".to_owned()))?;
            // I8: the value is a secret; the message names its place only.
            let mut value = HeaderValue::from_str(value.trim())
                .map_err(|_| fault(&key, "holds what no header may: write one line of visible ASCII".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(name, value);
            Ok::<_, EndpointFault>(())
        };
        for (name, variable) in &config.header_env {
            let key = format!("header_env.{name}");
            let value = std::env::var(variable)
                .map_err(|_| fault(&key, format!("the environment variable {variable} is not set: set it")))?;
            insert(key, name, &value)?;
        }
        for (name, path) in &config.header_file {
            let key = format!("header_file.{name}");
            let value = std::fs::read_to_string(path)
                .map_err(|error| fault(&key, format!("cannot read {} ({error})", path.display())))?;
            insert(key, name, &value)?;
        }
        // Redirects are not followed: credentials go to the configured address and nowhere else.
        let mut client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT);
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path)
                .map_err(|error| fault("ca_file", format!("cannot read {} ({error})", path.display())))?;
            let bundle = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|bundle| !bundle.is_empty())
                .ok_or_else(|| fault("ca_file", format!("{} holds no PEM certificate", path.display())))?;
            client = client.tls_certs_merge(bundle);
        }
        let client = client.build().map_err(|error| fault("url", format!("no HTTP client can be made ({error})")))?;
        let (alias, url) = (alias.to_owned(), url.clone());
        let timeouts = Timeouts { idle: config.idle_timeout, total: config.call_timeout };
        Ok(Some(Self { alias, url, client, headers, timeouts, known: Known::default(), mirrored: Mirrored::default() }))
    }
}
