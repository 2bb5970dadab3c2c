//! Builds the pipeline's parts, connects them, and stops them in the order in which records flow.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::handle::{Audit, Timeouts};
use super::meter::Meter;
use super::outbox::fs::Fs;
use super::outbox::lock::Hold;
use super::outbox::{self, Opening, Reader};
use super::record::{Epoch, GatewayId, Seq};
use super::ring::{self, Heartbeat, Phase, Ring, RingGauge};
use super::scribe::{ConfigSummary, EpochReport, Mode, Scribe, StoredTree};
use super::shipper::{BatchLimits, Shipper, ShipperState};
use super::sink::Sink;

/// The pipeline's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The outbox directory.
    pub dir: PathBuf,
    /// The operator's gateway id, if set.
    pub gateway_id: Option<GatewayId>,
    /// The level at which calls wait.
    pub mode: Mode,
    /// Limits of the ring.
    pub ring: ring::RingLimits,
    /// Quota for all files of the outbox together, in bytes.
    pub outbox_bytes_max: u64,
    /// The limits of what the outbox keeps of delivered records; `None` keeps nothing. Without a sink it has no effect.
    pub keep: Option<outbox::Keep>,
    /// Limits on the time that a call waits.
    pub timeouts: Timeouts,
    /// Limits of a batch that is delivered to Postgres.
    pub batch: BatchLimits,
    /// Details for the epoch's opening record.
    pub about: ConfigSummary,
}

/// The running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    audit: Audit,
    probe: Probe,
    stored_tree: StoredTree,
    hold: Hold,
    scribe: JoinHandle<EpochReport>,
    shipper: Option<tokio::task::JoinHandle<()>>,
    deadline: CancellationToken,
}

/// A read-only view of the running pipeline, for status and metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Probe {
    audit: Audit,
    ring: Arc<Ring>,
    limits: ring::RingLimits,
    reader: Reader,
    meter: Arc<Meter>,
    shipper: watch::Receiver<ShipperState>,
    gateway_id: GatewayId,
    epoch: Epoch,
}

/// The outcome of [`Pipeline::stop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// Records that were lost because only the ring had them; 0 unless the outbox failed until the end.
    pub lost: usize,
    /// The epoch's last record.
    pub last: Seq,
    /// The epoch's last delivered record.
    pub delivered: Seq,
}

