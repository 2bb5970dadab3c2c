//! `gatepost audit match`: what keyed digests reveal to those who have the key, and to nobody else.

use std::path::PathBuf;

use hmac::digest::KeyInit as _;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::common::gatepost::{Setup, write_secret};
use crate::common::mcp::Era;

/// The arguments of the call: the operator has /pin redacted.
const ARGUMENTS: &str = r#"{"text":"pay 1 EUR","pin":"730914"}"#;

struct Called {
    setup: Setup,
    id: String,
    /// The `result` as the client received it.
    result: String,
}

impl Called {
    async fn new() -> Self {
        let mut setup = Setup::new();
        setup.set_toml("audit.redact", "[\"/pin\"]");
        let gatepost = setup.start();
        let client = gatepost.client_at("/mcp/example", Era::Legacy, "admin").await;
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{{"name":"echo","arguments":{ARGUMENTS}}}}}"#
        );
        let reply = client.post(call, &[]).await.unwrap();
        let (id, result) = (reply.header("x-request-id").to_owned(), reply.text.split_once(r#""result":"#).unwrap().1);
        let result = result.strip_suffix('}').unwrap().to_owned();
        assert_eq!(gatepost.terminate(), Some(0));
        Self { setup, id, result }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.setup.dir().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Exit code, standard output and standard error of `audit match`.
    fn matches(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = self.setup.command(&[&["audit", "match", &self.id], args].concat()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn compare(&self, option: &str, text: &str) -> (Option<i32>, String) {
        let file = self.file("text", text);
        let (code, stdout, _) = self.matches(&[option, file.to_str().unwrap()]);
        (code, stdout)
    }

    fn record(&self) -> Value {
        let output = self.setup.command(&["audit", "query", "--json", "--request-id", &self.id]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn hmac(key: &[u8], text: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    hex::encode(mac.finalize().into_bytes())
}

#[tokio::test]
async fn texts_are_compared_with_the_digests_of_a_record() {
    let called = Called::new().await;
    let matched = |what: &str| (Some(0), format!("{what}: match\n"));
    let differs = |what: &str| (Some(1), format!("{what}: differ\n"));
    assert_eq!(called.compare("--arguments", ARGUMENTS), matched("arguments"));
    assert_eq!(called.compare("--arguments", &format!("{ARGUMENTS}\n")), matched("arguments"));
    assert_eq!(called.compare("--arguments", &ARGUMENTS.replace("730914", "730915")), differs("arguments"));
    assert_eq!(called.compare("--response", &called.result), matched("response"));
    assert_eq!(called.compare("--response", ARGUMENTS), differs("response"));

    // With the key of the record, the documented formula gives its digests.
    let (code, stdout, _) = called.matches(&["--reveal-key"]);
    let key = hex::decode(stdout.strip_prefix("key: ").unwrap().trim()).unwrap();
    let record = called.record();
    assert_eq!((code, json!(hmac(&key, ARGUMENTS.as_bytes()))), (Some(0), record["args_digest"].clone()));
    assert_eq!(json!(hmac(&key, called.result.as_bytes())), record["response_digest"]);

    // Another gateway's key is refused, and a missing one is not made up.
    let key_file = called.setup.audit_dir().join("digest.key");
    write_secret(&key_file, "0".repeat(64));
    let file = called.file("text", ARGUMENTS);
    let (code, stdout, stderr) = called.matches(&["--arguments", file.to_str().unwrap()]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("was made with another digest key"), "{stderr}");
    std::fs::remove_file(&key_file).unwrap();
    let (code, _, stderr) = called.matches(&["--arguments", file.to_str().unwrap()]);
    assert!(code == Some(1) && stderr.contains("digest.key") && !key_file.exists(), "{stderr}");
}

#[tokio::test]
async fn i8_a_redacted_secret_of_six_digits_cannot_be_guessed_from_the_record() {
    let called = Called::new().await;
    let record = called.record();
    let recorded = record["request_args"].as_str().unwrap();
    assert!(recorded.contains(r#""pin":"[redacted]""#), "{recorded}");
    let columns: Vec<_> = record.as_object().unwrap().values().filter_map(Value::as_str).collect();
    let digests: Vec<_> = columns.iter().filter(|text| text.len() == 64).copied().collect();
    // Each value that a reader of the trail sees may be tried as a key or salt.
    let mut keys: Vec<Vec<u8>> = vec![Vec::new()];
    for text in &columns {
        keys.push(text.as_bytes().to_vec());
        keys.extend(hex::decode(text.replace('-', "")));
    }
    // Around the secret, which is among them; trying all would find no more.
    for pin in 730_900..730_930 {
        let whole = recorded.replace("[redacted]", &pin.to_string());
        for text in [whole, pin.to_string(), format!("\"{pin}\"")] {
            for key in &keys {
                let salted = hex::encode(Sha256::new().chain_update(key).chain_update(&text).finalize());
                let found = [salted, hmac(key, text.as_bytes())];
                assert!(!found.iter().any(|digest| digests.contains(&digest.as_str())), "{text} by {key:?}");
            }
        }
    }
}
