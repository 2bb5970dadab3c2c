//! TLS to Postgres: what each `sslmode` accepts and refuses.

use std::path::Path;
use std::time::Duration;

use crate::common::postgres::Cluster;
use crate::common::postgres_control::{socket_url, write_to_data};
use crate::common::wait::{SOON, until};
use gatepost::audit::record::{Epoch, GatewayId, Seq};
use gatepost::audit::sink::postgres::{Options, PostgresSink};
use gatepost::audit::sink::{ErrorClass, Sink, SinkError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sqlx::{Connection, PgConnection};

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
    for mode in ["require", "verify-ca", "verify-full"] {
        assert_eq!(connects(&url, mode, &root).await.unwrap(), Seq::ZERO, "{mode}");
    }
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
