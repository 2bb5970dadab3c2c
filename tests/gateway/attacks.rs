//! A table of attacks on the real binary: each is refused, each leaves exactly the record that it should, and none
//! reaches a backend. Attacks that need time or two connections have tests of their own.

mod bodies;
mod discovery;
mod edge;
mod fixture;
mod names;
mod sessions;
mod tokens;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;
use std::thread::JoinHandle;

use crate::common::python::python_program;
use crate::common::server::Server;
use crate::common::wait::{SOON, until};
use fixture::{Attack, AttackFixture, Expect};
use serde_json::{Value, json};
use wire::{Answers, send, send_and_end, send_and_leave};

fn conformance_server() -> Server {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/conformance_server.py");
    Server::start(Command::new(python_program("python")).arg(script))
}

/// What differs from what an attack should have got. Takes its records out of `records`.
fn complaint(attack: &Attack, answers: &Answers, records: &mut BTreeMap<String, Value>) -> Option<String> {
    let Attack { name, expect, .. } = attack;
    let mut is_whole = answers.is_closed && expect.len() == answers.responses.len();
    let mut shown = format!("{name}: want {expect:?}\n  got {answers:?}");
    for (expect, response) in expect.iter().zip(&answers.responses) {
        let id = response.header("x-request-id");
        let record = records.remove(id);
        write!(shown, "\n  recorded as {record:?}").unwrap();
        is_whole &= match expect {
            Expect::Refused { http, code, status } => {
                let record = record.unwrap_or_default();
                (response.status, response.code()) == (*http, Some(*code))
                    && (&record["response_status"], &record["client_addr"]) == (&json!(status), &json!(answers.addr))
            }
            Expect::Dropped => response.status == 202 && response.text.is_empty() && record.is_none(),
            Expect::Unseen(http) => response.status == *http && id.is_empty(),
        };
    }
    (!is_whole).then_some(shown)
}

/// The records by their request's id, without the gateway's own.
fn by_id(records: Vec<Value>) -> BTreeMap<String, Value> {
    let count = records.len();
    let named = records.into_iter().map(|record| (record["request_id"].as_str().unwrap().to_owned(), record));
    let named: BTreeMap<_, _> = named.collect();
    assert_eq!(named.len(), count, "I2: a request has two records");
    named.into_iter().filter(|(_, record)| !record["method"].as_str().unwrap().starts_with("gateway/")).collect()
}

/// The parts of every token that is sent.
fn token_parts(attacks: &[Attack]) -> BTreeSet<String> {
    let text: Vec<_> = attacks.iter().map(|attack| String::from_utf8_lossy(&attack.bytes).into_owned()).collect();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    // A part of a token is Base64 of JSON, or a signature behind such.
    let words = text.iter().flat_map(|text| text.split(|c| !is_part(c) && c != '.'));
    let tokens = words.filter(|word| word.starts_with("eyJ"));
    let parts = tokens.flat_map(|token| token.split('.')).filter(|part| part.len() >= 40 && part.len() < 8192);
    parts.map(str::to_owned).collect()
}

