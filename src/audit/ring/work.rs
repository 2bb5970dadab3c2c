//! What passes through the ring, and what it says of itself.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::room::Taken;
use crate::audit::chain::Head;
use crate::audit::record::{AuditRecord, Epoch, PendingRecord, RequestId, Seq, Timestamp};
use crate::audit::sync::Instant;

/// Where a gateway's life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Calls begin and end.
    Open,
    /// No call begins any more; the scribe empties the ring into the outbox and closes the epoch.
    Closing,
    /// All is stored, or can be no more; the shipper goes on.
    Closed,
    /// The scribe forgets what was delivered and ends.
    Finished,
}

/// What producers append.
#[derive(Debug)]
pub enum Arrival {
    /// A call is about to be forwarded.
    Begin {
        /// The call.
        request_id: RequestId,
        /// Its intent, encoded by who appended it.
        frame: Arc<[u8]>,
        /// Told when the intent is stored.
        stored: Option<oneshot::Sender<()>>,
    },
    /// A call has ended, was refused, or something happened to the gateway.
    End {
        /// The record without a place.
        record: PendingRecord,
        /// Whether its intent was begun before.
        begun: bool,
        /// Told when the record is stored.
        stored: Option<oneshot::Sender<()>>,
        /// When it was appended.
        arrived: Instant,
    },
}

/// Calls that could not be recorded one by one, since there was no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Calls that were refused.
    pub refused: u64,
    /// Calls that went on unaudited, as the operator chose for their tools.
    pub unaudited: u64,
    /// The first one's arrival.
    pub first: Timestamp,
    /// The last one's arrival.
    pub last: Timestamp,
}

/// What the scribe takes at once.
#[derive(Debug)]
pub struct Work {
    /// All that arrived, in order.
    pub arrivals: Vec<Arrival>,
    /// The room that they use until they are published.
    pub taken: Taken,
    /// Watermarks to store.
    pub watermarks: Vec<(Epoch, Head)>,
    /// Calls to account for.
    pub missed: Option<Missed>,
    /// The phase when it was taken.
    pub phase: Phase,
}

/// What the shipper finds at a place.
#[derive(Debug)]
pub enum Window {
    /// Records from that place on.
    Records(Vec<Arc<AuditRecord>>),
    /// That place is not in the window any more: the outbox has it.
    Older,
    /// Nothing there yet.
    Nothing,
}

/// How full and how far the ring is.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Gauge {
    /// Records and intents that are reserved, arrived or in the window.
    pub records: usize,
    /// Their size in bytes.
    pub bytes: usize,
    /// Those of them that are stored: they wait for delivery, and make room when it is needed.
    pub cached_records: usize,
    /// Their size in bytes.
    pub cached_bytes: usize,
    /// The last record with a place in the stream.
    pub stamped: Seq,
    /// The last stored one.
    pub stored: Seq,
    /// The last delivered one.
    pub delivered: Seq,
    /// Whether the outbox cannot store at the moment.
    pub outbox_failed: bool,
    /// How full the outbox is.
    pub outbox: Capacity,
}

/// How full the store behind the ring is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Capacity {
    /// Bytes in use.
    pub used_bytes: u64,
    /// The quota.
    pub max_bytes: u64,
    /// Whether quota or disk are used up.
    pub full: bool,
    /// Whether what is kept beyond the quota for refusals is used up too.
    pub over: bool,
}

/// The scribe's sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Rises whenever the scribe takes work, and whenever it tries a failing outbox again.
    pub turns: u64,
    /// It waits for work, and there is none.
    pub resting: bool,
}

impl Beat {
    /// Whether the scribe has gone on since `earlier`, or has nothing to do.
    #[must_use]
    pub fn goes_on_since(self, earlier: Self) -> bool {
        self.resting || self.turns != earlier.turns
    }
}
