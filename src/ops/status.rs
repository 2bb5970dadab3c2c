//! Everything that an operator wants to see of a live gateway, in one snapshot: for `/metrics`, the admin socket, the
//! console and the alarms. Taking one takes a few short locks and does no I/O.

use std::time::Duration;

use serde::Serialize;

use super::alarm::{Board, Standing};
use crate::audit::meter::LastError;
use crate::audit::pipeline::Probe;
use crate::audit::record::{Epoch, GatewayId, Seq};
use crate::audit::{ring, shipper};
use crate::gateway;

/// Where a snapshot is taken from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The pipeline; `None` where auditing is off.
    pub probe: Option<Probe>,
    /// The gateway.
    pub gateway: gateway::Handle,
    /// The alarms that stand.
    pub board: Board,
}

/// The answer to "is all well?".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Calls are audited, and records are delivered, or kept where no database is configured.
    Ready,
    /// Calls are audited, but records wait or a backend is down.
    Degraded,
    /// Calls cannot be audited.
    Failed,
}

/// A live gateway at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether all is well.
    pub condition: Condition,
    /// The trail; `None` where auditing is off.
    pub trail: Option<Trail>,
    /// The backends by alias.
    pub backends: Vec<Backend>,
    /// Calls that are open.
    pub calls_open: usize,
    /// Most that may be.
    pub calls_max: usize,
    /// Messages that are being handled.
    pub messages_open: usize,
    /// Connections of clients.
    pub connections_open: usize,
    /// Legacy sessions.
    pub sessions_open: usize,
    /// The alarms that stand.
    pub alarms: Vec<Standing>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Its alias.
    pub alias: String,
    /// Whether it answers.
    pub up: bool,
}

/// The pipeline.
#[derive(Clone, Debug, Serialize)]
pub struct Trail {
    /// Whose.
    pub gateway_id: GatewayId,
    /// This epoch.
    pub epoch: Epoch,
    /// This epoch's last record.
    pub last_seq: Seq,
    /// Its records that are in memory only.
    pub queued: u64,
    /// Its records that are stored and not delivered.
    pub stored: u64,
    /// Its records that are delivered.
    pub delivered: u64,
    /// The age of the oldest record that is to be delivered, of any epoch; `None` where none waits.
    pub oldest_undelivered_seconds: Option<f64>,
    /// The ring.
    pub ring: Ring,
    /// The outbox.
    pub outbox: Outbox,
    /// What the shipper is doing.
    pub postgres: shipper::ShipperState,
    /// In how much time a failed delivery is tried again.
    pub next_retry_seconds: Option<f64>,
    /// The last error of a delivery, also where it has passed.
    pub last_error: Option<LastError>,
}

/// How full the ring is. What is stored and kept there makes room when it is needed, and does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ring {
    /// Records and intents in it that are not stored, or with room kept for them.
    pub records: usize,
    /// Most of them.
    pub records_max: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Most of these.
    pub bytes_max: usize,
}

/// How full the outbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Outbox {
    /// Bytes of its files.
    pub bytes: u64,
    /// The quota.
    pub bytes_max: u64,
    /// Percent of the quota in use; 100 where the disk is full.
    pub percent: u64,
    /// Generation files.
    pub generations: usize,
    /// Those of older epochs: some of what is in them is not delivered.
    pub generations_older: usize,
    /// Whether it cannot store at the moment.
    pub failed: bool,
    /// Whether quota or disk are used up.
    pub full: bool,
    /// Files that were set aside as damaged since the start.
    pub set_aside: u64,
}

impl Sources {
    /// Whether all is well.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let whole = self.gateway.backends_up() == self.gateway.backends_configured();
        let whole = if whole { Condition::Ready } else { Condition::Degraded };
        let Some(probe) = &self.probe else { return whole };
        let gauge = probe.gauge();
        match probe.shipper() {
            _ if gauge.outbox_failed || gauge.outbox.full => Condition::Failed,
            shipper::ShipperState::StoreOnly | shipper::ShipperState::Delivering => whole,
            _ => Condition::Degraded,
        }
    }

    /// A snapshot. Its numbers are read one after the other, not at one instant.
    #[must_use]
    pub fn status(&self) -> Status {
        let backend = |(alias, up)| Backend { alias, up };
        Status {
            condition: self.condition(),
            trail: self.probe.as_ref().map(trail),
            backends: self.gateway.backends().into_iter().map(backend).collect(),
            calls_open: self.gateway.calls_open(),
            calls_max: self.gateway.calls_max(),
            messages_open: self.gateway.messages_open(),
            connections_open: self.gateway.connections_open(),
            sessions_open: self.gateway.sessions_open(),
            alarms: self.board.standing(),
        }
    }
}

/// The pipeline alone.
#[must_use]
pub fn trail(probe: &Probe) -> Trail {
    let (gauge, limits, meter) = (probe.gauge(), probe.ring_limits(), probe.meter());
    let (gateway_id, epoch) = probe.stream();
    let durable = gauge.stored.max(gauge.delivered);
    let postgres = probe.shipper();
    let delivers = postgres != shipper::ShipperState::StoreOnly;
    Trail {
        gateway_id,
        epoch,
        last_seq: gauge.stamped,
        queued: gauge.stamped.0.saturating_sub(durable.0),
        stored: gauge.stored.0.saturating_sub(gauge.delivered.0),
        delivered: gauge.delivered.0,
        oldest_undelivered_seconds: meter.oldest_age().filter(|_| delivers).map(|age| age.as_secs_f64()),
        ring: ring(&gauge, limits),
        outbox: outbox(probe, &gauge),
        postgres,
        next_retry_seconds: meter.next_retry().map(|left: Duration| left.as_secs_f64()),
        last_error: meter.last_error(),
    }
}

fn ring(gauge: &ring::RingGauge, limits: ring::RingLimits) -> Ring {
    Ring {
        records: gauge.records.saturating_sub(gauge.cached_records),
        records_max: limits.records,
        bytes: gauge.bytes.saturating_sub(gauge.cached_bytes),
        bytes_max: limits.bytes,
    }
}

fn outbox(probe: &Probe, gauge: &ring::RingGauge) -> Outbox {
    let (generations, generations_older) = probe.reader().file_counts();
    let ring::OutboxCapacity { used_bytes, max_bytes, full, .. } = gauge.outbox;
    Outbox {
        bytes: used_bytes,
        bytes_max: max_bytes,
        percent: if full { 100 } else { used_bytes.saturating_mul(100) / max_bytes.max(1) },
        generations,
        generations_older,
        failed: gauge.outbox_failed,
        full,
        set_aside: probe.meter().set_aside.get(),
    }
}
