//! A standard error that cannot be written: log lines are lost, and nothing else. Calls are answered and recorded as
//! they were, records are delivered, alarms reach their command, and signals end the gateway in order.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Stdio;

use crate::common::gatepost::{Gatepost, Setup};
use crate::common::mcp::{Client, Era};
use crate::common::postgres::{Cluster, Database};
use crate::common::postgres_control::stop_server;
use crate::common::process;
use crate::common::stdio_client::StdioClient;
use crate::common::trail::verify_postgres;
use crate::common::wait::{SOON, until};
use futures_util::future::join_all;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use serde_json::json;

/// What becomes of a standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A pipe without a reader.
    ReaderGone,
    /// A full pipe that is not read.
    PipeFull,
    /// A file to which nothing can be added.
    DiskFull,
}

/// When it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Start,
    Load,
    Stop,
}

const MOMENTS: [Moment; 3] = [Moment::Start, Moment::Load, Moment::Stop];

/// A standard error that works until it is broken.
struct Stderr {
    fault: Fault,
    reader: Option<PipeReader>,
    writer: OwnedFd,
}

impl Stderr {
    fn new(fault: Fault) -> Self {
        let (reader, writer) = match fault {
            Fault::ReaderGone | Fault::PipeFull => {
                let (reader, writer) = std::io::pipe().unwrap();
                (Some(reader), writer.into())
            }
            Fault::DiskFull => (None, memfd_create(c"log", MFdFlags::MFD_ALLOW_SEALING).unwrap()),
        };
        Self { fault, reader, writer }
    }

    fn for_child(&self) -> Stdio {
        self.writer.try_clone().unwrap().into()
    }

