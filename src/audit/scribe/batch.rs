//! One turn of the scribe: what it takes, and what it stores of that.

use std::sync::Arc;

use super::segments;
use crate::audit::record::{RequestId, StreamPosition};
use crate::audit::ring::{BatchRoom, Slot, StoredSender};

/// The records, intents and waiting callers of one turn.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) records: Vec<Slot>,
    /// The records as segments, at level `stored`.
    pub(super) segments: segments::Builder,
    pub(super) begun: Vec<(RequestId, Arc<[u8]>)>,
    pub(super) ended: Vec<RequestId>,
    /// Signalled after the commit.
    pub(super) receipts: Vec<(StoredSender, Option<StreamPosition>)>,
    pub(super) room: BatchRoom,
}

/// The contents of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Watermarks alone. Records stored along with them would have to be removed by the next commit, which would store
    /// records again, and so on: after a spill the disk would never be idle.
    Watermarks,
    /// Watermarks, and delivered records that are kept.
    Kept,
    /// Watermarks, the batch, and the records that were queued only before it.
    All,
    /// The same, and the epoch is closed.
    Closing,
}
