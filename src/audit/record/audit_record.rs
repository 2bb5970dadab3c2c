//! A record together with its position in a stream.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::entry::{Call, Entry};
use super::ids::{Digest, Epoch, GatewayId, RequestId, Salt, Seq};
use super::salts::Salts;
use super::status::Status;

/// A record's position in its stream, and its link in the hash chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPosition {
    /// The gateway that wrote the stream.
    pub gateway_id: GatewayId,
    /// The stream's epoch.
    pub epoch: Epoch,
    /// The sequence number in the stream.
    pub seq: Seq,
    /// `hash` of the record before this one; zero for the first record.
    pub prev_hash: Digest,
    /// This record's link in the chain, see [`crate::audit::chain`].
    pub hash: Digest,
}

/// One row of `audit_log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The position in the stream.
    #[serde(flatten)]
    pub position: StreamPosition,
    /// The contents.
    #[serde(flatten)]
    pub entry: Entry,
}

/// A record on its way to the scribe, which gives it its position. Setting the position moves no contents.
#[derive(Debug)]
pub struct PendingRecord(Arc<AuditRecord>);

impl PendingRecord {
    /// The contents.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.0.entry
    }

    /// The record at `position`.
    #[must_use]
    pub fn at(mut self, position: StreamPosition) -> Arc<AuditRecord> {
        // The record is not shared yet, so nothing is cloned.
        Arc::make_mut(&mut self.0).position = position;
        self.0
    }
}

impl From<Entry> for PendingRecord {
    fn from(entry: Entry) -> Self {
        Self(Arc::new(AuditRecord { position: StreamPosition::UNSET, entry }))
    }
}

impl StreamPosition {
    /// The placeholder in a [`PendingRecord`].
    const UNSET: Self = Self {
        gateway_id: GatewayId(Uuid::nil()),
        epoch: Epoch(0),
        seq: Seq::ZERO,
        prev_hash: Digest::ZERO,
        hash: Digest::ZERO,
    };
}

impl AuditRecord {
    /// A record whose columns are to be [set](super::column::Column::set) one by one.
    pub(in crate::audit) fn blank() -> Self {
        let call = Call { normalised: Vec::new(), ..Call::new(RequestId(Uuid::nil()), "") };
        let zero = Salt([0; 32]);
        Self {
            position: StreamPosition::UNSET,
            entry: Entry {
                call,
                response_status: Status::Ok,
                error_message: None,
                response_digest: None,
                response_bytes: None,
                response: None,
                latency_ms: 0.0,
                salts: Salts { who: zero, circumstances: zero, content: zero },
            },
        }
    }
}

impl AsRef<Self> for AuditRecord {
    fn as_ref(&self) -> &Self {
        self
    }
}
