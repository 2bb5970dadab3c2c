//! Claim: floods of refused requests neither fill the outbox nor disturb authorized calls more than the same load at
//! another server of the machine does.
//!
//! Sixteen connections send requests with random paths, names, methods, bodies, sessions and ids as fast as they are
//! answered, for a minute: without a token, and with the token of a caller whose role allows nothing. Beside them, four
//! authorized clients call a tool with a pause after each call. The gateway has its default limits. For comparison,
//! nginx answers the same requests with 404, at the rate that the gateway reached, while the gateway serves the same
//! calls. Without an `nginx` on the PATH, that side is left out.
//!
//! After each side the gateway is stopped, and the refusals in its outbox are added up.
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
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::flood::{Answered, Flood};
use common::gateway::{Gateway, token};
use common::sample::{Sample, milliseconds};
use common::stored_records::stored_records;
use common::{disk, runtime, size, table};
use gatepost::audit::codec;
use gatepost::audit::outbox::Reader;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::record::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Connections of the flood. *Chosen*: they keep both cores busy, together with the server.
const CONNECTIONS: u64 = 16;

/// Requests of each connection that differ. *Chosen*: far more than get a record of their own.
const DISTINCT: usize = 4096;

/// Authorized clients, and their pause after each call. *Chosen*: below the default rate of one principal.
const CALLERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);

/// Where nginx listens.
const NGINX: &str = "127.0.0.1:48810";

struct Side {
    calls: Sample,
    answered: Answered,
    took: Duration,
    /// Growth of the outbox in bytes, less what the authorized calls take when they are alone.
    grown: u64,
    /// The refusals in the trail.
    recorded: u64,
    /// Their records, and the bytes of these in the outbox.
    records: u64,
    bytes: u64,
}

fn main() {
    table::title("flood", "Floods of refused requests beside authorized calls.");
    let during = Duration::from_secs(size("FLOOD_SECONDS", 60, 2));
    let runtime = runtime();
    let alone = runtime.block_on(side(None, during));
    let stranger = runtime.block_on(side(Some(Target::gateway(None)), during));
    let nobody = token("nobody", "nothing");
    let denied = runtime.block_on(side(Some(Target::gateway(Some(&nobody))), during));
    let mut sides = vec![("calls alone", alone), ("no token", stranger), ("a token without rights", denied)];
    let files = disk::directory("flood");
    if let Some(mut nginx) = nginx(files.path()) {
        for (name, token, at) in [("nginx, as no token", None, 1), ("nginx, as a token", Some(nobody.as_str()), 2)] {
            let rate = sides[at].1.answered.all as f64 / sides[at].1.took.as_secs_f64();
            let target = Target { host: Some(NGINX.to_owned()), token: token.map(str::to_owned), rate };
            sides.push((name, runtime.block_on(side(Some(target), during))));
        }
        // Its workers end with it, as they would not at SIGKILL.
        kill(Pid::from_raw(i32::try_from(nginx.id()).unwrap()), Signal::SIGTERM).unwrap();
        nginx.wait().unwrap();
    }
    let alone = sides[0].1.grown as f64 / sides[0].1.calls.len() as f64;
    let header =
        ["side", "requests/s", "refused", "in the trail", "records", "KiB", "files KiB", "calls", "p50 ms", "p99 ms"];
    let mut shown = table::Table::new(header);
    for (name, mut side) in sides {
        let of_flood = side.grown as f64 - alone * side.calls.len() as f64;
        shown.row([
            name.to_owned(),
            table::count(side.answered.all as f64 / side.took.as_secs_f64()),
            table::count(side.answered.refused as f64),
            table::count(side.recorded as f64),
            side.records.to_string(),
            format!("{:.0}", side.bytes as f64 / 1024.0),
            format!("{:.0}", of_flood / 1024.0),
            side.calls.len().to_string(),
            milliseconds(side.calls.percentile(50.0)),
            milliseconds(side.calls.percentile(99.0)),
        ]);
    }
    shown.print();
}

/// What is flooded.
struct Target {
    /// `None`: the gateway.
    host: Option<String>,
    token: Option<String>,
    /// Most requests per second.
    rate: f64,
}

impl Target {
    fn gateway(token: Option<&str>) -> Self {
        Self { host: None, token: token.map(str::to_owned), rate: f64::INFINITY }
    }
}

