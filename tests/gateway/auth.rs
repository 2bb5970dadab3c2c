//! Callers as they come in production: by an issuer that publishes its keys, and by client certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::gatepost::{Setup, token, write_secret};
use crate::stub_issuer::{SigningKey, StubIssuer};
use axum::Router;
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const ECHO: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hi"}}}"#;

/// The `client_issuer` and `client_subject` of the records of calls, oldest first.
fn callers(setup: &Setup) -> Vec<(String, String)> {
    let output = setup.command(&["outbox", "list", "--json"]).output().unwrap();
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let records = String::from_utf8(output.stdout).unwrap();
    let records = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let calls = records.filter(|record| record["method"] == "tools/call");
    calls.map(|record| (text(&record, "client_issuer"), text(&record, "client_subject"))).collect()
}

async fn post(client: &reqwest::Client, url: &str, token: Option<&str>) -> reqwest::Result<(u16, String, Value)> {
    let mut request = client.post(url).header("content-type", "application/json").body(ECHO);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await?;
    let header = |name: &str| response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let (status, challenge) = (response.status().as_u16(), header("www-authenticate"));
    Ok((status, challenge, serde_json::from_str(&response.text().await?).unwrap_or_default()))
}

fn private_key(name: &str) -> EncodingKey {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}_private.pem"));
    let pem = std::fs::read(file).unwrap();
    if name == "es256" { EncodingKey::from_ec_pem(&pem) } else { EncodingKey::from_ed_pem(&pem) }.unwrap()
}

fn published_key(name: &str, algorithm: Algorithm) -> Value {
    let mut jwk = Jwk::from_encoding_key(&private_key(name), algorithm).unwrap();
    jwk.common.key_id = Some(name.to_owned());
    serde_json::to_value(jwk).unwrap()
}

/// A token of `ann` with the role `echo`.
fn signed(name: &str, algorithm: Algorithm, issuer: &str) -> String {
    let expires = jsonwebtoken::get_current_timestamp() + 600;
    let header = Header { kid: Some(name.to_owned()), ..Header::new(algorithm) };
    let claims = json!({"iss": issuer, "sub": "ann", "aud": "gatepost", "role": "echo", "exp": expires});
    jsonwebtoken::encode(&header, &claims, &private_key(name)).unwrap()
}

#[tokio::test]
async fn keys_of_an_unreachable_issuer_stay_valid() {
    let published = json!({ "keys": [published_key("es256", Algorithm::ES256)] }).to_string();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/jwks", get(async || published));
    let issuing = tokio::spawn(async move { axum::serve(listener, router).await });
    let old = signed("es256", Algorithm::ES256, &issuer);
    let new = signed("eddsa", Algorithm::EdDSA, &issuer);

    let mut setup = Setup::new();
    setup.set_toml("auth.issuers", &format!("[{{ issuer = {issuer:?}, jwks_url = \"{issuer}/jwks\" }}]"));
    let gatepost = setup.start();
    let (client, url) = (reqwest::Client::new(), format!("{}/mcp/example", gatepost.url()));
    let (status, _, body) = post(&client, &url, Some(&old)).await.unwrap();
    assert_eq!((status, &body["result"]["content"][0]["text"]), (200, &json!("hi")), "{body}");
    let (status, challenge, _) = post(&client, &url, Some(&new)).await.unwrap();
    assert_eq!(status, 401);
    assert!(
        challenge.contains("the token is signed by an unknown key") && challenge.contains("http://"),
        "{challenge}"
    );
    assert_eq!(
        post(&client, &url, Some(&token("echo"))).await.unwrap().0,
        200,
        "keys of the configuration work beside"
    );
    issuing.abort();
    assert_eq!(post(&client, &url, Some(&old)).await.unwrap().0, 200, "the keys at hand stay in use");
    assert!(callers(&setup).contains(&(issuer.clone(), "ann".to_owned())));
    drop(gatepost);

    // A gateway that starts while the issuer is down cannot tell whether a token is good.
    let gatepost = setup.start();
    let (status, challenge, body) =
        post(&client, &format!("{}/mcp/example", gatepost.url()), Some(&old)).await.unwrap();
    assert_eq!((status, challenge.as_str()), (503, ""), "{body}");
    setup.wait_for_log("cannot fetch the issuer's keys");
    let log = gatepost.log();
    assert!(!log.contains(&old) && !log.contains(&new), "I8");
}

