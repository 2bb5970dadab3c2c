//! Claim: what the whole gateway costs a call: 64 clients for a minute against the example backend, with and without it.
//!
//! *Alone*: 64 calls are always open at the example backend, over its own pipe. *Gateway*: the release binary in between,
//! as `serve` runs it, store-only; each client has one kept connection and calls without a session. Clients, gateway and
//! backend share the machine's two cores, so that throughput is processor time: the gateway's own is counted beside it, by
//! its process, without the backend's.
//!
//! Measured in 2026-11 on 2 cores, Debian 12, ext4; figures in `docs/performance.md`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench: it prints, and ends where anything is amiss"
)]

mod common;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::sample::{Sample, milliseconds};
use common::{disk, process, runtime, size, table};
use gatepost::gateway::auth::{Claims, mint};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, oneshot};

/// Clients. *Spec*: issue 5, and DESIGN section 13.
const CLIENTS: usize = 64;

const BINARY: &str = env!("CARGO_BIN_EXE_gatepost");

struct Run {
    sample: Sample,
    took: Duration,
    /// Processor time of the gateway's process.
    own: Duration,
}

fn main() {
    table::title("calls", "What the whole gateway costs a call: 64 clients against the example backend.");
    let during = Duration::from_secs(size("CALLS_SECONDS", 60, 2));
    let mut shown = table::Table::new(["side", "calls/s", "p50 ms", "p99 ms", "gateway CPU us a call", "of alone"]);
    let mut alone = None;
    for side in ["backend alone", "gateway, not audited", "gateway, queued", "gateway, stored"] {
        let run = runtime().block_on(async {
            match side.strip_prefix("gateway, ") {
                None => direct(during).await,
                Some(level) => through(level, during).await,
            }
        });
        let mut sample = run.sample;
        let rate = sample.len() as f64 / run.took.as_secs_f64();
        let of_alone = table::ratio(rate / *alone.get_or_insert(rate));
        let own = run.own.as_secs_f64() * 1e6 / sample.len() as f64;
        let own = if run.own.is_zero() { String::new() } else { format!("{own:.0}") };
        let (p50, p99) = (milliseconds(sample.percentile(50.0)), milliseconds(sample.percentile(99.0)));
        shown.row([side.to_owned(), format!("{rate:.0}"), p50, p99, own, of_alone]);
    }
    shown.print();
}

fn call(id: u64) -> String {
    let params = json!({"name": "echo", "arguments": {"text": "0123456789abcdef0123456789abcdef"}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string()
}

/// Calls over the backend's own pipe.
async fn direct(during: Duration) -> Run {
    let mut command = tokio::process::Command::new(BINARY);
    command.arg("example-backend").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let input = Arc::new(Mutex::new(child.stdin.take().unwrap()));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let info = json!({"name": "bench", "version": "1"});
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello});
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    input.lock().await.write_all(format!("{hello}\n{initialized}\n").as_bytes()).await.unwrap();
    lines.next_line().await.unwrap().unwrap();
    let waiting = Arc::new(std::sync::Mutex::new(std::collections::HashMap::<u64, oneshot::Sender<()>>::new()));
    let told = Arc::clone(&waiting);
    let reader = tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let message: serde_json::Value = serde_json::from_str(&line).unwrap();
            let answered = told.lock().unwrap().remove(&message["id"].as_u64().unwrap());
            answered.unwrap().send(()).ok();
        }
    });
    let next = Arc::new(AtomicU64::new(1));
    let one = move || {
        let (input, waiting, next) = (Arc::clone(&input), Arc::clone(&waiting), Arc::clone(&next));
        async move {
            let id = next.fetch_add(1, Ordering::Relaxed);
            let (answer, answered) = oneshot::channel();
            waiting.lock().unwrap().insert(id, answer);
            input.lock().await.write_all(format!("{}\n", call(id)).as_bytes()).await.unwrap();
            answered.await.unwrap();
        }
    };
    let begun = Instant::now();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let one = one.clone();
            tokio::spawn(async move {
                let mut sample = Sample::default();
                while begun.elapsed() < during {
                    let asked = Instant::now();
                    one().await;
                    sample.add(asked.elapsed());
                }
                sample
            })
        })
        .collect();
    let mut sample = Sample::default();
    for task in tasks {
        sample.extend(task.await.unwrap());
    }
    let took = begun.elapsed();
    reader.abort();
    Run { sample, took, own: Duration::ZERO }
}