#[test]
fn every_attack_is_refused_recorded_and_not_forwarded() {
    let fixture = AttackFixture::start(conformance_server());
    let good = fixture.post("/mcp/raw", fixture::call("echo").replace("attack", "good"));
    fixture.served(&good);
    let attacks: Vec<Attack> = [
        tokens::attacks(&fixture),
        sessions::attacks(&fixture),
        bodies::attacks(&fixture),
        names::attacks(&fixture),
        edge::attacks(&fixture),
        discovery::attacks(&fixture),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(attacks.len() > 600, "{}", attacks.len());
    let before = by_id(fixture.records());
    let all: Vec<Answers> = attacks
        .iter()
        .map(|attack| (if attack.ends { send_and_end } else { send })(&fixture.host, &attack.bytes))
        .collect();
    let mut records = by_id(fixture.records());
    records.retain(|id, _| !before.contains_key(id));
    let told = serde_json::to_string(&records).unwrap();
    let complaints: Vec<String> =
        attacks.iter().zip(&all).filter_map(|(attack, answers)| complaint(attack, answers, &mut records)).collect();
    let mut names = BTreeSet::new();
    let twice: Vec<_> = attacks.iter().map(|attack| &attack.name).filter(|name| !names.insert(*name)).collect();
    assert!(twice.is_empty(), "names of two attacks: {twice:?}");
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), attacks.len(), complaints.join("\n"));
    assert!(records.is_empty(), "recorded, and refused by nobody: {records:#?}");
    // I8: no token is in the log or in a record.
    let parts = token_parts(&attacks);
    assert!(parts.len() > 100, "{}", parts.len());
    let log = fixture.gatepost.log();
    for part in &parts {
        assert!(!log.contains(part) && !told.contains(part), "{part} is in the log or in a record");
    }
    // No attack writes a line of its own into the log, nor to a terminal.
    let is_line = |line: &str| line.starts_with("20") && !line.contains(|c: char| c.is_control());
    assert!(log.lines().all(is_line), "{:?}", log.lines().find(|line| !is_line(line)));
    // The gateway goes on, and nothing but the good calls has reached the backend.
    fixture.served(&good);
    let received = fixture.received();
    assert_eq!(received.lines().count(), 2, "{received}");
    assert!(!received.contains("attack") && !received.contains("exact"), "{received}");
}

/// Calls a tool of the conformance server in a session, in a thread of its own.
fn slow(fixture: &AttackFixture, session: &str, id: &str, token: &str, seconds: u32) -> JoinHandle<Answers> {
    let call = json!({"name": "slow", "arguments": {"seconds": seconds}});
    let request = fixture.post("/mcp/fixture", fixture::rpc("tools/call", &call.to_string()).replace("attack", id));
    let (bytes, host) = (request.by(token).with("mcp-session-id", session).bytes(), fixture.host.clone());
    std::thread::spawn(move || send(&host, &bytes))
}

fn cancel(fixture: &AttackFixture, session: &str, id: &str, token: &str) -> u16 {
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    let request = fixture.post("/mcp/fixture", cancel.to_string()).by(token).with("mcp-session-id", session);
    send(&fixture.host, &request.bytes()).responses[0].status
}

#[test]
fn only_its_own_session_reaches_an_open_call() {
    let fixture = AttackFixture::start(conformance_server());
    let [ann, other, eve] =
        [&fixture.ann, &fixture.ann, &fixture.eve].map(|token| fixture.session("/mcp/fixture", token));
    let open = |count| until("the calls are open", SOON, || fixture.open_calls() == count);
    // Nobody else cancels it: not by another's session, not by the same id in one's own.
    let call = slow(&fixture, &ann, "open", &fixture.ann, 6);
    open(1);
    assert_eq!(cancel(&fixture, &ann, "open", &fixture.eve), 404);
    assert_eq!(cancel(&fixture, &eve, "open", &fixture.eve), 202);
    assert_eq!(cancel(&fixture, &other, "open", &fixture.ann), 202);
    let answers = call.join().unwrap();
    assert_eq!(answers.responses[0].json()["result"]["content"][0]["text"], "slept", "{answers:?}");
    // Nobody takes its id, and there is no room for more than are allowed.
    let calls = [slow(&fixture, &ann, "open", &fixture.ann, 60), slow(&fixture, &eve, "open", &fixture.eve, 60)];
    open(2);
    let again = fixture::call("test_simple_text").replace("\"id\":\"attack\"", "\"id\":\"open\"");
    let again = fixture.post("/mcp/fixture", again).with("mcp-session-id", &ann);
    let limited = Expect::Refused { http: 429, code: -32011, status: "rate_limited" };
    let attacks = [
        fixture::row("the id of an open call", &again, fixture::malformed(400, -32600)),
        fixture::row("one call too many", &fixture.post("/mcp/raw", fixture::call("echo")), limited.clone()),
        fixture::row(
            "one call too many, by another",
            &fixture.post("/mcp/raw", fixture::call("echo")).by(&fixture.bob),
            limited,
        ),
    ];
    let all = attacks.each_ref().map(|attack| send(&fixture.host, &attack.bytes));
    let mut records = by_id(fixture.records());
    for (attack, answers) in attacks.iter().zip(&all) {
        assert_eq!(complaint(attack, answers, &mut records), None);
    }
    // Its own session does, and so what is above was no accident.
    assert_eq!(
        (cancel(&fixture, &ann, "open", &fixture.ann), cancel(&fixture, &eve, "open", &fixture.eve)),
        (202, 202)
    );
    for call in calls {
        let answers = call.join().unwrap();
        assert!(!format!("{answers:?}").contains("slept"), "{answers:?}");
    }
    assert_eq!(fixture.received(), "");
}

