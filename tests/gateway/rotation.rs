//! Keys and certificates that are replaced while calls are open: none is lost, none is refused.

use std::path::Path;

use crate::common::gatepost::{Gatepost, Setup, write_secret};
use crate::common::wait::{SOON, until_async};
use crate::reload::records_of;
use crate::stub_issuer::{SigningKey, StubIssuer};
use crate::tls_backend::{Authority, TlsBackend, authority, certificate};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// Calls that are open while everything is replaced.
const CALLS: usize = 1000;

/// Calls that are made afterwards, with tokens of the old and of the new key.
const LATER: usize = 100;

/// Time for a thousand calls on a busy machine of two cores.
const LONG: Duration = Duration::from_mins(3);

fn write_certificate(dir: &Path, (pem, key): &(String, String)) {
    write_secret(&dir.join("cert.pem"), pem);
    write_secret(&dir.join("key.pem"), key);
}

fn setup_with(backend: &TlsBackend, own: &(String, String), authorities: &[&Authority]) -> Setup {
    let mut setup = Setup::new();
    write_certificate(setup.dir(), own);
    let path = |name: &str| setup.dir().join(name).display().to_string();
    let (cert, key, ca) = (path("cert.pem"), path("key.pem"), path("backend-ca.pem"));
    write_secret(Path::new(&ca), authorities.iter().map(|authority| authority.pem()).collect::<String>());
    setup.set("server.tls.cert_file", &cert).set("server.tls.key_file", &key);
    setup.set("backends.far.url", &backend.url).set("backends.far.ca_file", &ca);
    setup
}

/// A client on connections of its own.
fn client(authority: &Authority) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    reqwest::Client::builder().tls_certs_only([root]).no_proxy().build().unwrap()
}

async fn call(client: reqwest::Client, url: String, token: String) -> (u16, String) {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {}}})
        .to_string();
    let request = client.post(url).header("content-type", "application/json").bearer_auth(token).body(body);
    let response = request.header("accept", "application/json, text/event-stream").send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// The value of a metric with these labels.
