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
    let url = format!("{url}?sslmode={mode}&sslrootcert={}", root.display());
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
    for (mode, root) in [("verify-ca", &other_root), ("verify-full", &other_root), ("disable", &root)] {
        let error = connects(&url, mode, root).await.unwrap_err();
        // It may be mended on either side at any time: records wait, and it is tried again.
        assert_ne!(error.class, ErrorClass::Row, "{mode}: {error}");
        assert!(error.to_string().contains("connect"), "{mode}: {error}");
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