#[tokio::test]
async fn forged_kids_do_not_make_a_token_of_a_new_key_bad() {
    let issuer = StubIssuer::start(&[SigningKey::Es256]).await;
    let mut setup = Setup::new();
    setup.set_toml("auth.issuers", &format!("[{}]", issuer.entry("")));
    let gatepost = setup.start();
    let (client, url) = (reqwest::Client::new(), format!("{}/mcp/example", gatepost.url()));
    let old = issuer.token(SigningKey::Es256, "echo");
    assert_eq!(post(&client, &url, Some(&old)).await.unwrap().0, 200);
    let fetches = issuer.fetches();
    for kid in 0..50 {
        let header = Header { kid: Some(format!("forged-{kid}")), ..Header::new(Algorithm::ES256) };
        let claims = json!({"iss": issuer.issuer, "sub": "eve", "aud": "gatepost", "role": "admin"});
        let forged = jsonwebtoken::encode(&header, &claims, &private_key("es256")).unwrap();
        let (status, challenge, _) = post(&client, &url, Some(&forged)).await.unwrap();
        let expected = if kid < 4 { (401, true) } else { (503, false) };
        assert_eq!((status, challenge.contains("unknown key")), expected, "{kid}: {challenge}");
    }
    assert_eq!(issuer.fetches(), fetches + 4, "I6: forged tokens cause few fetches");
    issuer.publish(&[SigningKey::Es256, SigningKey::EdDsa]);
    let new = issuer.token(SigningKey::EdDsa, "echo");
    let request = client.post(&url).header("content-type", "application/json").bearer_auth(&new).body(ECHO);
    let response = request.send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("www-authenticate")), (503, None));
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    let body = response.text().await.unwrap();
    assert!(body.contains("the keys of the token's issuer cannot be fetched now: try again"), "{body}");
    // The known key is as good as before, and the refusals are on record.
    assert_eq!(post(&client, &url, Some(&old)).await.unwrap().0, 200);
    assert_eq!(gatepost.terminate(), Some(0));
    let output = setup.command(&["outbox", "list", "--json"]).output().unwrap();
    let records = String::from_utf8(output.stdout).unwrap();
    let records: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let refused = records.iter().filter(|record| record["response_status"] == "unauthenticated");
    // Further refusals of a kind are counted in one record.
    let count = |record: &Value| match record["method"].as_str() {
        Some("gateway/refusals") => {
            let details: Value = serde_json::from_str(record["request_args"].as_str().unwrap()).unwrap();
            details["count"].as_u64().unwrap()
        }
        _ => 1,
    };
    assert_eq!(refused.map(count).sum::<u64>(), 51, "{records:?}");
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn certificate(authority: &Authority, name: SanType) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![name];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// Serves `document` over TLS to whoever asks, as `certificate`.
async fn issue_over_tls(document: String, (pem, key): (String, String)) -> String {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            // A client that does not trust the certificate ends the handshake.
            let Ok(stream) = acceptor.accept(listener.accept().await.unwrap().0).await else { continue };
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 2) {}
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", document.len());
            stream.write_all(format!("{head}{document}").as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
    });
    url
}

