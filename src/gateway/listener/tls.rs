//! The MCP listener: TCP or, with `[server.tls]`, TLS over TCP with the client's identity.
//!
//! Each handshake runs in a task of its own, within a time limit, so that a silent client does not delay others. The
//! number of handshakes is bounded: one too many aborts the oldest. Certificates, the key, authorities and revocation
//! lists are read again when their files change.

mod client_verifier;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::accept::AcceptFailures;
use crate::auth::certificate::Certificate;
use crate::auth::watched::{Stamp, stamp};
use crate::certificate_end::CertificateEnd;
use crate::config;
use crate::connections::ClientAddress;
use crate::file_access::{FileAccess, FileKind, FileReason};

use client_verifier::{ClientVerifier, CurrentVerifier, VerifiedChain};

/// Time limit of a handshake. *Chosen*: three round trips across the world take one second.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Most handshakes at once. *Chosen*: each takes about 40 KiB.
const HANDSHAKES_MAX: usize = 1024;

/// Least time between two checks of the files. *Chosen*: as for other files that may change.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Largest file, in bytes. *Chosen*: a system's complete list of authorities has 220 KiB.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A file of `[server.tls]` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {path:?} {reason}")]
pub struct TlsError {
    /// The setting, for example `server.tls.cert_file`.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The reason, which is part of the message and therefore not its source.
    pub reason: TlsReason,
}

/// The reason of a [`TlsError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsReason {
    /// The file cannot be read, or others may read or change it.
    #[error("{0}")]
    File(Box<FileReason>),
    /// The file contains no certificate.
    #[error("contains no certificate: write it in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// The file contains no private key.
    #[error("contains no private key: write it in PEM without a passphrase (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    /// The TLS library rejected the certificate or the key.
    #[error("was rejected ({0}): name a certificate and the private key that belongs to it")]
    Pair(#[source] rustls::Error),
    /// The TLS library rejected the certificate of an authority.
    #[error("contains a certificate that is not an authority's ({0})")]
    Authority(String),
    /// The file contains no revocation list, or one that the TLS library rejected.
    #[error(
        "contains no usable revocation list ({0}): write a list of each authority in PEM (-----BEGIN X509 CRL-----)"
    )]
    RevocationList(String),
}

/// Accepts TLS connections, by files that are read again when they change. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor(Arc<ServerFiles>);

/// The files of `[server.tls]`.
struct ServerFiles {
    settings: config::Tls,
    read: Mutex<ReadFiles>,
}

/// The files as they were read.
struct ReadFiles {
    loaded: Loaded,
    stamps: Vec<Option<Stamp>>,
    checked: Instant,
    /// The last warning, which is not logged twice in a row.
    warning: Option<String>,
}

#[derive(Clone)]
struct Loaded {
    tls: TlsAcceptor,
    /// The end of the gateway's certificate.
    end: Option<CertificateEnd>,
    /// Verifies clients' certificates, if they are requested.
    clients: Option<Arc<ClientVerifier>>,
}

