//! A steady load of tool calls, and what each caller saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use crate::common::gatepost::Gatepost;
use crate::common::mcp::{Client, Era};

/// Callers, half of each era. *Chosen*: several, so that one that waits for its answer is not the whole load.
const CALLERS: u32 = 8;

/// How often each calls. *Chosen*: 100 calls a second in all, which a debug build on two busy cores keeps up with.
const EVERY: Duration = Duration::from_millis(80);

/// A call, as its caller saw it.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it was due.
    pub due: Instant,
    /// From then to its answer: a call that waited for the one before it counts that too.
    pub took: Duration,
    /// The request id of its answer, or what was wrong with that.
    pub answer: Result<String, String>,
}

/// A load that goes on until it is stopped.
#[derive(Debug)]
pub struct Load {
    progress: Arc<Progress>,
    callers: JoinSet<Vec<Call>>,
}

#[derive(Debug, Default)]
struct Progress {
    stop: AtomicBool,
    answered: AtomicUsize,
    failed: AtomicUsize,
}

impl Load {
    /// Begins to call `echo` of the example backend.
    pub async fn start(gatepost: &Gatepost) -> Self {
        let mut clients = Vec::new();
        for number in 0..CALLERS {
            let era = if number % 2 == 0 { Era::Legacy } else { Era::Modern };
            clients.push((number, gatepost.client_at("/mcp/example", era, "echo").await));
        }
        let (progress, mut callers) = (Arc::<Progress>::default(), JoinSet::new());
        let begins = tokio::time::Instant::now();
        for (number, client) in clients {
            // One after the other, not all at once.
            let begins = begins + EVERY * number / CALLERS;
            callers.spawn(call(client, number, begins, Arc::clone(&progress)));
        }
        Self { progress, callers }
    }

    /// Calls answered well, and others, so far.
    pub fn so_far(&self) -> (usize, usize) {
        (self.progress.answered.load(Ordering::SeqCst), self.progress.failed.load(Ordering::SeqCst))
    }

    /// Ends it; every call that was begun has its answer. In the order in which they were due.
    pub async fn stop(self) -> Vec<Call> {
        self.progress.stop.store(true, Ordering::SeqCst);
        let mut calls = self.callers.join_all().await.concat();
        calls.sort_by_key(|call| call.due);
        calls
    }
}

/// Calls at its times until it is told to stop.
async fn call(client: Client, number: u32, begins: tokio::time::Instant, progress: Arc<Progress>) -> Vec<Call> {
    let mut ticks = tokio::time::interval_at(begins, EVERY);
    let mut calls = Vec::new();
    while !progress.stop.load(Ordering::SeqCst) {
        let due = ticks.tick().await.into_std();
        let text = format!("{number}/{}", calls.len());
        let answer = match client.call("echo", json!({ "text": text })).await {
            Ok(reply) if reply.body["result"]["content"][0]["text"] == text => {
                Ok(reply.header("x-request-id").to_owned())
            }
            Ok(reply) => Err(format!("{} {}", reply.status, reply.text)),
            Err(error) => Err(format!("no answer: {error}")),
        };
        let counter = if answer.is_ok() { &progress.answered } else { &progress.failed };
        counter.fetch_add(1, Ordering::SeqCst);
        calls.push(Call { due, took: due.elapsed(), answer });
    }
    calls
}

/// A line of a table: how many of `calls` were due between two moments, and how long they took.
pub fn row(when: &str, calls: &[Call], from: Instant, to: Instant) -> String {
    let within: Vec<&Call> = calls.iter().filter(|call| from <= call.due && call.due < to).collect();
    let mut took: Vec<Duration> = within.iter().map(|call| call.took).collect();
    took.sort_unstable();
    let percentile = |percent: usize| {
        let at = took.get(took.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
        format!("{:.1}", at.as_secs_f64() * 1e3)
    };
    let failed = within.iter().filter(|call| call.answer.is_err()).count();
    let seconds = (to - from).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = within.len() as f64 / seconds;
    let percentiles = [50, 99, 100].map(percentile).join(" | ");
    format!("| {when} | {seconds:.0} | {} | {failed} | {rate:.1} | {percentiles} |\n", within.len())
}
