//! Tests of handshakes: accepted identities, time limits, and independence of clients.

use std::os::unix::fs::PermissionsExt as _;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::io::AsyncReadExt as _;

use crate::gateway::listener::tls::*;

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, ClientListener>> for ClientIdentity {
    fn connect_info(stream: axum::serve::IncomingStream<'_, ClientListener>) -> Self {
        stream.remote_addr().clone()
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of this name and its key, in PEM.
fn certificate(authority: &Authority, name: SanType) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![name];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

struct Files {
    dir: tempfile::TempDir,
    tls: config::Tls,
}

/// Files of a server on this machine, which takes clients of `clients`.
fn files(servers: &Authority, clients: Option<&Authority>) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (certificate, key) = certificate(servers, SanType::IpAddress([127, 0, 0, 1].into()));
    let tls = config::Tls {
        files: crate::file_access::FileAccess::default(),
        cert_file: file("cert.pem", &certificate),
        key_file: file("key.pem", &key),
        client_ca_file: clients.map(|authority| file("ca.pem", &authority.pem())),
        client_crl_file: None,
    };
    Files { dir, tls }
}

/// A server that says who is there.
async fn serve(tls: Option<Acceptor>) -> SocketAddr {
    serve_with(tls, HANDSHAKES_MAX).await
}

async fn serve_with(tls: Option<Acceptor>, handshakes_max: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let who = |ConnectInfo(connection): ConnectInfo<ClientIdentity>| async move {
        assert!(connection.addr.ip().is_loopback());
        connection.certificate.map_or_else(|| "nobody".to_owned(), |certificate| certificate.subject.clone())
    };
    let service = Router::new().route("/", get(who)).into_make_service_with_connect_info::<ClientIdentity>();
    let edge = ClientListener { handshakes_max, ..ClientListener::new(listener, tls, AcceptFailures::default()) };
    tokio::spawn(async move { axum::serve(edge, service).await });
    address
}

async fn fetch(url: &str, servers: &Authority, identity: Option<(String, String)>) -> reqwest::Result<String> {
    connection(servers, identity).get(url).send().await?.text().await
}

fn connection(servers: &Authority, identity: Option<(String, String)>) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(servers.pem().as_bytes()).unwrap();
    let mut client = reqwest::Client::builder().tls_certs_only([root]).no_proxy();
    if let Some((certificate, key)) = identity {
        client = client.identity(reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap());
    }
    client.build().unwrap()
}

#[tokio::test]
async fn without_tls_the_listener_accepts_plain_http() {
    let address = serve(None).await;
    assert_eq!(fetch(&format!("http://{address}"), &authority(), None).await.unwrap(), "nobody");
}

#[tokio::test]
async fn a_certificate_of_the_authority_identifies_the_client_and_another_is_refused() {
    let (servers, clients, foreign) = (authority(), authority(), authority());
    let files = files(&servers, Some(&clients));
    let url = format!("https://{}", serve(Some(Acceptor::load(&files.tls).unwrap())).await);
    assert_eq!(fetch(&url, &servers, None).await.unwrap(), "nobody", "a certificate is optional");
    let name = || SanType::URI("spiffe://x/ci".try_into().unwrap());
    assert_eq!(fetch(&url, &servers, Some(certificate(&clients, name()))).await.unwrap(), "uri:spiffe://x/ci");
    assert!(fetch(&url, &servers, Some(certificate(&foreign, name()))).await.is_err());
    assert!(fetch(&url, &foreign, None).await.is_err(), "the client verifies the server too");
    assert!(fetch(&url.replace("https", "http"), &servers, None).await.is_err(), "plain HTTP is refused");
}

#[tokio::test]
async fn without_an_authority_no_client_certificate_is_requested() {
    let (servers, clients) = (authority(), authority());
    let files = files(&servers, None);
    let url = format!("https://{}", serve(Some(Acceptor::load(&files.tls).unwrap())).await);
    let identity = certificate(&clients, SanType::URI("spiffe://x/ci".try_into().unwrap()));
    assert_eq!(fetch(&url, &servers, Some(identity)).await.unwrap(), "nobody");
}

#[tokio::test]
async fn files_that_changed_are_used_by_new_connections_and_authorities_by_open_ones() {
    let [before, after, clients, others] = std::array::from_fn(|_| authority());
    let files = files(&before, Some(&clients));
    let acceptor = Acceptor::load(&files.tls).unwrap();
    let url = format!("https://{}", serve(Some(acceptor.clone())).await);
    let name = || SanType::URI("spiffe://x/ci".try_into().unwrap());
    let client = connection(&before, Some(certificate(&clients, name())));
    let who = async || client.get(&url).send().await.unwrap().text().await.unwrap();
    assert_eq!(who().await, "uri:spiffe://x/ci");
    let check_soon = || acceptor.0.read.lock().checked -= 2 * CHECK_INTERVAL;
    // Of a pair, one half: what was read before stays in use.
    let (cert, key) = certificate(&after, SanType::IpAddress([127, 0, 0, 1].into()));
    std::fs::write(&files.tls.cert_file, cert).unwrap();
    check_soon();
    assert_eq!(fetch(&url, &before, None).await.unwrap(), "nobody");
    assert!(acceptor.0.read.lock().warning.as_ref().unwrap().contains("server.tls.key_file"));
    std::fs::write(&files.tls.key_file, key).unwrap();
    check_soon();
    assert_eq!(fetch(&url, &after, None).await.unwrap(), "nobody");
    assert!(fetch(&url, &before, None).await.is_err(), "the new certificate is another authority's");
    assert_eq!(acceptor.0.read.lock().warning, None);
    assert_eq!(who().await, "uri:spiffe://x/ci", "a connection that is open continues");
    // Clients of another authority.
    std::fs::write(files.tls.client_ca_file.as_ref().unwrap(), others.pem()).unwrap();
    check_soon();
    assert_eq!(fetch(&url, &after, Some(certificate(&others, name()))).await.unwrap(), "uri:spiffe://x/ci");
    assert!(fetch(&url, &after, Some(certificate(&clients, name()))).await.is_err());
}