async fn side(target: Option<Target>, during: Duration) -> Side {
    let dir = disk::directory("flood");
    let data = dir.path().join("data");
    let gateway = Arc::new(Gateway::start_with(dir.path(), &data, "stored", "roles.nothing.allow = []\n").await);
    let before = outbox_bytes(&data);
    let floods = target.as_ref().map(|target| floods(target, gateway.host())).unwrap_or_default();
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (gateway, is_over) = (Arc::clone(&gateway), Arc::clone(&is_over));
            tokio::spawn(async move { gateway.calls_of(&format!("caller {number}"), PAUSE, &is_over).await })
        })
        .collect();
    let begun = Instant::now();
    let answered = match &target {
        None => {
            tokio::time::sleep(during).await;
            Answered::default()
        }
        Some(target) => flooded(floods, target.rate / CONNECTIONS as f64, during).await,
    };
    let took = begun.elapsed();
    is_over.store(true, Ordering::Relaxed);
    let mut calls = Sample::default();
    for caller in callers {
        calls.extend(caller.await.unwrap());
    }
    let grown = outbox_bytes(&data) - before;
    Arc::into_inner(gateway).unwrap().end(Signal::SIGTERM).await;
    let [recorded, records, bytes] = refusals(&data);
    let at_gateway = target.as_ref().is_some_and(|target| target.host.is_none());
    assert_eq!(recorded, if at_gateway { answered.refused } else { 0 }, "each refusal is recorded or counted once");
    Side { calls, answered, took, grown, recorded, records, bytes }
}

fn floods(target: &Target, gateway: &str) -> Vec<Flood> {
    let host = target.host.as_deref().unwrap_or(gateway);
    (0..CONNECTIONS).map(|seed| Flood::new(host, target.token.as_deref(), seed, DISTINCT)).collect()
}

/// Sends the floods from threads of their own, each with at most `rate` requests per second.
async fn flooded(floods: Vec<Flood>, rate: f64, during: Duration) -> Answered {
    let begun = Instant::now();
    let threads = floods.into_iter().map(|flood| {
        tokio::task::spawn_blocking(move || {
            flood.send(|sent| {
                if rate.is_finite() {
                    let due = Duration::from_secs_f64(sent as f64 / rate);
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                }
                begun.elapsed() < during
            })
        })
    });
    let answered = futures_util::future::join_all(threads).await;
    answered.into_iter().map(Result::unwrap).fold(Answered::default(), Answered::plus)
}

fn outbox_bytes(data: &Path) -> u64 {
    let files = std::fs::read_dir(data).unwrap().map(|file| file.unwrap());
    let outbox = files.filter(|file| file.file_name().to_string_lossy().starts_with("outbox-"));
    outbox.map(|file| file.metadata().unwrap().len()).sum()
}

/// The refusals in the trail, single and counted ones; their records, and the bytes of these.
fn refusals(data: &Path) -> [u64; 3] {
    let reader = Reader::offline(Arc::new(DiskFs), data).unwrap();
    let count = |json: Option<&str>, key: &str| {
        let details: serde_json::Value = serde_json::from_str(json.unwrap_or("null")).unwrap();
        details[key].as_u64().unwrap()
    };
    let refused = [Status::Denied, Status::Malformed, Status::Unauthenticated, Status::RateLimited];
    let of_entry = |entry: &gatepost::audit::record::Entry| match entry.call.method.as_str() {
        "gateway/refusals" => count(entry.call.request_args.as_deref(), "count"),
        "gateway/gap" => count(entry.call.request_args.as_deref(), "refused"),
        _ => u64::from(refused.contains(&entry.response_status)),
    };
    let mut frames = Vec::new();
    let (mut all, mut records) = (0, 0);
    for record in stored_records(&reader) {
        let refusals = of_entry(&record.entry);
        if refusals > 0 {
            all += refusals;
            records += 1;
            codec::encode_record(&record, &mut frames).unwrap();
        }
    }
    [all, records, frames.len() as u64]
}

/// nginx, which answers every request with 404 and reads its body; `None` if there is none.
fn nginx(dir: &Path) -> Option<Child> {
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = path.split(':').chain(["/usr/sbin"]).map(|dir| Path::new(dir).join("nginx"));
    let program = programs.into_iter().find(|program| program.exists())?;
    let text = format!(
        "daemon off;\nworker_processes 2;\npid {dir}/nginx.pid;\nerror_log {dir}/nginx.log;\n\
         events {{ worker_connections 256; }}\nhttp {{\n access_log off;\n keepalive_requests 1000000000;\n\
         client_body_temp_path {dir}/body;\n proxy_temp_path {dir}/proxy;\n fastcgi_temp_path {dir}/fastcgi;\n\
         uwsgi_temp_path {dir}/uwsgi;\n scgi_temp_path {dir}/scgi;\n\
         server {{ listen {NGINX}; location / {{ return 404; }} }}\n}}\n",
        dir = dir.display()
    );
    let config = dir.join("nginx.conf");
    std::fs::write(&config, text).unwrap();
    let child = Command::new(program).arg("-p").arg(dir).arg("-c").arg(&config).stdin(Stdio::null()).spawn().unwrap();
    while std::net::TcpStream::connect(NGINX).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(child)
}
