//! TLS to Postgres: what each `sslmode` accepts and refuses.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::postgres::Cluster;
use crate::common::postgres_control::{socket_url, write_to_data};
use crate::common::wait::{SOON, until, until_async};
use gatepost::audit::record::{Epoch, GatewayId, Seq};
use gatepost::audit::sink::postgres::{self, Options, PostgresSink};
use gatepost::audit::sink::{ErrorClass, Sink, SinkError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `name` by `authority`, and its key, in PEM.
fn certificate(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// Prepares the schema and reads a cursor over a connection with these settings.
async fn connects(url: &str, mode: &str, root: &Path) -> Result<Seq, SinkError> {
    connects_with(&format!("{url}?sslmode={mode}&sslrootcert={}", root.display())).await
}

async fn connects_with(url: &str) -> Result<Seq, SinkError> {
    let url = url.to_owned();
    let mut sink = PostgresSink::new(&Options {
        url,
        password_file: None,
        statement_timeout: Duration::from_secs(30),
        migrate: true,
    })?;
    let gateway_id = GatewayId(uuid::Uuid::new_v4());
    sink.prepare(gateway_id).await?;
    Ok(sink.cursor(gateway_id, Epoch(1)).await?.seq)
}

#[tokio::test]
async fn each_sslmode_verifies_what_it_promises() {
    let cluster = Cluster::start();
    let url = cluster.create_database().await.url;
    let (ours, foreign) = (authority(), authority());
    let dir = tempfile::tempdir().unwrap();
    let (root, other_root) = (dir.path().join("root.pem"), dir.path().join("other.pem"));
    std::fs::write(&root, ours.pem()).unwrap();
    std::fs::write(&other_root, foreign.pem()).unwrap();

    let (certificate_pem, key) = certificate(&ours, &cluster.address.to_string());
    demand_tls(&cluster, &certificate_pem, &key).await;
    assert_eq!(postgres::certificate_end(), None);
    for mode in ["require", "verify-ca", "verify-full"] {
        assert_eq!(connects(&url, mode, &root).await.unwrap(), Seq::ZERO, "{mode}");
    }
    // The first second of the year 4096, the end of the certificates that rcgen makes.
    assert_eq!(postgres::certificate_end().map(|end| end.at), Some(67_090_118_400));
    // An authority that is named is there to be used, also in the mode that does not demand one.
    let refused =
        [("require", &other_root), ("verify-ca", &other_root), ("verify-full", &other_root), ("disable", &root)];
    for (mode, root) in refused {
        let error = connects(&url, mode, root).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Operator, "{mode}: {error}");
        assert!(error.to_string().contains("connect"), "{mode}: {error}");
    }
    for mode in ["require", "prefer", "allow"] {
        assert_eq!(connects_with(&format!("{url}?sslmode={mode}")).await.unwrap(), Seq::ZERO, "{mode}");
    }
    for (root, reason) in [("/nowhere/root.pem", "sslrootcert"), ("system", "certificate")] {
        let error = connects(&url, "verify-full", Path::new(root)).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Operator, "{root}: {error}");
        assert!(error.to_string().contains(reason), "{root}: {error}");
    }

    // A certificate for another name is good enough for verify-ca, and not for verify-full.
    let elsewhere = Cluster::start();
    let url = elsewhere.create_database().await.url;
    let (certificate_pem, key) = certificate(&ours, "db.example");
    demand_tls(&elsewhere, &certificate_pem, &key).await;
    assert!(connects(&url, "verify-ca", &root).await.is_ok());
    let error = connects(&url, "verify-full", &root).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}

#[tokio::test]
async fn certificate_of_old_form_works_in_the_modes_that_do_not_verify() {
    let cluster = Cluster::start();
    let url = cluster.create_database().await.url;
    let certificate = include_str!("../fixtures/x509_v1_certificate.pem");
    demand_tls(&cluster, certificate, include_str!("../fixtures/x509_v1_private.pem")).await;
    for mode in ["require", "prefer"] {
        assert_eq!(connects_with(&format!("{url}?sslmode={mode}")).await.unwrap(), Seq::ZERO, "{mode}");
    }
    for mode in ["verify-ca", "verify-full"] {
        let error = connects_with(&format!("{url}?sslmode={mode}&sslrootcert=system")).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Operator, "{mode}: {error}");
    }
}

