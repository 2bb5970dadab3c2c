//! Claim: inspecting an outbox does not load it into memory and costs at most 5 % of the calls of a live gateway; a
//! healthy trail of 1 M records is verified within 30 s.
//!
//! A child process fills an outbox of 2 GB by the real scribe, leaves 64 calls open, and is killed with SIGKILL. Every
//! command of `gatepost outbox` runs on that outbox, as a process of its own whose memory is sampled every 5 ms. Then
//! `serve` takes the directory, 64 clients call it without a pause, and each command runs repeatedly beside them;
//! rounds with a command alternate with rounds without one. The 1 M records are in an outbox of their own, and drained
//! from there into Postgres for `audit verify`.
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

use common::child::{kill, ready, spawn};
use common::gateway::{BINARY, CLIENTS, Gateway, Load};
use common::machine::{Memory, memory};
use common::postgres::Cluster;
use common::records::Maker;
use common::sample::{median, milliseconds, rate};
use common::{argument, command, disk, fill, runtime, size, table};
use nix::sys::signal::Signal;

/// The commands that only look, and one that has to read everything to find nothing.
const LOOKS: [&[&str]; 8] = [
    &["stats"],
    &["list"],
    &["list", "--who", "nobody"],
    &["show", "1/50000"],
    &["tail"],
    &["verify"],
    &["export"],
    &["export", "--format", "csv"],
];

/// The most memory of a command that only inspects. *Chosen*: twice the sum of the binary itself, one file's page cache
/// and one segment; a thirtieth of the stored bytes.
const RESIDENT_MAX: u64 = 64 << 20;

/// The same for `drain`, which delivers as the gateway does. *Spec*: docs/design.md, "Targets": memory with a backlog.
const DRAINING_MAX: u64 = 200 << 20;

/// Records in the range that is verified. *Spec*: docs/design.md, "Targets".
const RANGE: u64 = 10_000;

/// The least time between two starts of a command beside a live gateway. *Chosen*: half the default interval of
/// `watch`. A short command is mostly the start of its process, 2.4 ms of a processor; ten a second took 2 to 7 % of
/// the calls.
const INTERVAL: Duration = Duration::from_secs(1);

/// A command that has ended.
struct Ran {
    took: Duration,
    peak: u64,
}

fn main() {
    if let (Some(_), Some(dir)) = (argument("role"), argument("dir")) {
        let _scribing = fill::with_open_calls(Path::new(&dir), bytes(), CLIENTS);
        ready("filled");
    }
    table::title(
        "inspect",
        "Looking into 2 GB holds no 2 GB in memory and takes at most 5 % of a live gateway's calls; 1 M records are \
         verified within 30 s.",
    );
    let dir = disk::directory("inspect");
    let outbox = dir.path().join("outbox");
    kill(spawn("fill", &outbox));
    dead(&outbox, dir.path());
    live(&outbox, dir.path());
    million();
}

fn bytes() -> u64 {
    size("INSPECT_BYTES", 2_000_000_000, 50_000_000)
}

/// Each command on what `kill -9` left.
fn dead(outbox: &Path, files: &Path) {
    let (count, bytes) = disk::usage(outbox);
    println!("What kill -9 left: {} MiB in {count} files.\n", table::mebibytes(bytes));
    let mut shown = table::Table::new(["command", "s", "RSS MiB at most"]);
    let mut most = 0;
    let mut row = |what: &str, ran: &Ran| {
        most = most.max(ran.peak);
        shown.row([what.to_owned(), seconds(ran.took), table::mebibytes(ran.peak)]);
    };
    for look in LOOKS {
        disk::cool(outbox);
        row(&look.join(" "), &run("outbox", look, outbox));
    }
    // What changes it, on a copy: the directory is needed once more.
    let copy = files.join("copy");
    command::run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(outbox).arg(&copy));
    row("prune", &run("outbox", &["prune", "--yes", "--before", "1/2500000"], &copy));
    std::fs::remove_dir_all(&copy).unwrap();
    command::run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(outbox).arg(&copy));
    let cluster = Cluster::start_with("fsync=on");
    let database = runtime().block_on(cluster.create_database());
    let draining = run_with("outbox", &["drain", "--timeout", "1h"], &copy, Some(&database.url));
    std::fs::remove_dir_all(&copy).unwrap();
    shown.row(["drain".to_owned(), seconds(draining.took), table::mebibytes(draining.peak)]);
    shown.print();
    for (what, limit, most) in [("a look", RESIDENT_MAX, most), ("drain", DRAINING_MAX, draining.peak)] {
        let goal = format!("resident in {what}, at most {} MiB", limit >> 20);
        table::goal(&goal, &format!("{} MiB", table::mebibytes(most)), most <= limit);
    }
}

