//! The proxy of the environment: backends and token servers are reached through it, and loopback addresses are not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::{Client, Era};
use crate::http_backend_stub::BackendStub;
use crate::token_server::TokenServer;

/// Names that no resolver knows: only the proxy can lead there.
const BACKEND: &str = "backend.test";
const LOGIN: &str = "login.test";

/// A proxy that takes `CONNECT`, and leads to one of two servers over TLS by the name of the host.
struct Proxy {
    address: SocketAddr,
    /// The heads of the requests that it got.
    seen: Arc<Mutex<Vec<String>>>,
    /// The certificate of the authority of the servers, PEM.
    ca: String,
}

impl Proxy {
    async fn start(backend: &str, login: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = CertificateParams::new([BACKEND, LOGIN].map(str::to_owned)).unwrap();
        let chain = vec![CertificateDer::from(names.signed_by(&key, &authority).unwrap())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (log, servers) = (Arc::clone(&seen), [(BACKEND, backend.to_owned()), (LOGIN, login.to_owned())]);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (log, acceptor, servers) = (Arc::clone(&log), acceptor.clone(), servers.clone());
                tokio::spawn(async move {
                    let mut client = BufReader::new(client);
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") && client.read_line(&mut head).await.unwrap() > 0 {}
                    log.lock().unwrap().push(head.clone());
                    let host = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(':').next());
                    let server = servers.iter().find(|(name, _)| Some(*name) == host);
                    let Some((_, server)) = server else { return };
                    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    let mut client = acceptor.accept(client).await.unwrap();
                    let mut server = TcpStream::connect(server).await.unwrap();
                    copy_bidirectional(&mut client, &mut server).await.ok();
                });
            }
        });
        Self { address, seen, ca: authority.pem() }
    }

    fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// A gateway with the backend `remote` behind the proxy, and `far` on loopback.
fn gateway(proxy: &Proxy, far: &BackendStub, server: &TokenServer, no_proxy: Option<&str>) -> (Setup, Gatepost) {
    far.gateway(|setup| {
        setup.set("backends.remote.url", &format!("https://{BACKEND}/mcp"));
        server.serve(setup, "remote");
        setup.set("backends.remote.oauth.token_url", &format!("https://{LOGIN}/token"));
        let ca = setup.dir().join("ca.pem");
        std::fs::write(&ca, &proxy.ca).unwrap();
        let url = format!("http://user:hunter2@{}", proxy.address);
        for (name, value) in
            [("HTTPS_PROXY", url.as_str()), ("HTTP_PROXY", &url), ("SSL_CERT_FILE", ca.to_str().unwrap())]
        {
            setup.env.insert(name.to_owned(), value.to_owned());
        }
        setup.env.extend(no_proxy.map(|hosts| ("NO_PROXY".to_owned(), hosts.to_owned())));
    })
}

async fn call(gatepost: &Gatepost, alias: &str) -> crate::common::mcp::Reply {
    let url = format!("{}/mcp/{alias}", gatepost.url());
    Client::unconnected(&url, Era::Legacy, Some(&token("admin"))).call("t", json!({})).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_and_token_servers_are_reached_through_the_proxy_and_loopback_is_not() {
    let (remote, far) = (BackendStub::start(|_| None).await, BackendStub::start(|_| None).await);
    let server = TokenServer::start(|_| None).await;
    let login = server.url.trim_start_matches("http://").trim_end_matches("/token").to_owned();
    let proxy = Proxy::start(&remote.address(), &login).await;
    let (setup, gatepost) = gateway(&proxy, &far, &server, None);
    assert_eq!(call(&gatepost, "far").await.content(), "done");
    assert!(proxy.heads().is_empty(), "{:?}", proxy.heads());
    assert_eq!(call(&gatepost, "remote").await.content(), "done");
    let heads = proxy.heads();
    for host in [BACKEND, LOGIN] {
        assert!(heads.iter().any(|head| head.starts_with(&format!("CONNECT {host}:443 "))), "{heads:?}");
    }
    // `printf user:hunter2 | base64`
    assert!(heads.iter().all(|head| head.contains("Basic dXNlcjpodW50ZXIy")), "{heads:?}");
    // The proxy has the names only.
    let is_in_clear = |head: &String| head.contains("Bearer") || head.contains("grant_type") || head.contains("/mcp");
    assert!(!heads.iter().any(is_in_clear) && !remote.seen("tools/call").is_empty(), "{heads:?}");
    let log = setup.log();
    assert!(!log.contains("hunter2") && !log.contains("dXNlcjpodW50ZXIy"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_in_no_proxy_are_reached_without_it() {
    let far = BackendStub::start(|_| None).await;
    let server = TokenServer::start(|_| None).await;
    let login = server.url.trim_start_matches("http://").trim_end_matches("/token").to_owned();
    let proxy = Proxy::start(&far.address(), &login).await;
    let (_setup, gatepost) = gateway(&proxy, &far, &server, Some(BACKEND));
    // The name leads nowhere.
    assert_eq!(call(&gatepost, "remote").await.error_code(), -32012);
    let heads = proxy.heads();
    assert!(
        heads.iter().any(|head| head.contains(LOGIN)) && !heads.iter().any(|head| head.contains(BACKEND)),
        "{heads:?}"
    );
}
