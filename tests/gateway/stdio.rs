//! `gatepost stdio`: the gateway as a stdio server, with the same identity, decisions and records as over HTTP.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::gatepost::{Setup, token, token_with};
use crate::common::stdio_client::StdioClient;
use crate::common::wait::{SOON, until};
use serde_json::{Value, json};

fn modern(name: &str, arguments: &Value) -> Value {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({"name": name, "arguments": arguments, "_meta": meta})
}

fn records(setup: &Setup) -> Vec<Value> {
    let output = setup.command(&["outbox", "list", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|record| !record["method"].as_str().unwrap().starts_with("gateway/")).collect()
}

#[test]
fn a_stdio_client_is_served_and_recorded_like_an_http_client() {
    let setup = Setup::new();
    let mut client = StdioClient::start(&setup, "example", "echo", Stdio::null());
    let hello = client.initialize();
    assert_eq!(hello["result"]["serverInfo"]["name"], "gatepost-example", "{hello}");
    let listed = client.ask(2, "tools/list", &json!({}));
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 1, "{listed}");
    let echoed = client.ask(3, "tools/call", &json!({"name": "echo", "arguments": {"text": "hi"}}));
    assert_eq!(echoed["result"]["content"][0]["text"], "hi");
    let denied = client.ask(4, "tools/call", &json!({"name": "add", "arguments": {"a": 1, "b": 2}}));
    assert_eq!(denied["error"]["code"], -32003);
    let echoed = client.ask(5, "tools/call", &modern("echo", &json!({"text": "modern"})));
    assert_eq!(echoed["result"]["content"][0]["text"], "modern", "{echoed}");
    client.input.as_mut().unwrap().write_all(b"{\n").unwrap();
    assert_eq!(client.read()["error"]["code"], -32700);
    assert_eq!(client.leave(), Some(0));
    let records = records(&setup);
    let seen = |field: &str| records.iter().map(|record| record[field].clone()).collect::<Vec<_>>();
    assert_eq!(seen("response_status"), ["ok", "ok", "denied", "ok", "malformed", "ok"], "{records:#?}");
    assert!(seen("client_subject").iter().all(|subject| subject == "tester"), "{records:#?}");
}

#[test]
fn cancelled_calls_of_both_eras_are_recorded_as_cancelled() {
    let setup = Setup::new();
    let mut client = StdioClient::start(&setup, "all", "admin", Stdio::null());
    client.initialize();
    let slow = json!({"ms": 60_000});
    let calls = [(7, json!({"name": "example__sleep", "arguments": slow})), (8, modern("example__sleep", &slow))];
    for (id, params) in calls {
        client.send(&json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}));
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        client.send(&cancel);
        let (answer, _) = client.response(id);
        assert!(answer["error"]["message"].as_str().unwrap().contains("cancelled"), "{answer}");
    }
    assert_eq!(client.leave(), Some(0));
    let statuses: Vec<_> = records(&setup).iter().map(|record| record["response_status"].clone()).collect();
    assert_eq!(statuses, ["ok", "cancelled", "cancelled", "ok"], "from initialize to session/close");
}

