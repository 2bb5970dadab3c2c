//! A table of attacks on the real binary: each is refused, each leaves the one record that it should, and none reaches a
//! backend. What stands in no table, since it needs time or two connections, has a test of its own.

mod bodies;
mod edge;
mod names;
mod sessions;
mod tokens;
mod wire;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;
use std::thread::JoinHandle;

use crate::common::python::python_program;
use crate::common::server::Server;
use crate::common::wait::{SOON, until};
use serde_json::{Value, json};
use wire::{Answers, send, send_and_end, send_and_leave};
use world::{Attack, Expect, World};

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
    let world = World::start(conformance_server());
    let good = world.post("/mcp/raw", world::call("echo").replace("attack", "good"));
    world.served(&good);
    let attacks: Vec<Attack> = [
        tokens::attacks(&world),
        sessions::attacks(&world),
        bodies::attacks(&world),
        names::attacks(&world),
        edge::attacks(&world),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(attacks.len() > 600, "{}", attacks.len());
    let before = by_id(world.records());
    let all: Vec<Answers> = attacks
        .iter()
        .map(|attack| (if attack.ends { send_and_end } else { send })(&world.host, &attack.bytes))
        .collect();
    let mut records = by_id(world.records());
    records.retain(|id, _| !before.contains_key(id));
    let told = serde_json::to_string(&records).unwrap();
    let complaints: Vec<String> =
        attacks.iter().zip(&all).filter_map(|(attack, answers)| complaint(attack, answers, &mut records)).collect();
    assert!(attacks.iter().map(|attack| &attack.name).collect::<BTreeSet<_>>().len() == attacks.len());
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), attacks.len(), complaints.join("\n"));
    assert!(records.is_empty(), "recorded, and refused by nobody: {records:#?}");
    // I8: no token is in the log or in a record.
    let parts = token_parts(&attacks);
    assert!(parts.len() > 100, "{}", parts.len());
    let log = world.gatepost.log();
    for part in &parts {
        assert!(!log.contains(part) && !told.contains(part), "{part} is in the log or in a record");
    }
    // No attack writes a line of its own into the log, nor to a terminal.
    let is_line = |line: &str| line.starts_with("20") && !line.contains(|c: char| c.is_control());
    assert!(log.lines().all(is_line), "{:?}", log.lines().find(|line| !is_line(line)));
    // The gateway goes on, and nothing but the good calls has reached the backend.
    world.served(&good);
    let received = world.received();
    assert_eq!(received.lines().count(), 2, "{received}");
    assert!(!received.contains("attack") && !received.contains("exact"), "{received}");
}

/// Calls a tool of the conformance server in a session, in a thread of its own.
fn slow(world: &World, session: &str, id: &str, token: &str, seconds: u32) -> JoinHandle<Answers> {
    let call = json!({"name": "slow", "arguments": {"seconds": seconds}});
    let request = world.post("/mcp/fixture", world::rpc("tools/call", &call.to_string()).replace("attack", id));
    let (bytes, host) = (request.by(token).with("mcp-session-id", session).bytes(), world.host.clone());
    std::thread::spawn(move || send(&host, &bytes))
}

fn cancel(world: &World, session: &str, id: &str, token: &str) -> u16 {
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    let request = world.post("/mcp/fixture", cancel.to_string()).by(token).with("mcp-session-id", session);
    send(&world.host, &request.bytes()).responses[0].status
}

