//! The end of a stored stream, as the outbox reports it and the end of a fork needs it.

use serde::{Deserialize, Serialize};

use super::record::{Digest, Epoch, GatewayId, Seq, Timestamp};

/// The end of one stream as its gateway stored it: a line of `gatepost outbox heads`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxHead {
    /// The gateway.
    pub gateway: GatewayId,
    /// The epoch.
    pub epoch: Epoch,
    /// The last stored record.
    pub seq: Seq,
    /// Its hash.
    pub hash: Digest,
    /// When the outbox was read.
    pub time: Timestamp,
    /// The record before the first one that may have to be delivered; seq 0 if that is the first of the stream.
    pub after: HeadAfter,
    /// The record before the first one that the outbox has, which may be long delivered; seq 0 if that is the first of
    /// the stream.
    pub kept: HeadAfter,
    /// The hashes of the records that follow `after`, the first of them.
    pub hashes: Vec<Digest>,
}

/// The position after which delivery continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadAfter {
    /// Its seq.
    pub seq: Seq,
    /// Its hash.
    pub hash: Digest,
}
