//! What a client keeps of a reply: its receipt leads to the record, whose hash anyone can compute again, and the record
//! to the reply.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use hmac::digest::KeyInit as _;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::common::gatepost::{Gatepost, Setup};
use crate::common::mcp::{Client, Era};
use crate::common::python::python_program;

/// The records of a gateway that has ended, by `gatepost audit query`, oldest first.
fn records(setup: &Setup) -> Vec<Value> {
    let output = setup.command(&["audit", "query", "--json", "--limit", "1000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    records.sort_by_key(|record| (record["epoch"].as_u64(), record["seq"].as_u64()));
    records
}

/// The hashes that a script computes which knows docs/trail.md and nothing else.
fn recomputed(records: &[Value]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python_program("python"));
    command.arg(root.join("tests/e2e/recompute.py")).arg(root.join("docs/trail.md"));
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    running.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The record that a reply's receipt names.
fn of_receipt<'r>(records: &'r [Value], receipt: &Value) -> &'r Value {
    let is_it = |record: &&Value| {
        [("gateway", "gateway_id"), ("epoch", "epoch"), ("seq", "seq"), ("hash", "hash")]
            .iter()
            .all(|(member, column)| receipt[*member] == record[*column])
    };
    records.iter().find(is_it).unwrap_or_else(|| panic!("no record has the receipt {receipt}"))
}

async fn replies(gatepost: &Gatepost) -> [(String, Value); 4] {
    let client = |era| gatepost.client_at("/mcp/example", era, "echo");
    let (legacy, modern) = (client(Era::Legacy).await, client(Era::Modern).await);
    let call = async |client: &Client, tool: &str| {
        let reply = client.call(tool, json!({"text": "a \u{e9}"})).await.unwrap();
        (reply.text.clone(), reply.body)
    };
    [call(&legacy, "echo").await, call(&modern, "echo").await, call(&modern, "fail").await, call(&legacy, "fail").await]
}

/// The `result` or `error` of a reply without its receipt, byte for byte.
fn without_receipt(reply: &str, receipt: &Value) -> String {
    let (key, error) = (r#""result":"#, r#""error":"#);
    let begin = reply.find(key).map(|at| at + key.len()).or_else(|| reply.find(error).map(|at| at + error.len()));
    let value = reply[begin.unwrap()..].trim_end().strip_suffix('}').unwrap();
    let receipt = format!(
        r#""io.gatepost/receipt":{{"gateway":{},"epoch":{},"seq":{},"hash":{}}}"#,
        receipt["gateway"], receipt["epoch"], receipt["seq"], receipt["hash"]
    );
    let without = value.replace(&format!(r#","data":{{"_meta":{{{receipt}}}}}"#), "");
    let without = without.replace(&format!(",{receipt}"), "");
    assert_ne!(without, value, "{value} has no {receipt}");
    without
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_receipt_checks_out_against_the_chain_and_the_reply_against_its_record() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let replies = replies(&gatepost).await;
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    let hashes = recomputed(&records);
    let expected: Vec<_> = records.iter().map(|record| record["hash"].as_str().unwrap()).collect();
    assert_eq!(hashes, expected);
    for (text, body) in replies {
        let receipt = body.pointer("/result/_meta/io.gatepost~1receipt");
        let receipt = receipt.or_else(|| body.pointer("/error/data/_meta/io.gatepost~1receipt"));
        let receipt = receipt.unwrap_or_else(|| panic!("no receipt: {text}"));
        let record = of_receipt(&records, receipt);
        let id = record["request_id"].as_str().unwrap();
        let revealed = setup.command(&["audit", "match", id, "--reveal-key"]).output().unwrap();
        let revealed = String::from_utf8(revealed.stdout).unwrap();
        let key = revealed.split_whitespace().find(|word| word.len() == 64).unwrap_or_else(|| panic!("{revealed}"));
        let mut mac = Hmac::<Sha256>::new_from_slice(&hex::decode(key).unwrap()).unwrap();
        mac.update(without_receipt(&text, receipt).as_bytes());
        assert_eq!(hex::encode(mac.finalize().into_bytes()), record["response_digest"], "{text}");
    }
    // A verifier that is given commitments needs neither the values nor the salts.
    for name in ["who", "circumstances", "content"] {
        let withheld: Vec<Value> = records.iter().map(|record| withheld(record, name)).collect();
        assert!(withheld.iter().zip(&records).all(|(withheld, record)| withheld != record));
        assert_eq!(recomputed(&withheld), expected, "{name}");
    }
    let mut changed = records.clone();
    changed[0]["client_subject"] = "somebody".into();
    assert_ne!(recomputed(&changed)[0], hashes[0]);
}

/// `record` with the commitment in place of a group.
fn withheld(record: &Value, group: &str) -> Value {
    let (_, table) = include_str!("../../docs/trail.md").split_once("| column | type | group |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut record = record.clone();
    let letter = match group {
        "who" => "w",
        "circumstances" => "x",
        _ => "c",
    };
    let mut hash = Sha256::new_with_prefix(format!("gatepost.v2.{group}"));
    let salt = format!("salt_{group}");
    hash.update(hex::decode(record[&salt].as_str().unwrap()).unwrap());
    for row in rows {
        let cells: Vec<_> = row.split('|').skip(1).map(|cell| cell.trim().trim_matches('`')).collect();
        if cells[2] != letter {
            continue;
        }
        match record[cells[0]].as_str() {
            None => hash.update(u32::MAX.to_le_bytes()),
            Some(text) => {
                hash.update(u32::try_from(text.len()).unwrap().to_le_bytes());
                hash.update(text);
            }
        }
        record[cells[0]] = Value::Null;
    }
    record[&salt] = Value::Null;
    record["commitments"] = json!({ group: hex::encode(hash.finalize()) });
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stored_record_there_is_no_receipt() {
    let mut setup = Setup::new();
    // A database that is never reached.
    setup.set("audit.level", "queued").set("postgres.url", "postgres://gatepost@127.0.0.1:1/gatepost?sslmode=disable");
    let gatepost = setup.start();
    for (text, _) in replies(&gatepost).await {
        assert!(!text.contains("io.gatepost/receipt"), "{text}");
    }
}
