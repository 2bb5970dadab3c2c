//! Real decoders read the bodies that clients send: whatever one of them reads as the name, the arguments or another
//! member is what the record says and what the backend received, or the body was refused.
//!
//! Python's and Node's are in the test environment. Go's needs 550 MB on disk, so `./scripts/test --all` installs it,
//! and this test uses it if it is there.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::gatepost::{Setup, token};
use crate::common::mcp::{Client, Era};
use crate::common::python::python_program;
use crate::common::raw_backend::raw_backend;
use crate::common::rng::Rng;

/// Bodies that are generated. *Chosen*: each kind of key and value occurs several times.
const BODIES: usize = 200;

/// A member of `params`: one of the protocol, one that resembles it, or another; with an escape now and then.
fn key(rng: &mut Rng) -> String {
    let keys = [
        "arguments",
        "Arguments",
        "ARGUMENTS",
        "argument\u{17f}",
        "argument\\u017f",
        "argu_ments",
        "arg\\u0075ments",
        "name",
        "Name",
        "na_me",
        "n\\u0061me",
        "\u{ff4e}ame",
        "inputResponses",
        "input_responses",
        "inputresponse\u{17f}",
        "requestState",
        "request_state",
        "REQUESTSTATE",
        "uri",
        "URI",
        "ur\u{131}",
        "task",
        "_meta",
        "_Meta",
        "meta",
        "x",
        "\\ud800",
    ];
    // Half of them are what a call has, so that many bodies are valid.
    if rng.below(2) == 0 { "arguments".to_owned() } else { keys[rng.index(keys.len())].to_owned() }
}

fn value(rng: &mut Rng, depth: u64) -> String {
    let inner = ["path", "Path", "p\\u0061th", "pa_th", "name", "arguments", "\u{212a}ey", "key"];
    match rng.below(if depth == 0 { 4 } else { 8 }) {
        0 => "null".to_owned(),
        1 => rng.below(1000).to_string(),
        2 => format!("\"text {}\"", rng.below(10)),
        3 => r#""esc\u00e9 \"quoted\"""#.to_owned(),
        4 => format!("[ {}, {}]", value(rng, depth - 1), value(rng, depth - 1)),
        _ => {
            let count = rng.below(3);
            let members: Vec<_> = (0..count)
                .map(|_| format!("\"{}\" : {}", inner[rng.index(inner.len())], value(rng, depth - 1)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

fn body(rng: &mut Rng, id: usize) -> String {
    let mut members = vec![r#""name":"echo""#.to_owned()];
    for _ in 0..rng.below(3) {
        members.insert(rng.index(members.len() + 1), format!("\"{}\": {}", key(rng), value(rng, 3)));
    }
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{ {} }}}}"#, members.join(" ,"))
}

/// What the decoder reads of each text.
fn read(command: &mut Command, texts: &[String]) -> Vec<Value> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(json!(texts).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    let read: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read.len(), texts.len());
    read
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/decoders").join(name)
}

/// The Go program, if there is a Go compiler.
fn go(dir: &Path) -> Option<PathBuf> {
    let program = dir.join("read-go");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(script("read.go"));
    build.env("GOCACHE", dir.join("go-cache")).env("GOFLAGS", "-mod=mod").env("GO111MODULE", "off");
    let status = build.status().ok()?;
    assert!(status.success(), "the Go program does not compile");
    Some(program)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_decoder_reads_is_what_the_record_says() {
    let mut setup = Setup::new();
    let log = raw_backend(&mut setup, "raw");
    let gatepost = setup.start();
    let client = Client::connect(&format!("{}/mcp/raw", gatepost.url()), Era::Legacy, Some(&token("admin"))).await;
    let mut rng = Rng::new(15);
    let bodies: Vec<_> = (0..BODIES).map(|id| body(&mut rng, id)).collect();
    let mut accepted = Vec::new();
    for body in &bodies {
        let reply = client.post(body.clone(), &[]).await.unwrap();
        let is_accepted = reply.body.get("result").is_some();
        assert!(is_accepted || reply.error_code() < 0, "{body}");
        accepted.push(is_accepted.then(|| reply.header("x-request-id").to_owned()));
    }
    assert_eq!(gatepost.terminate(), Some(0));
    let output = setup.command(&["outbox", "list", "--json", "--limit", "1000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = accepted.iter().flatten().count();
    assert!((BODIES / 5..BODIES * 4 / 5).contains(&count), "{count} of {BODIES} bodies were accepted");
    let mut got = std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect::<Vec<_>>().into_iter();
    let sent: Vec<_> = accepted
        .iter()
        .map(|id| id.as_ref().map_or_else(String::new, |_| format!(r#"{{"params":{}}}"#, got.next().unwrap())))
        .collect();
    assert_eq!(got.next(), None, "a refused body reached the backend");

    let mut decoders =
        vec![("Python", Command::new(python_program("python"))), ("Node", Command::new(python_program("node")))];
    decoders[0].1.arg(script("read.py"));
    decoders[1].1.arg(script("read.mjs"));
    match go(&setup.work_dir()) {
        Some(program) => decoders.push(("Go", Command::new(program))),
        None => println!("no Go compiler: its decoder is left out (./scripts/test --all installs one)"),
    }
    for (decoder, command) in &mut decoders {
        let mut again = Command::new(command.get_program());
        again.args(command.get_args());
        let (before, after) = (read(command, &bodies), read(&mut again, &sent));
        for (idx, id) in accepted.iter().enumerate() {
            let Some(id) = id else { continue };
            let record = records.iter().find(|record| record["request_id"] == *id).unwrap();
            let arguments =
                record["request_args"].as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
            let said = json!({"name": record["tool_name"], "uri": null, "arguments": arguments, "inputResponses": null,
                "requestState": null});
            for (read, of) in [(&before[idx], &bodies[idx]), (&after[idx], &sent[idx])] {
                let mut read = read.as_object().unwrap_or_else(|| panic!("{decoder} reads no object: {of}")).clone();
                read.remove("_meta");
                assert_eq!(Value::from(read), said, "{decoder} reads {of}");
            }
        }
    }
}
