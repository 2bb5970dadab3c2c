//! Issuers, keys, audiences and the required scope, changed under a running gateway.

use crate::common::gatepost::{Gatepost, ISSUER, Setup, token, token_with, write_secret};
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::BackendStub;
use crate::reload::records_of;
use crate::stub_issuer::{SECRET_QUERY, SigningKey, StubIssuer};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

async fn connect(gatepost: &Gatepost, token: &str) -> Client {
    Client::connect(&format!("{}/mcp/example", gatepost.url()), Era::Legacy, Some(token)).await
}

/// The general stream of a session.
async fn stream(client: &Client, token: &str) -> reqwest::Response {
    let request = client.http.get(&client.url).header("mcp-session-id", client.session.as_deref().unwrap());
    request.bearer_auth(token).header("accept", "text/event-stream").send().await.unwrap()
}

async fn is_accepted(client: &Client) -> bool {
    let reply = client.call("echo", json!({"text": "x"})).await.unwrap();
    match reply.status {
        200 => reply.content() == "x",
        _ => false,
    }
}

/// Reloads, and waits until the log says so for the `nth` time.
async fn reload(setup: &Setup, gatepost: &Gatepost, nth: usize) {
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    let is_change = |line: &&str| line.contains("configuration reloaded") && !line.contains("no reloadable setting");
    let count = || setup.log().lines().filter(is_change).count();
    until_async("the configuration is reloaded", SOON, async || count() == nth).await;
}