/// Calls through the gateway.
async fn through(level: &str, during: Duration) -> Run {
    let dir = disk::directory("calls");
    let (secret, config, data) = (dir.path().join("secret"), dir.path().join("gatepost.toml"), dir.path().join("data"));
    let key = b"a secret for the benches, with more than 32 bytes";
    std::fs::write(&secret, key).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    let (enabled, stored) = (level != "not audited", if level == "queued" { "queued" } else { "stored" });
    let text = format!(
        "server.listen = \"127.0.0.1:0\"\nops.listen = \"off\"\nlog.filter = \"error\"\n\
         auth.keys = [{{ algorithm = \"HS256\", issuer = \"bench\", secret_file = {:?} }}]\n\
         roles.all.allow = [\"*/*\"]\nbackends.example.command = [{BINARY:?}, \"example-backend\"]\n\
         audit.enabled = {enabled}\naudit.level = {stored:?}\naudit.dir = {:?}\n",
        secret.to_str().unwrap(),
        data.to_str().unwrap()
    );
    let text = if enabled { text } else { text.replace("127.0.0.1:0", "127.0.0.1:48808") };
    std::fs::write(&config, text).unwrap();
    let mut command = tokio::process::Command::new(BINARY);
    command.args(["serve", "--config"]).arg(&config).env_clear().kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let host = if enabled { address(&data.join("serve.json")).await } else { "127.0.0.1:48808".to_owned() };
    let token = token(key);
    let warm = connect(&host).await;
    exchange(warm, &host, &token).await.1.unwrap();
    let pid = child.id().unwrap();
    let before = processor_time(pid);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (host, token) = (host.clone(), token.clone());
            tokio::spawn(async move {
                let (mut sample, mut stream) = (Sample::default(), connect(&host).await);
                while begun.elapsed() < during {
                    let asked = Instant::now();
                    let (kept, answered) = exchange(stream, &host, &token).await;
                    answered.unwrap();
                    stream = kept;
                    sample.add(asked.elapsed());
                }
                sample
            })
        })
        .collect();
    let mut sample = Sample::default();
    for task in tasks {
        sample.extend(task.await.unwrap());
    }
    let (took, own) = (begun.elapsed(), processor_time(pid).saturating_sub(before));
    process::signal(pid, nix::sys::signal::Signal::SIGTERM);
    child.wait().await.unwrap();
    Run { sample, took, own }
}

fn token(key: &[u8]) -> String {
    let claims = Claims {
        subject: "bench".to_owned(),
        issuer: "bench".to_owned(),
        audience: "gatepost".to_owned(),
        role_claim: "role".to_owned(),
        roles: vec!["all".to_owned()],
        scope: None,
        kid: None,
        valid_for: Duration::from_hours(1),
    };
    mint(key, &claims).unwrap()
}

async fn address(path: &Path) -> String {
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Ok(bound) = serde_json::from_str::<serde_json::Value>(&text) {
            return bound["mcp"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connect(host: &str) -> BufReader<TcpStream> {
    loop {
        if let Ok(stream) = TcpStream::connect(host).await {
            stream.set_nodelay(true).unwrap();
            return BufReader::new(stream);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One call over a kept connection; the answer must be a result.
async fn exchange(
    mut stream: BufReader<TcpStream>,
    host: &str,
    token: &str,
) -> (BufReader<TcpStream>, Result<(), String>) {
    let body = call(1).replace("\"echo\"", "\"example__echo\"");
    let request = format!(
        "POST /mcp HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         accept: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        assert!(stream.read_line(&mut line).await.unwrap() > 0, "the gateway closed the connection");
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let text = String::from_utf8(body).unwrap();
    let answered = if text.contains("\"result\"") { Ok(()) } else { Err(text) };
    (stream, answered)
}

/// User and system time of a process so far.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // *Spec*: proc(5); Linux counts in hundredths of a second on every common platform.
    Duration::from_millis(ticks * 10)
}