#[test]
fn an_invalid_token_or_backend_fails_the_start() {
    let setup = Setup::new();
    for (backend, role, said) in [("example", None, "GATEPOST_TOKEN"), ("missing", Some("admin"), "is not configured")]
    {
        let mut command = setup.command(&["stdio", "--backend", backend]);
        if let Some(role) = role {
            command.env("GATEPOST_TOKEN", token(role));
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
        assert!(!setup.audit_dir().exists(), "nothing is opened");
    }
    let mut command = setup.command(&["stdio"]);
    let output = command.env("GATEPOST_TOKEN", "a.b.c").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("the token is refused") && !log.contains("a.b.c"), "{log}");
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The command of a gateway whose `--token-command` prints these words, one at each run and the last one from then on.
/// It notes its runs in `runs`.
fn with_token_command(setup: &mut Setup, words: &[String]) -> Command {
    setup.set("auth.leeway", "0s");
    let dir = setup.dir().display().to_string();
    for (idx, word) in words.iter().enumerate() {
        fs::write(setup.dir().join(format!("word{idx}")), format!("{word}\n")).unwrap();
    }
    let last = words.len() - 1;
    let script = format!(
        "[ -z \"$GATEPOST_LOG_FILTER\" ] || exit 9\nat=$(wc -l < {dir}/runs)\necho run >> {dir}/runs\n\
         [ $at -le {last} ] || at={last}\ncat {dir}/word$at\n"
    );
    fs::write(setup.dir().join("script"), script).unwrap();
    fs::write(setup.dir().join("runs"), "").unwrap();
    let line = format!("sh '{dir}/script'");
    setup.command(&["stdio", "--backend", "example", "--token-command", &line])
}

fn token_until(subject: &str, exp: u64) -> String {
    token_with(&json!({"sub": subject, "role": "echo", "exp": exp}))
}

/// A file in which [`Setup::wait_for_log`] finds what the gateway logs.
fn log(setup: &Setup) -> File {
    File::options().create(true).append(true).open(setup.dir().join("log")).unwrap()
}

fn echoes(client: &mut StdioClient, id: u64) {
    let answer = client.ask(id, "tools/call", &json!({"name": "echo", "arguments": {"text": "hi"}}));
    assert_eq!(answer["result"]["content"][0]["text"], "hi", "{answer}");
}

#[test]
fn a_token_of_a_command_is_renewed_before_it_ends_and_the_session_goes_on() {
    let mut setup = Setup::new();
    let first_end = now() + 5;
    let words = [token_until("ann", first_end), token_until("ann", now() + 3600)];
    let mut command = with_token_command(&mut setup, &words);
    // The command does not get the gateway's variables, which may be secrets.
    command.env("GATEPOST_LOG_FILTER", "info");
    let mut client = StdioClient::start_command(&mut command, log(&setup));
    client.initialize();
    echoes(&mut client, 2);
    setup.wait_for_log("renewed the token");
    until("the first token has ended", SOON, || now() > first_end);
    echoes(&mut client, 3);
    assert_eq!(client.leave(), Some(0));
    assert_eq!(fs::read_to_string(setup.dir().join("runs")).unwrap().lines().count(), 2);
    let records = records(&setup);
    assert!(records.iter().all(|record| record["client_subject"] == "ann"), "{records:#?}");
    // I8: no token is in the log or in a record.
    let shown = format!("{}{records:?}", setup.log());
    assert!(words.iter().all(|word| !shown.contains(word.as_str())), "{shown}");
}

#[test]
fn a_command_without_a_good_token_ends_the_client_when_the_last_one_ends() {
    for (second, reason) in [
        (token_until("eve", now() + 3600), "the new token is for another caller, or for other roles"),
        (
            token_with(&json!({"sub": "ann", "role": "admin"})),
            "the new token is for another caller, or for other roles",
        ),
        ("not a word".to_owned(), "must print the token and nothing else"),
        ("a.b.c".to_owned(), "the token is refused"),
    ] {
        let mut setup = Setup::new();
        let words = [token_until("ann", now() + 4), second];
        let mut command = with_token_command(&mut setup, &words);
        let mut client = StdioClient::start_command(&mut command, log(&setup));
        client.initialize();
        setup.wait_for_log("cannot renew the token; trying again");
        assert_eq!(client.child.wait().unwrap().code(), Some(2), "{}", setup.log());
        assert!(setup.log().contains(reason) && !setup.log().contains(&words[0]), "{reason}: {}", setup.log());
        let records = records(&setup);
        assert!(records.iter().all(|record| record["client_subject"] == "ann"), "{records:#?}");
    }
}

#[test]
fn a_command_that_fails_fails_the_start_and_says_why() {
    let setup = Setup::new();
    for (line, said) in [
        ("", "--token-command is empty"),
        ("/nonexistent hunter2", "cannot run \"/nonexistent\""),
        ("false hunter2", "\"false\" failed (exit status: 1)"),
        ("echo $TOKEN", "a $, which only a shell understands"),
        ("echo hunter2 hunter2", "must print the token and nothing else"),
        ("echo hunter2", "the token is refused"),
    ] {
        let mut command = setup.command(&["stdio", "--token-command", line]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).replace('\\', "");
        assert_eq!(output.status.code(), Some(2), "{line}: {log}");
        assert!(log.contains(said) && !log.contains("hunter2"), "{line}: {log}");
    }
    let both = setup.command(&["stdio", "--token-command", "true", "--token-file", "f"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn a_token_that_ends_within_a_day_is_announced() {
    for (seconds, is_announced) in [(23 * 3600, true), (25 * 3600, false)] {
        let setup = Setup::new();
        let mut command = setup.command(&["stdio", "--backend", "example"]);
        command.env("GATEPOST_TOKEN", token_until("ann", now() + seconds));
        let mut client = StdioClient::start_command(&mut command, log(&setup));
        client.initialize();
        echoes(&mut client, 2);
        assert_eq!(client.leave(), Some(0));
        let said = setup.log().contains("the token ends within a day, and this server with it");
        assert_eq!(said, is_announced, "{}", setup.log());
    }
}
