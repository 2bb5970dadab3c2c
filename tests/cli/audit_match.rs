//! `gatepost audit match`: what keyed digests reveal to those who have the key, and to nobody else.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hmac::digest::KeyInit as _;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::common::asking_backend::{asking_backend, messages};
use crate::common::gatepost::{Setup, write_secret};
use crate::common::mcp::Era;

/// A question that a person answers with yes or no; the operator has the answer redacted.
const ASK: &str = r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"message":"Pay?","requestedSchema":{"type":"object","properties":{"confirm":{"type":"boolean"}}}}}"#;

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

/// The same and SHA-256 by a faster library, for guesses by the million.
fn fast_hmac(key: &[u8], text: &[u8]) -> impl AsRef<[u8]> {
    aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key), text)
}

fn fast_sha256(parts: [&[u8]; 2]) -> [u8; 32] {
    gatepost::audit::record::Digest::of(&parts.concat()).0
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
    let without_receipt = gatepost::upstream::without_receipt(&called.result).unwrap();
    assert_eq!(json!(hmac(&key, without_receipt.as_bytes())), record["response_digest"]);

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

/// The values with which a reader of the trail can try to guess a redacted one: all that the columns and the records of
/// the gateway show, as texts, digests and salts.
struct Guesser {
    /// Everything that looks like a digest, wherever it is.
    digests: std::collections::HashSet<[u8; 32]>,
    /// Everything that may be a key or a salt: the values of all columns, as text and as bytes.
    keys: Vec<Vec<u8>>,
    /// Keys that are derived from each of these by the ids, the salts and the chain of the record.
    derived: Vec<Vec<u8>>,
}

impl Guesser {
    fn new(records: &[Value], record: &Value) -> Self {
        let (mut texts, mut own) = (Vec::new(), Vec::new());
        for record in records {
            Self::collect(record, &mut texts);
        }
        // The keys of one record are its own, and those of the gateway.
        let opened = records.iter().filter(|record| record["method"] == "gateway/opened");
        opened.chain([record]).for_each(|record| Self::collect(record, &mut own));
        let bytes = |text: &String| hex::decode(text.replace('-', "")).ok();
        let digests = texts.iter().filter_map(bytes).filter_map(|bytes| <[u8; 32]>::try_from(bytes).ok()).collect();
        let keys: BTreeSet<Vec<u8>> =
            own.iter().flat_map(|text| [Some(text.clone().into_bytes()), bytes(text)]).flatten().collect();
        let salts = ["request_id", "gateway_id", "prev_hash", "salt_who", "salt_circumstances", "salt_content"];
        let salts = salts.iter().filter_map(|name| record[name].as_str().map(str::to_owned));
        let salts: Vec<Vec<u8>> = salts.flat_map(|text| [bytes(&text), Some(text.into_bytes())]).flatten().collect();
        let derive =
            |key: &Vec<u8>| salts.iter().map(|salt| fast_hmac(key, salt).as_ref().to_vec()).collect::<Vec<_>>();
        let derived = keys.iter().flat_map(derive).collect();
        Self { digests, keys: keys.into_iter().collect(), derived }
    }

    /// All texts in `value`, and in the JSON texts that it contains.
    fn collect(value: &Value, texts: &mut Vec<String>) {
        match value {
            Value::String(text) => {
                if let Ok(inner @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text) {
                    Self::collect(&inner, texts);
                }
                texts.push(text.clone());
            }
            Value::Array(items) => items.iter().for_each(|item| Self::collect(item, texts)),
            Value::Object(members) => members.values().for_each(|member| Self::collect(member, texts)),
            other => texts.push(other.to_string()),
        }
    }

    fn is_digest(&self, digest: impl AsRef<[u8]>) -> bool {
        <[u8; 32]>::try_from(digest.as_ref()).is_ok_and(|digest| self.digests.contains(&digest))
    }

    /// Tries `text` with every construction and every value that is seen as a key or salt.
    fn finds(&self, text: &str) -> bool {
        let text = text.as_bytes();
        let plain = fast_sha256([text, b""]);
        self.is_digest(plain)
            || self.is_digest(fast_sha256([&plain, b""]))
            || self.derived.iter().any(|key| self.is_digest(fast_hmac(key, text)))
            || self.keys.iter().any(|key| {
                self.is_digest(fast_sha256([key, text]))
                    || self.is_digest(fast_sha256([text, key]))
                    || self.is_digest(fast_hmac(key, text))
            })
    }
}

/// The texts with which a reader tries the pin: alone, and in the arguments of the call, with both answers.
fn texts(pin: u32) -> Vec<String> {
    let mut texts = vec![format!("{pin:06}"), format!("\"{pin:06}\""), format!("wrong pin {pin:06}")];
    for answer in ["true", "\"[redacted]\""] {
        texts.push(format!(r#"{{"text":"pay","pin":"{pin:06}","confirm":{answer}}}"#));
    }
    texts
}

/// The texts with which a reader tries the answer alone.
fn answers() -> Vec<String> {
    let in_arguments = |answer: &str| format!(r#"{{"text":"pay","pin":"[redacted]","confirm":{answer}}}"#);
    let content = |answer: &str| format!(r#"{{"confirm":{answer}}}"#);
    ["true", "false", "\"yes\"", "\"no\""]
        .iter()
        .flat_map(|answer| [(*answer).to_owned(), in_arguments(answer), content(answer), accepted(answer)])
        .chain(["decline", "cancel"].map(|action| format!(r#"{{"action":"{action}"}}"#)))
        .collect()
}

/// The result with which a client answers [`ASK`].
fn accepted(answer: &str) -> String {
    format!(r#"{{"action":"accept","content":{{"confirm":{answer}}}}}"#)
}

#[tokio::test]
async fn i8_a_redacted_pin_and_a_yes_or_no_cannot_be_guessed_from_the_trail() {
    let mut setup = Setup::new();
    setup.set_toml("audit.redact", r#"["/pin", "/**/confirm"]"#);
    setup.set_toml("audit.record_responses", r#"["*/*"]"#).set_toml("audit.shorten", r#"["example/echo:/text"]"#);
    asking_backend(&mut setup, "pay", [&[ASK], &[]]);
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "admin").await;
    // The pin is repeated by an answer and by an error, and an argument beside it is shortened.
    let long = "x".repeat(5000);
    let secrets = r#""pin":"730914","confirm":true"#;
    for params in [
        format!(r#"{{"name":"echo","arguments":{{"text":"pay",{secrets}}}}}"#),
        format!(r#"{{"name":"echo","arguments":{{"text":"{long}",{secrets}}}}}"#),
        format!(r#"{{"name":"fail","arguments":{{"message":"wrong pin {}",{secrets}}}}}"#, 730_914),
        format!(r#"{{"name":"add","arguments":{{"a":"730914","b":1,{secrets}}}}}"#),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{params}}}"#);
        client.post(body, &[]).await.unwrap();
    }
    // A person says yes.
    let client = gatepost.client(Era::Legacy, "admin").await;
    let asked = messages(&client.call("pay__ask", json!({})).await.unwrap().text);
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{}}}"#, asked[0]["id"], accepted("true"));
    assert_eq!(client.post(answer, &[]).await.unwrap().status, 202);
    assert_eq!(gatepost.terminate(), Some(0));
    let output = setup.command(&["audit", "query", "--json", "--limit", "1000"]).output().unwrap();
    let records: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(records.iter().any(|record| record["method"] == "gateway/opened"), "records of the gateway are seen too");
    let is_call = |record: &&Value| record["method"] == "tools/call" || record["method"] == "elicitation/create";
    assert_eq!(records.iter().filter(is_call).count(), 6);
    assert!(records.iter().filter(is_call).all(|record| record["response"].is_string()));
    for column in ["error_message", "response"] {
        assert!(
            records.iter().all(|record| !record[column].as_str().unwrap_or_default().contains("730914")),
            "{column}"
        );
    }

    // Every pin, by the digest that everyone tries first: 0.6 s were enough for it in an earlier version.
    let all = Guesser::new(&records, &records[0]);
    let is_plain = |guesser: &Guesser, pin: u32| {
        let arguments = format!(r#"{{"text":"pay","pin":"{pin:06}","confirm":true}}"#);
        [format!("{pin:06}"), arguments].iter().any(|text| guesser.is_digest(fast_sha256([text.as_bytes(), b""])))
    };
    assert_eq!((0..1_000_000).find(|pin| is_plain(&all, *pin)), None);
    // The right one and the right answer, by every other construction: what a wrong guess gives matches nothing.
    let tried: Vec<String> = texts(730_914).into_iter().chain(answers()).collect();
    for record in records.iter().filter(is_call) {
        let guesser = Guesser::new(&records, record);
        assert!(guesser.digests.len() > 10 && guesser.keys.len() > 50);
        let found: Vec<_> = tried.iter().filter(|text| guesser.finds(text)).collect();
        assert!(found.is_empty(), "{found:?} by {record}");
    }

    // The yes is found where the digest of the answer is plain, or salted by what the record has.
    let mut faulty = records.iter().find(|record| record["method"] == "elicitation/create").unwrap().clone();
    assert!(faulty["response"].as_str().unwrap().contains("[redacted]"), "{faulty}");
    for key in ["salt_content", "request_id"] {
        let key = hex::decode(faulty[key].as_str().unwrap().replace('-', "")).unwrap();
        faulty["response_digest"] = json!(hmac(&key, accepted("true").as_bytes()));
        let guesser = Guesser::new(&[records.clone(), vec![faulty.clone()]].concat(), &faulty);
        assert_eq!(tried.iter().filter(|text| guesser.finds(text)).collect::<Vec<_>>(), [&accepted("true")]);
    }

    // The same guesses find it if a digest is plain, or salted by anything that the trail has.
    let record = records.iter().filter(is_call).find(|record| record["tool_name"] == "echo").unwrap();
    let arguments = &texts(730_914)[3];
    let salt = hex::decode(record["salt_content"].as_str().unwrap()).unwrap();
    let id = hex::decode(record["request_id"].as_str().unwrap().replace('-', "")).unwrap();
    let plain = Sha256::digest(arguments).to_vec();
    for digest in [
        plain.clone(),
        Sha256::new().chain_update(&salt).chain_update(arguments).finalize().to_vec(),
        hex::decode(hmac(&salt, arguments.as_bytes())).unwrap(),
        hex::decode(hmac(&hex::decode(hmac(&salt, &id)).unwrap(), arguments.as_bytes())).unwrap(),
        Sha256::new().chain_update(arguments).chain_update(&id).finalize().to_vec(),
    ] {
        let mut faulty = record.clone();
        faulty["args_digest"] = json!(hex::encode(&digest));
        let guesser = Guesser::new(&[records.clone(), vec![faulty.clone()]].concat(), &faulty);
        let found: Vec<_> = tried.iter().filter(|text| guesser.finds(text)).collect();
        assert_eq!(found, [arguments]);
        assert_eq!((730_000..732_000).find(|pin| is_plain(&guesser, *pin)), (digest == plain).then_some(730_914));
    }
}
