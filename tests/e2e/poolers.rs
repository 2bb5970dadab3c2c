//! Three gateways into one Postgres, of the oldest and the newest version here, directly and through `PgBouncer`, while
//! each part is killed and started again: every call is in the trail once.
//!
//! `MATRIX_CALLS=10000` is the long form.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::{Client, Era};
use crate::common::newest_postgres::start_newest;
use crate::common::pgbouncer::PgBouncer;
use crate::common::postgres::Cluster;
use crate::common::postgres_control::stop_server;
use crate::common::raw_backend::raw_backend;
use crate::common::trail;
use crate::common::wait::{SOON, until_async};
use crate::harness::is_all_delivered;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Replies in CI. *Chosen*: a few seconds of load between two disturbances.
const CALLS: usize = 1_500;

/// Gateways, and clients of each.
const GATEWAYS: usize = 3;
const CLIENTS: usize = 4;

/// The way from the gateways to Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    /// Two server connections for all.
    TransactionMode,
    /// One server connection for each gateway, and some for commands.
    SessionMode,
}

/// A gateway that is started again and again.
struct Gateway {
    setup: Setup,
    /// The calls that reached its backend.
    received: PathBuf,
    running: Mutex<Option<Gatepost>>,
}

impl Gateway {
    fn new(url: &str) -> Self {
        let mut setup = Setup::new();
        let received = raw_backend(&mut setup, "raw");
        setup.set("postgres.url", url);
        let gateway = Self { setup, received, running: Mutex::new(None) };
        gateway.start();
        gateway
    }

    fn start(&self) {
        *self.running.lock().unwrap() = Some(self.setup.start());
    }

    fn end(&self, signal: Signal) -> Option<i32> {
        self.running.lock().unwrap().take().unwrap().end(signal)
    }

    fn url(&self) -> Option<String> {
        self.running.lock().unwrap().as_ref().map(|gatepost| format!("{}/mcp/raw", gatepost.url()))
    }
}

/// The texts of the calls that clients made, with the request ids of the replies.
type Seen = Arc<Mutex<BTreeMap<String, Option<String>>>>;

