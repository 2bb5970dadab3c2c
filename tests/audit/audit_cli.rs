//! `gatepost audit query`, `show` and `tail`, on Postgres and on an outbox.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use crate::BINARY;
use crate::common::postgres::{Cluster, Database};
use crate::common::wait::SOON;
use crate::rig::{Rig, call, call_with, delivered, many, ok, one, stop};
use gatepost::audit::Audit;
use gatepost::audit::record::{Call, Correlation, Outcome, RequestId, Status};
use serde_json::Value;

/// Where the commands look.
#[derive(Clone, Copy)]
enum Trail<'a> {
    Postgres(&'a Database),
    Dir(&'a Path),
}

fn command(trail: Trail<'_>, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("audit").args(args);
    match trail {
        Trail::Postgres(database) => command.env("GATEPOST_POSTGRES_URL", &database.url),
        Trail::Dir(dir) => command.arg("--dir").arg(dir),
    };
    command
}

fn run(trail: Trail<'_>, args: &[&str]) -> (Option<i32>, String, String) {
    let output = command(trail, args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn lines(trail: Trail<'_>, args: &[&str]) -> Vec<Value> {
    let (code, stdout, stderr) = run(trail, &[args, &["--json"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn record(audit: &Audit, call: Call, outcome: Outcome) -> String {
    let receipt = audit.begin(call).await.unwrap();
    let id = receipt.request_id().to_string();
    receipt.finish(outcome, ()).await.unwrap().into_inner();
    id
}

/// A call that goes on with `first`.
fn continued(first: &str) -> Call {
    let correlation = Correlation { addr: None, session_id: None, rpc_id: Some("2".to_owned()) };
    let parent = RequestId(first.parse().unwrap());
    let call = Call::new(RequestId::new(), "tools/call").with_correlation(&correlation).with_parent(Some(parent));
    call.with_target(Some("example"), Some("ask"))
}

fn asked(trail: Trail<'_>, needle: &str) {
    assert_eq!(lines(trail, &["query", "--args", "needle % 7"]).len(), 1);
    assert_eq!(lines(trail, &["query", "--request-id", needle])[0]["request_id"], needle);
    assert_eq!(
        lines(trail, &["query", "--who", "ann", "--role", "analyst", "--backend", "example", "--tool", "echo"]).len(),
        8
    );
    assert_eq!(lines(trail, &["query", "--since", "1h", "--status", "input_required"]).len(), 1);
    assert_eq!(lines(trail, &["query", "--until", "1h"]).len(), 0);
    assert_eq!(
        lines(
            trail,
            &[
                "query",
                "--since",
                "2000-01-01T00:00:00Z",
                "--until",
                "2100-01-01T00:00:00+02:00",
                "--method",
                "gateway/opened"
            ]
        )
        .len(),
        1
    );
    for (bad, says) in [
        (["--since", "last week"], "\"last week\" is not a time: write an age"),
        (["--until", "25:00"], "\"25:00\" is not a time: write an age"),
        (["--limit", "1000000"], "1000000 is not from 1 to 10000; use --before for the next page"),
        (["--before", "9"], "\"9\" is not TIME/EPOCH/SEQ/GATEWAY"),
        (["--status", "fine"], "unknown status; use one of ok, "),
    ] {
        let (code, stdout, stderr) = run(trail, &["query", bad[0], bad[1]]);
        assert!(code == Some(2) && stdout.is_empty() && stderr.contains(says), "{stderr}");
    }
}

/// Page by page, by what each page says, to the end; all of them, oldest first.
fn paged(trail: Trail<'_>) -> Vec<Value> {
    let (mut all, mut before): (Vec<Value>, Option<String>) = (Vec::new(), None);
    loop {
        let mut args = vec!["query", "--limit", "3", "--json"];
        args.extend(before.iter().flat_map(|place| ["--before", place]));
        let (code, stdout, stderr) = run(trail, &args);
        assert_eq!(code, Some(0), "{stderr}");
        let page: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        all.splice(0..0, page);
        before = stderr.split_once("--before ").map(|(_, place)| place.lines().next().unwrap().to_owned());
        if before.is_none() {
            return all;
        }
    }
}

fn shown(trail: Trail<'_>, first: &str, second: &str) {
    let [call] = &lines(trail, &["show", second])[..] else { panic!("one call") };
    assert_eq!(call["record"]["request_id"], second);
    let ids = |key: &str| -> Vec<&str> {
        call[key].as_array().unwrap().iter().map(|record| record["request_id"].as_str().unwrap()).collect()
    };
    assert_eq!(ids("same_call"), [first, second]);
    let [belongs] = &lines(trail, &["query", "--parent", first])[..] else { panic!("one request") };
    assert_eq!((belongs["request_id"].as_str(), belongs["parent_id"].as_str()), (Some(second), Some(first)));
    let seq = call["record"]["seq"].as_u64().unwrap();
    let neighbours: Vec<u64> =
        call["neighbours"].as_array().unwrap().iter().map(|r| r["seq"].as_u64().unwrap()).collect();
    assert_eq!(neighbours, (seq - 3..=seq + 1).collect::<Vec<_>>(), "the stream ends behind the next one");
    let [plain] = &lines(trail, &["show", "1/2", "--neighbours", "0"])[..] else { panic!("one call") };
    assert_eq!((&plain["record"]["seq"], plain["same_call"].as_array().unwrap().len()), (&Value::from(2), 0));
    let (code, text, _) = run(trail, &["show", "1/2"]);
    assert!(code == Some(0) && text.contains("request_args:\n  {\n    \"text\": \"hello\"\n  }\n"), "{text}");
    let (code, _, stderr) = run(trail, &["show", "9/9"]);
    assert!(code == Some(1) && stderr.contains("no record 9/9 in the trail"), "{stderr}");
    let (code, _, stderr) = run(trail, &["show", "nine"]);
    assert!(code == Some(1) && stderr.contains("\"nine\" is neither a request id nor EPOCH/SEQ"), "{stderr}");
}

/// A resource is read.
fn read() -> Call {
    let call = Call::new(RequestId::new(), "resources/read");
    call.with_target(Some("fs"), None).with_resource(Some("file:///srv/a"))
}

fn finds_resources(trail: Trail<'_>) {
    for (filter, value, count) in [
        ("--resource", "file:///srv/*", 1),
        ("--resource", "file:///srv/a", 1),
        ("--resource", "file:///srv", 0),
        ("--tool", "file:///srv/a", 1),
        ("--tool", "fs/file:///srv/a", 1),
        ("--tool", "other/file:///srv/a", 0),
    ] {
        assert_eq!(lines(trail, &["query", filter, value]).len(), count, "{filter} {value}");
    }
    let (_, text, _) = run(trail, &["query", "--resource", "*"]);
    assert!(text.contains("fs/file:///srv/a"), "{text}");
}

/// Six calls, one with a needle, one that asks and is gone on with.
async fn calls(audit: &Audit) -> [String; 3] {
    many(audit, 7).await;
    let needle = record(audit, call_with("echo", r#"{"text":"a needle % 7"}"#), ok()).await;
    let asks = Outcome::failed(Status::InputRequired, "needs input");
    let first = record(audit, call("ask"), asks).await;
    let second = record(audit, continued(&first), ok()).await;
    [needle, first, second]
}

#[tokio::test]
async fn query_pages_and_show_work_on_postgres() {
    let database = Cluster::shared().create_database().await;
    let trail = Trail::Postgres(&database);
    let (code, _, stderr) = run(trail, &["query"]);
    assert!(code == Some(1) && stderr.contains("no Gatepost schema: run gatepost migrate"), "{stderr}");
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    let [needle, first, second] = calls(&pipeline.audit()).await;
    let mut spoilt = call("spoilt");
    spoilt.client_subject = "a\0b".into();
    let spoilt_id = spoilt.request_id.to_string();
    stop(pipeline).await;
    asked(trail, &needle);
    let all = paged(trail);
    let seqs: Vec<u64> = all.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=12).collect::<Vec<_>>(), "each record once");
    shown(trail, &first, &second);
    let pipeline = rig.start_on(&database);
    pipeline.audit().record_once(spoilt, Outcome::failed(Status::Denied, "no"), ()).await.unwrap().into_inner();
    record(&pipeline.audit(), read(), ok()).await;
    stop(pipeline).await;
    finds_resources(trail);
    let [call] = &lines(trail, &["show", &spoilt_id])[..] else { panic!("one call") };
    assert!(call["quarantined"].as_str().unwrap().starts_with("22021: "), "{call}");
    let gateway = all[0]["gateway_id"].as_str().unwrap();
    assert_eq!(lines(trail, &["show", &format!("{gateway}/1/3")])[0]["record"], all[2]);
}

#[tokio::test]
async fn query_pages_and_show_work_on_an_outbox() {
    let rig = Rig::stored();
    let pipeline = rig.start_store_only();
    let [needle, first, second] = calls(&pipeline.audit()).await;
    stop(pipeline).await;
    let trail = Trail::Dir(rig.dir.path());
    asked(trail, &needle);
    assert_eq!(paged(trail).len(), 12);
    shown(trail, &first, &second);
    let pipeline = rig.start_store_only();
    record(&pipeline.audit(), read(), ok()).await;
    stop(pipeline).await;
    finds_resources(trail);
    let (code, _, stderr) = run(Trail::Dir(Path::new("/nowhere")), &["query"]);
    assert!(code == Some(1) && stderr.contains("/nowhere is not an outbox directory"), "{stderr}");
}

/// Ends the command when dropped.
struct Following(std::process::Child, mpsc::Receiver<String>);

impl Following {
    fn start(trail: Trail<'_>, args: &[&str]) -> Self {
        let mut child = command(trail, args).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self(child, lines)
    }

    fn tool(&self) -> String {
        let line: Value = serde_json::from_str(&self.1.recv_timeout(SOON).unwrap()).unwrap();
        line["tool_name"].as_str().unwrap().to_owned()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_shows_the_newest_records_then_each_new_one_once() {
    let database = Cluster::shared().create_database().await;
    let rig = Rig::stored();
    let pipeline = rig.start_on(&database);
    many(&pipeline.audit(), 3).await;
    // It arrived before those that are shown, and ends behind them.
    let late = pipeline.audit().begin(call("late")).await.unwrap();
    one(&pipeline.audit(), "newest").await;
    delivered(&pipeline.probe()).await;
    let following =
        Following::start(Trail::Postgres(&database), &["tail", "-n", "2", "--follow", "--json", "--who", "ann"]);
    assert_eq!([following.tool(), following.tool()], ["echo", "newest"]);
    late.finish(ok(), ()).await.unwrap().into_inner();
    assert_eq!(following.tool(), "late");
    for number in 0..20 {
        one(&pipeline.audit(), &format!("tool_{number}")).await;
    }
    let tools: Vec<String> = (0..20).map(|_| following.tool()).collect();
    assert_eq!(tools, (0..20).map(|number| format!("tool_{number}")).collect::<Vec<_>>());
    drop(following);
    stop(pipeline).await;
    let (code, text, _) = run(Trail::Postgres(&database), &["tail", "-n", "1", "--method", "gateway/closed"]);
    assert!(code == Some(0) && text.lines().count() == 2 && text.starts_with("EPOCH/SEQ"), "{text}");
}
