//! Random lives of a gateway: after every step, the state that a crash would leave satisfies I1 to I5 and I9.
//!
//! A case is a few lives of a gateway: calls begin, end and are refused, files fill up, records are delivered, replies
//! are lost, the quota is reached, the disk fails once, the process is killed or the power fails. At the beginning of
//! every commit the disk is copied in the state in which a crash at that moment would leave it. A gateway runs on the
//! copy until everything is delivered, and the checks of `tests/crash/oracle.rs` compare the result with what callers
//! and sink saw. Finally the real pipeline with the real shipper delivers the rest, to a sink that loses a reply and
//! refuses the records of one tool; then the sink goes back as far as the outbox keeps records, and gets them again.
//!
//! `MODEL_CASES=2000 cargo nextest run --test crash model` runs more cases; proptest prints the shrunk failure.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::oracle::Evidence;
use crate::sim_disk::{Crash, Fault};
use crate::simulation::{Ending, GATEWAY, KEEP, LARGE_BYTES, Life, POISON_BYTES, Simulation, Step};
use gatepost::audit::chain::Head;
use gatepost::audit::pipeline::{Config, Pipeline};
use gatepost::audit::record::{AuditRecord, Digest, Epoch, GatewayId, Status};
use gatepost::audit::scribe::{ConfigSummary, Mode};
use gatepost::audit::shipper::BatchLimits;
use gatepost::audit::sink::{CursorUpdate, ErrorClass, Sink, SinkError};
use gatepost::audit::{Timeouts, ring};
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

/// Cases of a short run. *Chosen*: half a minute in a debug build; `MODEL_CASES` asks for more.
const CASES: u32 = 24;

/// A life and how the process ends after it.
type Part = (Life, Crash);