#[tokio::test]
async fn certificate_of_the_client_logs_it_in() {
    let cluster = Cluster::start();
    let url = cluster.create_database().await.url;
    let ours = authority();
    let (certificate_pem, key) = certificate(&ours, &cluster.address.to_string());
    write_to_data(&cluster, "root.crt", &ours.pem());
    demand_tls(&cluster, &certificate_pem, &key).await;
    let mut admin = PgConnection::connect(&socket_url(&cluster, "postgres")).await.unwrap();
    write_to_data(&cluster, "pg_hba.conf", "local all all trust\nhostssl all all all cert\n");
    sqlx::raw_sql("ALTER SYSTEM SET ssl_ca_file = 'root.crt'").execute(&mut admin).await.unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut admin).await.unwrap();
    until("the authority is known", SOON, || cluster.log().contains("parameter \"ssl_ca_file\" changed"));
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let url = format!("{url}?sslmode=verify-full&sslrootcert={}", path("root.pem", &ours.pem()));
    let login = |name: &str| {
        let (certificate, key) = named_certificate(&ours, name);
        let files = (path(&format!("{name}.pem"), &certificate), path(&format!("{name}.key"), &key));
        format!("{url}&sslcert={}&sslkey={}", files.0, files.1)
    };
    assert_eq!(connects_with(&login("gatepost")).await.unwrap(), Seq::ZERO);
    for url in [login("another"), url] {
        let error = connects_with(&url).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Operator, "{error}");
    }
}

/// A certificate with this common name, and its key, in PEM.
fn named_certificate(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn server_that_offers_no_tls_is_a_case_for_an_operator() {
    let url = Cluster::shared().create_database().await.url;
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = connects_with(&format!("{url}?sslmode={mode}")).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Operator, "{mode}: {error}");
        assert!(error.message.contains("does not offer TLS") && error.message.contains(mode), "{error}");
    }
}

/// Serves TLS with this certificate and key, in PEM, and takes no TCP connection without it.
async fn demand_tls(cluster: &Cluster, certificate: &str, key: &str) {
    let hba = "local all all trust\nhostssl all all all trust\n";
    for (name, text) in [("server.crt", certificate), ("server.key", key), ("pg_hba.conf", hba)] {
        write_to_data(cluster, name, text);
    }
    let mut connection = PgConnection::connect(&socket_url(cluster, "postgres")).await.unwrap();
    sqlx::raw_sql("ALTER SYSTEM SET ssl = on").execute(&mut connection).await.unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut connection).await.unwrap();
    until("TLS is on", SOON, || cluster.log().contains("parameter \"ssl\" changed"));
}

/// Connects with these parameters. Returns the server's name of the login.
async fn logs_in(url: &str) -> Result<String, SinkError> {
    let (url, statement_timeout) = (url.to_owned(), Duration::from_secs(30));
    let mut connection =
        postgres::connect(&Options { url, password_file: None, statement_timeout, migrate: false }).await?;
    let name = sqlx::query_scalar("SELECT session_user::text").fetch_one(&mut *connection).await.unwrap();
    connection.close().await.unwrap();
    Ok(name)
}