#[tokio::test]
async fn keys_are_fetched_over_tls_from_a_trusted_server() {
    let servers = authority();
    let document = json!({ "keys": [published_key("es256", Algorithm::ES256)] }).to_string();
    let issuer = issue_over_tls(document, certificate(&servers, SanType::IpAddress([127, 0, 0, 1].into()))).await;
    let token = signed("es256", Algorithm::ES256, &issuer);
    let mut setup = Setup::new();
    setup.set_toml("auth.issuers", &format!("[{{ issuer = {issuer:?}, jwks_url = \"{issuer}/jwks\" }}]"));
    let gatepost = setup.start();
    let url = format!("{}/mcp/example", gatepost.url());
    assert_eq!(post(&reqwest::Client::new(), &url, Some(&token)).await.unwrap().0, 503, "nobody trusts this server");
    drop(gatepost);
    let file = setup.dir().join("authorities.pem");
    std::fs::write(&file, servers.pem()).unwrap();
    setup.env.insert("SSL_CERT_FILE".to_owned(), file.to_str().unwrap().to_owned());
    let gatepost = setup.start();
    let url = format!("{}/mcp/example", gatepost.url());
    let (status, _, body) = post(&reqwest::Client::new(), &url, Some(&token)).await.unwrap();
    assert_eq!(status, 200, "{body} {}", gatepost.log());
}

#[tokio::test]
async fn a_client_certificate_is_an_identity_and_a_token_wins() {
    let (servers, clients) = (authority(), authority());
    let mut setup = Setup::new();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = setup.dir().join(name);
        write_secret(&path, text);
        path
    };
    let (pem, key) = certificate(&servers, SanType::IpAddress([127, 0, 0, 1].into()));
    let files = [
        ("cert_file", file("cert.pem", &pem)),
        ("key_file", file("key.pem", &key)),
        ("client_ca_file", file("ca.pem", &clients.pem())),
    ];
    for (name, path) in files {
        setup.set(&format!("server.tls.{name}"), path.to_str().unwrap());
    }
    let server = r#"[{ issuer = "https://login.example", jwks_url = "https://login.example/jwks" }]"#;
    setup.set_toml("auth.issuers", server);
    setup.set_toml("auth.certificates", r#"{ "uri:spiffe://x/ci" = ["echo"] }"#);
    let gatepost = setup.start();
    assert!(gatepost.url().starts_with("https://"));
    let url = format!("{}/mcp/example", gatepost.url());
    let client = |uri: Option<&str>| {
        let root = reqwest::Certificate::from_pem(servers.pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder().tls_certs_only([root]);
        let Some(uri) = uri else { return builder.build().unwrap() };
        let (pem, key) = certificate(&clients, SanType::URI(uri.try_into().unwrap()));
        builder.identity(reqwest::Identity::from_pem(format!("{pem}{key}").as_bytes()).unwrap()).build().unwrap()
    };
    let (status, _, body) = post(&client(Some("spiffe://x/ci")), &url, None).await.unwrap();
    assert_eq!((status, &body["result"]["content"][0]["text"]), (200, &json!("hi")), "{body}");
    // I10: a certificate that is not listed has no role.
    let (_, _, body) = post(&client(Some("spiffe://x/other")), &url, None).await.unwrap();
    assert_eq!(body["error"]["code"], -32003, "{body}");
    let (status, challenge, _) = post(&client(None), &url, None).await.unwrap();
    assert_eq!(status, 401);
    assert!(challenge.contains("resource_metadata=\"https://127.0.0.1:"), "{challenge}");
    assert_eq!(post(&client(Some("spiffe://x/ci")), &url, Some(&token("echo"))).await.unwrap().0, 200);
    assert_eq!(post(&client(Some("spiffe://x/ci")), &url, Some("no.such.token")).await.unwrap().0, 401);
    let wanted = [
        ("mtls", "uri:spiffe://x/ci"),
        ("mtls", "uri:spiffe://x/other"),
        ("", "anonymous"),
        ("gatepost-tests", "tester"),
    ];
    let wanted: Vec<(String, String)> = wanted.map(|(issuer, name)| (issuer.to_owned(), name.to_owned())).to_vec();
    assert_eq!(callers(&setup)[..4], wanted);
}