/// Each command beside a gateway that 64 clients call.
fn live(outbox: &Path, files: &Path) {
    let round = Duration::from_secs(size("INSPECT_ROUND_SECONDS", 10, 1));
    let rounds = size("INSPECT_ROUNDS", 3, 1);
    let header =
        ["over and over beside 64 clients", "runs", "calls/s", "without", "ratio", "p99 ms", "without", "RSS MiB"];
    let mut shown = table::Table::new(header);
    println!("\nBeside a live gateway at level stored, without Postgres, on the same directory:\n");
    let runtime = runtime();
    let gateway = Arc::new(runtime.block_on(Gateway::start(files, outbox, "stored")));
    let load = || {
        let Load { mut sample, took } = runtime.block_on(gateway.load(round));
        (rate(sample.len(), took), sample.percentile(99.0))
    };
    load();
    let before = memory(gateway.pid());
    let mut worst = f64::MAX;
    for look in LOOKS {
        let (mut ratios, mut with, mut without) = (Vec::new(), (Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        let (mut runs, mut peak) = (0, 0);
        for _ in 0..rounds {
            let alone = load();
            let over = AtomicBool::new(false);
            let beside = std::thread::scope(|scope| {
                let looking = scope.spawn(|| over_and_over(look, outbox, &over));
                let beside = load();
                over.store(true, Ordering::Relaxed);
                let (ran, most) = looking.join().unwrap();
                (runs, peak) = (runs + ran, peak.max(most));
                beside
            });
            let again = load();
            let alone = (f64::midpoint(alone.0, again.0), alone.1.min(again.1));
            ratios.push(beside.0 / alone.0);
            with.0.push(beside.0);
            with.1.push(beside.1.as_secs_f64());
            without.0.push(alone.0);
            without.1.push(alone.1.as_secs_f64());
        }
        let ratio = median(ratios);
        worst = worst.min(ratio);
        let ms = |seconds| milliseconds(Duration::from_secs_f64(median(seconds)));
        shown.row([
            look.join(" "),
            runs.to_string(),
            table::count(median(with.0)),
            table::count(median(without.0)),
            format!("{ratio:.3}"),
            ms(with.1),
            ms(without.1),
            table::mebibytes(peak),
        ]);
    }
    shown.print();
    let Memory { peak, .. } = memory(gateway.pid());
    let more = peak.saturating_sub(before.peak);
    table::goal("calls beside a command, of those without", &format!("{worst:.3}"), worst >= 0.95);
    println!(
        "- the gateway itself: {} MiB at most, {} MiB more than before",
        table::mebibytes(peak),
        table::mebibytes(more)
    );
    runtime.block_on(Arc::into_inner(gateway).unwrap().end(Signal::SIGKILL));
}

/// Runs a command again and again until `over`; the last one is killed. Gives how many ran, and the most memory of one.
fn over_and_over(look: &[&str], outbox: &Path, over: &AtomicBool) -> (usize, u64) {
    let (mut runs, mut peak) = (0, 0);
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next = Instant::now() + INTERVAL;
        let mut child = start("outbox", look, outbox, None);
        let ended = watch(&mut child, &mut peak, over);
        assert!(ended.is_none_or(|succeeded| succeeded), "{look:?} failed");
        runs += 1;
    }
    (runs, peak)
}

/// A healthy trail of a million records, in an outbox and in Postgres.
fn million() {
    let records = size("INSPECT_RECORDS", 1_000_000, 20_000);
    let dir = disk::directory("inspect-million");
    let outbox = dir.path().join("outbox");
    fill::closed(&outbox, &Maker::new(), records);
    let cluster = Cluster::start_with("fsync=on");
    let database = runtime().block_on(cluster.create_database());
    let url = Some(database.url.as_str());
    let mut shown = table::Table::new(["a healthy trail", "records", "s", "records/s", "RSS MiB at most"]);
    let mut worst = Duration::ZERO;
    let mut row = |what: &str, ran: &Ran| {
        let rate = table::count(rate(records, ran.took));
        shown.row([what.to_owned(), table::whole(records), seconds(ran.took), rate, table::mebibytes(ran.peak)]);
    };
    for (what, command) in [("outbox verify", "outbox"), ("audit verify, of the outbox", "audit")] {
        let ran = run(command, &["verify"], &outbox);
        row(what, &ran);
        worst = worst.max(ran.took);
    }
    row("outbox drain", &run_with("outbox", &["drain", "--timeout", "1h"], &outbox, url));
    let ran = run_with("audit", &["verify"], dir.path(), url);
    row("audit verify, of Postgres", &ran);
    worst = worst.max(ran.took);
    let most = ran.peak;
    let [since, until] = runtime().block_on(times(&database.url, records as u64 / 2));
    let ran = run_with("audit", &["verify", "--since", &since, "--until", &until], dir.path(), url);
    row(&format!("audit verify, of {RANGE} of them"), &ran);
    println!();
    shown.print();
    let range = format!("{} s", seconds(ran.took));
    table::goal("a range verified within 1 s", &range, ran.took <= Duration::from_secs(1));
    let memory = format!("{} MiB", table::mebibytes(most));
    table::goal("resident in audit verify of Postgres, at most 64 MiB", &memory, most <= RESIDENT_MAX);
    table::goal("verified within 30 s", &format!("{} s", seconds(worst)), worst <= Duration::from_secs(30));
}

/// The times of arrival of a record, and of the one [`RANGE`] after it.
async fn times(url: &str, first: u64) -> [String; 2] {
    use sqlx::Connection as _;
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let mut times = [String::new(), String::new()];
    for (time, seq) in times.iter_mut().zip([first, first + RANGE]) {
        let sql = r#"SELECT to_char("timestamp" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM audit_log
            WHERE epoch = 1 AND seq = $1"#;
        *time = sqlx::query_scalar(sql).bind(seq.cast_signed()).fetch_one(&mut connection).await.unwrap();
    }
    times
}

fn seconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64())
}

