//! `gatepost outbox prune`: the oldest files go, the trail says so, and what is left passes `verify`.

use std::fs;

use crate::common::gatepost::Setup;
use crate::common::mcp::Era;
use crate::run::{outbox_succeeds, run_outbox};
use serde_json::{Value, json};

fn records(setup: &Setup) -> Vec<Value> {
    outbox_succeeds(setup, &["export"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn files(setup: &Setup) -> Vec<String> {
    let names = fs::read_dir(setup.audit_dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("outbox-")).collect();
    names.sort();
    names
}

/// Epochs of three records and a closing one, a file each.
async fn epochs(setup: &Setup, count: usize) {
    for _ in 0..count {
        let gatepost = setup.start();
        let client = gatepost.client(Era::Modern, "admin").await;
        for _ in 0..2 {
            client.call("example__echo", json!({"text": "hi"})).await.unwrap();
        }
        assert_eq!(gatepost.terminate(), Some(0));
    }
}

#[tokio::test]
async fn i4_pruning_removes_whole_files_and_is_recorded() {
    let setup = Setup::new();
    epochs(&setup, 3).await;
    let before = records(&setup);
    // Without a terminal it does not ask, and without --yes it does nothing.
    let (code, _, stderr) = run_outbox(&setup, &["prune", "--before", "3/1"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("--yes"), "{stderr}");
    let would = outbox_succeeds(&setup, &["prune", "--before", "3/1", "--dry-run"]);
    assert!(would.contains("would remove 8 records, 1/1 to 2/4, in 2 files"), "{would}");
    // A place in the middle of a file keeps all of that file.
    assert_eq!(outbox_succeeds(&setup, &["prune", "--before", "1/4", "--yes"]), "nothing to prune\n");
    assert_eq!(records(&setup), before);
    assert_eq!(files(&setup).len(), 3);

    let done = outbox_succeeds(&setup, &["prune", "--before", "3/1", "--yes"]);
    assert!(done.contains("removed 8 records, 1/1 to 2/4, in 2 files"), "{done}");
    assert_eq!(files(&setup), ["outbox-000003.redb", "outbox-000004.redb"]);
    let after = records(&setup);
    assert_eq!(after[..4], before[8..], "what is younger is as it was");
    let pruned = after.iter().find(|record| record["method"] == "gateway/pruned").unwrap();
    assert_eq!((pruned["epoch"].as_u64(), pruned["client_issuer"].as_str()), (Some(4), Some("os")));
    let details = details(pruned);
    let last = &before[7];
    assert_eq!(details["first"], json!({"epoch": 1, "seq": 1}));
    assert_eq!(details["last"], json!({"epoch": 2, "seq": 4, "hash": last["hash"]}));
    assert_eq!((details["records"].as_u64(), details["files"].as_u64()), (Some(8), Some(2)));
    let report = outbox_succeeds(&setup, &["verify"]);
    let hash = last["hash"].as_str().unwrap();
    let begins = format!("the trail begins after 2/4 ({hash}): earlier records were pruned, as gateway/pruned at 4/2");
    assert!(report.contains(&begins) && report.ends_with("no fault\n"), "{report}");
    // What is left goes on as if nothing had happened.
    epochs(&setup, 1).await;
    assert!(outbox_succeeds(&setup, &["verify"]).ends_with("no fault\n"));
    let audit = setup.command(&["audit", "verify"]).output().unwrap();
    let text = String::from_utf8(audit.stdout).unwrap();
    // What was pruned does not count; that nobody confirms the end of a dead gateway's directory does.
    assert!(audit.status.code() == Some(4) && text.contains("1 part is not proven"), "{text}");
    assert!(text.contains("were pruned, as gateway/pruned says"), "{text}");
}

fn details(record: &Value) -> Value {
    match &record["request_args"] {
        Value::String(text) => serde_json::from_str(text).unwrap(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn a_live_gateway_prunes_and_continues() {
    let setup = Setup::new();
    epochs(&setup, 2).await;
    let gatepost = setup.start();
    let done = outbox_succeeds(&setup, &["prune", "--older-than", "0s", "--yes", "--json"]);
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!((done["records"].as_u64(), done["files"].as_u64()), (Some(8), Some(2)));
    assert_eq!(files(&setup), ["outbox-000003.redb"]);
    let client = gatepost.client(Era::Modern, "admin").await;
    client.call("example__echo", json!({"text": "hi"})).await.unwrap();
    let methods: Vec<_> = records(&setup).iter().map(|record| record["method"].clone()).collect();
    assert_eq!(methods, ["gateway/opened", "gateway/pruned", "tools/call"]);
    assert!(outbox_succeeds(&setup, &["verify"]).contains("as gateway/pruned at 3/2 says"));
    // The newest file stays, however old.
    assert_eq!(outbox_succeeds(&setup, &["prune", "--older-than", "0s", "--yes"]), "nothing to prune\n");
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn i4_records_due_for_postgres_are_not_pruned() {
    let mut setup = Setup::new();
    epochs(&setup, 1).await;
    // Nobody listens on port 1.
    setup.set("postgres.url", "postgres://gatepost@127.0.0.1:1/audit").set("postgres.drain_timeout", "1s");
    let (code, _, stderr) = run_outbox(&setup, &["prune", "--older-than", "0s", "--yes"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("postgres.url is set"), "{stderr}");
    // Nor where only the live gateway knows of it.
    let gatepost = setup.start();
    setup.settings.retain(|key, _| !key.starts_with("postgres."));
    let (code, _, stderr) = run_outbox(&setup, &["prune", "--older-than", "0s", "--yes"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("this gateway delivers to Postgres"), "{stderr}");
    assert_eq!(files(&setup).len(), 2);
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn pruning_a_once_delivered_outbox_needs_undelivered() {
    let database = crate::common::postgres::Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    epochs(&setup, 1).await;
    setup.settings.remove("postgres.url");
    epochs(&setup, 2).await;
    let before = files(&setup);
    let (code, _, stderr) = run_outbox(&setup, &["prune", "--older-than", "0s", "--yes"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("--undelivered"), "{stderr}");
    assert_eq!(files(&setup), before);
    outbox_succeeds(&setup, &["prune", "--older-than", "0s", "--yes", "--undelivered"]);
    assert!(outbox_succeeds(&setup, &["verify"]).ends_with("no fault\n"));
}
