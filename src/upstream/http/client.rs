//! The HTTP client of a backend: made anew when the authorities in its `ca_file` change, and aware of the backend's
//! certificate.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper_util::client::legacy::connect::HttpInfo;
use parking_lot::Mutex;
use reqwest::tls::TlsInfo;

use crate::auth::watched::{WatchedFile, read_bounded};
use crate::certificate_end::{CertificateEnd, RecentEnds};
use crate::config;
use crate::file_access::{FileError, FileKind};
use crate::outbound;

/// Longest time to open a TCP and TLS connection. *Chosen*: a name lookup and a TLS handshake across the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest file of certificate authorities, in bytes. *Chosen*: a system's complete list has 220 KiB.
const CA_FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most connections whose handshake is known to be noted. *Chosen*: more than a backend has; 40 KiB.
const CONNECTIONS_MAX: usize = 1024;

/// The HTTP client of one backend.
#[derive(Debug)]
pub(super) struct BackendClient {
    source: Source,
    handshakes: Mutex<Handshakes>,
}

/// The handshakes of connections to one backend.
#[derive(Debug, Default)]
struct Handshakes {
    ends: RecentEnds,
    /// The own addresses of the connections that are noted.
    connections: HashSet<SocketAddr>,
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
        Ok(Self { source, handshakes: Mutex::default() })
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
        let connection = response.extensions().get::<HttpInfo>().map(HttpInfo::local_addr);
        self.handshakes.lock().note(connection, certificate);
    }

    /// The end of the backend's certificate, if one was seen.
    pub(super) fn certificate_end(&self) -> Option<CertificateEnd> {
        self.handshakes.lock().ends.earliest(Instant::now())
    }
}

impl Handshakes {
    /// Notes the certificate of a response that came on this connection, if it is the connection's first one: a
    /// certificate that only older connections have shown does not count for longer.
    fn note(&mut self, connection: Option<SocketAddr>, certificate: &[u8]) {
        if connection.is_some_and(|connection| self.connections.contains(&connection)) {
            return;
        }
        // I6: the connections are bounded. Those that are open are noted again.
        if self.connections.len() >= CONNECTIONS_MAX {
            self.connections.clear();
        }
        self.connections.extend(connection);
        if let Some(end) = CertificateEnd::of(certificate) {
            self.ends.note(end, Instant::now());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> Vec<u8> {
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn i6_a_connection_is_noted_once_and_their_number_is_bounded() {
        let (mut handshakes, certificate) = (Handshakes::default(), certificate("a"));
        let noted = |handshakes: &Handshakes| format!("{:?}", handshakes.ends);
        let address = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        handshakes.note(address(1), &certificate);
        let first = noted(&handshakes);
        handshakes.note(address(1), &certificate);
        assert_eq!(noted(&handshakes), first, "the time of the handshake counts");
        handshakes.note(address(2), &certificate);
        assert_ne!(noted(&handshakes), first);
        for port in 3..3000 {
            handshakes.note(address(port), b"no certificate");
        }
        assert!(handshakes.connections.len() <= CONNECTIONS_MAX);
    }
}
