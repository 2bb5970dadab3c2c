//! `gatepost outbox` as an operator types it: on what kill -9 left, and beside a live gateway.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::gatepost::{BINARY, Setup};
use crate::common::mcp::Era;
use crate::common::wait::{SOON, until};
use crate::run::{outbox_succeeds, run, run_outbox};
use gatepost::audit::record::{
    AuditRecord, Call, Digest, Entry, Epoch, GatewayId, Outcome, PendingRecord, RequestId, Seq, Status, StreamPosition,
};
use gatepost::ops::protocol::Line;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every reading command gives the same of this outbox, whether its gateway lives or not.
fn all_commands(setup: &Setup, calls: usize) {
    let stats = &lines(&outbox_succeeds(setup, &["stats", "--json"]))[0];
    // `gateway/opened` is one more.
    assert_eq!(stats["stored"], calls + 1);
    assert!(stats["oldest"].is_string() || stats["oldest"].is_number(), "{stats}");

    let exported = lines(&outbox_succeeds(setup, &["export"]));
    assert_eq!(exported.len(), calls + 1);
    let seqs: Vec<_> = exported.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=calls as u64 + 1).collect::<Vec<_>>());
    assert_eq!(lines(&outbox_succeeds(setup, &["export", "--tool", "echo"])).len(), calls);
    // Filters are those of `gatepost audit`.
    assert_eq!(lines(&outbox_succeeds(setup, &["export", "--args", "a,b", "--since", "1h"])).len(), calls);
    assert_eq!(lines(&outbox_succeeds(setup, &["list", "--json", "--since", "2999-01-01T00:00:00Z"])).len(), 0);
    let (_, some, note) = run_outbox(setup, &["export", "--after", "1/2", "--limit", "3"]);
    assert_eq!(lines(&some), exported[2..5]);
    assert_eq!(note, "gatepost: 3 records; more exist: --after 1/5\n");

    let csv = outbox_succeeds(setup, &["export", "--format", "csv", "--after", "1/1", "--limit", "1"]);
    let mut rows = csv.lines();
    assert!(rows.next().unwrap().starts_with("gateway_id,epoch,seq,prev_hash,hash,request_id,"));
    let row = rows.next().unwrap();
    assert!(row.contains(r#","{""text"":""a,b""}","#), "{row}");

    let (_, page, note) = run_outbox(setup, &["list", "--after", "1/1", "--limit", "2", "--json"]);
    assert_eq!(lines(&page), exported[1..3]);
    assert_eq!(note, "gatepost: more exist: --after 1/3\n");
    let newest = lines(&outbox_succeeds(setup, &["list", "--limit", "2", "--json"]));
    assert_eq!(newest, exported[calls - 1..]);
    assert_eq!(lines(&outbox_succeeds(setup, &["tail", "-n", "2", "--json"])), newest);

    let id = exported[2]["request_id"].as_str().unwrap();
    assert_eq!(lines(&outbox_succeeds(setup, &["show", id, "--json"]))[0], exported[2]);
    let shown = outbox_succeeds(setup, &["show", "1/3", "--hex"]);
    for part in ["outbox-000001.redb", "magic: GPRF", "CRC-32C: 0x", ", right", "request_args: {\"text\":\"a,b\"}"] {
        assert!(shown.contains(part), "{part} is missing in {shown}");
    }
    let (code, _, stderr) = run_outbox(setup, &["show", "1/999"]);
    assert_eq!(code, Some(1), "{stderr}");

    let report = outbox_succeeds(setup, &["verify"]);
    assert!(report.contains(&format!("{} records", calls + 1)) && report.ends_with("no fault\n"), "{report}");
}

#[tokio::test]
async fn outbox_commands_agree_on_live_and_killed_gateways() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client(Era::Modern, "admin").await;
    for _ in 0..6 {
        client.call("example__echo", json!({"text": "a,b"})).await.unwrap();
    }
    all_commands(&setup, 6);
    gatepost.end(Signal::SIGKILL);
    all_commands(&setup, 6);
}

