//! `gatepost stdio`, started more than once with the same directory, as desktop clients do: each process has a slot and
//! a stream of its own, and what a killed one leaves is delivered by another.

use std::collections::BTreeSet;
use std::fs::File;

use crate::common::gatepost::Setup;
use crate::common::postgres::{Cluster, Database};
use crate::common::postgres_control::stop_server;
use crate::common::process;
use crate::common::stdio_client::StdioClient;
use crate::common::trail;
use crate::common::wait::{SOON, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn start(setup: &Setup) -> StdioClient {
    let log = File::options().create(true).append(true).open(setup.dir().join("log")).unwrap();
    StdioClient::start(setup, "example", "admin", log)
}

fn echo(client: &mut StdioClient, text: &str) {
    let answer = client.ask(9, "tools/call", &json!({"name": "echo", "arguments": {"text": text}}));
    assert_eq!(answer["result"]["content"][0]["text"], text, "{answer}");
}

fn kill(mut client: StdioClient) {
    process::signal(client.child.id(), Signal::SIGKILL);
    client.child.wait().unwrap();
}

fn run(setup: &Setup, args: &[&str]) -> (Option<i32>, String) {
    let output = setup.command(args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

/// The status of each slot, in the order of their numbers.
fn slots(setup: &Setup) -> Vec<Value> {
    let output = setup.command(&["outbox", "stats", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn is_live(slot: &Value) -> bool {
    slot["live"].is_object()
}

fn undelivered(slot: &Value) -> u64 {
    let streams = slot["streams"].as_array().unwrap().iter();
    streams.map(|stream| stream["last"].as_u64().unwrap() - stream["delivered"].as_u64().unwrap()).sum()
}

/// Checks the trail, and that it has one record of each of these calls, and no other record of a call.
async fn has_once(database: &Database, texts: &[String]) {
    let entries = trail::verify_postgres(&database.pool().await).await;
    let calls = entries.iter().filter(|entry| entry.method == "tools/call");
    let mut found: Vec<_> = calls.map(|entry| entry.args().unwrap_or_default().to_owned()).collect();
    let mut expected: Vec<_> = texts.iter().map(|text| format!(r#"{{"text":"{text}"}}"#)).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_at_once_have_a_slot_and_a_stream_each() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let mut clients: Vec<_> = (0..3).map(|_| start(&setup)).collect();
    let mut texts = Vec::new();
    for (idx, client) in clients.iter_mut().enumerate() {
        client.initialize();
        for call in 0..5 {
            texts.push(format!("{idx}-{call}"));
            echo(client, texts.last().unwrap());
        }
    }
    let before = slots(&setup);
    assert!(before.len() == 3 && before.iter().all(is_live), "{before:#?}");
    for (slot, number) in before.iter().zip(1..) {
        assert_eq!(slot["dir"], setup.audit_dir().join(number.to_string()).to_str().unwrap());
        assert!(!setup.audit_dir().join(format!("{number}/digest.key")).exists(), "the slots share one");
    }
    let ids: BTreeSet<_> = before.iter().map(|slot| slot["gateway_id"].to_string()).collect();
    assert!(ids.len() == 3 && setup.audit_dir().join("digest.key").exists(), "{ids:?}");
    // Each of the live gateways confirms the end of its stream.
    let (code, report) = run(&setup, &["audit", "verify"]);
    assert_eq!(code, Some(0), "{report}");
    for client in clients {
        assert_eq!(client.leave(), Some(0));
    }
    has_once(&database, &texts).await;
    let left: Vec<_> = slots(&setup).iter().map(undelivered).collect();
    assert_eq!(left, [0, 0, 0], "a process that ended well leaves nothing to others");
    let mut client = start(&setup);
    client.initialize();
    let after = slots(&setup);
    assert_eq!((&after[0]["gateway_id"], &after[0]["live"]["epoch"]), (&before[0]["gateway_id"], &json!(2)));
    assert_eq!(client.leave(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_killed_processes_left_in_an_outage_is_delivered_once_by_others() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let mut texts = Vec::new();
    let mut call = |client: &mut StdioClient, text: String| {
        echo(client, &text);
        texts.push(text);
    };
    let [mut first, mut second] = [start(&setup), start(&setup)];
    for (client, name) in [(&mut first, "first"), (&mut second, "second")] {
        client.initialize();
        call(client, format!("{name}, delivered"));
    }
    stop_server(&mut cluster);
    for (client, name) in [(&mut first, "first"), (&mut second, "second")] {
        (0..5).for_each(|idx| call(client, format!("{name}, {idx}")));
    }
    kill(first);
    kill(second);
    assert!(slots(&setup).iter().all(|slot| !is_live(slot) && undelivered(slot) >= 5), "{:#?}", slots(&setup));
    // It has the first slot, and opens the second to deliver what is in it once the database is back.
    let mut third = start(&setup);
    third.initialize();
    until("the second slot is open", SOON, || is_live(&slots(&setup)[1]));
    let mut fourth = start(&setup);
    fourth.initialize();
    call(&mut third, "third".to_owned());
    call(&mut fourth, "fourth".to_owned());
    assert_eq!(slots(&setup).len(), 3);
    cluster.restart();
    setup.wait_for_log("slot of an earlier process closed");
    until("the second slot is free", SOON, || !is_live(&slots(&setup)[1]));
    assert_eq!(undelivered(&slots(&setup)[1]), 0);
    assert_eq!((third.leave(), fourth.leave()), (Some(0), Some(0)));
    assert!(slots(&setup).iter().all(|slot| undelivered(slot) == 0), "{:#?}", slots(&setup));
    has_once(&database, &texts).await;
    let (code, report) = run(&setup, &["outbox", "verify"]);
    assert_eq!((code, report.matches("no fault\n").count()), (Some(0), 3), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_call_of_a_killed_process_is_recorded_as_interrupted_by_another() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let mut first = start(&setup);
    first.initialize();
    let mut second = start(&setup);
    second.initialize();
    let sleep = json!({"name": "sleep", "arguments": {"ms": 60_000}});
    second.send(&json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": sleep}));
    until("the call is open", SOON, || slots(&setup)[1]["intents"] == 1);
    until("all is delivered", SOON, || undelivered(&slots(&setup)[1]) == 0);
    kill(second);
    assert_eq!(first.leave(), Some(0));
    let mut third = start(&setup);
    third.initialize();
    setup.wait_for_log("slot of an earlier process closed");
    assert_eq!(third.leave(), Some(0));
    let entries = trail::verify_postgres(&database.pool().await).await;
    let sleeps = entries.iter().filter(|entry| entry.method == "tools/call");
    let found: Vec<_> = sleeps.map(|entry| entry.text("response_status").unwrap().to_owned()).collect();
    assert_eq!(found, ["interrupted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_with_a_fork_is_left_and_stops_no_process() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let mut clients = [start(&setup), start(&setup)];
    for client in &mut clients {
        client.initialize();
        echo(client, "delivered");
    }
    until("all is delivered", SOON, || slots(&setup).iter().all(|slot| slot["live"]["delivered"].as_u64() >= Some(3)));
    stop_server(&mut cluster);
    for client in &mut clients {
        echo(client, "not delivered");
    }
    clients.into_iter().for_each(kill);
    cluster.restart();
    let forked = slots(&setup)[1]["gateway_id"].as_str().unwrap().to_owned();
    let fork = "UPDATE audit_stream SET head_hash = sha256('another writer') WHERE gateway_id = $1::uuid";
    let rows = sqlx::query(fork).bind(&forked).execute(&database.pool().await).await.unwrap().rows_affected();
    assert_eq!(rows, 1);
    let mut client = start(&setup);
    client.initialize();
    echo(&mut client, "beside the fork");
    setup.wait_for_log("records in a slot cannot be delivered and stay there");
    until("the second slot is free", SOON, || !is_live(&slots(&setup)[1]));
    echo(&mut client, "after it");
    assert_eq!(client.leave(), Some(0));
    let left: Vec<_> = slots(&setup).iter().map(undelivered).collect();
    assert!(left[0] == 0 && left[1] > 0, "{left:?}");
    assert_eq!(setup.log().matches("records in a slot cannot be delivered").count(), 1);
}

#[tokio::test]
async fn drain_takes_all_slots_but_those_of_live_gateways() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    let mut clients: Vec<_> = (0..3).map(|_| start(&setup)).collect();
    let mut texts = Vec::new();
    for (client, idx) in clients.iter_mut().zip(0..) {
        client.initialize();
        texts.push(format!("call {idx}"));
        echo(client, texts.last().unwrap());
    }
    let live = clients.pop().unwrap();
    clients.into_iter().for_each(kill);
    setup.set("postgres.url", &database.url);
    let own = slots(&setup).iter().find(|slot| is_live(slot)).unwrap()["dir"].as_str().unwrap().to_owned();
    let (code, said) = run(&setup, &["outbox", "drain"]);
    assert_eq!((code, said.matches("all records are delivered").count()), (Some(0), 2), "{said}");
    assert!(said.contains(&format!("{own}: left to its live gateway (pid ")), "{said}");
    assert_eq!(live.leave(), Some(0));
    // One slot may be named. Its epoch has the key of the digests that all slots share.
    let (code, said) = run(&setup, &["outbox", "drain", "--dir", &own, "--json"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(File::open(format!("{own}/digest.key")).is_err());
    has_once(&database, &texts).await;
}