/// The address and certificate of a client.
#[derive(Clone, Debug)]
pub(crate) struct ClientIdentity {
    pub(crate) addr: SocketAddr,
    /// The client's verified certificate, if it sent one with a usable name.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

/// Accepts connections, with TLS or without.
pub(crate) struct ClientListener {
    listener: TcpListener,
    failures: AcceptFailures,
    tls: Option<Acceptor>,
    handshakes: JoinSet<Option<(Stream, ClientIdentity)>>,
    /// The handles of `handshakes`, oldest first; some may have ended.
    handles: VecDeque<AbortHandle>,
    handshakes_max: usize,
}

/// A client's connection.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Acceptor {
    /// Reads the files of `[server.tls]`.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(tls: &config::Tls) -> Result<Self, TlsError> {
        // Taken before the files are read, so that a change in between is noticed at the next check.
        let stamps = stamps(tls);
        let read = ReadFiles { loaded: Loaded::read(tls)?, stamps, checked: Instant::now(), warning: None };
        Ok(Self(Arc::new(ServerFiles { settings: tls.clone(), read: Mutex::new(read) })))
    }

    /// The end of the gateway's certificate.
    #[must_use]
    pub fn certificate_end(&self) -> Option<CertificateEnd> {
        self.0.current().end
    }

    /// Performs one handshake. `None`: it failed or took too long.
    async fn handshake<S>(self, stream: S) -> Option<(TlsStream<S>, Option<Arc<Certificate>>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Loaded { tls, clients, .. } = self.0.current();
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let files = Arc::clone(&self.0);
                let verifier = CurrentVerifier::new(move || files.current().clients);
                let chain = stream.get_ref().1.peer_certificates().filter(|_| clients.is_some());
                let chain = chain.and_then(|chain| VerifiedChain::new(chain, verifier)).map(Arc::new);
                let certificate = chain.clone().and_then(|chain| Certificate::read(&chain.leaf.clone(), chain));
                let certificate = certificate.map(Arc::new);
                if chain.is_some() && certificate.is_none() {
                    tracing::info!("ignoring a client certificate without a usable name");
                }
                Some((stream, certificate))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed; closing the connection");
                None
            }
            Err(_) => {
                tracing::debug!(limit = ?HANDSHAKE_TIMEOUT, "TLS handshake timed out; closing the connection");
                None
            }
        }
    }
}

impl ServerFiles {
    /// The files as they are, or were a second ago. If a changed file cannot be used, those that were read before
    /// stay in use: a certificate and its key are seldom replaced at the same moment.
    fn current(&self) -> Loaded {
        let mut read = self.read.lock();
        if read.checked.elapsed() >= CHECK_INTERVAL {
            read.checked = Instant::now();
            let stamps = stamps(&self.settings);
            if stamps != read.stamps {
                match Loaded::read(&self.settings) {
                    Ok(loaded) => {
                        tracing::info!("reloaded the changed files of server.tls; new connections use them");
                        (read.loaded, read.warning) = (loaded, None);
                    }
                    Err(error) => {
                        let error = error.to_string();
                        if read.warning.as_ref() != Some(&error) {
                            tracing::warn!(
                                error,
                                "cannot reload the changed files of server.tls; keeping the previous ones"
                            );
                        }
                        read.warning = Some(error);
                    }
                }
                // Also after an error: the files are read again when one of them changes.
                read.stamps = stamps;
            }
        }
        read.loaded.clone()
    }
}

impl Loaded {
    fn read(tls: &config::Tls) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(tls.files, &tls.cert_file).map_err(at("server.tls.cert_file", &tls.cert_file))?;
        let key = read(tls.files, &tls.key_file, FileKind::Secret)
            .and_then(|pem| PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsReason::NoKey))
            .map_err(at("server.tls.key_file", &tls.key_file))?;
        let clients = match &tls.client_ca_file {
            Some(path) => Some(client_verifier(tls.files, path, tls.client_crl_file.as_deref(), &provider)?),
            None => None,
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsReason::Pair)
            .map_err(at("server.tls.cert_file", &tls.cert_file))?;
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients) as Arc<dyn ClientCertVerifier>),
            None => builder.with_no_client_auth(),
        };
        let end = chain.first().and_then(|certificate| CertificateEnd::of(certificate));
        let config = builder.with_single_cert(chain, key);
        let mut config = config.map_err(TlsReason::Pair).map_err(at("server.tls.key_file", &tls.key_file))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsAcceptor::from(Arc::new(config)), end, clients })
    }
}

impl ClientListener {
    pub(crate) fn new(listener: TcpListener, tls: Option<Acceptor>, failures: AcceptFailures) -> Self {
        Self {
            listener,
            failures,
            tls,
            handshakes: JoinSet::new(),
            handles: VecDeque::new(),
            handshakes_max: HANDSHAKES_MAX,
        }
    }

