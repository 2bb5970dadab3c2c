//! The MCP listener: TCP, or with `[server.tls]` TLS over it, and who is at the other end.
//!
//! A handshake runs in a task of its own, within a time limit: a client that sends nothing keeps nobody from being
//! accepted. Handshakes are bounded in number; one more takes the place of the oldest. Certificates are read at the start.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::auth::certificate::Certificate;
use crate::config;

/// Longest time of one handshake. *Chosen*: three round trips across the world take one second.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Most handshakes at once. *Chosen*: each holds about 40 KiB.
const HANDSHAKES_MAX: usize = 1024;

/// Largest file, in bytes. *Chosen*: a system's whole list of authorities has 220 KiB.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What is wrong with `[server.tls]`.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {path:?} {fault}")]
pub struct Error {
    /// The key, as `server.tls.cert_file`.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it; part of the message already, hence no source of it.
    pub fault: Fault,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It cannot be read.
    #[error("cannot be read ({0}): make it a file that the gateway's user may read")]
    Unreadable(#[source] io::Error),
    /// It is too large.
    #[error("is larger than {FILE_BYTES_MAX} bytes: that is no certificate or key")]
    TooLarge,
    /// No certificate in it.
    #[error("holds no certificate: write it in PEM, as -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// No private key in it.
    #[error("holds no private key: write it in PEM, as -----BEGIN PRIVATE KEY-----, without a passphrase")]
    NoKey,
    /// What the library does not take.
    #[error("does not do ({0}): give the certificate, and the key that belongs to it")]
    Pair(#[source] rustls::Error),
    /// An authority that the library does not take.
    #[error("holds a certificate that is no authority's ({0})")]
    Authority(String),
}

/// What TLS connections are accepted with. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(crate) struct ClientIdentity {
    pub(crate) addr: SocketAddr,
    /// The client's certificate, verified, if it sent one that names somebody.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

/// Accepts connections.
pub(crate) struct Edge {
    listener: TcpListener,
    tls: Option<Acceptor>,
    handshakes: JoinSet<Option<(Stream, ClientIdentity)>>,
    /// The same, the oldest first; some may have ended.
    oldest: VecDeque<AbortHandle>,
    handshakes_max: usize,
}

/// One connection.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Acceptor {
    /// Reads the files of `[server.tls]`.
    ///
    /// # Errors
    /// The first file that does not do.
    pub fn load(tls: &config::Tls) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&tls.cert_file).map_err(at("server.tls.cert_file", &tls.cert_file))?;
        let key = read(&tls.key_file)
            .and_then(|pem| PrivateKeyDer::from_pem_slice(&pem).map_err(|_| Fault::NoKey))
            .map_err(at("server.tls.key_file", &tls.key_file))?;
        let verifier = match &tls.client_ca_file {
            Some(path) => Some(verifier(path, &provider).map_err(at("server.tls.client_ca_file", path))?),
            None => None,
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Fault::Pair)
            .map_err(at("server.tls.cert_file", &tls.cert_file))?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(chain, key);
        let mut config = config.map_err(Fault::Pair).map_err(at("server.tls.key_file", &tls.key_file))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// One handshake. `None` where it failed, or took too long.
    async fn handshake<S>(self, stream: S) -> Option<(TlsStream<S>, Option<Arc<Certificate>>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.0.accept(stream)).await {
            Ok(Ok(stream)) => {
                let chain = stream.get_ref().1.peer_certificates();
                let leaf = chain.and_then(|chain| chain.first());
                let certificate = leaf.and_then(|leaf| Certificate::read(leaf)).map(Arc::new);
                if leaf.is_some() && certificate.is_none() {
                    tracing::info!("a client's certificate names nobody, and is no identity");
                }
                Some((stream, certificate))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(limit = ?HANDSHAKE_TIMEOUT, "a TLS handshake took too long");
                None
            }
        }
    }
}

impl Edge {
    pub(crate) fn new(listener: TcpListener, tls: Option<Acceptor>) -> Self {
        Self { listener, tls, handshakes: JoinSet::new(), oldest: VecDeque::new(), handshakes_max: HANDSHAKES_MAX }
    }

    fn begin(&mut self, acceptor: Acceptor, stream: TcpStream, addr: SocketAddr) {
        // I6: the number of handshakes is bounded; who has had the most time gives way.
        if self.handshakes.len() >= self.handshakes_max {
            self.oldest.retain(|handshake| !handshake.is_finished());
            if let Some(oldest) = self.oldest.pop_front() {
                oldest.abort();
            }
        }
        if self.oldest.len() >= 2 * self.handshakes_max {
            self.oldest.retain(|handshake| !handshake.is_finished());
        }
        let handshake = self.handshakes.spawn(async move {
            let (stream, certificate) = acceptor.handshake(stream).await?;
            Some((Stream::Tls(Box::new(stream)), ClientIdentity { addr, certificate }))
        });
        self.oldest.push_back(handshake);
    }
}

impl Listener for Edge {
    type Io = Stream;
    type Addr = ClientIdentity;

    /// # Cancel safety
    /// Handshakes under way go on at the next call.
    async fn accept(&mut self) -> (Stream, ClientIdentity) {
        loop {
            tokio::select! {
                // The library's own: it waits out what only time heals, as too many open files.
                (stream, addr) = Listener::accept(&mut self.listener) => {
                    // Without TCP_NODELAY a small reply waits for the client's delayed acknowledgement (docs/measurements.md, "MCP": 44 ms).
                    if let Err(err) = stream.set_nodelay(true) {
                        tracing::debug!(error = %err, "cannot set TCP_NODELAY");
                    }
                    match self.tls.clone() {
                        Some(acceptor) => self.begin(acceptor, stream, addr),
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

fn at(key: &'static str, path: &Path) -> impl FnOnce(Fault) -> Error {
    let path = path.to_owned();
    move |fault| Error { key, path, fault }
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    if std::fs::metadata(path).map_err(Fault::Unreadable)?.len() > FILE_BYTES_MAX {
        return Err(Fault::TooLarge);
    }
    std::fs::read(path).map_err(Fault::Unreadable)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(Fault::NoCertificate)
}

/// A certificate is asked for, and not demanded: a token will do, too.
fn verifier(path: &Path, provider: &Arc<rustls::crypto::CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Fault> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path)? {
        roots.add(authority).map_err(|error| Fault::Authority(error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| Fault::Authority(error.to_string()))
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
        // I8: it holds a private key.
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
