//! The HTTP client of a backend: made anew when the authorities in its `ca_file` change, and aware of the backend's
//! certificate.

use std::fs::File;
use std::io;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::tls::TlsInfo;

use crate::auth::watched::{WatchedFile, read_bounded};
use crate::certificate_end::CertificateEnd;
use crate::config;
use crate::file_access::{FileError, FileKind};
use crate::outbound;

/// Longest time to open a TCP and TLS connection. *Chosen*: a name lookup and a TLS handshake across the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest file of certificate authorities, in bytes. *Chosen*: a system's complete list has 220 KiB.
const CA_FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The HTTP client of one backend.
#[derive(Debug)]
pub(super) struct BackendClient {
    source: Source,
    /// The backend's certificate in the handshake of the last response, and its end.
    seen: Mutex<Option<(Vec<u8>, Option<CertificateEnd>)>>,
}

#[derive(Debug)]
enum Source {
    Fixed(reqwest::Client),
    /// Trusts the authorities in this file too.
    Watched(WatchedFile<reqwest::Client>),
}

/// The reason why there is no client with the authorities in a file.
#[derive(Debug, thiserror::Error)]
enum CaFileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the file contains no PEM certificate, or more than {CA_FILE_BYTES_MAX} bytes")]
    Contents,
    #[error("cannot create an HTTP client ({0})")]
    Client(#[from] reqwest::Error),
}

impl BackendClient {
    /// A client for `url`.
    ///
    /// # Errors
    /// The setting of the backend that cannot be used, and the reason.
    pub(super) fn new(url: &str, config: &config::Backend) -> Result<Self, (&'static str, String)> {
        let source = if let Some(path) = &config.ca_file {
            let url = url.to_owned();
            let read = move |file| client_with(&url, file);
            let file = WatchedFile::open(path, config.files, FileKind::Trusted, read);
            Source::Watched(file.map_err(|error: CaFileError| {
                let place = if matches!(error, CaFileError::File(_)) { "" } else { &format!("{}: ", path.display()) };
                ("ca_file", format!("{place}{error}"))
            })?)
        } else {
            let client = builder(url).build();
            Source::Fixed(client.map_err(|error| ("url", format!("cannot create an HTTP client ({error})")))?)
        };
        Ok(Self { source, seen: Mutex::default() })
    }

    /// The client. Requests that were begun with an earlier one continue.
    pub(super) fn get(&self) -> reqwest::Client {
        match &self.source {
            Source::Fixed(client) => client.clone(),
            Source::Watched(file) => reqwest::Client::clone(&file.get()),
        }
    }

    /// Notes the certificate of the backend that sent `response`.
    pub(super) fn note(&self, response: &reqwest::Response) {
        let certificate = response.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
        let Some(certificate) = certificate else { return };
        let mut seen = self.seen.lock();
        if seen.as_ref().is_none_or(|(known, _)| known != certificate) {
            *seen = Some((certificate.to_vec(), CertificateEnd::of(certificate)));
        }
    }

    /// The end of the backend's certificate, if one was seen.
    pub(super) fn certificate_end(&self) -> Option<CertificateEnd> {
        self.seen.lock().as_ref().and_then(|(_, end)| *end)
    }
}

fn builder(url: &str) -> reqwest::ClientBuilder {
    // Redirects are not followed, so that credentials are sent to the configured address only.
    let is_tls = url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
    outbound::client_builder(url).tcp_nodelay(true).connect_timeout(CONNECT_TIMEOUT).tls_info(is_tls)
}

/// A client that trusts the authorities in `file` besides the system's.
fn client_with(url: &str, file: File) -> Result<reqwest::Client, CaFileError> {
    let pem = read_bounded(file, CA_FILE_BYTES_MAX)?.ok_or(CaFileError::Contents)?;
    let bundle = reqwest::Certificate::from_pem_bundle(&pem).ok().filter(|bundle| !bundle.is_empty());
    Ok(builder(url).tls_certs_merge(bundle.ok_or(CaFileError::Contents)?).build()?)
}
