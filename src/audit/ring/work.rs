//! The values that pass through the ring, and the ring's status.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::room::BatchRoom;
use crate::audit::chain::Head;
use crate::audit::record::{AuditRecord, Digest, Epoch, PendingRecord, RequestId, Seq, StreamPosition, Timestamp};
use crate::audit::sync::Instant;

/// The phases of the pipeline, in order. A phase never returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Calls begin and end.
    Open,
    /// No call begins any more. The scribe empties the ring into the outbox and closes the epoch.
    Closing,
    /// The epoch is closed. The shipper continues to deliver.
    Closed,
    /// The scribe stores the last watermarks and ends. A scribe that still cannot store stops trying.
    Finished,
}

/// Signals that an intent or a record is stored, with the record's position; an intent has none.
pub type StoredSender = oneshot::Sender<Option<StreamPosition>>;

/// Receives the signal of a [`StoredSender`].
pub type StoredReceiver = oneshot::Receiver<Option<StreamPosition>>;

/// An intent or a record, from a producer to the scribe.
#[derive(Debug)]
pub enum WorkItem {
    /// A call is about to be forwarded.
    Begin {
        /// The id of the call.
        request_id: RequestId,
        /// The intent's frame, encoded by the producer.
        frame: Arc<[u8]>,
        /// Signalled when the intent is stored.
        stored: Option<StoredSender>,
    },
    /// A call has ended or was refused, or the gateway records an event of its own.
    End {
        /// The record, without its position in the stream.
        record: PendingRecord,
        /// True if the intent of this call was appended before.
        begun: bool,
        /// Signalled when the record is stored.
        stored: Option<StoredSender>,
        /// The time at which the record was appended.
        appended_at: Instant,
    },
}

/// Calls and refused requests that have no record of their own because there was no room. One `gateway/gap` record
/// counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnrecordedCalls {
    /// The number of calls and other requests that were refused.
    pub refused: u64,
    /// The number of calls that continued unaudited, as the operator allowed for their tools.
    pub unaudited: u64,
    /// The arrival of the first of them.
    pub first: Timestamp,
    /// The arrival of the last of them.
    pub last: Timestamp,
}

/// A finding of the shipper about a stream in Postgres, for a record or a commit of the scribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The end of an earlier epoch is settled: at this position if the outbox did not know it, otherwise where the
    /// outbox knew it to be.
    Settled(Epoch, Option<Head>),
    /// Postgres went back, and delivery resumes from kept records.
    Restored(Restored),
}

/// A stream that Postgres had up to one record, and later only up to an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The epoch of the stream.
    pub epoch: Epoch,
    /// The last record that Postgres has, after which delivery resumes.
    pub found: Head,
    /// The last record that was delivered before.
    pub delivered: Head,
}

/// News of how far streams are delivered.
#[derive(Clone, Debug, Default)]
pub struct Watermarks {
    /// The last delivered record of each epoch of which there is news.
    pub heads: Vec<(Epoch, Head)>,
    /// The database went back to an earlier state. Of other epochs than these, it is not known how much it still has.
    pub went_back: bool,
}

impl Watermarks {
    /// Sets the last delivered record of an epoch. Earlier than before if the database went back.
    pub fn set(&mut self, epoch: Epoch, head: Head) {
        self.heads.retain(|(known, _)| *known != epoch);
        self.heads.push((epoch, head));
    }

    /// The last delivered record of an epoch, if there is news of it.
    #[must_use]
    pub fn of(&self, epoch: Epoch) -> Option<Head> {
        self.heads.iter().find(|(known, _)| *known == epoch).map(|(_, head)| *head)
    }

    /// Forgets all heads: the database went back.
    pub fn go_back(&mut self) {
        self.heads.clear();
        self.went_back = true;
    }

    /// Adds newer ones.
    pub fn merge(&mut self, newer: Self) {
        if newer.went_back {
            self.go_back();
        }
        for (epoch, head) in newer.heads {
            self.set(epoch, head);
        }
    }

    /// Returns true if nothing has to be stored or told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty() && !self.went_back
    }
}

/// The work that the scribe takes at once.
#[derive(Debug)]
pub struct Work {
    /// The work items, in the order in which they were appended.
    pub items: Vec<WorkItem>,
    /// The room that the items use until their records are published.
    pub room: BatchRoom,
    /// Watermarks to store.
    pub watermarks: Watermarks,
    /// Findings of the shipper about streams in Postgres.
    pub findings: Vec<Finding>,
    /// Calls to count in a gap record.
    pub unrecorded: Option<UnrecordedCalls>,
    /// The phase at which the work was taken.
    pub phase: Phase,
}

/// The result of reading the window at a position.
#[derive(Debug)]
pub enum WindowRead {
    /// Records from that position on.
    Records(Vec<Arc<AuditRecord>>),
    /// The record at that position is no longer in the window. The outbox has it.
    Older,
    /// The stream has no record at that position yet.
    Nothing,
}

/// The ring's fill level and positions.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct RingGauge {
    /// The number of records and intents that are reserved, appended or in the window.
    pub records: usize,
    /// Their size in bytes.
    pub bytes: usize,
    /// The number of records that are evicted when room is needed: stored ones that wait for delivery, and delivered
    /// ones that wait to be kept.
    pub cached_records: usize,
    /// Their size in bytes.
    pub cached_bytes: usize,
    /// The last record with a position in the stream.
    pub stamped: Seq,
    /// The last stored record.
    pub stored: Seq,
    /// The last delivered record.
    pub delivered: Seq,
    /// Its hash; zero before the first.
    pub delivered_hash: Digest,
    /// True if the outbox currently cannot store.
    pub outbox_failed: bool,
    /// The outbox's fill level.
    pub outbox: OutboxCapacity,
}

/// The outbox's fill level, as the scribe reports it to the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each limit is passed by itself, and readers of the status know them"
)]
pub struct OutboxCapacity {
    /// Bytes in use by undelivered records.
    pub used_bytes: u64,
    /// Bytes of delivered records that are kept for a while.
    pub kept_bytes: u64,
    /// The quota in bytes.
    pub max_bytes: u64,
    /// True if the quota or the disk is used up.
    pub full: bool,
    /// True if the disk is used up, whatever is left of the quota.
    pub disk_full: bool,
    /// True if only calls and events are accepted, and refusals are only counted: the part of the quota that refusals
    /// may use is used up, or the disk is full.
    pub calls_only: bool,
    /// True if the room beyond the quota that is kept for events is used up too.
    pub over: bool,
}

/// The scribe's heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// A counter that rises each time the scribe takes work or tries a failing outbox again.
    pub turns: u64,
    /// True if the scribe is waiting for work and there is none.
    pub idle: bool,
}

impl Heartbeat {
    /// Returns true if the scribe has made progress since `earlier`, or has nothing to do.
    #[must_use]
    pub fn has_progressed_since(self, earlier: Self) -> bool {
        self.idle || self.turns != earlier.turns
    }
}
