//! An HTTPS backend whose certificate can be replaced while it serves, and whose calls wait until they are released.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::http_backend_stub::{ReceivedRequest, event, usual};

pub type Authority = CertifiedIssuer<'static, KeyPair>;

pub fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for 127.0.0.1 that ends in so many days, and its key.
pub fn certificate(authority: &Authority, days: u64) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    params.not_after = (SystemTime::now() + Duration::from_hours(24 * days)).into();
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// A running backend.
pub struct TlsBackend {
    pub url: String,
    acceptor: Arc<Mutex<TlsAcceptor>>,
    /// Calls that wait.
    pub waiting: Arc<AtomicUsize>,
    /// Connections whose handshake has ended.
    pub connections: Arc<AtomicUsize>,
    release: watch::Sender<bool>,
}

struct TlsListener {
    listener: TcpListener,
    acceptor: Arc<Mutex<TlsAcceptor>>,
    connections: Arc<AtomicUsize>,
    handshakes: tokio::task::JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

fn acceptor((pem, key): &(String, String)) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    TlsAcceptor::from(Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            tokio::select! {
                Ok((stream, address)) = self.listener.accept() => {
                    let acceptor = self.acceptor.lock().clone();
                    self.handshakes.spawn(async move { Some((acceptor.accept(stream).await.ok()?, address)) });
                }
                Some(Ok(Some(accepted))) = self.handshakes.join_next() => {
                    self.connections.fetch_add(1, Ordering::SeqCst);
                    return accepted;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl TlsBackend {
    /// Starts one that presents `certificate`.
    pub async fn start(certificate: &(String, String)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/mcp", listener.local_addr().unwrap());
        let acceptor = Arc::new(Mutex::new(acceptor(certificate)));
        let (release, released) = watch::channel(false);
        let waiting = Arc::new(AtomicUsize::new(0));
        let (count, sessions) = (Arc::clone(&waiting), Arc::new(AtomicUsize::new(0)));
        let handle = move |verb: Method, headers: HeaderMap, body: Bytes| {
            let text = String::from_utf8(body.to_vec()).unwrap();
            let message = serde_json::from_str(&text).unwrap_or_default();
            let asked = ReceivedRequest { verb, headers, text, message };
            let answer = if asked.method() == "tools/call" {
                count.fetch_add(1, Ordering::SeqCst);
                held(&asked, released.clone())
            } else {
                usual(&asked, &sessions)
            };
            async move { answer }
        };
        let (connections, handshakes) = (Arc::new(AtomicUsize::new(0)), tokio::task::JoinSet::new());
        let tls = TlsListener {
            listener,
            acceptor: Arc::clone(&acceptor),
            connections: Arc::clone(&connections),
            handshakes,
        };
        tokio::spawn(async move { axum::serve(tls, Router::new().fallback(handle)).await });
        Self { url, acceptor, waiting, connections, release }
    }

    /// New connections get this certificate.
    pub fn present(&self, certificate: &(String, String)) {
        *self.acceptor.lock() = acceptor(certificate);
    }

    /// Answers all calls, and those that come.
    pub fn release(&self) {
        self.release.send_replace(true);
    }
}

/// The answer of a call, once it is released.
fn held(asked: &ReceivedRequest, mut released: watch::Receiver<bool>) -> Response {
    let result = format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[{{"type":"text","text":"done"}}]}}}}"#,
        asked.message["id"]
    );
    let body = futures_util::stream::once(async move {
        released.wait_for(|released| *released).await.ok();
        Ok::<_, std::io::Error>(event(&result))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}