/// The reasons of the sessions that ended, with their callers' issuers.
fn ended_sessions(setup: &Setup) -> Vec<(String, String)> {
    let text = |record: &Value| {
        let args = record["request_args"].to_string();
        (record["client_issuer"].as_str().unwrap().to_owned(), args)
    };
    records_of(setup, "session/close").iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_issuers_are_added_changed_and_removed_and_only_their_callers_notice() {
    let (first, second) =
        (StubIssuer::start(&[SigningKey::Es256]).await, StubIssuer::start(&[SigningKey::EdDsa]).await);
    let mut setup = Setup::new();
    setup.set_toml("auth.issuers", &format!("[{}]", first.entry("")));
    let gatepost = setup.start();
    let (one, two) = (first.token(SigningKey::Es256, "echo"), second.token(SigningKey::EdDsa, "echo"));
    let of_first = connect(&gatepost, &one).await;
    let of_key = connect(&gatepost, &token("echo")).await;
    let (mut first_stream, mut key_stream) = (stream(&of_first, &one).await, stream(&of_key, &token("echo")).await);
    assert!(is_accepted(&of_first).await && is_accepted(&of_key).await);
    assert_eq!(first.fetches(), 1);
    first.set_down(true);
    let stranger = Client::unconnected(&of_first.url, Era::Modern, Some(&two));
    assert_eq!(stranger.call("echo", json!({"text": "x"})).await.unwrap().status, 401);

    // An added issuer is validated as at the start. With a fault nothing changes.
    let entries = |second: &str| format!("[{}, {second}]", first.entry(""));
    setup.set_toml("auth.issuers", &entries("{ issuer = \"https://id.example\", jwks_file = \"/nowhere/jwks\" }"));
    setup.set("auth.required_scope", "mcp");
    setup.config_file();
    gatepost.signal(Signal::SIGHUP);
    until_async("the fault is told", SOON, async || setup.log().contains("configuration not reloaded")).await;
    assert!(setup.log().contains("auth.issuers[1].jwks_file"), "{}", setup.log());
    assert!(records_of(&setup, "gateway/config").is_empty());
    assert!(is_accepted(&of_first).await && is_accepted(&of_key).await);

    // Added: the keys of the other issuer are not fetched again.
    setup.settings.remove("auth.required_scope");
    setup.set_toml("auth.issuers", &entries(&second.entry("")));
    reload(&setup, &gatepost, 1).await;
    let of_second = connect(&gatepost, &two).await;
    let mut second_stream = stream(&of_second, &two).await;
    assert!(is_accepted(&of_second).await && is_accepted(&of_first).await);
    assert_eq!((first.fetches(), second.fetches()), (1, 1));
    let records = records_of(&setup, "gateway/config");
    let said = records[0]["request_args"].to_string();
    assert!(records.len() == 1 && said.contains("auth.issuers[1]") && said.contains(&second.issuer), "{records:?}");

    // Changed: its tokens are for another audience now.
    setup.set_toml("auth.issuers", &format!("[{}, {}]", first.entry(", audiences = [\"other\"]"), second.entry("")));
    reload(&setup, &gatepost, 2).await;
    assert!(first_stream.chunk().await.unwrap().is_none(), "the stream of the first issuer's caller ends");
    assert!(!is_accepted(&of_first).await && is_accepted(&of_second).await && is_accepted(&of_key).await);
    assert_eq!((first.fetches(), second.fetches()), (1, 1), "whose keys are as they were");

    // Removed.
    setup.set_toml("auth.issuers", &format!("[{}]", first.entry("")));
    reload(&setup, &gatepost, 3).await;
    assert!(second_stream.chunk().await.unwrap().is_none());
    assert_eq!(of_second.call("echo", json!({"text": "x"})).await.unwrap().status, 401);
    let again = connect(&gatepost, &one).await;
    assert!(is_accepted(&again).await && is_accepted(&of_key).await);
    assert_eq!(of_first.call("echo", json!({"text": "x"})).await.unwrap().status, 404, "its session had ended");
    let ended = ended_sessions(&setup);
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert!(ended[0].0 == first.issuer && ended[0].1.contains("its audience was removed"), "{ended:?}");
    assert!(ended[1].0 == second.issuer && ended[1].1.contains("its issuer was removed"), "{ended:?}");
    assert_eq!((first.fetches(), second.fetches()), (1, 1));
    let log = setup.log();
    assert!(log.contains("is not accepted any more (its issuer was removed)"), "{log}");
    assert!(!log.contains(SECRET_QUERY) && !records_of(&setup, "gateway/config")[2].to_string().contains(SECRET_QUERY));

    // The other caller's stream was open all the time, and ends with the scope that its token lacks.
    let scoped = token_with(&json!({"sub": "tester", "role": "echo", "scope": "mcp"}));
    let of_scoped = connect(&gatepost, &scoped).await;
    setup.set("auth.required_scope", "mcp");
    reload(&setup, &gatepost, 4).await;
    assert!(key_stream.chunk().await.unwrap().is_none());
    let refused = of_key.call("echo", json!({"text": "x"})).await.unwrap();
    assert!(refused.status == 403 && refused.header("www-authenticate").contains("mcp"), "{}", refused.text);
    assert!(is_accepted(&of_scoped).await, "a session of the same person with the scope");
    assert!(ended_sessions(&setup).iter().any(|(_, reason)| reason.contains("lacks the required scope")));
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_a_key_that_was_replaced_in_its_file_verifies_nothing_after_sighup() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let client = connect(&gatepost, &token("echo")).await;
    let mut general = stream(&client, &token("echo")).await;
    assert!(is_accepted(&client).await);
    write_secret(&setup.dir().join("secret"), "short");
    gatepost.signal(Signal::SIGHUP);
    until_async("the fault is told", SOON, async || setup.log().contains("configuration not reloaded")).await;
    assert!(setup.log().contains("auth.keys[0]") && is_accepted(&client).await);
    write_secret(&setup.dir().join("secret"), "another secret of more than thirty-two bytes");
    reload(&setup, &gatepost, 1).await;
    assert!(general.chunk().await.unwrap().is_none());
    assert_eq!(client.call("echo", json!({"text": "x"})).await.unwrap().status, 401);
    let records = records_of(&setup, "gateway/config");
    assert!(records[0]["request_args"].to_string().contains("auth.keys[0]"), "{records:?}");
    let (_, reason) = &ended_sessions(&setup)[0];
    assert!(reason.contains("the key that verified it was removed"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_by_which_a_token_gives_the_same_rights_end_nothing() {
    const URL: &str = "https://gate.example/mcp/far";
    let backend = BackendStub::start(|_| None).await;
    let audiences = |listed: &[&str]| serde_json::to_string(listed).unwrap();
    let (mut setup, gatepost) = backend.gateway(|setup| {
        setup.set("server.public_url", "https://gate.example");
        setup.set_toml("auth.audiences", &audiences(&[URL, "gatepost"]));
    });
    let token = token_with(&json!({
        "sub": "tester", "aud": URL, "role": ["admin", "echo"], "groups": ["echo", "admin"], "fewer": ["echo"],
    }));
    let url = format!("{}/mcp/far", gatepost.url());
    let legacy = Client::connect(&url, Era::Legacy, Some(&token)).await;
    let modern = Client::unconnected(&url, Era::Modern, Some(&token));
    let called = async |client: &Client| client.call("t", json!({})).await.unwrap().status;
    let mut general = stream(&legacy, &token).await;
    assert_eq!((called(&legacy).await, called(&modern).await), (200, 200));
    let conversations = backend.seen("initialize").len();
    let is_open = async |general: &mut reqwest::Response| {
        tokio::time::timeout(std::time::Duration::ZERO, general.chunk()).await.is_err()
    };
    // Another claim with the same roles in another order, and one more audience.
    setup.set("auth.role_claim", "groups").set_toml("auth.audiences", &audiences(&[URL, "gatepost", "more"]));
    reload(&setup, &gatepost, 1).await;
    assert_eq!((called(&legacy).await, called(&modern).await), (200, 200));
    assert_eq!(backend.seen("initialize").len(), conversations);
    // An audience that the endpoint has anyway.
    setup.set_toml("auth.audiences", &audiences(&["gatepost"]));
    reload(&setup, &gatepost, 2).await;
    assert_eq!((called(&legacy).await, called(&modern).await), (200, 200));
    assert!(ended_sessions(&setup).is_empty(), "{:?}", ended_sessions(&setup));
    assert!(is_open(&mut general).await);
    // Other roles are other rights.
    setup.set("auth.role_claim", "fewer");
    reload(&setup, &gatepost, 3).await;
    assert!(general.chunk().await.unwrap().is_none());
    assert!(ended_sessions(&setup)[0].1.contains("it gives other roles"), "{:?}", ended_sessions(&setup));
}

/// A revoked key whose file was overwritten with the next one, which the gateway knows already.
#[tokio::test(flavor = "multi_thread")]
async fn i10_a_key_that_was_replaced_by_another_known_one_verifies_nothing_after_sighup() {
    const NEXT: &str = "the next secret of the issuer, with more than 32 bytes";
    let backend = BackendStub::start(|_| None).await;
    let (setup, gatepost) = backend.gateway(|setup| {
        write_secret(&setup.dir().join("next"), NEXT);
        let key = |kid: &str, file: &str| {
            let path = setup.dir().join(file).display().to_string();
            format!("{{ kid = {kid:?}, algorithm = \"HS256\", issuer = {ISSUER:?}, secret_file = {path:?} }}")
        };
        let keys = format!("[{}, {}]", key("test", "secret"), key("next", "next"));
        setup.set_toml("auth.keys", &keys);
    });
    let claims = json!({"sub": "tester", "role": "admin"});
    let signed_by_next = |kid: &str| {
        let token = token_with(&claims);
        let claims: Value = crate::token_server::claims(&token);
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(NEXT.as_bytes())).unwrap()
    };
    let called = async |token: &str| {
        let client = Client::unconnected(&format!("{}/mcp/far", gatepost.url()), Era::Modern, Some(token));
        client.call("t", json!({})).await.unwrap().status
    };
    let (stolen, good) = (token_with(&claims), signed_by_next("next"));
    for token in [&stolen, &good, &stolen] {
        assert_eq!(called(token).await, 200);
    }
    assert_eq!(called(&signed_by_next("test")).await, 401);
    let conversations = backend.seen("initialize").len();
    write_secret(&setup.dir().join("secret"), NEXT);
    reload(&setup, &gatepost, 1).await;
    assert_eq!((called(&stolen).await, called(&good).await), (401, 200));
    // The backend has a new conversation, without anything of the thief.
    assert!(backend.seen("initialize").len() > conversations, "{conversations}");
    let records = records_of(&setup, "gateway/config");
    let said = records[0]["request_args"].to_string();
    assert!(said.contains("auth.keys[0]") && !said.contains("auth.keys[1]"), "{said}");
}