fn metric(gatepost: &Gatepost, line: &str) -> Option<f64> {
    let text = gatepost.get_ops("/metrics").1;
    text.lines().find_map(|known| known.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

fn end_of(gatepost: &Gatepost, labels: &str) -> Option<f64> {
    metric(gatepost, &format!("gatepost_certificate_expiry_timestamp_seconds{{{labels}}}"))
}

const SERVER: &str = r#"certificate="server",backend="""#;
const BACKEND: &str = r#"certificate="backend",backend="far""#;

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_lost_or_refused_while_keys_and_certificates_are_replaced() {
    let (own, own_next, backends, backends_next) = (authority(), authority(), authority(), authority());
    let backend = TlsBackend::start(&certificate(&backends, 30)).await;
    let issuer = StubIssuer::start(&[SigningKey::Es256]).await;
    let mut setup = setup_with(&backend, &certificate(&own, 30), &[&backends]);
    setup.set_toml("auth.issuers", &format!("[{}]", issuer.entry(", jwks_ttl = \"24h\"")));
    for (limit, value) in [
        ("server.calls_max", "4096"),
        ("server.connections_per_address_max", "4000"),
        ("limits.calls_per_principal", "4096"),
        ("limits.calls_per_backend", "4096"),
    ] {
        setup.set_toml(limit, value);
    }
    let gatepost = setup.start();
    let url = format!("{}/mcp/far", gatepost.url());
    let (old, new) = (issuer.token(SigningKey::Es256, "admin"), issuer.token(SigningKey::EdDsa, "admin"));
    let mut calls = tokio::task::JoinSet::new();
    let first = client(&own);
    for _ in 0..CALLS {
        calls.spawn(call(first.clone(), url.clone(), old.clone()));
    }
    let waiting = || backend.waiting.load(Ordering::SeqCst);
    until_async("all calls are at the backend", LONG, async || waiting() == CALLS).await;
    let (own_end, backend_end) = (end_of(&gatepost, SERVER), end_of(&gatepost, BACKEND));

    // The issuer's next key signs at once, and then its server is gone. Both certificates come from other authorities.
    issuer.publish(&[SigningKey::Es256, SigningKey::EdDsa]);
    write_certificate(setup.dir(), &certificate(&own_next, 60));
    let both = format!("{}{}", backends.pem(), backends_next.pem());
    write_secret(&setup.dir().join("backend-ca.pem"), both);
    backend.present(&certificate(&backends_next, 60));
    until_async("the new certificate is used", SOON, async || end_of(&gatepost, SERVER) > own_end).await;
    let second = client(&own_next);
    calls.spawn(call(second.clone(), url.clone(), new.clone()));
    until_async("the new key is known", LONG, async || waiting() == CALLS + 1).await;
    issuer.set_down(true);
    for nth in 1..LATER {
        let token = if nth % 2 == 0 { &old } else { &new };
        calls.spawn(call(second.clone(), url.clone(), token.clone()));
    }
    // The answers come on connections that were made with the old certificate.
    backend.release();
    let mut replies = Vec::new();
    while let Some(reply) = calls.join_next().await {
        replies.push(reply.unwrap());
    }
    assert_eq!(replies.len(), CALLS + LATER);
    let failed: Vec<_> = replies.iter().filter(|(status, text)| *status != 200 || !text.contains("done")).collect();
    assert!(failed.is_empty(), "{} failed: {:?}\n{}", failed.len(), failed.first(), setup.log());
    assert_eq!(end_of(&gatepost, BACKEND), backend_end, "it was shown less than an hour ago");
    drop(gatepost);
    let records = records_of(&setup, "tools/call");
    let ids: std::collections::BTreeSet<String> =
        records.iter().map(|record| record["request_id"].to_string()).collect();
    assert_eq!((records.len(), ids.len()), (CALLS + LATER, CALLS + LATER), "each has one record");
    assert!(records.iter().all(|record| record["response_status"] == "ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_certificates_of_a_backend_the_earlier_end_is_told() {
    let (own, backends) = (authority(), authority());
    let backend = TlsBackend::start(&certificate(&backends, 60)).await;
    let setup = setup_with(&backend, &certificate(&own, 30), &[&backends]);
    let gatepost = setup.start();
    let (client, url) = (client(&own), format!("{}/mcp/far", gatepost.url()));
    let token = crate::common::gatepost::token("admin");
    let mut calls = tokio::task::JoinSet::new();
    let connections = || backend.connections.load(Ordering::SeqCst);
    // As at a load balancer whose servers are renewed one by one. Each call waits on a connection of its own.
    for (days, expected) in [(60, 60), (20, 20), (90, 20), (60, 20), (13, 13), (90, 13)] {
        backend.present(&certificate(&backends, days));
        let before = connections();
        while connections() == before {
            assert!(calls.len() < 30, "no connection is opened");
            calls.spawn(call(client.clone(), url.clone(), token.clone()));
            let waiting = || backend.waiting.load(Ordering::SeqCst);
            until_async("the call is at the backend", SOON, async || waiting() == calls.len()).await;
        }
        let told = async || {
            let days = (end_of(&gatepost, BACKEND).unwrap_or_default() - now()) / (24.0 * 3600.0);
            (f64::from(expected) - 1.0..=f64::from(expected)).contains(&days)
        };
        until_async(&format!("{expected} days are told"), SOON, told).await;
    }
    setup.wait_for_log("the certificate of backend far expires at");
    backend.release();
    for (status, text) in calls.join_all().await {
        assert!(status == 200 && text.contains("done"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_certificates_are_told_and_a_broken_ca_file_changes_nothing() {
    let (own, backends, backends_next) = (authority(), authority(), authority());
    let backend = TlsBackend::start(&certificate(&backends, 25)).await;
    backend.release();
    let setup = setup_with(&backend, &certificate(&own, 30), &[&backends]);
    let gatepost = setup.start();
    let is_active = |alarm: &str| metric(&gatepost, &format!("gatepost_alarm{{alarm=\"{alarm}\"}}")) == Some(1.0);
    let token = crate::common::gatepost::token("admin");
    let (known, url) = (client(&own), format!("{}/mcp/far", gatepost.url()));
    assert_eq!(end_of(&gatepost, BACKEND), None, "no handshake yet");
    assert_eq!(call(known.clone(), url.clone(), token.clone()).await.0, 200);
    let days = |end: Option<f64>| (end.unwrap() - now()) / (24.0 * 3600.0);
    let (server_days, backend_days) = (days(end_of(&gatepost, SERVER)), days(end_of(&gatepost, BACKEND)));
    assert!((29.0..31.0).contains(&server_days) && (24.0..26.0).contains(&backend_days));
    assert!(!is_active("certificate_expires"));
    // Renewed in vain.
    write_certificate(setup.dir(), &certificate(&own, 13));
    until_async("the alarm is raised", SOON, async || is_active("certificate_expires")).await;
    setup.wait_for_log("the certificate of server.tls.cert_file expires at");
    write_certificate(setup.dir(), &certificate(&own, 0));
    until_async("it has expired", SOON, async || is_active("certificate_expired")).await;
    assert!(!is_active("certificate_expires"));
    write_certificate(setup.dir(), &certificate(&own, 30));
    until_async("the alarm is cleared", SOON, async || !is_active("certificate_expired")).await;
    // A file that cannot be used changes nothing.
    let ca = setup.dir().join("backend-ca.pem");
    write_secret(&ca, "nothing");
    until_async("the broken file is told of", SOON, async || {
        let (status, text) = call(known.clone(), url.clone(), token.clone()).await;
        assert!(status == 200 && text.contains("done"), "{text}");
        setup.log().contains("cannot reload changed file; keeping the previous contents")
    })
    .await;
    // One with other authorities is used for new connections.
    write_secret(&ca, backends_next.pem());
    until_async("the old authority is not trusted any more", SOON, async || {
        let (_, text) = call(known.clone(), url.clone(), token.clone()).await;
        !text.contains("done")
    })
    .await;
    backend.present(&certificate(&backends_next, 60));
    until_async("the new one is", SOON, async || {
        let (_, text) = call(known.clone(), url.clone(), token.clone()).await;
        text.contains("done")
    })
    .await;
}