    fn break_now(&mut self) {
        match self.fault {
            Fault::ReaderGone => drop(self.reader.take()),
            Fault::PipeFull => {
                fcntl(&self.writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
                let mut pipe = File::from(self.writer.try_clone().unwrap());
                for piece in [&[b'.'; 4096][..], b"."] {
                    while pipe.write(piece).map_err(|error| assert_eq!(error.kind(), ErrorKind::WouldBlock)).is_ok() {}
                }
                fcntl(&self.writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
            }
            Fault::DiskFull => {
                let sealed = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW;
                fcntl(self.writer.as_fd(), FcntlArg::F_ADD_SEALS(sealed)).unwrap();
            }
        }
    }
}

fn start(setup: &Setup, stderr: impl Into<Stdio>) -> Gatepost {
    setup.wait_for(setup.spawn_command(setup.command(&["serve"]).stderr(stderr)))
}

async fn call(client: &Client, count: usize) {
    let calls = (0..count).map(|number| client.call("add", json!({"a": number, "b": 1})));
    for (number, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap().content(), (number + 1).to_string());
    }
}

/// Every call has its record, and says that it succeeded; the epoch was closed in order.
async fn is_recorded(database: &Database, calls: usize) {
    let entries = verify_postgres(&database.pool().await).await;
    let recorded: Vec<_> = entries.iter().filter(|entry| entry.method == "tools/call").collect();
    assert!(recorded.iter().all(|entry| entry.response_status == "ok"), "{recorded:#?}");
    assert_eq!(recorded.len(), calls);
    assert_eq!(entries.last().unwrap().method, "gateway/closed");
}

fn metric_is(gatepost: &Gatepost, line: &str) -> bool {
    gatepost.get_ops("/metrics").1.lines().any(|found| found == format!("{line}.0"))
}

/// `gatepost serve`, with a Postgres that is away while the log is broken.
async fn serve_survives(cluster: &mut Cluster, fault: Fault, moment: Moment) {
    let database = cluster.create_database().await;
    let (mut setup, mut stderr) = (Setup::new(), Stderr::new(fault));
    let told = setup.dir().join("told");
    let script = format!("echo \"$ALARM_NAME $ALARM_STATE\" >>{}", told.display());
    setup.set("postgres.url", &database.url).set("alarms.delivery_behind_after", "1s");
    setup.set_toml("alarms.command", &format!("[\"sh\", \"-c\", {script:?}]"));
    if moment == Moment::Start {
        stderr.break_now();
    }
    let gatepost = start(&setup, stderr.for_child());
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    let mut calls = 5;
    call(&client, 5).await;
    if moment != Moment::Stop {
        calls += 40;
        tokio::join!(call(&client, 20), async { stderr.break_now() });
        stop_server(cluster);
        call(&client, 20).await;
        let has_run = || std::fs::read_to_string(&told).unwrap_or_default().contains("delivery_behind raised");
        until("alarms.command was run", SOON, has_run);
        // A full pipe costs no lines before the queue is full, too.
        if fault != Fault::PipeFull {
            let raised = || metric_is(&gatepost, "gatepost_alarm{alarm=\"log_dropped\"} 1");
            until("the lines that are lost are an alarm", SOON, raised);
        }
        cluster.restart();
        until("all is delivered", 2 * SOON, || metric_is(&gatepost, "gatepost_records_stored 0"));
    }
    stderr.break_now();
    assert_eq!(gatepost.terminate(), Some(0), "{fault:?} {moment:?}");
    is_recorded(&database, calls).await;
}

/// `gatepost stdio`, which ends by SIGTERM.
async fn stdio_survives(cluster: &Cluster, fault: Fault, moment: Moment) {
    let database = cluster.create_database().await;
    let (mut setup, mut stderr) = (Setup::new(), Stderr::new(fault));
    setup.set("postgres.url", &database.url);
    if moment == Moment::Start {
        stderr.break_now();
    }
    let mut client = StdioClient::start(&setup, "example", "admin", stderr.for_child());
    client.initialize();
    for id in 2..12 {
        if moment == Moment::Load && id == 5 {
            stderr.break_now();
        }
        let answer = client.ask(id, "tools/call", &json!({"name": "add", "arguments": {"a": id, "b": 1}}));
        assert_eq!(answer["result"]["content"][0]["text"], (id + 1).to_string(), "{fault:?} {moment:?}: {answer}");
    }
    if moment == Moment::Stop {
        stderr.break_now();
    }
    process::signal(client.child.id(), Signal::SIGTERM);
    until("the gateway has ended", 2 * SOON, || client.child.try_wait().unwrap().is_some());
    assert_eq!(client.leave(), Some(0), "{fault:?} {moment:?}");
    is_recorded(&database, 10).await;
}

async fn both_survive(fault: Fault) {
    let mut cluster = Cluster::start();
    for moment in MOMENTS {
        serve_survives(&mut cluster, fault, moment).await;
        stdio_survives(&cluster, fault, moment).await;
    }
}

#[tokio::test]
async fn a_log_pipe_without_a_reader_costs_only_log_lines() {
    both_survive(Fault::ReaderGone).await;
}

#[tokio::test]
async fn a_log_pipe_that_is_not_read_costs_only_log_lines() {
    both_survive(Fault::PipeFull).await;
}

#[tokio::test]
async fn a_log_file_on_a_full_disk_costs_only_log_lines() {
    both_survive(Fault::DiskFull).await;
    let (setup, full) = (Setup::new(), File::options().write(true).open("/dev/full").unwrap());
    let gatepost = start(&setup, full);
    call(&gatepost.client_at("/mcp/example", Era::Modern, "admin").await, 5).await;
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_gateway_whose_log_is_not_read() {
    let (setup, mut stderr) = (Setup::new(), Stderr::new(Fault::PipeFull));
    stderr.break_now();
    let gatepost = start(&setup, stderr.for_child());
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    let open = tokio::spawn(async move { client.call("sleep", json!({"ms": 60_000})).await.map(drop) });
    until("the call is open", SOON, || metric_is(&gatepost, "gatepost_calls_open 1"));
    gatepost.signal(Signal::SIGTERM);
    let address = gatepost.url().strip_prefix("http://").unwrap().to_owned();
    until("it accepts no more", SOON, || std::net::TcpStream::connect(&address).is_err());
    assert_eq!(gatepost.end(Signal::SIGINT), Some(130));
    assert!(open.await.unwrap().is_err());
}

#[test]
fn a_wrong_configuration_is_reported_and_its_report_is_not_waited_for() {
    let mut setup = Setup::new();
    setup.set_toml("server.calls_max", "0");
    let mut stderr = Stderr::new(Fault::PipeFull);
    stderr.break_now();
    for command in ["serve", "stdio"] {
        let shown = setup.command(&[command]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(shown.status.code(), Some(2), "{shown:?}");
        let text = String::from_utf8_lossy(&shown.stderr);
        assert!(text.starts_with("gatepost: ") && text.contains("server.calls_max: 0 is out of range"), "{text}");
        let status = setup.command(&[command]).stdin(Stdio::null()).stderr(stderr.for_child()).status().unwrap();
        assert_eq!(status.code(), Some(2), "{command}");
    }
}
