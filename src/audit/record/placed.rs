//! A record and its place in a stream.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::{Digest, Entry, Epoch, GatewayId, Seq};

/// Where a record stands in its stream, and the chain that shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StreamPosition {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The epoch.
    pub epoch: Epoch,
    /// The place.
    pub seq: Seq,
    /// `hash` of the record before, zero for the first one.
    pub prev_hash: Digest,
    /// This record's link in the chain, see [`crate::audit::chain`].
    pub hash: Digest,
}

/// One row of `audit_log`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditRecord {
    /// Its place.
    #[serde(flatten)]
    pub position: StreamPosition,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
}

/// A record without its place, as it comes to the scribe: where it gets one, nothing is moved.
#[derive(Debug)]
pub struct PendingRecord(Arc<AuditRecord>);

impl PendingRecord {
    /// What it says.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.0.entry
    }

    /// The record at `place`.
    #[must_use]
    pub fn at(mut self, position: StreamPosition) -> Arc<AuditRecord> {
        // Nobody shares it yet, so nothing is cloned.
        Arc::make_mut(&mut self.0).position = position;
        self.0
    }
}

impl From<Entry> for PendingRecord {
    fn from(entry: Entry) -> Self {
        Self(Arc::new(AuditRecord { position: StreamPosition::NONE, entry }))
    }
}

impl StreamPosition {
    /// Stands where a place will be.
    const NONE: Self = Self {
        gateway_id: GatewayId(Uuid::nil()),
        epoch: Epoch(0),
        seq: Seq::ZERO,
        prev_hash: Digest::ZERO,
        hash: Digest::ZERO,
    };
}

impl AsRef<Self> for AuditRecord {
    fn as_ref(&self) -> &Self {
        self
    }
}