fn run(command: &str, args: &[&str], dir: &Path) -> Ran {
    run_with(command, args, dir, None)
}

/// Runs a command to its end, which has to be a success.
fn run_with(command: &str, args: &[&str], dir: &Path, url: Option<&str>) -> Ran {
    let (begun, mut peak) = (Instant::now(), 0);
    let mut child = start(command, args, dir, url);
    assert_eq!(watch(&mut child, &mut peak, &AtomicBool::new(false)), Some(true), "{command} {args:?} failed");
    Ran { took: begun.elapsed(), peak }
}

fn start(command: &str, args: &[&str], dir: &Path, url: Option<&str>) -> Child {
    let mut started = Command::new(BINARY);
    started.arg(command).args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match url {
        Some(url) => started.env("GATEPOST_POSTGRES_URL", url),
        None => &mut started,
    };
    if command == "outbox" || url.is_none() {
        started.arg("--dir").arg(dir);
    }
    started.spawn().unwrap()
}

/// Waits for the command's end, and whether it was a success; or kills it once it is `over`.
fn watch(child: &mut Child, peak: &mut u64, over: &AtomicBool) -> Option<bool> {
    loop {
        *peak = memory(child.id()).peak.max(*peak);
        if let Some(status) = child.try_wait().unwrap() {
            // Nothing outside of a dead outbox confirms its end: `audit verify` says so with 4.
            return Some(status.success() || status.code() == Some(4));
        }
        if over.load(Ordering::Relaxed) {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