    fn begin_handshake(&mut self, acceptor: Acceptor, stream: TcpStream, addr: SocketAddr) {
        // I6: the number of handshakes is bounded; the oldest is aborted, because it had the most time.
        if self.handshakes.len() >= self.handshakes_max {
            self.handles.retain(|handshake| !handshake.is_finished());
            if let Some(oldest) = self.handles.pop_front() {
                oldest.abort();
            }
        }
        if self.handles.len() >= 2 * self.handshakes_max {
            self.handles.retain(|handshake| !handshake.is_finished());
        }
        let handshake = self.handshakes.spawn(async move {
            let (stream, certificate) = acceptor.handshake(stream).await?;
            Some((Stream::Tls(Box::new(stream)), ClientIdentity { addr, certificate }))
        });
        self.handles.push_back(handshake);
    }
}

impl Listener for ClientListener {
    type Io = Stream;
    type Addr = ClientIdentity;

    /// # Cancel safety
    /// Handshakes in progress continue and are returned by a later call.
    async fn accept(&mut self) -> (Stream, ClientIdentity) {
        loop {
            tokio::select! {
                (stream, addr) = self.failures.accept(&self.listener) => {
                    // Without TCP_NODELAY a small reply waits 44 ms for the client's delayed acknowledgement
                    // (docs/measurements.md, "MCP").
                    if let Err(err) = stream.set_nodelay(true) {
                        tracing::debug!(error = %err, "cannot set TCP_NODELAY");
                    }
                    match self.tls.clone() {
                        Some(acceptor) => self.begin_handshake(acceptor, stream, addr),
                        None => return (Stream::Plain(stream), ClientIdentity { addr, certificate: None }),
                    }
                }
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(accepted)) = ended {
                        return accepted;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<ClientIdentity> {
        Ok(ClientIdentity { addr: self.listener.local_addr()?, certificate: None })
    }
}

impl ClientAddress for ClientIdentity {
    fn socket_address(&self) -> SocketAddr {
        self.addr
    }
}

/// The stamps of the files, in a fixed order; `None` if there is no file.
fn stamps(tls: &config::Tls) -> Vec<Option<Stamp>> {
    let paths = [Some(&tls.cert_file), Some(&tls.key_file), tls.client_ca_file.as_ref(), tls.client_crl_file.as_ref()];
    paths.into_iter().flatten().map(|path| std::fs::metadata(path).ok().map(|found| stamp(&found))).collect()
}

fn at(key: &'static str, path: &Path) -> impl FnOnce(TlsReason) -> TlsError {
    let path = path.to_owned();
    move |reason| TlsError { key, path, reason }
}

fn read(files: FileAccess, path: &Path, kind: FileKind) -> Result<Vec<u8>, TlsReason> {
    files.read(path, kind, FILE_BYTES_MAX).map_err(|error| TlsReason::File(error.reason))
}

fn certificates(files: FileAccess, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsReason> {
    let pem = read(files, path, FileKind::Trusted)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(TlsReason::NoCertificate)
}

/// Reads what client certificates are verified against. A client may send none, and use a token instead.
fn client_verifier(
    files: FileAccess,
    authorities: &Path,
    revoked: Option<&Path>,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<ClientVerifier>, TlsError> {
    let roots = certificates(files, authorities).map_err(at("server.tls.client_ca_file", authorities))?;
    let verifier = ClientVerifier::new(roots, Arc::clone(provider));
    let mut verifier = verifier
        .map_err(|error| TlsReason::Authority(error.to_string()))
        .map_err(at("server.tls.client_ca_file", authorities))?;
    if let Some(path) = revoked {
        verifier
            .watch_revocation_lists(files, path)
            .map_err(|error| TlsReason::RevocationList(error.to_string()))
            .map_err(at("server.tls.client_crl_file", path))?;
    }
    Ok(Arc::new(verifier))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // I8: the configuration contains a private key.
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
