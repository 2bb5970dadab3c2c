//! A pipeline on a disk and with a sink that misbehave as the test says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::outbox::{Keep, Reader};
use gatepost::audit::pipeline::{Config, Pipeline, Probe, StopReport};
use gatepost::audit::record::{AuditRecord, Call, Caller, Correlation, Digest, Outcome, RequestId, Status, Timestamp};
use gatepost::audit::scribe::{ConfigSummary, Mode};
use gatepost::audit::shipper::BatchLimits;
use gatepost::audit::sink::postgres::{Connection, Options, PostgresSink};
use gatepost::audit::verify::{self, Expect, Heads, Report};
use gatepost::audit::{Audit, Timeouts, ring};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use crate::common::checked;
use crate::common::postgres::Database;
use crate::common::stored_records::stored_records;
use crate::common::trail::{self, Entry};
use crate::common::wait::{SOON, until_async};
use crate::fault_disk::Disk;
use crate::memory_sink::MemorySink;

/// A connection for the functions that read.
pub async fn reader(database: &Database) -> Connection {
    Connection::new(PgConnection::connect(&database.url).await.unwrap(), SOON)
}

/// What a pipeline is started from, again and again.
#[derive(Debug)]
pub struct Rig {
    pub dir: TempDir,
    pub disk: Disk,
    pub sink: MemorySink,
    pub config: Config,
}

impl Rig {
    /// Level `stored`, and room and time enough for everything.
    pub fn stored() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    /// Level `queued`.
    pub fn queued(spill_after: Duration) -> Self {
        let mut rig = Self::stored();
        rig.config.mode = Mode::Queued { spill_after };
        rig.config.about.level = "queued";
        rig
    }

    /// Level `stored`, with so much time and room for delivered records that all of them are kept.
    pub fn keeping() -> Self {
        let mut rig = Self::stored();
        rig.config.keep = Some(Keep { age: Duration::from_hours(1), bytes: 1 << 29 });
        rig
    }

    /// Level `stored` on an outbox that exists.
    pub fn on(dir: TempDir) -> Self {
        let config = Config {
            dir: dir.path().to_owned(),
            gateway_id: None,
            mode: Mode::Stored,
            ring: ring::RingLimits { records: 16_384, bytes: 64 * 1024 * 1024 },
            outbox_bytes_max: 1 << 30,
            keep: None,
            timeouts: Timeouts { admission: Duration::from_secs(20), store: Duration::from_secs(20) },
            batch: BatchLimits { records: 2_000, bytes: 4_000_000 },
            about: ConfigSummary {
                level: "stored",
                config_digest: Digest::of(b"config"),
                digest_key: gatepost::audit::record::DigestKey::from_bytes([0; 32]),
                policy: gatepost::audit::record::PolicyText::default(),
            },
        };
        Self { dir, disk: Disk::default(), sink: MemorySink::default(), config }
    }

    /// A rig on what a kill -9 would leave of this one now; the sink is the same.
    pub fn after_crash(&self) -> Self {
        let mut rig = Self::on(self.disk.crash_image(self.dir.path()));
        rig.sink = self.sink.clone();
        (rig.config.mode, rig.config.keep) = (self.config.mode, self.config.keep);
        rig
    }

    /// Starts with the sink.
    pub fn start(&self) -> Pipeline {
        Pipeline::start(&self.config, Arc::new(self.disk.clone()), Some(self.sink.clone())).unwrap()
    }

    /// Starts without a sink.
    pub fn start_store_only(&self) -> Pipeline {
        Pipeline::start(&self.config, Arc::new(self.disk.clone()), None::<MemorySink>).unwrap()
    }

    /// Starts with the real sink on `database`.
    pub fn start_on(&self, database: &Database) -> Pipeline {
        Pipeline::start(&self.config, Arc::new(self.disk.clone()), Some(postgres_sink(database))).unwrap()
    }

    /// What the outbox holds.
    pub fn stored_records(&self) -> Vec<AuditRecord> {
        stored_records(&Reader::offline(Arc::new(DiskFs), self.dir.path()).unwrap())
    }

    /// The note beside the outbox, if there is one.
    pub fn note(&self) -> Option<serde_json::Value> {
        let json = std::fs::read(self.dir.path().join("delivered.json")).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// The names of the outbox's generation files.
    pub fn generations(&self) -> Vec<String> {
        let names = self.dir.path().read_dir().unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("outbox-"));
        names.sort();
        names
    }
}

/// The real sink, applying migrations.
pub fn postgres_sink(database: &Database) -> PostgresSink {
    let options = Options {
        url: database.url.clone(),
        password_file: None,
        statement_timeout: Duration::from_secs(20),
        migrate: true,
    };
    PostgresSink::new(&options).unwrap()
}