#[tokio::test]
async fn a_tail_follows_until_the_gateway_stops() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client(Era::Modern, "admin").await;
    client.call("example__echo", json!({"text": "before"})).await.unwrap();
    let mut tail = setup.command(&["outbox", "tail", "--follow", "--json", "--tool", "echo"]);
    let mut tail = tail.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut shown = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&shown.next().unwrap().unwrap()).unwrap()["request_args"].clone();
    assert_eq!(next(), r#"{"text":"before"}"#);
    for text in ["one", "two"] {
        client.call("example__echo", json!({ "text": text })).await.unwrap();
        assert_eq!(next(), format!(r#"{{"text":"{text}"}}"#));
    }
    drop(client);
    assert_eq!(gatepost.terminate(), Some(0));
    until("the tail ends", SOON, || tail.try_wait().unwrap().is_some());
    assert!(tail.wait().unwrap().success());
    assert!(shown.next().is_none(), "no call came after");
}

#[tokio::test]
async fn an_export_file_is_complete_or_absent() {
    let setup = Setup::new();
    let gatepost = setup.start();
    gatepost.client(Era::Modern, "admin").await.call("example__echo", json!({"text": "hi"})).await.unwrap();
    let file = setup.dir().join("export.jsonl");
    let path = file.to_str().unwrap();
    assert_eq!(outbox_succeeds(&setup, &["export", "--output", path]), "");
    assert_eq!(lines(&std::fs::read_to_string(&file).unwrap()).len(), 2);
    let (code, _, stderr) = run_outbox(&setup, &["export", "--output", path]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("the file exists; name a new file"), "{stderr}");
    let inside = setup.audit_dir().join("export.jsonl");
    let (code, _, stderr) = run_outbox(&setup, &["export", "--output", inside.to_str().unwrap()]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("for the outbox alone"), "{stderr}");
    let (code, stdout, stderr) = run_outbox(&setup, &["export", "--json", "--format", "csv"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("--json and --format csv are mutually exclusive"), "{stderr}");
    let (_, one, note) = run_outbox(&setup, &["export", "--json", "--limit", "1"]);
    assert_eq!((lines(&one).len(), note.as_str()), (1, "gatepost: 1 record; more exist: --after 1/1\n"));
    // A file that rotted ends the export, and nothing is left of it.
    gatepost.end(Signal::SIGKILL);
    std::fs::write(setup.audit_dir().join("outbox-000001.redb"), b"rotten").unwrap();
    let other = setup.dir().join("other.jsonl");
    let (code, _, stderr) = run_outbox(&setup, &["export", "--output", other.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("outbox-000001.redb"), "{stderr}");
    let left = setup
        .dir()
        .read_dir()
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("other.jsonl"));
    assert_eq!(left.count(), 0);
}

/// The nice value of each thread of a process, by the threads' names.
fn priorities(pid: u32) -> Vec<(String, i64)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|entry| entry.unwrap().path());
    // A thread may end while it is looked at.
    let stat = tasks.filter_map(|task| std::fs::read_to_string(task.join("stat")).ok());
    let priority = |stat: String| {
        let (name, fields) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        // Field 19 of proc_pid_stat(5); the state, field 3, is the first one here.
        (name.to_owned(), fields.split_whitespace().nth(16).unwrap().parse().unwrap())
    };
    stat.map(priority).collect()
}

#[tokio::test]
async fn reading_runs_at_low_priority() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client(Era::Modern, "admin").await;
    // More than pipes and sockets hold, so that the answer waits for its reader.
    for _ in 0..60 {
        client.call("example__echo", json!({"text": "x".repeat(50_000)})).await.unwrap();
    }
    let mut export = setup.command(&["outbox", "export"]).stdout(Stdio::piped()).spawn().unwrap();
    let niced = |pid| priorities(pid).into_iter().filter(|(_, nice)| *nice == 19).map(|(name, _)| name).collect();
    until("the gateway reads for it", SOON, || {
        let of_gateway: Vec<String> = niced(gatepost.pid);
        let of_command: Vec<String> = niced(export.id());
        of_gateway == ["inspect"] && of_command.len() == priorities(export.id()).len()
    });
    client.call("example__echo", json!({"text": "meanwhile"})).await.unwrap();
    let shown = BufReader::new(export.stdout.take().unwrap()).lines();
    // `gateway/opened` is one more; the last call may have come in time.
    assert!((61..=62).contains(&shown.count()));
    assert!(export.wait().unwrap().success());
    until("the thread ends", SOON, || niced(gatepost.pid).is_empty());
}

/// A line of an answer.
fn a_record() -> Line {
    let (call, outcome) = (
        Call::new(RequestId::new(), "tools/call"),
        Outcome::answered(Status::Ok, None, b"{}", &gatepost::audit::record::RecordKey::from_bytes([0; 32])),
    );
    let position = StreamPosition {
        gateway_id: GatewayId(uuid::Uuid::nil()),
        epoch: Epoch(1),
        seq: Seq(1),
        prev_hash: Digest::ZERO,
        hash: Digest::ZERO,
    };
    let record = PendingRecord::from(Entry::new(call, outcome, Duration::ZERO)).at(position);
    Line::Record(Box::new(AuditRecord::clone(&record)))
}

