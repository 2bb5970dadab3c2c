//! Standard output that cannot be written: every command ends, and says what is wrong.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use crate::common::gatepost::{BINARY, Setup};
use crate::common::mcp::Era;
use crate::common::postgres::Cluster;
use crate::common::wait::{SOON, until, until_async};
use crate::run::run_outbox;
use nix::sys::signal::Signal;
use serde_json::json;

/// Calls, and bytes of each. *Chosen*: no pipe holds all of them, so that a command still writes when its reader goes.
const CALLS: usize = 40;
const CALL_BYTES: usize = 16 * 1024;

/// Commands that need no outbox.
const ALONE: &[&[&str]] = &[
    &["--help"],
    &["--version"],
    &["version"],
    &["help", "outbox"],
    &["outbox", "export", "--help"],
    &["man"],
    &["completions", "bash"],
    &["config", "check", "--config", "gatepost.toml"],
    &["token", "--config", "gatepost.toml", "--subject", "x", "--role", "admin"],
    &["token", "hash", "--subject", "x"],
];

/// Commands that print from an outbox. Two follow, and print more than a pipe holds before they wait.
const OF_OUTBOX: &[&[&str]] = &[
    &["outbox", "stats"],
    &["outbox", "stats", "--json"],
    &["outbox", "list"],
    &["outbox", "list", "--json"],
    &["outbox", "list", "--after", "1/1", "--limit", "1"],
    &["outbox", "list", "--intents"],
    &["outbox", "show", "1/2"],
    &["outbox", "show", "1/2", "--json"],
    &["outbox", "show", "1/2", "--hex"],
    &["outbox", "show", "1/2", "--hex", "--json"],
    &["outbox", "tail"],
    &["outbox", "tail", "--json", "-n", "50", "--follow"],
    &["outbox", "verify"],
    &["outbox", "verify", "--json"],
    &["outbox", "export"],
    &["outbox", "export", "--limit", "1"],
    &["outbox", "export", "--format", "csv"],
    &["outbox", "prune", "--before", "1/1", "--dry-run"],
    &["audit", "query"],
    &["audit", "query", "--json"],
    &["audit", "query", "--limit", "1"],
    &["audit", "show", "1/2"],
    &["audit", "show", "1/2", "--json"],
    &["audit", "tail"],
    &["audit", "tail", "--json", "-n", "50", "--follow"],
];

/// Checks of a live gateway's outbox, and of a dead one's.
const CHECKS: &[&[&str]] = &[&["audit", "verify"], &["audit", "verify", "--json"], &["audit", "heads"]];

/// The end of standard output.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The reader has gone before anything was written.
    Closed,
    /// The reader goes after a line, as `head -1`.
    ClosedAfterLine,
    /// The disk is full.
    Full,
}

fn outcome(command: &mut Command, end: End) -> Output {
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = match end {
        End::Full => command.stdout(File::options().write(true).open("/dev/full").unwrap()).spawn().unwrap(),
        _ => command.stdout(writer).spawn().unwrap(),
    };
    // The command has its own copy of the pipe's writing end.
    command.stdout(Stdio::null());
    // A token, for `token hash`.
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{}\n", "t".repeat(64)).as_bytes()).ok();
    match end {
        End::ClosedAfterLine => assert_ne!(BufReader::new(reader).read_line(&mut String::new()).unwrap(), 0),
        End::Closed | End::Full => drop(reader),
    }
    child.wait_with_output().unwrap()
}

/// A closed standard output ends a command without an error; a full disk is reported as what it is.
fn check(args: &[&str], mut command: impl FnMut() -> Command) {
    for end in [End::Closed, End::ClosedAfterLine, End::Full] {
        let output = outcome(&mut command(), end);
        let stderr = String::from_utf8(output.stderr).unwrap();
        // Hints of the command itself, and that nobody records the read of a dead gateway's trail.
        let is_hint = |line: &&str| !line.contains("this read is not recorded") && !line.contains("the newest");
        let shown: Vec<_> = stderr.lines().filter(is_hint).collect();
        let (code, expected) = match end {
            End::Full => (1, vec!["gatepost: cannot write to standard output: No space left on device"]),
            End::Closed | End::ClosedAfterLine => (0, Vec::new()),
        };
        // A single line fits into the pipe, and the command goes on to its hint.
        let is_hinted = shown.iter().any(|line| line.contains("more exist: --after"));
        let is_right = shown == expected || matches!(end, End::ClosedAfterLine) && is_hinted && shown.len() == 1;
        assert!(output.status.code() == Some(code) && is_right, "{args:?}, {end:?}: {:?}\n{stderr}", output.status);
    }
}

