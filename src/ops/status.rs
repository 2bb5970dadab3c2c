//! The status of a live gateway in one snapshot, for `/metrics`, the admin socket, the console and the alarms. A
//! snapshot takes a few short locks and does no I/O.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alarm::{ActiveAlarm, Board};
use crate::audit::meter::LastError;
use crate::audit::pipeline::Probe;
use crate::audit::record::{Digest, Epoch, GatewayId, Seq, Timestamp};
use crate::audit::sink::checkpoints::AnchorKind;
use crate::audit::sink::postgres;
use crate::audit::{ring, shipper};
use crate::certificate_end::{CertificateOwner, KnownCertificate};
use crate::gateway;
use crate::log::DroppedLines;
use crate::notary;

/// The parts that a snapshot is read from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The pipeline; `None` if auditing is off.
    pub probe: Option<Probe>,
    /// The gateway.
    pub gateway: gateway::Handle,
    /// The active alarms.
    pub board: Board,
    /// The log lines that were dropped.
    pub log: DroppedLines,
    /// The notary's state; `None` if nothing is signed.
    pub evidence: Option<notary::Status>,
}

/// The condition of a gateway as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Calls are audited, and records are delivered, or kept if no database is configured.
    Ready,
    /// Calls are audited, but records wait or a backend is down.
    Degraded,
    /// Calls cannot be audited.
    Failed,
}

/// The status of a live gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The condition as a whole.
    pub condition: Condition,
    /// The pipeline; `None` if auditing is off.
    #[serde(rename = "trail")]
    pub pipeline: Option<PipelineStatus>,
    /// The backends, by alias.
    pub backends: Vec<BackendStatus>,
    /// Calls that are open.
    pub calls_open: usize,
    /// Most calls that may be open.
    pub calls_max: usize,
    /// Messages that are being handled.
    pub messages_open: usize,
    /// Connections of clients.
    pub connections_open: usize,
    /// Sessions of clients of the older protocol versions.
    pub sessions_open: usize,
    /// The signed checkpoints; `None` if nothing is signed.
    pub evidence: Option<EvidenceStatus>,
    /// The active alarms.
    pub alarms: Vec<ActiveAlarm>,
}

/// The signed checkpoints of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceStatus {
    /// The last one that was signed since the start.
    pub signed: Option<ConfirmedStatus>,
    /// The reason why nothing is signed, or why nothing ever will be of this log.
    pub fault: Option<String>,
    /// Postgres and the anchors.
    pub places: Vec<PlaceStatus>,
}

/// A checkpoint, and when it was signed or confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmedStatus {
    /// The number of records in its tree.
    pub size: u64,
    /// When.
    pub at: Timestamp,
}

/// A place that gets checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceStatus {
    /// Its name.
    pub name: String,
    /// Its kind: `postgres`, `witness`, `tsa`, `s3` or `command`.
    pub kind: String,
    /// The last checkpoint that it confirmed since the start.
    pub confirmed: Option<ConfirmedStatus>,
    /// The last error, if it did not take the newest checkpoint.
    pub error: Option<String>,
}

/// The status of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its alias.
    pub alias: String,
    /// True if it is reachable.
    pub up: bool,
    /// The number of items that were left out of its lists.
    pub items_omitted: u64,
}

/// The status of the audit pipeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// The gateway's id.
    pub gateway_id: GatewayId,
    /// The current epoch.
    pub epoch: Epoch,
    /// The last record of this epoch.
    pub last_seq: Seq,
    /// Records of this epoch that are in memory only.
    pub queued: u64,
    /// Records of this epoch that are stored and not delivered.
    pub stored: u64,
    /// Records of this epoch that are delivered.
    pub delivered: u64,
    /// The hash of the last delivered record of this epoch; zero before the first.
    pub delivered_hash: Digest,
    /// Age of the oldest undelivered record of any epoch; `None` if no record waits.
    pub oldest_undelivered_seconds: Option<f64>,
    /// The ring.
    pub ring: RingStatus,
    /// The outbox.
    pub outbox: OutboxStatus,
    /// The state of delivery.
    pub postgres: shipper::ShipperState,
    /// Time until a failed delivery is retried.
    pub next_retry_seconds: Option<f64>,
    /// The last error of a delivery, even if deliveries have succeeded since.
    pub last_error: Option<LastError>,
}

/// Usage of the ring. Stored records that it still caches make room when it is needed, and do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingStatus {
    /// Records and intents that are not stored yet, including reserved places.
    pub records: usize,
    /// Most records and intents.
    pub records_max: usize,
    /// Bytes of these records and intents.
    pub bytes: usize,
    /// Most bytes.
    pub bytes_max: usize,
}

