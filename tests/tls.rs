//! TLS to Postgres: what each `sslmode` accepts and refuses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::postgres::Cluster;
use gatepost::audit::record::{Epoch, GatewayId, Seq};
use gatepost::audit::sink::postgres::{Options, PostgresSink};
use gatepost::audit::sink::{ErrorClass, Sink, SinkError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

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
    let mut sink = PostgresSink::new(&Options { url, statement_timeout: Duration::from_secs(30), migrate: true })?;
    sink.prepare().await?;
    Ok(sink.cursor(GatewayId(uuid::Uuid::new_v4()), Epoch(1)).await?.seq)
}

#[tokio::test]
async fn each_sslmode_verifies_what_it_says() {
    let cluster = Cluster::start();
    let url = cluster.create_database().await.url;
    let (ours, foreign) = (authority(), authority());
    let dir = tempfile::tempdir().unwrap();
    let (root, other_root) = (dir.path().join("root.pem"), dir.path().join("other.pem"));
    std::fs::write(&root, ours.pem()).unwrap();
    std::fs::write(&other_root, foreign.pem()).unwrap();

    let (certificate_pem, key) = certificate(&ours, &cluster.address().to_string());
    cluster.demand_tls(&certificate_pem, &key).await;
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
    elsewhere.demand_tls(&certificate_pem, &key).await;
    assert!(connects(&url, "verify-ca", &root).await.is_ok());
    let error = connects(&url, "verify-full", &root).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}