/// A command that found a fault says so, wherever its report goes.
fn check_verdict(setup: &Setup, args: &[&str], fault: &str) {
    for end in [End::Closed, End::Full] {
        let output = outcome(&mut setup.command(args), end);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && stderr.contains(fault), "{args:?}, {end:?}: {stderr}");
    }
}

fn check_all(setup: &Setup, all: &[&[&str]]) {
    for args in all {
        check(args, || setup.command(args));
    }
}

#[tokio::test]
async fn a_closed_output_ends_a_command_and_a_full_one_is_named() {
    let setup = Setup::new();
    setup.config_file();
    for args in ALONE {
        check(args, || {
            let mut command = Command::new(BINARY);
            command.args(*args).current_dir(setup.dir());
            command
        });
    }
    let gatepost = setup.start();
    let client = gatepost.client(Era::Modern, "admin").await;
    for _ in 0..CALLS {
        client.call("example__echo", json!({"text": "a".repeat(CALL_BYTES)})).await.unwrap();
    }
    check_all(&setup, OF_OUTBOX);
    check_all(&setup, CHECKS);
    // A file that cannot be written is not the gateway's fault either.
    let file = setup.dir().join("export.jsonl");
    for limited in ["--fsize=4096", "--fsize=100000"] {
        let export = setup.command(&["outbox", "export", "--output", file.to_str().unwrap()]);
        let mut command = Command::new("prlimit");
        command.args([limited, BINARY]).args(export.get_args()).current_dir(setup.dir());
        let output = command.output().unwrap();
        let shown = format!("gatepost: cannot write {}.tmp: File too large\n", file.display());
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(1), shown));
    }
    gatepost.end(Signal::SIGKILL);
    check_all(&setup, OF_OUTBOX);
    // Nobody confirms the end of what a dead gateway left.
    let output = outcome(&mut setup.command(&["audit", "verify"]), End::Closed);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(4) && stderr.contains("no fault was found, but 1 part"), "{stderr}");
}

#[tokio::test]
async fn the_commands_of_a_database_end_so_too() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    check_all(&setup, &[&["migrate"], &["outbox", "requeue"]]);
    let gatepost = setup.start();
    let pool = database.pool().await;
    until_async("the opening record is delivered", SOON, || async {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM audit_log").fetch_one(&pool).await;
        count.is_ok_and(|count| count == 1)
    })
    .await;
    check_all(&setup, &[&["audit", "query"], &["audit", "show", "1/1"], &["audit", "tail"], &["audit", "verify"]]);
    check_all(&setup, &[&["audit", "export"], &["audit", "heads"], &["audit", "gateways", "list"]]);
    check_all(&setup, &[&["audit", "hold", "list"], &["audit", "decisions", "list"]]);
    assert_eq!(gatepost.terminate(), Some(0));
    check_all(&setup, &[&["outbox", "drain"]]);
    sqlx::query("UPDATE audit_log SET timestamp = 'infinity' WHERE epoch = 1 AND seq = 1")
        .execute(&pool)
        .await
        .unwrap();
    check_verdict(&setup, &["audit", "verify"], "the trail is not what its gateways recorded: 1 fault");
}

#[test]
fn a_verdict_counts_even_if_nobody_reads_it() {
    let setup = Setup::new();
    for _ in 0..2 {
        assert_eq!(setup.start().terminate(), Some(0));
    }
    std::fs::write(setup.audit_dir().join("outbox-000001.redb"), "rotten").unwrap();
    let (_, report, stderr) = run_outbox(&setup, &["verify"]);
    assert!(report.contains("0 records in") && stderr.contains("outbox-000001.redb"), "{report}{stderr}");
    check_verdict(&setup, &["outbox", "verify"], "outbox-000001.redb");
}

#[test]
fn a_follower_ends_with_its_reader_also_if_nothing_follows() {
    let setup = Setup::new();
    let gatepost = setup.start();
    for args in [["outbox", "tail", "--follow"], ["audit", "tail", "--follow"]] {
        let mut command = setup.command(&args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut String::new()).unwrap();
        drop(lines);
        until("the follower has ended", SOON, || child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap()),
            (Some(0), String::new()),
            "{args:?}"
        );
    }
    assert_eq!(gatepost.terminate(), Some(0));
}