#[test]
fn only_its_own_session_reaches_an_open_call() {
    let world = World::start(conformance_server());
    let [ann, other, eve] = [&world.ann, &world.ann, &world.eve].map(|token| world.session("/mcp/fixture", token));
    let open = |count| until("the calls are open", SOON, || world.open_calls() == count);
    // Nobody else cancels it: not by another's session, not by the same id in one's own.
    let call = slow(&world, &ann, "open", &world.ann, 6);
    open(1);
    assert_eq!(cancel(&world, &ann, "open", &world.eve), 404);
    assert_eq!(cancel(&world, &eve, "open", &world.eve), 202);
    assert_eq!(cancel(&world, &other, "open", &world.ann), 202);
    let answers = call.join().unwrap();
    assert_eq!(answers.responses[0].json()["result"]["content"][0]["text"], "slept", "{answers:?}");
    // Nobody takes its id, and there is no room for more than are allowed.
    let calls = [slow(&world, &ann, "open", &world.ann, 60), slow(&world, &eve, "open", &world.eve, 60)];
    open(2);
    let again = world::call("test_simple_text").replace("\"id\":\"attack\"", "\"id\":\"open\"");
    let again = world.post("/mcp/fixture", again).with("mcp-session-id", &ann);
    let limited = Expect::Refused { http: 429, code: -32011, status: "rate_limited" };
    let attacks = [
        world::row("the id of an open call", &again, world::malformed(400, -32600)),
        world::row("one call too many", &world.post("/mcp/raw", world::call("echo")), limited.clone()),
        world::row(
            "one call too many, by another",
            &world.post("/mcp/raw", world::call("echo")).by(&world.bob),
            limited,
        ),
    ];
    let all = attacks.each_ref().map(|attack| send(&world.host, &attack.bytes));
    let mut records = by_id(world.records());
    for (attack, answers) in attacks.iter().zip(&all) {
        assert_eq!(complaint(attack, answers, &mut records), None);
    }
    // Its own session does, and so what is above was no accident.
    assert_eq!((cancel(&world, &ann, "open", &world.ann), cancel(&world, &eve, "open", &world.eve)), (202, 202));
    for call in calls {
        let answers = call.join().unwrap();
        assert!(!format!("{answers:?}").contains("slept"), "{answers:?}");
    }
    assert_eq!(world.received(), "");
}

#[test]
fn served_requests_are_recorded_with_their_method() {
    let world = World::start(conformance_server());
    // A line of JSON is one call, whatever stands on it.
    let lines = "{\"name\":\"echo\",\"arguments\":{\"text\":\"one\",\"x\":\n\
                 {\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"tools/call\",\"params\":{\"name\":\"exact\"}}\r\n}}";
    let session = world.session("/mcp/raw", &world.ann);
    let in_session = world.session("/mcp/raw", &world.bob);
    let call = world.post("/mcp/raw", world::rpc("tools/call", lines)).by(&world.bob);
    world.served(&call);
    world.served(&call.with("mcp-session-id", &in_session));
    assert_eq!(world.received().lines().count(), 2, "{}", world.received());
    assert!(world.received().lines().all(|line| line.starts_with(r#"{"name": "echo""#)), "{}", world.received());
    // A stateless call has no session, whatever it says.
    let modern = world.modern("/mcp/raw", "tools/call", r#""name":"echo","arguments":{}"#, Some("echo"));
    let response = world.served(&modern.with("mcp-session-id", &session));
    let id = response.header("x-request-id");
    let records = by_id(world.records());
    assert_eq!((&records[id]["session_id"], &records[id]["response_status"]), (&Value::Null, &json!("ok")));
    // A client that goes away in the middle of a body has asked for something: that is recorded.
    let whole = world.post("/mcp/raw", world::call("echo")).bytes();
    let addr = send_and_leave(&world.host, &whole[..whole.len() - 10]);
    until("a client that left is recorded", SOON, || {
        let records = world.records();
        let left = |record: &&Value| record["client_addr"] == json!(addr);
        records.iter().rfind(left).is_some_and(|record| record["response_status"] == "malformed")
    });
}

#[test]
fn unfinished_requests_time_out() {
    let world = World::start(conformance_server());
    let whole = world.post("/mcp/raw", world::call("echo")).bytes();
    // Half a head, and nothing at all: no request was made, hence no record; the connection is closed all the same.
    let halves = [&whole[..40], &[]].map(|half| {
        let (host, half) = (world.host.clone(), half.to_vec());
        std::thread::spawn(move || send(&host, &half))
    });
    let attack = world::bytes("a slow body", whole[..whole.len() - 10].to_vec(), [world::malformed(408, -32600)]);
    let answers = send(&world.host, &attack.bytes);
    assert_eq!(complaint(&attack, &answers, &mut by_id(world.records())), None);
    for half in halves {
        let answers = half.join().unwrap();
        assert!(answers.is_closed && answers.responses.iter().all(|response| response.status == 408), "{answers:?}");
    }
    assert_eq!(world.received(), "");
}
