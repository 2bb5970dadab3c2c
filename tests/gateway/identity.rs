//! Who acted, with which application, on whose behalf: from the token into the record, and found there.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::common::gatepost::{AUDIENCE, Gatepost, Setup, token_with, write_secret};
use crate::common::mcp::{Client, Era, LEGACY, MODERN, Reply};

/// An issuer that publishes its keys, and its tokens.
struct Issuer {
    url: &'static str,
    key: EncodingKey,
}

impl Issuer {
    fn new(url: &'static str) -> Self {
        let pem = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/es256_private.pem")).unwrap();
        Self { url, key: EncodingKey::from_ec_pem(&pem).unwrap() }
    }

    /// The section of the configuration, with other keys of it.
    fn section(&self, setup: &Setup, more: &str) -> String {
        let file = setup.dir().join("jwks.json");
        let keys = json!({ "keys": [Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap()] });
        write_secret(&file, keys.to_string());
        format!("{{ issuer = {:?}, jwks_file = {:?}{more} }}", self.url, file.display().to_string())
    }

    fn token(&self, claims: &Value) -> String {
        let mut all = json!({
            "iss": self.url, "aud": AUDIENCE, "sub": "5f2c", "exp": jsonwebtoken::get_current_timestamp() + 600,
        });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &all, &self.key).unwrap()
    }
}

async fn call(gatepost: &Gatepost, era: Era, token: &str) -> Reply {
    let url = format!("{}/mcp", gatepost.url());
    let client = Client::connect(&url, era, Some(token)).await;
    client.call("example__echo", json!({ "text": "hi" })).await.unwrap()
}

/// Standard output and standard error of a command that succeeds.
fn read(setup: &Setup, args: &[&str]) -> (String, String) {
    let output = setup.command(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(output.stderr));
    (text(output.stdout), text(output.stderr))
}

fn calls(setup: &Setup, filter: &[&str]) -> Vec<Value> {
    let args = [&["audit", "query", "--json", "--method", "tools/call"], filter].concat();
    read(setup, &args).0.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_record_says_who_acted_with_which_application_on_whose_behalf() {
    let mut setup = Setup::new();
    let issuer = Issuer::new("https://login.example");
    let section = issuer.section(&setup, ", name_claim = \"preferred_username\"");
    setup.set_toml("auth.issuers", &format!("[{section}]"));
    let gatepost = setup.start();
    let token = issuer.token(&json!({
        "role": "echo", "preferred_username": "Ann Example", "azp": "app-1", "acr": "2", "amr": ["pwd", "otp"],
        "act": { "sub": "agent-7", "act": { "sub": "agent-1" } },
    }));
    for era in [Era::Legacy, Era::Modern] {
        assert_eq!(call(&gatepost, era, &token).await.content(), "hi");
    }
    let plain = token_with(&json!({ "sub": "Ann Example", "role": "echo" }));
    assert_eq!(call(&gatepost, Era::Modern, &plain).await.content(), "hi");
    assert_eq!(gatepost.terminate(), Some(0));

    let records = calls(&setup, &[]);
    for (record, protocol) in records.iter().zip([LEGACY, MODERN]) {
        let columns = ["client_subject", "client_name", "client_id", "actor_subject", "decided_by"];
        let found = columns.map(|column| record[column].as_str().unwrap_or_default());
        assert_eq!(found, ["5f2c", "Ann Example", "app-1", "agent-7", "roles.echo.allow[0]"], "{protocol}");
        let context: Value = serde_json::from_str(record["context"].as_str().unwrap()).unwrap();
        let expected = json!({
            "authentication": "jwt", "actors": ["agent-7", "agent-1"], "acr": "2", "amr": ["pwd", "otp"],
            "client_info": { "name": "gatepost-tests", "version": "1" }, "protocol": protocol,
        });
        assert_eq!(context, expected);
    }
    assert_eq!((&records[2]["client_name"], &records[2]["actor_subject"]), (&Value::Null, &Value::Null));

    for (filter, count) in [
        (&["--who", "5f2c"][..], 2),
        (&["--who", "Ann Example"], 3),
        (&["--who", "Ann*"], 3),
        (&["--who", "ann*"], 0),
        (&["--client", "app-*"], 2),
        (&["--client", "gatepost-tests"], 3),
        (&["--actor", "agent-7"], 2),
        (&["--actor", "agent-1"], 0),
        (&["--tool", "example/echo"], 3),
        (&["--tool", "other/echo"], 0),
        (&["--status", "denied", "--status", "ok"], 3),
        (&["--session", records[0]["session_id"].as_str().unwrap()], 1),
        (&["--gateway", records[0]["gateway_id"].as_str().unwrap()], 3),
        (&["--gateway", "01a227d2-63dd-738b-a479-cbe9c4f41d9e"], 0),
    ] {
        assert_eq!(calls(&setup, filter).len(), count, "{filter:?}");
    }
    let (table, says) = read(&setup, &["audit", "query", "--method", "tools/call", "--who", "Ann Example"]);
    assert!(table.contains("Ann Example (5f2c) via agent-7"), "{table}");
    assert!(says.contains("--who matched the subject of 1, the name of 2"), "{says}");
    assert!(read(&setup, &["audit", "query", "--who", "nobody"]).1.contains("0 records"));
}

#[tokio::test]
async fn i10_an_issuer_gives_only_its_own_roles_and_a_caller_without_one_is_told_why() {
    let mut setup = Setup::new();
    let issuer = Issuer::new("https://id.partner.example");
    let section =
        issuer.section(&setup, ", role_prefix = \"partner-\", roles = [\"partner-dev\"], role_claim = \"/a~1b\"");
    setup.set_toml("auth.issuers", &format!("[{section}]")).role("partner-dev", &["example/echo"]);
    setup.set_toml("auth.role_map", "{ admins = [\"admin\"], developers = [\"dev\"] }");
    let gatepost = setup.start();
    let developer = issuer.token(&json!({ "a/b": ["admins", "developers"] }));
    assert_eq!(call(&gatepost, Era::Modern, &developer).await.content(), "hi");
    for (claims, says) in [
        (json!({ "a/b": ["admins"] }), "the token has no role in claim /a~1b that this gateway accepts"),
        (json!({ "a/b": ["partner-dev"] }), "the token has no role in claim /a~1b that this gateway accepts"),
        (json!({ "role": "partner-dev" }), "the token has no role in claim /a~1b"),
        (json!({ "_claim_names": { "a/b": "src1" } }), "there are too many for claim /a~1b"),
    ] {
        let url = format!("{}/mcp", gatepost.url());
        let client = Client::unconnected(&url, Era::Modern, Some(&issuer.token(&claims)));
        let reply = client.call("example__echo", json!({ "text": "hi" })).await.unwrap();
        assert!(reply.body["error"]["message"].as_str().is_some_and(|text| text.contains(says)), "{}", reply.text);
    }
    assert_eq!(gatepost.terminate(), Some(0));
    let records = calls(&setup, &[]);
    let decisions = records.iter().map(|record| (record["client_role"].as_str(), record["decided_by"].as_str()));
    let expected = [(Some("partner-dev"), Some("roles.partner-dev.allow[0]"))];
    assert_eq!(decisions.clone().take(1).collect::<Vec<_>>(), expected);
    assert!(decisions.skip(1).all(|decision| decision == (None, Some("default"))), "{records:#?}");
}