impl Pipeline {
    /// Opens the outbox, begins an epoch, and starts the scribe's thread and, if there is a sink, the shipper's task.
    ///
    /// # Errors
    /// Any error of opening the outbox; no epoch was begun.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start<S: Sink>(config: &Config, fs: Arc<dyn Fs>, sink: Option<S>) -> Result<Self, outbox::OutboxError> {
        Self::begin(Opening::open(fs, &config.dir, config.gateway_id)?, config, sink)
    }

    /// The same for an outbox that was opened.
    ///
    /// # Errors
    /// The opening record cannot be stored; no epoch was begun.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn begin<S: Sink>(mut opening: Opening, config: &Config, sink: Option<S>) -> Result<Self, outbox::OutboxError> {
        if let Some(previous) = opening.previous.filter(|previous| !previous.closed) {
            let (epoch, interrupted) = (previous.epoch, opening.interrupted.len());
            tracing::warn!(
                %epoch,
                last_seq = %previous.head.seq,
                interrupted,
                "previous epoch was not closed, so the gateway crashed; recording its open calls as interrupted"
            );
        }
        opening.keep = config.keep;
        let hold = opening.hold();
        let scribe = Scribe::begin(opening, config.ring, config.outbox_bytes_max, config.mode, &config.about)?;
        let (ring, reader, meter) = (scribe.ring(), scribe.reader(), scribe.meter());
        let ((gateway_id, epoch), stored_tree) = (scribe.stream(), scribe.stored_tree());
        tracing::info!(%gateway_id, %epoch, dir = %config.dir.display(), "outbox opened");
        let deadline = CancellationToken::new();
        let (shipper, watched) = if let Some(sink) = sink {
            let ends = (Arc::clone(&ring), reader.clone(), Arc::clone(&meter));
            let (shipper, watched) = Shipper::new(ends, sink, (gateway_id, epoch), config.batch, deadline.clone());
            (Some(tokio::spawn(shipper.run())), watched)
        } else {
            (None, watch::channel(ShipperState::StoreOnly).1)
        };
        let scribed = Arc::clone(&ring);
        let scribe = std::thread::Builder::new().name("scribe".to_owned()).spawn(move || {
            catch_unwind(AssertUnwindSafe(|| scribe.run())).unwrap_or_else(|panicked| {
                tracing::error!("scribe panicked (a bug in Gatepost); refusing calls until the gateway is restarted");
                scribed.mark_scribe_failed();
                resume_unwind(panicked)
            })
        });
        let io =
            |source| outbox::OutboxError::Io { operation: "start the scribe for", path: config.dir.clone(), source };
        let scribe = scribe.map_err(io)?;
        let wait_for_store = config.mode == Mode::Stored;
        let key = config.about.digest_key.clone();
        let audit = Audit::enabled(Arc::clone(&ring), Arc::clone(&meter), wait_for_store, config.timeouts, key);
        let (limits, reader) = (config.ring, reader.for_inspection());
        let probe = Probe { audit: audit.clone(), ring, limits, reader, meter, shipper: watched, gateway_id, epoch };
        Ok(Self { audit, probe, stored_tree, hold, scribe, shipper, deadline })
    }

    /// The handle for the gateway.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.audit.clone()
    }

    /// The view for status and metrics.
    #[must_use]
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Keeps the outbox directory locked for those who use it after this pipeline.
    #[must_use]
    pub fn hold(&self) -> Hold {
        self.hold.clone()
    }

    /// The tree over all records that a crash cannot lose.
    #[must_use]
    pub fn stored_tree(&self) -> StoredTree {
        self.stored_tree.clone()
    }

    /// Stops the parts in the order in which records flow.
    ///
    /// For at most `store`, the ring is emptied into the outbox and the epoch is closed. For at most `ship`, delivery
    /// continues. Then delivered records are removed from the outbox. Calls that are still open keep their stored
    /// intents and become `interrupted` at the next start.
    pub async fn stop(self, store: Duration, ship: Duration) -> StopReport {
        let ring = &self.probe.ring;
        ring.advance_phase(Phase::Closing);
        let closed = tokio::time::timeout(store, ring.wait_for_phase(Phase::Closed)).await;
        if closed.is_err() {
            tracing::error!(timeout = ?store, "outbox did not store the ring's records in time; they may be lost");
        }
        if let Some(mut shipper) = self.shipper
            && tokio::time::timeout(ship, &mut shipper).await.is_err()
        {
            self.deadline.cancel();
            if let Err(error) = shipper.await {
                tracing::error!(%error, "shipper task failed; undelivered records stay in the outbox");
            }
        }
        ring.advance_phase(Phase::Finished);
        let scribe = self.scribe;
        let report = tokio::task::spawn_blocking(move || scribe.join()).await;
        let gauge = ring.gauge();
        let lost = match report {
            Ok(Ok(report)) => report.lost,
            _ => ring.queued_only_count(),
        };
        StopReport { lost, last: gauge.stamped, delivered: gauge.delivered }
    }
}

impl Probe {
    /// The ring's fill level and positions.
    #[must_use]
    pub fn gauge(&self) -> RingGauge {
        self.ring.gauge()
    }

    /// The scribe's heartbeat.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        self.ring.heartbeat()
    }

    /// The ring's limits.
    #[must_use]
    pub fn ring_limits(&self) -> ring::RingLimits {
        self.limits
    }

    /// The pipeline's counters and timings.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The pipeline's phase, from open to finished.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.ring.phase()
    }

    /// The shipper's state.
    #[must_use]
    pub fn shipper(&self) -> ShipperState {
        self.shipper.borrow().clone()
    }

    /// The reader of the outbox. Its calls block the thread.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The handle that records reads of the trail.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The stream that is being written: this gateway and this epoch.
    #[must_use]
    pub fn stream(&self) -> (GatewayId, Epoch) {
        (self.gateway_id, self.epoch)
    }
}
