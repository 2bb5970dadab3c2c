//! The result of verifying an outbox.

use crate::audit::record::{Digest, Epoch, GatewayId, Seq, StreamPosition};

/// Most runs of lost records that are listed. *Chosen*: more than a person reads.
const LOST_MAX: usize = 100;

/// The first fault that was found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OutboxFault {
    /// The name of the file.
    pub file: String,
    /// The epoch, if it is known.
    pub epoch: Option<Epoch>,
    /// The seq of the record, if the fault is at a record.
    pub seq: Option<Seq>,
    /// A description of the fault.
    pub what: String,
}

/// A stream, as far as it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CheckedStream {
    /// The epoch.
    pub epoch: Epoch,
    /// The first record that was checked; zero if there is none.
    pub first: Seq,
    /// The last record that was checked.
    pub last: Seq,
    /// True if the last record is `gateway/closed`.
    pub closed: bool,
}

/// The last record before the first one in the outbox, according to the oldest file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TrailStart {
    /// The epoch of that record.
    pub epoch: Epoch,
    /// The seq of that record.
    pub seq: Seq,
    /// The hash of that record.
    pub hash: Digest,
    /// The position of the `gateway/pruned` record for the records up to that one, if there is one.
    pub pruned_by: Option<(Epoch, Seq)>,
}

/// Consecutive lost records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LostPlaces {
    /// Their epoch.
    pub epoch: Epoch,
    /// The first of them.
    pub first: Seq,
    /// The last of them.
    pub last: Seq,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct OutboxVerification {
    /// The gateway that the outbox belongs to.
    pub gateway_id: Option<GatewayId>,
    /// The number of files that were read.
    pub files: usize,
    /// The number of records that were checked.
    pub records: u64,
    /// The number of lost records. A damage record names each of them, so they are not faults.
    pub lost: u64,
    /// The number of calls that are open, or were open when the gateway crashed.
    pub open: usize,
    /// The first lost records, as runs: at most [`LOST_MAX`].
    pub lost_runs: Vec<LostPlaces>,
    /// True if a file replaces a damaged one. Such a file may not know what was delivered before its first record.
    pub restored: bool,
    /// The last record before the first one in the outbox, if there was one: it was delivered and removed, or pruned.
    pub begins_behind: Option<TrailStart>,
    /// The streams, oldest first.
    pub streams: Vec<CheckedStream>,
    /// The first fault. Nothing after it was checked.
    pub fault: Option<OutboxFault>,
}

impl OutboxVerification {
    /// Counts a lost record.
    pub(in crate::audit::outbox) fn lose(&mut self, position: &StreamPosition) {
        self.lost += 1;
        let StreamPosition { epoch, seq, .. } = *position;
        if let Some(run) = self.lost_runs.last_mut().filter(|run| run.epoch == epoch && run.last.next() == seq) {
            run.last = seq;
        } else if self.lost_runs.len() < LOST_MAX {
            // I6: all are counted, and only the first ones are listed.
            self.lost_runs.push(LostPlaces { epoch, first: seq, last: seq });
        }
    }
}
