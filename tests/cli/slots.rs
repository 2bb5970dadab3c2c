//! Directories with the slots of `gatepost stdio`: each command that takes one, and who may use it.

use std::fs::{self, File};
use std::process::Stdio;

use crate::common::gatepost::{Setup, token};
use crate::common::process;
use crate::common::stdio_client::StdioClient;
use crate::run::{outbox_succeeds, run, run_outbox};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn start(setup: &Setup) -> StdioClient {
    let mut client = StdioClient::start(setup, "example", "admin", Stdio::null());
    client.initialize();
    client
}

fn echo(client: &mut StdioClient, text: &str) {
    let answer = client.ask(9, "tools/call", &json!({"name": "echo", "arguments": {"text": text}}));
    assert_eq!(answer["result"]["content"][0]["text"], text, "{answer}");
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The exit code and errors of `gatepost stdio`, which is refused.
fn refused(setup: &Setup) -> (Option<i32>, String) {
    let mut command = setup.command(&["stdio", "--backend", "example"]);
    let output = command.env("GATEPOST_TOKEN", token("admin")).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn each_outbox_command_takes_the_directory_with_all_slots() {
    let setup = Setup::new();
    let (mut live, mut killed) = (start(&setup), start(&setup));
    echo(&mut live, "one");
    echo(&mut killed, "two");
    process::signal(killed.child.id(), Signal::SIGKILL);
    killed.child.wait().unwrap();
    let slot = |number: u8| setup.audit_dir().join(number.to_string()).display().to_string();

    let stats = lines(&outbox_succeeds(&setup, &["stats", "--json"]));
    let shown: Vec<_> = stats.iter().map(|line| (line["dir"].as_str().unwrap(), line["live"].is_object())).collect();
    assert_eq!(shown, [(&*slot(1), true), (&*slot(2), false)]);
    let exported = lines(&outbox_succeeds(&setup, &["export"]));
    let texts: Vec<_> = exported.iter().filter_map(|record| record["request_args"].as_str()).collect();
    assert!(texts.contains(&r#"{"text":"one"}"#) && texts.contains(&r#"{"text":"two"}"#), "{texts:?}");
    assert_eq!(lines(&outbox_succeeds(&setup, &["list", "--json"])), exported);
    assert_eq!(lines(&outbox_succeeds(&setup, &["tail", "--json"])), exported);
    let csv = outbox_succeeds(&setup, &["export", "--format", "csv"]);
    assert_eq!((csv.lines().count(), csv.matches("gateway_id,").count()), (exported.len() + 1, 1));
    for record in &exported {
        let id = record["request_id"].as_str().unwrap();
        assert_eq!(&lines(&outbox_succeeds(&setup, &["show", id, "--json"]))[0], record);
    }
    let heads = lines(&outbox_succeeds(&setup, &["heads"]));
    let of_head: Vec<_> = heads.iter().map(|head| head["gateway"].clone()).collect();
    assert_eq!(of_head, [stats[0]["gateway_id"].clone(), stats[1]["gateway_id"].clone()]);
    let verified = outbox_succeeds(&setup, &["verify"]);
    assert_eq!(verified.matches("no fault\n").count(), 2, "{verified}");
    assert!(verified.starts_with(&format!("{}:\n", slot(1))) && verified.contains(&slot(2)), "{verified}");
    let pruned = lines(&outbox_succeeds(&setup, &["prune", "--older-than", "90d", "--dry-run", "--json"]));
    assert_eq!(pruned[1], json!({"dir": slot(2), "records": 0, "files": 0}));

    // Positions are those of one stream.
    for args in
        [&["list", "--after", "1/1"][..], &["show", "1/1"], &["export", "--limit", "1"], &["prune", "--before", "1/1"]]
    {
        let (code, _, said) = run_outbox(&setup, args);
        assert!(code == Some(2) && said.contains("is about one stream") && said.contains(&slot(2)), "{args:?}: {said}");
        let mut named = args.to_vec();
        let second = slot(2);
        named.extend(["--dir", &second]);
        if args[0] != "prune" {
            outbox_succeeds(&setup, &named);
        }
    }
    assert_eq!(live.leave(), Some(0));
}

#[test]
fn a_fault_in_one_slot_is_reported_and_the_others_are_checked() {
    let setup = Setup::new();
    let clients = [start(&setup), start(&setup)];
    for client in clients {
        assert_eq!(client.leave(), Some(0));
    }
    fs::remove_file(setup.audit_dir().join("1/outbox-000001.redb")).unwrap();
    fs::write(setup.audit_dir().join("1/outbox-000002.redb"), "not an outbox file").unwrap();
    let (code, stdout, stderr) = run_outbox(&setup, &["verify"]);
    assert!(code == Some(1) && stdout.contains("no fault\n"), "{stdout}{stderr}");
    assert!(stderr.contains(&format!("{}: ", setup.audit_dir().join("1").display())), "{stderr}");
}

#[test]
fn audit_commands_without_a_database_read_one_slot() {
    let setup = Setup::new();
    let mut first = start(&setup);
    echo(&mut first, "one");
    let (code, stdout, stderr) = run(&setup, &["audit", "query", "--tool", "echo", "--json"]);
    assert_eq!((code, lines(&stdout).len()), (Some(0), 1), "{stderr}");
    let second = start(&setup);
    let (code, _, said) = run(&setup, &["audit", "verify"]);
    let slot = setup.audit_dir().join("1").display().to_string();
    assert!(code == Some(1) && said.contains("2 slots") && said.contains(&slot), "{said}");
    let (code, stdout, stderr) = run(&setup, &["audit", "verify", "--dir", &slot]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert_eq!((first.leave(), second.leave()), (Some(0), Some(0)));
}

#[test]
fn a_directory_is_an_outbox_or_has_slots() {
    let setup = Setup::new();
    assert_eq!(start(&setup).leave(), Some(0));
    let (code, _, said) = run(&setup, &["serve"]);
    assert!(code == Some(3) && said.contains("has slots of gatepost stdio"), "{code:?} {said}");
    assert!(!setup.audit_dir().join("lock").exists(), "nothing was changed");

    let setup = Setup::new();
    let gatepost = setup.start();
    for _ in 0..2 {
        let (code, said) = refused(&setup);
        assert!(code == Some(3) && said.contains("is an outbox itself"), "{code:?} {said}");
    }
    assert!(!setup.audit_dir().join("1").exists(), "nothing was changed");
    assert_eq!(gatepost.terminate(), Some(0));
}

#[test]
fn a_gateway_id_that_is_set_allows_one_process() {
    let mut setup = Setup::new();
    let id = "00000000-0000-4000-8000-000000000018";
    setup.set("audit.gateway_id", id);
    let first = start(&setup);
    let (code, said) = refused(&setup);
    assert!(code == Some(3) && said.contains("audit.gateway_id allows one process"), "{code:?} {said}");
    assert_eq!(first.leave(), Some(0));
    assert_eq!(start(&setup).leave(), Some(0));
    let stats = lines(&outbox_succeeds(&setup, &["stats", "--json"]));
    assert_eq!((stats.len(), &stats[0]["gateway_id"], &stats[0]["streams"][1]["epoch"]), (1, &json!(id), &json!(2)));
    // A command that opens a slot takes the id of the slot, also if another one is set by now.
    setup.set("audit.gateway_id", "00000000-0000-4000-8000-000000000019");
    outbox_succeeds(&setup, &["prune", "--older-than", "0s", "--yes"]);
    let stats = lines(&outbox_succeeds(&setup, &["stats", "--json"]));
    assert_eq!((&stats[0]["gateway_id"], &stats[0]["streams"][0]["epoch"]), (&json!(id), &json!(2)));
}

#[test]
fn the_number_of_slots_is_limited() {
    let setup = Setup::new();
    fs::create_dir(setup.audit_dir()).unwrap();
    let held = (1..=32).map(|number| {
        let slot = setup.audit_dir().join(number.to_string());
        fs::create_dir(&slot).unwrap();
        let lock = File::create(slot.join("lock")).unwrap();
        lock.try_lock().unwrap();
        lock
    });
    let mut held: Vec<_> = held.collect();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(setup.audit_dir(), mode).unwrap();
    let (code, said) = refused(&setup);
    assert!(code == Some(3) && said.contains("all 32 slots of outbox directory"), "{code:?} {said}");
    held.truncate(31);
    fs::remove_dir_all(setup.audit_dir().join("32")).unwrap();
    assert_eq!(start(&setup).leave(), Some(0));
    assert!(setup.audit_dir().join("32/lock").exists());
}