#[test]
fn served_requests_are_recorded_with_their_method() {
    let fixture = AttackFixture::start(conformance_server());
    // A line of JSON is one call, whatever stands on it.
    let lines = "{\"name\":\"echo\",\"arguments\":{\"text\":\"one\",\"x\":\n\
                 {\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"tools/call\",\"params\":{\"name\":\"exact\"}}\r\n}}";
    let session = fixture.session("/mcp/raw", &fixture.ann);
    let in_session = fixture.session("/mcp/raw", &fixture.bob);
    let call = fixture.post("/mcp/raw", fixture::rpc("tools/call", lines)).by(&fixture.bob);
    fixture.served(&call);
    fixture.served(&call.with("mcp-session-id", &in_session));
    assert_eq!(fixture.received().lines().count(), 2, "{}", fixture.received());
    assert!(fixture.received().lines().all(|line| line.starts_with(r#"{"name": "echo""#)), "{}", fixture.received());
    // A stateless call has no session, whatever it says.
    let modern = fixture.modern("/mcp/raw", "tools/call", r#""name":"echo","arguments":{}"#, Some("echo"));
    let response = fixture.served(&modern.with("mcp-session-id", &session));
    let id = response.header("x-request-id");
    let records = by_id(fixture.records());
    assert_eq!((&records[id]["session_id"], &records[id]["response_status"]), (&Value::Null, &json!("ok")));
    // A client that goes away in the middle of a body has asked for something: that is recorded.
    let whole = fixture.post("/mcp/raw", fixture::call("echo")).bytes();
    let addr = send_and_leave(&fixture.host, &whole[..whole.len() - 10]);
    until("a client that left is recorded", SOON, || {
        let records = fixture.records();
        let left = |record: &&Value| record["client_addr"] == json!(addr);
        records.iter().rfind(left).is_some_and(|record| record["response_status"] == "malformed")
    });
}

#[test]
fn unfinished_requests_time_out() {
    let fixture = AttackFixture::start(conformance_server());
    let whole = fixture.post("/mcp/raw", fixture::call("echo")).bytes();
    // Half a head, and nothing at all: no request was made, hence no record; the connection is closed all the same.
    let halves = [&whole[..40], &[]].map(|half| {
        let (host, half) = (fixture.host.clone(), half.to_vec());
        std::thread::spawn(move || send(&host, &half))
    });
    let attack = fixture::bytes("a slow body", whole[..whole.len() - 10].to_vec(), [fixture::malformed(408, -32600)]);
    let answers = send(&fixture.host, &attack.bytes);
    assert_eq!(complaint(&attack, &answers, &mut by_id(fixture.records())), None);
    for half in halves {
        let answers = half.join().unwrap();
        assert!(answers.is_closed && answers.responses.iter().all(|response| response.status == 408), "{answers:?}");
    }
    assert_eq!(fixture.received(), "");
}