#[test]
fn an_export_cut_short_by_the_gateways_end_fails() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(dir.path().join("lock")).unwrap();
    lock.lock().unwrap();
    std::fs::write(dir.path().join("admin.token"), "a token").unwrap();
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("admin.sock")).unwrap();
    let gateway = std::thread::spawn(move || {
        // The first question is for the state of delivery.
        for _ in 0..2 {
            let (mut stream, _) = socket.accept().unwrap();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
            writeln!(stream, "{}", serde_json::to_string(&a_record()).unwrap()).unwrap();
        }
    });
    let output = Command::new(BINARY).args(["outbox", "export", "--dir"]).arg(dir.path()).output().unwrap();
    gateway.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("the gateway ended before its answer did"), "{stderr}");
}

#[test]
fn the_admin_socket_answers_only_who_shows_the_token_beside_it() {
    use std::io::{Read as _, Write as _};
    let setup = Setup::new();
    let gatepost = setup.start();
    let token = std::fs::read_to_string(setup.audit_dir().join("admin.token")).unwrap();
    let ask = |lines: &str| {
        let mut socket = std::os::unix::net::UnixStream::connect(setup.audit_dir().join("admin.sock")).unwrap();
        // The gateway may have answered and closed before all is written.
        socket.write_all(lines.as_bytes()).ok();
        socket.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok();
        answer
    };
    let question = r#"{"ask":"records"}"#;
    let wrong = "0".repeat(token.len());
    for lines in [format!("{question}\n"), format!("{wrong}\n{question}\n"), format!("\n{question}\n"), String::new()] {
        let answer = ask(&lines);
        assert!(answer.contains("not the token") && !answer.contains("record\""), "{lines:?}: {answer}");
        assert!(!answer.contains(&token));
    }
    assert!(ask(&format!("{token}\n{question}\n")).contains("gateway/opened"));
    assert!(!gatepost.log().contains(&token));
    assert_eq!(gatepost.terminate(), Some(0));
    let mode = std::os::unix::fs::PermissionsExt::mode;
    let _gatepost = setup.start();
    let file = setup.audit_dir().join("admin.token");
    assert_ne!(std::fs::read_to_string(&file).unwrap(), token, "each start has a token of its own");
    assert_eq!(mode(&std::fs::metadata(&file).unwrap().permissions()) & 0o777, 0o600);
}

#[test]
fn an_invalid_status_or_position_is_exit_code_2() {
    let setup = Setup::new();
    for (args, what) in [
        (["list", "--status", "fine"], "unknown status; use one of ok, "),
        (["tail", "--since", "last week"], "\"last week\" is not a time: write an age"),
        (["list", "--after", "12"], "is not EPOCH/SEQ"),
        (["list", "--limit", "1000000"], "use --after EPOCH/SEQ"),
    ] {
        let (code, stdout, stderr) = run_outbox(&setup, &args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(stderr.contains(what), "{stderr}");
    }
}

#[tokio::test]
async fn no_command_prints_hidden_characters_of_a_record() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Legacy, "admin").await;
    client.call("ad\u{202e}d\u{200b}", json!({"x": "\u{202e}fdp.exe"})).await.unwrap();
    let exported = lines(&outbox_succeeds(&setup, &["export", "--method", "tools/call"]));
    let [record] = &exported[..] else { panic!("one call: {exported:?}") };
    assert_eq!(
        (&record["tool_name"], &record["request_args"]),
        (&json!("ad\u{202e}d\u{200b}"), &json!("{\"x\":\"\u{202e}fdp.exe\"}"))
    );
    let place = format!("{}/{}", record["epoch"], record["seq"]);
    for args in [
        &["audit", "query"][..],
        &["audit", "show", &place],
        &["audit", "tail"],
        &["outbox", "list"],
        &["outbox", "show", &place],
        &["outbox", "show", &place, "--hex"],
        &["outbox", "tail"],
    ] {
        let (code, stdout, stderr) = run(&setup, args);
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        for shown in ["ad\\u{202e}d\\u{200b}", "\\u{202e}fdp.exe"] {
            assert!(stdout.contains(shown), "{args:?} does not show {shown}: {stdout}");
        }
        for hidden in ['\u{202e}', '\u{200b}'] {
            assert!(!stdout.contains(hidden) && !stderr.contains(hidden), "{args:?} prints {hidden:?} raw: {stdout}");
        }
    }
}
