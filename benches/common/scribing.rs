//! The real scribe on an outbox directory, without a shipper.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gatepost::audit::Timeouts;
use gatepost::audit::outbox::Opening;
use gatepost::audit::outbox::fs::Fs;
use gatepost::audit::pipeline::Config;
use gatepost::audit::record::{Digest, Entry};
use gatepost::audit::ring::{Phase, Ring, RingLimits, StoredReceiver};
use gatepost::audit::scribe::{ConfigSummary, EpochReport, Mode, Scribe};
use gatepost::audit::shipper::BatchLimits;
use tokio::sync::oneshot;

/// The ring's room. *Chosen*: the default of `audit.ring_records_max` is 16,384, too few for two entries of each of
/// 10,000 waiters; the bytes are the default.
pub const RING: RingLimits = RingLimits { records: 32 * 1024, bytes: 64 * 1024 * 1024 };

/// The outbox's quota. *Spec*: the default of `audit.outbox_bytes_max`.
pub const OUTBOX_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_mins(5);

pub fn about() -> ConfigSummary {
    ConfigSummary {
        level: "stored",
        config_digest: Digest::ZERO,
        digest_key: gatepost::audit::record::DigestKey::from_bytes([0; 32]),
        policy: gatepost::audit::record::PolicyText::default(),
    }
}

/// A pipeline on `dir` at level `stored`, with the batches of the defaults.
pub fn config(dir: &Path) -> Config {
    Config {
        dir: dir.to_owned(),
        gateway_id: None,
        mode: Mode::Stored,
        ring: RING,
        outbox_bytes_max: OUTBOX_BYTES,
        keep: None,
        timeouts: Timeouts { admission: PATIENCE, store: PATIENCE },
        batch: BatchLimits { records: 2000, bytes: 4_000_000 },
        about: about(),
    }
}

/// A scribe at work.
#[derive(Debug)]
pub struct Scribing {
    pub ring: Arc<Ring>,
    thread: JoinHandle<EpochReport>,
}

impl Scribing {
    pub fn begin(fs: Arc<dyn Fs>, dir: &Path) -> Self {
        let opening = Opening::open(fs, dir, None).unwrap();
        let scribe = Scribe::begin(opening, RING, OUTBOX_BYTES, Mode::Stored, &about()).unwrap();
        let ring = scribe.ring();
        Self { ring, thread: std::thread::Builder::new().name("scribe".to_owned()).spawn(|| scribe.run()).unwrap() }
    }

    /// Closes the epoch and ends.
    pub fn end(self) -> EpochReport {
        self.ring.advance_phase(Phase::Closing);
        super::runtime().block_on(self.ring.wait_for_phase(Phase::Closed));
        self.ring.advance_phase(Phase::Finished);
        let report = self.thread.join().unwrap();
        assert_eq!(report.lost, 0, "nothing is lost on a healthy disk");
        report
    }
}

/// Appends a record; what is returned is told when it is stored.
pub async fn append(ring: &Arc<Ring>, entry: Entry) -> StoredReceiver {
    let reservation = ring.reserve_event(&entry, PATIENCE).await.unwrap();
    let (sender, stored) = oneshot::channel();
    ring.end(reservation, entry, false, Some(sender)).unwrap();
    stored
}

/// Appends a record that nobody waits for.
pub async fn push(ring: &Arc<Ring>, entry: Entry) {
    let reservation = ring.reserve_event(&entry, PATIENCE).await.unwrap();
    ring.end(reservation, entry, false, None).unwrap();
}