/// Usage of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Size of its files with undelivered records, in bytes.
    pub bytes: u64,
    /// Size of the files with delivered records that are kept for a while, in bytes.
    pub kept_bytes: u64,
    /// The quota.
    pub bytes_max: u64,
    /// Percent of the quota in use.
    pub percent: u64,
    /// Generation files.
    pub generations: usize,
    /// Generation files of older epochs: some records in them are not delivered.
    pub generations_older: usize,
    /// True if the outbox cannot store at the moment.
    pub failed: bool,
    /// True if the quota or the disk is used up.
    pub full: bool,
    /// True if the disk is used up, whatever is left of the quota.
    pub disk_full: bool,
    /// Files that were set aside as damaged since the start.
    pub set_aside: u64,
}

impl Sources {
    /// The certificates of the listener, of backends and of Postgres, as far as they are known.
    #[must_use]
    pub fn certificates(&self) -> Vec<KnownCertificate> {
        let postgres = self.probe.as_ref().and_then(|_| postgres::certificate_end());
        let postgres = postgres.map(|end| KnownCertificate { owner: CertificateOwner::Postgres, end });
        self.gateway.certificates().into_iter().chain(postgres).collect()
    }

    /// The condition of the gateway as a whole.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let all_up = self.gateway.backends_up() == self.gateway.backends_configured();
        let best = if all_up { Condition::Ready } else { Condition::Degraded };
        let Some(probe) = &self.probe else { return best };
        let gauge = probe.gauge();
        match probe.shipper() {
            _ if gauge.outbox_failed || gauge.outbox.full => Condition::Failed,
            shipper::ShipperState::StoreOnly | shipper::ShipperState::Delivering => best,
            _ => Condition::Degraded,
        }
    }

    /// Takes a snapshot. Its numbers are read one after the other, not at one instant.
    #[must_use]
    pub fn status(&self) -> Status {
        let backend = |(alias, up, items_omitted)| BackendStatus { alias, up, items_omitted };
        Status {
            condition: self.condition(),
            pipeline: self.probe.as_ref().map(pipeline_status),
            backends: self.gateway.backends().into_iter().map(backend).collect(),
            calls_open: self.gateway.calls_open(),
            calls_max: self.gateway.calls_max(),
            messages_open: self.gateway.messages_open(),
            connections_open: self.gateway.connections_open(),
            sessions_open: self.gateway.sessions_open(),
            evidence: self.evidence.as_ref().map(|evidence| evidence_status(&evidence.get())),
            alarms: self.board.active(),
        }
    }
}

fn evidence_status(state: &notary::EvidenceState) -> EvidenceStatus {
    let confirmed = |anchored: notary::Anchored| ConfirmedStatus { size: anchored.size, at: anchored.at };
    let place = |(name, place): (&String, &notary::PlaceState)| PlaceStatus {
        name: name.clone(),
        kind: place.kind.map_or(notary::POSTGRES, AnchorKind::name).to_owned(),
        confirmed: place.last.map(confirmed),
        error: place.error.clone(),
    };
    EvidenceStatus {
        signed: state.signed.map(confirmed),
        fault: state.contradicted().or_else(|| state.unsigned()),
        places: state.places.iter().map(place).collect(),
    }
}

/// Takes a snapshot of the pipeline alone.
#[must_use]
pub fn pipeline_status(probe: &Probe) -> PipelineStatus {
    let (gauge, limits, meter) = (probe.gauge(), probe.ring_limits(), probe.meter());
    let (gateway_id, epoch) = probe.stream();
    let durable = gauge.stored.max(gauge.delivered);
    let postgres = probe.shipper();
    let delivers = postgres != shipper::ShipperState::StoreOnly;
    PipelineStatus {
        gateway_id,
        epoch,
        last_seq: gauge.stamped,
        queued: gauge.stamped.0.saturating_sub(durable.0),
        stored: gauge.stored.0.saturating_sub(gauge.delivered.0),
        delivered: gauge.delivered.0,
        delivered_hash: gauge.delivered_hash,
        oldest_undelivered_seconds: meter.oldest_age().filter(|_| delivers).map(|age| age.as_secs_f64()),
        ring: ring_status(&gauge, limits),
        outbox: outbox_status(probe, &gauge),
        postgres,
        next_retry_seconds: meter.next_retry().map(|left: Duration| left.as_secs_f64()),
        last_error: meter.last_error(),
    }
}

fn ring_status(gauge: &ring::RingGauge, limits: ring::RingLimits) -> RingStatus {
    RingStatus {
        records: gauge.records.saturating_sub(gauge.cached_records),
        records_max: limits.records,
        bytes: gauge.bytes.saturating_sub(gauge.cached_bytes),
        bytes_max: limits.bytes,
    }
}

fn outbox_status(probe: &Probe, gauge: &ring::RingGauge) -> OutboxStatus {
    let (generations, generations_older) = probe.reader().file_counts();
    let ring::OutboxCapacity { used_bytes, kept_bytes, max_bytes, full, disk_full, .. } = gauge.outbox;
    OutboxStatus {
        bytes: used_bytes,
        kept_bytes,
        bytes_max: max_bytes,
        percent: (used_bytes.saturating_mul(100) / max_bytes.max(1)).min(100),
        generations,
        generations_older,
        failed: gauge.outbox_failed,
        full,
        disk_full,
        set_aside: probe.meter().set_aside.get(),
    }
}
