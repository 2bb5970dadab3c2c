//! A backend that is killed in the middle of calls: they end as errors and are not retried, later calls succeed, and
//! the calls of another backend continue. Prints the latency of that backend before and during the failure.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::gatepost::Setup;
use crate::common::mcp::{Client, Era};
use crate::common::raw_backend::raw_backend;
use crate::common::wait::{SOON, until_async};
use serde_json::{Value, json};

/// Calls that are open when the backend is killed. *Chosen*: the capacity of the queue of lines to a child process.
const HELD: usize = 16;

/// Callers of the other backend, and the least number of calls that they make before and after. *Chosen*: enough for a
/// percentile.
const OTHERS: usize = 4;
const OTHER_CALLS: usize = 200;

/// The other backend's calls: when each ended, and how long it took.
type Taken = Arc<Mutex<Vec<(Instant, Duration)>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_backend_ends_its_calls_once_and_no_others() {
    let mut setup = Setup::new();
    let received = raw_backend(&mut setup, "raw");
    let gatepost = setup.start();
    for (era, of_era) in [(Era::Legacy, "older"), (Era::Modern, "newer")] {
        let raw = gatepost.client_at("/mcp/raw", era, "admin").await;
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Taken::default());
        let mut others = Vec::new();
        for _ in 0..OTHERS {
            let client = gatepost.client_at("/mcp/example", era, "admin").await;
            others.push(tokio::spawn(call_until(client, Arc::clone(&stop), Arc::clone(&taken))));
        }
        let more = |than: usize| taken.lock().unwrap().len() > than;
        until_async("the other backend is called", SOON, async || more(OTHER_CALLS)).await;
        let held: Vec<_> = (0..HELD)
            .map(|number| {
                let raw = raw.clone();
                let text = format!("{of_era} {number}.");
                tokio::spawn(async move { raw.call("hold", json!({"text": text})).await.unwrap().error_code() })
            })
            .collect();
        until_async("the backend has all calls", SOON, async || made(&received, of_era, HELD)).await;
        let killed = Instant::now();
        assert!(raw.call("kill", json!({"text": of_era})).await.unwrap().error_code() < 0);
        for call in held {
            assert!(call.await.unwrap() < 0);
        }
        until_async("the next call works", SOON, async || {
            let reply = raw.call("echo", json!({"text": "again"})).await.unwrap();
            reply.body["result"]["content"][0]["text"] == "again"
        })
        .await;
        let up = Instant::now();
        let before = taken.lock().unwrap().len();
        until_async("the other backend is still called", SOON, async || more(before + OTHER_CALLS)).await;
        stop.store(true, Ordering::Relaxed);
        for caller in others {
            caller.await.unwrap();
        }
        let taken = taken.lock().unwrap();
        let between = |from: Option<Instant>, to: Instant| {
            let ended = |(at, _): &&(Instant, Duration)| from.is_none_or(|from| *at > from) && *at <= to;
            taken.iter().filter(ended).map(|(_, took)| *took).collect::<Vec<_>>()
        };
        show(of_era, "before", between(None, killed));
        show(of_era, "while the backend was down", between(Some(killed), up));
    }
    assert_eq!(gatepost.terminate(), Some(0));
    // Each was made once and is one record.
    let received = std::fs::read_to_string(received).unwrap();
    let output = setup.command(&["outbox", "export"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut statuses = BTreeMap::<String, Vec<String>>::new();
    for record in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        if matches!(record["tool_name"].as_str(), Some("hold" | "kill")) {
            let status = record["response_status"].as_str().unwrap().to_owned();
            statuses.entry(record["request_args"].as_str().unwrap().to_owned()).or_default().push(status);
        }
    }
    assert_eq!(statuses.len(), 2 * (HELD + 1), "{statuses:?}");
    for (arguments, statuses) in statuses {
        assert_eq!(statuses, ["error"], "{arguments}");
        let text = serde_json::from_str::<Value>(&arguments).unwrap()["text"].to_string();
        assert_eq!(received.matches(&text).count(), 1, "{text}");
    }
}

/// Calls the other backend until `stop`; every call has to succeed.
async fn call_until(client: Client, stop: Arc<AtomicBool>, taken: Taken) {
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        assert_eq!(client.call("echo", json!({"text": "other"})).await.unwrap().content(), "other");
        taken.lock().unwrap().push((Instant::now(), asked.elapsed()));
    }
}

/// Whether the calls of this era reached the backend.
fn made(received: &std::path::Path, of_era: &str, count: usize) -> bool {
    let text = std::fs::read_to_string(received).unwrap_or_default();
    (0..count).all(|number| text.contains(&format!("\"{of_era} {number}.\"")))
}

fn show(of_era: &str, when: &str, mut taken: Vec<Duration>) {
    taken.sort_unstable();
    let percentile =
        |percent: usize| taken.get(taken.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
    println!("{of_era} era, {when}: {} calls, p50 {:?}, p99 {:?}", taken.len(), percentile(50), percentile(99));
}