/// A call of `tool`.
pub fn call(tool: &str) -> Call {
    call_with(tool, r#"{"text":"hello"}"#)
}

/// A call of `tool` with arguments.
pub fn call_with(tool: &str, arguments: &str) -> Call {
    let caller = Caller {
        identity: std::sync::Arc::default(),
        subject: "ann".to_owned(),
        role: Some("analyst".to_owned()),
        issuer: Some("tests".to_owned()),
        token_id: Some("jti-1".to_owned()),
    };
    let correlation = Correlation {
        addr: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 4000)).into()),
        session_id: Some("s-1".to_owned()),
        rpc_id: Some("1".to_owned()),
    };
    Call::new(RequestId::new(), "tools/call")
        .with_caller(&caller)
        .with_correlation(&correlation)
        .with_target(Some("example"), Some(tool))
        .with_arguments(
            Some(arguments.to_owned()),
            Some(gatepost::audit::record::RecordKey::from_bytes([0; 32]).digest(arguments.as_bytes())),
        )
}

/// An answer without an error.
pub fn ok() -> Outcome {
    Outcome::answered(Status::Ok, None, b"{}", &gatepost::audit::record::RecordKey::from_bytes([0; 32]))
}

/// One whole call; returns its id.
pub async fn one(audit: &Audit, tool: &str) -> RequestId {
    let receipt = audit.begin(call(tool)).await.unwrap();
    let id = receipt.request_id();
    receipt.finish(ok(), ()).await.unwrap().into_inner();
    id
}

/// Calls one after another; returns their ids.
pub async fn many(audit: &Audit, count: usize) -> Vec<RequestId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(one(audit, "echo").await);
    }
    ids
}

/// Stops with time enough.
pub async fn stop(pipeline: Pipeline) -> StopReport {
    pipeline.stop(Duration::from_secs(20), Duration::from_secs(20)).await
}

/// Starts with the sink, waits until all is delivered, and stops.
pub async fn drained(rig: &Rig) -> StopReport {
    let pipeline = rig.start();
    delivered(&pipeline.probe()).await;
    stop(pipeline).await
}

/// Stops without waiting for anything, as a shell does whose time is over.
pub async fn stop_now(pipeline: Pipeline) -> StopReport {
    pipeline.stop(Duration::from_millis(1), Duration::ZERO).await
}

/// How often each call has a record.
pub fn times_recorded(records: &[AuditRecord]) -> BTreeMap<RequestId, usize> {
    let mut times = BTreeMap::new();
    for record in records {
        *times.entry(record.entry.call.request_id).or_default() += 1;
    }
    times
}

/// The statuses of the records of a call.
pub fn statuses(records: &[AuditRecord], id: RequestId) -> Vec<Status> {
    let of_call = records.iter().filter(|record| record.entry.call.request_id == id);
    of_call.map(|record| record.entry.response_status).collect()
}

/// The event records `gateway/<event>`: their details.
pub fn events(records: &[AuditRecord], event: &str) -> Vec<serde_json::Value> {
    let method = format!("gateway/{event}");
    let of_event = records.iter().filter(|record| record.entry.call.method == method);
    of_event.map(|record| serde_json::from_str(record.entry.call.request_args.as_ref().unwrap()).unwrap()).collect()
}

/// The bytes of the files in `dir`.
pub fn bytes_in(dir: &Path) -> u64 {
    let generations = dir.read_dir().unwrap().map(Result::unwrap);
    let generations = generations.filter(|entry| entry.file_name().to_str().unwrap().starts_with("outbox-"));
    generations.map(|entry| entry.metadata().unwrap().len()).sum()
}

/// Waits until all that was stamped is delivered.
pub async fn delivered(probe: &Probe) {
    until_async("all is delivered", SOON, || async {
        let gauge = probe.gauge();
        gauge.delivered == gauge.stamped
    })
    .await;
}

/// Waits until the outbox has forgotten everything, and unlinked all files but the newest.
pub async fn forgotten(rig: &Rig, probe: &Probe) {
    until_async("all is forgotten", SOON, || async {
        rig.generations().len() == 1 && stored_records(probe.reader()).is_empty()
    })
    .await;
}

/// What `gatepost audit verify` says about a trail of whole streams with these records.
pub fn judged(records: &[AuditRecord]) -> Report {
    let mut sorted = records.to_vec();
    sorted.sort_by_key(|record| (record.position.gateway_id, record.position.epoch, record.position.seq));
    let options = verify::Options { vouched: true, ..checked::options(Expect::new(false, false), Timestamp::now()) };
    checked::check(&sorted, &checked::ends(&sorted), None, Heads::default(), options)
}

/// Checks records that a sink or an outbox holds, also as `gatepost audit verify` does; returns them in their order.
pub fn verify_records(records: &[AuditRecord]) -> Vec<Entry> {
    let mut faults = judged(records).faults;
    // Some tests begin a stream with a call of their own.
    faults.retain(|fault| !fault.what.starts_with("the stream begins with"));
    assert!(faults.is_empty(), "audit verify: {faults:#?}");
    trail::verify(records.iter().map(Entry::from).collect())
}

/// Checks one stream whose records before `first` are elsewhere.
pub fn verify_records_from(records: &[AuditRecord], first: i64) -> Vec<Entry> {
    let entries: Vec<Entry> = records.iter().map(Entry::from).collect();
    assert_eq!(entries[0].seq, first);
    for pair in entries.windows(2) {
        assert_eq!((pair[1].seq, &pair[1].prev_hash), (pair[0].seq + 1, &pair[0].hash));
    }
    entries
}