/// Calls until there are `enough` replies of all clients, also across restarts of the gateway.
async fn calls(gateway: Arc<Gateway>, worker: String, enough: usize, replies: Arc<AtomicUsize>, seen: Seen) {
    let mut made = 0;
    while replies.load(Ordering::SeqCst) < enough {
        until_async("the gateway runs", 4 * SOON, async || gateway.url().is_some()).await;
        let Some(url) = gateway.url() else { continue };
        // It may be killed at any moment.
        let connecting = async move { Client::connect(&url, Era::Modern, Some(&token("admin"))).await };
        let Ok(client) = tokio::spawn(connecting).await else { continue };
        while replies.load(Ordering::SeqCst) < enough {
            made += 1;
            let text = format!("{worker}/{made}");
            seen.lock().unwrap().insert(text.clone(), None);
            let Ok(reply) = client.call("echo", json!({ "text": text })).await else { break };
            assert_eq!(reply.content(), text);
            seen.lock().unwrap().insert(text, Some(reply.header("x-request-id").to_owned()));
            replies.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn every_call_is_in_the_trail_once(mut cluster: Cluster, way: Way) {
    let enough = std::env::var("MATRIX_CALLS").map_or(CALLS, |text| text.parse().unwrap());
    let database = cluster.create_database().await;
    let name = database.url.rsplit_once('/').unwrap().1.to_owned();
    let mut pooler = match way {
        Way::Direct => None,
        Way::TransactionMode => Some(PgBouncer::start(&cluster, "transaction", "")),
        Way::SessionMode => {
            Some(PgBouncer::start(&cluster, "session", "reserve_pool_size = 6\nreserve_pool_timeout = 1"))
        }
    };
    let url = pooler.as_ref().map_or_else(|| database.url.clone(), |pooler| pooler.url(&name));
    let gateways: Vec<_> = (0..GATEWAYS).map(|_| Arc::new(Gateway::new(&url))).collect();
    let (replies, seen) = (Arc::new(AtomicUsize::new(0)), Seen::default());
    let mut tasks = tokio::task::JoinSet::new();
    for (number, gateway) in gateways.iter().enumerate() {
        for client in 0..CLIENTS {
            let worker = format!("{number}/{client}");
            tasks.spawn(calls(Arc::clone(gateway), worker, enough, Arc::clone(&replies), Arc::clone(&seen)));
        }
    }
    let reached = async |part: usize| {
        let until = enough * part / 6;
        until_async("the load goes on", 10 * SOON, async || replies.load(Ordering::SeqCst) >= until).await;
    };
    reached(1).await;
    if let Some(pooler) = &mut pooler {
        pooler.kill();
        reached(2).await;
        pooler.restart();
    }
    reached(3).await;
    cluster.kill();
    reached(4).await;
    cluster.restart();
    tokio::task::block_in_place(|| {
        gateways[0].end(Signal::SIGKILL);
        gateways[0].start();
    });
    reached(5).await;
    tokio::task::block_in_place(|| {
        assert_eq!(gateways[1].end(Signal::SIGTERM), Some(0));
        gateways[1].start();
    });
    stop_server(&mut cluster);
    cluster.restart();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    for gateway in &gateways {
        until_async("everything is delivered", 4 * SOON, async || is_all_delivered(&gateway.setup)).await;
        let log = gateway.setup.log();
        assert!(!log.contains("operator_error"), "nothing here was for an operator\n{log}");
    }
    // What reads goes the same way.
    let verified = gateways[2].setup.command(&["audit", "verify"]).output().unwrap();
    let report = String::from_utf8_lossy(&verified.stdout).into_owned() + &String::from_utf8_lossy(&verified.stderr);
    // 4: the ends of the two other gateways' streams are not confirmed here.
    assert!(matches!(verified.status.code(), Some(0 | 4)), "{report}");
    for gateway in &gateways {
        assert_eq!(tokio::task::block_in_place(|| gateway.end(Signal::SIGTERM)), Some(0));
    }
    let entries = trail::verify_postgres(&database.pool().await).await;
    judge(&gateways, &seen.lock().unwrap(), &entries, way);
}

fn judge(gateways: &[Arc<Gateway>], seen: &BTreeMap<String, Option<String>>, entries: &[trail::Entry], way: Way) {
    let mut records: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.method == "tools/call") {
        let arguments: Value = serde_json::from_str(entry.args().unwrap()).unwrap();
        let record = (entry.response_status.clone(), entry.request_id.to_string());
        records.entry(arguments["text"].as_str().unwrap().to_owned()).or_default().push(record);
    }
    let mut forwarded: BTreeMap<String, usize> = BTreeMap::new();
    for gateway in gateways {
        for line in std::fs::read_to_string(&gateway.received).unwrap_or_default().lines() {
            let params: Value = serde_json::from_str(line).unwrap();
            *forwarded.entry(params["arguments"]["text"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    for (text, reply) in seen {
        let (times, found) = (forwarded.get(text).copied().unwrap_or(0), records.remove(text).unwrap_or_default());
        match (reply, found.as_slice()) {
            (Some(reply), [(status, id)]) => assert!(status == "ok" && id == reply && times == 1, "{text}: {found:?}"),
            // Killed with its gateway.
            (None, [_]) if times <= 1 => {}
            (None, []) if times == 0 => {}
            other => panic!("{text}, forwarded {times} times: {other:?}"),
        }
    }
    assert!(records.is_empty(), "nobody called {records:?}");
    let replies = seen.values().flatten().count();
    eprintln!("{way:?}: {replies} replies of {} calls, {} rows", seen.len(), entries.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn this_machines_postgres_directly() {
    every_call_is_in_the_trail_once(Cluster::start(), Way::Direct).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn this_machines_postgres_through_a_pooler_in_transaction_mode() {
    every_call_is_in_the_trail_once(Cluster::start(), Way::TransactionMode).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn this_machines_postgres_through_a_pooler_in_session_mode() {
    every_call_is_in_the_trail_once(Cluster::start(), Way::SessionMode).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn newest_postgres_directly() {
    every_call_is_in_the_trail_once(start_newest(), Way::Direct).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn newest_postgres_through_a_pooler_in_transaction_mode() {
    every_call_is_in_the_trail_once(start_newest(), Way::TransactionMode).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn newest_postgres_through_a_pooler_in_session_mode() {
    every_call_is_in_the_trail_once(start_newest(), Way::SessionMode).await;
}