fn step() -> impl Strategy<Value = Step> {
    let status = prop::sample::select(vec![Status::Ok, Status::ToolError, Status::Timeout, Status::Cancelled]);
    prop_oneof![
        6 => (0_usize..200).prop_map(Step::Begin),
        1 => Just(Step::Begin(LARGE_BYTES)),
        1 => Just(Step::Begin(POISON_BYTES)),
        6 => (0_usize..6, status).prop_map(|(idx, status)| Step::End(idx, status)),
        2 => Just(Step::Refuse),
        2 => (1_usize..6).prop_map(Step::Ship),
        1 => (1_usize..6).prop_map(Step::ShipUnheard),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    let old_batches = prop_oneof![Just(0), 1_usize..3, Just(usize::MAX)];
    let crash_at = prop::option::of(1_u64..200);
    let fault = prop_oneof![4 => Just(Fault::None), 1 => (1_u64..200).prop_map(Fault::Once)];
    let quota_bytes = prop_oneof![3 => Just(None), 1 => Just(Some(400 * 1024))];
    let crash = prop_oneof![Just(Crash::Kill), Just(Crash::PowerLoss)];
    let queued = (prop::bool::weighted(0.25), any::<bool>());
    (prop::collection::vec(step(), 0..10), (old_batches, any::<bool>(), crash_at), fault, quota_bytes, queued, crash)
        .prop_map(|(steps, (old_batches, ships_all, crash_at), fault, quota_bytes, (queued, keeps), crash)| {
            let life =
                Life { steps, queued, quota_bytes, keeps, old_batches, ships_all, crash_at, fault, ..Life::default() };
            (life, crash)
        })
}

/// A sink that keeps its rows in the evidence, loses the reply of one delivery and refuses the records of one tool.
#[derive(Clone)]
struct EvidenceSink {
    evidence: Arc<Mutex<Evidence>>,
    reply_lost: bool,
}

impl EvidenceSink {
    fn take<R: AsRef<AuditRecord>>(&self, batch: &[R]) -> CursorUpdate {
        self.evidence.lock().unwrap().deliver(batch)
    }
}

fn refuses(record: &AuditRecord) -> bool {
    record.entry.call.tool_name.as_deref() == Some("poison")
}

fn error(class: ErrorClass, sqlstate: &str) -> SinkError {
    SinkError { operation: "deliver", class, sqlstate: Some(sqlstate.to_owned()), message: "injected".to_owned() }
}

impl Sink for EvidenceSink {
    async fn prepare(&mut self, _: GatewayId) -> Result<(), SinkError> {
        Ok(())
    }

    async fn cursor(&mut self, _: GatewayId, epoch: Epoch) -> Result<Head, SinkError> {
        Ok(self.evidence.lock().unwrap().cursor(epoch))
    }

    async fn deliver<R: AsRef<AuditRecord> + Sync>(&mut self, batch: &[R]) -> Result<CursorUpdate, SinkError> {
        if batch.iter().any(|record| refuses(record.as_ref())) {
            return Err(error(ErrorClass::Row, "23514"));
        }
        let moved = self.take(batch);
        if std::mem::replace(&mut self.reply_lost, true) {
            Ok(moved)
        } else {
            Err(error(ErrorClass::Transient, "08006"))
        }
    }

    async fn dry_run(&mut self, record: &AuditRecord) -> Result<(), SinkError> {
        if refuses(record) { Err(error(ErrorClass::Row, "23514")) } else { Ok(()) }
    }

    async fn quarantine(&mut self, record: &AuditRecord, _reason: &SinkError) -> Result<CursorUpdate, SinkError> {
        assert!(refuses(record), "I9: {record:?} was not refused");
        Ok(self.take(std::slice::from_ref(record)))
    }
}

/// The real pipeline delivers what is left; what arrives goes to the evidence.
fn deliver_by_the_real_shipper(simulation: &Simulation) {
    let sink = EvidenceSink { evidence: simulation.shared_evidence(), reply_lost: false };
    let config = Config {
        dir: simulation.outbox_dir(),
        gateway_id: Some(GATEWAY),
        mode: Mode::Stored,
        ring: ring::RingLimits { records: 4096, bytes: 16 * 1024 * 1024 },
        outbox_bytes_max: 1 << 30,
        keep: Some(KEEP),
        timeouts: Timeouts { admission: Duration::from_secs(20), store: Duration::from_secs(20) },
        batch: BatchLimits { records: 4, bytes: 100_000 },
        about: ConfigSummary {
            level: "stored",
            config_digest: Digest::of(b"config"),
            digest_key: gatepost::audit::record::DigestKey::from_bytes([0; 32]),
            policy: gatepost::audit::record::PolicyText::default(),
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let pipeline = Pipeline::start(&config, Arc::new(simulation.disk.clone()), Some(sink)).unwrap();
        let (_, epoch) = pipeline.probe().stream();
        simulation.evidence().epochs.push(epoch);
        pipeline.stop(Duration::from_secs(20), Duration::from_secs(20)).await
    });
    // I9: a record that the sink refuses is in its quarantine, and those after it are delivered.
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
}

fn run(parts: &[Part], seed: u64) {
    let mut simulation = Simulation::new(seed);
    simulation.inspect = Some(Arc::new(move |seen, disk| {
        let crash = if disk.operations() % 2 == 0 { Crash::Kill } else { Crash::PowerLoss };
        let mut fork = Simulation::after(seen, disk, crash, disk.operations());
        fork.settle();
        let violations = fork.evidence().violations();
        assert!(
            violations.is_empty(),
            "a {crash:?} before operation {} would leave\n{violations:#?}",
            disk.operations() + 1
        );
    }));
    let mut endings = BTreeSet::new();
    for (life, crash) in parts {
        let ending = simulation.live(life);
        endings.insert(format!("{ending:?}"));
        assert!(ending != Ending::Failed || life.fault != Fault::None, "{ending:?}");
        simulation.crash(*crash);
    }
    simulation.inspect = None;
    deliver_by_the_real_shipper(&simulation);
    // The sink goes back, as a restored database does, and gets again what it lost.
    let before = simulation.evidence().rows.len();
    simulation.restore_the_sink();
    deliver_by_the_real_shipper(&simulation);
    assert!(simulation.evidence().rows.len() > before);
    let left = simulation.left();
    simulation.evidence().left = left;
    let violations = simulation.evidence().violations();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn i1_i2_i3_i4_i5_i9_hold_after_every_step_of_random_lives() {
    let cases = std::env::var("MODEL_CASES").map_or(CASES, |count| count.parse().unwrap());
    let config = Cases { cases, failure_persistence: None, max_shrink_iters: 200, ..Cases::default() };
    let lives = (prop::collection::vec(part(), 1..4), any::<u64>());
    TestRunner::new(config)
        .run(&lives, |(parts, seed)| {
            run(&parts, seed);
            Ok(())
        })
        .unwrap();
}

/// A disk that fails once while a file is begun for the last commit costs no record.
#[test]
fn i7_a_fault_while_the_last_file_is_begun_loses_nothing() {
    for fault in (1..90).map(Fault::Once) {
        let steps = vec![Step::Begin(50_000), Step::End(0, Status::Ok)];
        run(&[(Life { steps, keeps: true, fault, ..Life::default() }, Crash::Kill)], 0);
    }
}