#[tokio::test]
async fn login_is_bound_to_the_tls_connection() {
    let cluster = Cluster::start();
    let (ours, foreign) = (authority(), authority());
    let address = cluster.address.to_string();
    let (certificate_pem, key) = certificate(&ours, &address);
    demand_tls(&cluster, &certificate_pem, &key).await;
    let mut admin = PgConnection::connect(&socket_url(&cluster, "postgres")).await.unwrap();
    // A password with characters that SASLprep changes: a no-break space, and a ligature.
    let roles = "SET password_encryption = 'scram-sha-256'; CREATE ROLE bound LOGIN PASSWORD E'p\u{a0}\u{fb01}x';
        SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'x'; CREATE ROLE trusted LOGIN";
    sqlx::raw_sql(roles).execute(&mut admin).await.unwrap();
    let hba = "local all all trust\nhost all trusted all trust\nhost all old all md5\nhost all all all scram-sha-256\n";
    write_to_data(&cluster, "pg_hba.conf", hba);
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut admin).await.unwrap();
    let file = "SELECT count(*) FROM pg_hba_file_rules WHERE 'trusted' = ANY(user_name)";
    assert_eq!(sqlx::query_scalar::<_, i64>(file).fetch_one(&mut admin).await.unwrap(), 1);

    let place = format!("{address}:{}/postgres?sslmode=require", cluster.port);
    let bound = |place: &str| format!("postgres://bound:p%20fix@{place}");
    // The server has read its pg_hba.conf again when it refuses a wrong password.
    let wrong = bound(&place).replace("p%20fix", "wrong");
    until_async("the login is known", SOON, || async { logs_in(&wrong).await.is_err() }).await;
    for binding in ["disable", "prefer", "require"] {
        let url = format!("{}&channel_binding={binding}", bound(&place));
        assert_eq!(logs_in(&url).await.unwrap(), "bound", "{binding}");
        let error = logs_in(&url.replace("p%20fix", "wrong")).await.unwrap_err();
        assert_eq!((error.class, error.sqlstate.as_deref()), (ErrorClass::Operator, Some("28P01")), "{error}");
    }
    // What is not bound is refused before a password is sent, or the login is used.
    for (login, reason) in [("trusted", "accepted the login without it"), ("old:x", "does not offer it")] {
        assert!(logs_in(&format!("postgres://{login}@{place}&channel_binding=prefer")).await.is_ok());
        let error = logs_in(&format!("postgres://{login}@{place}&channel_binding=require")).await.unwrap_err();
        assert!(error.class == ErrorClass::Operator && error.message.contains(reason), "{error}");
    }
    for (url, reason) in [
        (bound(&place).replace("sslmode=require", "sslmode=disable"), "no TLS to bind to"),
        (socket_url(&cluster, "postgres"), "a socket has no TLS"),
    ] {
        let separator = if url.contains('?') { '&' } else { '?' };
        let error = logs_in(&format!("{url}{separator}channel_binding=require")).await.unwrap_err();
        assert!(error.class == ErrorClass::Operator && error.message.contains(reason), "{error}");
    }

    // Somebody in the middle has a certificate of another authority, which sslmode=require does not look at.
    let server = (address.clone(), cluster.port);
    let middle = |with_tls: bool| intercept(server.clone(), &ours, certificate(&foreign, &address), with_tls);
    let passing_on = format!("{}/postgres?sslmode=require", middle(true).await);
    for (binding, is_noticed) in [("disable", false), ("prefer", true), ("require", true)] {
        let login = logs_in(&format!("{}&channel_binding={binding}", bound(&passing_on))).await;
        assert_eq!(login.is_err(), is_noticed, "{binding}: {login:?}");
        assert!(login.err().is_none_or(|error| error.class == ErrorClass::Operator), "{binding}");
    }
    // A pooler that ends TLS: the server cannot offer what it has not.
    let ending = format!("{}/postgres?sslmode=require", middle(false).await);
    assert_eq!(logs_in(&bound(&ending)).await.unwrap(), "bound");
    let error = logs_in(&format!("{}&channel_binding=require", bound(&ending))).await.unwrap_err();
    assert!(error.message.contains("does not offer it"), "{error}");
}

/// Listens with this certificate, and passes everything on to `server`, whose certificate is of `authority`.
async fn intercept(
    server: (String, u16),
    authority: &CertifiedIssuer<'static, KeyPair>,
    (certificate, key): (String, String),
    with_tls: bool,
) -> SocketAddr {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (acceptor, connector, server) = (acceptor.clone(), connector.clone(), server.clone());
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await.unwrap();
                assert_eq!(request, SSL_REQUEST);
                client.write_all(b"S").await.unwrap();
                let mut client = acceptor.accept(client).await.unwrap();
                let mut stream = TcpStream::connect((server.0.as_str(), server.1)).await.unwrap();
                if !with_tls {
                    tokio::io::copy_bidirectional(&mut client, &mut stream).await.ok();
                    return;
                }
                stream.write_all(&SSL_REQUEST).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'S');
                let name = ServerName::try_from(server.0).unwrap();
                let mut stream = connector.connect(name, stream).await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut stream).await.ok();
            });
        }
    });
    address
}