#[tokio::test]
async fn silent_clients_do_not_delay_others_and_the_oldest_handshake_is_aborted() {
    let servers = authority();
    let files = files(&servers, None);
    let address = serve_with(Some(Acceptor::load(&files.tls).unwrap()), 8).await;
    let url = format!("https://{address}");
    let mut silent = std::collections::VecDeque::new();
    for _ in 0..7 {
        silent.push_back(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(fetch(&url, &servers, None).await.unwrap(), "nobody");
    // I6: handshakes are bounded.
    for _ in 0..20 {
        silent.push_back(TcpStream::connect(address).await.unwrap());
        if silent.len() > 8 {
            let read = silent.pop_front().unwrap().read(&mut [0]).await;
            assert_eq!(read.unwrap_or(0), 0, "the connection is closed");
        }
    }
    assert_eq!(fetch(&url, &servers, None).await.unwrap(), "nobody");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_a_time_limit() {
    let files = files(&authority(), None);
    let (_client, server) = tokio::io::duplex(1024);
    let begun = tokio::time::Instant::now();
    assert!(Acceptor::load(&files.tls).unwrap().handshake(server).await.is_none());
    assert!(begun.elapsed() >= HANDSHAKE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_an_open_connection_is_verified_against_the_authorities_of_now() {
    let (servers, clients, others) = (authority(), authority(), authority());
    let files = files(&servers, Some(&clients));
    let acceptor = Acceptor::load(&files.tls).unwrap();
    let (client, server) = tokio::io::duplex(16 * 1024);
    let connector = connector(&servers, certificate(&clients, SanType::URI("spiffe://x/ci".try_into().unwrap())));
    let address = std::net::IpAddr::from([127, 0, 0, 1]).into();
    let (_client, accepted) = tokio::join!(connector.connect(address, client), acceptor.handshake(server));
    let certificate = accepted.unwrap().1.unwrap();
    tokio::time::advance(2 * CHECK_INTERVAL).await;
    assert!(certificate.is_valid());
    // Twice, so that the file is seen to have changed even if the clock of the file system has not advanced.
    std::fs::write(files.tls.client_ca_file.as_ref().unwrap(), others.pem().repeat(2)).unwrap();
    tokio::time::advance(2 * CHECK_INTERVAL).await;
    assert!(!certificate.is_valid(), "its authority was removed");
}

/// A TLS client with a certificate and its key.
fn connector(servers: &Authority, (certificate, key): (String, String)) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(servers.der().clone()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    tokio_rustls::TlsConnector::from(Arc::new(builder.with_client_auth_cert(chain, key).unwrap()))
}

#[test]
fn i8_each_unusable_file_is_named_and_its_contents_are_not_shown() {
    let (servers, clients) = (authority(), authority());
    let files = files(&servers, Some(&clients));
    let (cert, key) = (files.tls.cert_file.clone(), files.tls.key_file.clone());
    let missing = files.dir.path().join("missing");
    let empty = files.dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let foreign = files.dir.path().join("foreign.pem");
    std::fs::write(&foreign, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o600)).unwrap();
    let open = files.dir.path().join("open.pem");
    std::fs::copy(&key, &open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o640)).unwrap();
    let tls = |cert: &Path, key: &Path, ca: Option<&Path>| config::Tls {
        files: crate::file_access::FileAccess::default(),
        cert_file: cert.to_owned(),
        key_file: key.to_owned(),
        client_ca_file: ca.map(Path::to_owned),
        client_crl_file: None,
    };
    let cases = [
        (tls(&missing, &key, None), "server.tls.cert_file: ", "cannot be read"),
        (tls(&empty, &key, None), "server.tls.cert_file: ", "contains no certificate"),
        (tls(&key, &key, None), "server.tls.cert_file: ", "contains no certificate"),
        (tls(&cert, &missing, None), "server.tls.key_file: ", "cannot be read"),
        (tls(&cert, &cert, None), "server.tls.key_file: ", "contains no private key"),
        (tls(&cert, &foreign, None), "server.tls.key_file: ", "was rejected"),
        (tls(&cert, &open, None), "server.tls.key_file: ", "has mode 0640"),
        (tls(&cert, &key, Some(&empty)), "server.tls.client_ca_file: ", "contains no certificate"),
    ];
    for (tls, key, wanted) in cases {
        let error = Acceptor::load(&tls).unwrap_err().to_string();
        assert!(error.starts_with(key) && error.contains(wanted) && !error.contains("-----END"), "{error}");
    }
    assert!(!format!("{:?}", Acceptor::load(&files.tls).unwrap()).contains("key"));
}
