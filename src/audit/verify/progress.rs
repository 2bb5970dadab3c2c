//! The state of the stream that is being walked.

use crate::audit::chain::Head;
use crate::audit::record::{Epoch, Seq, Timestamp};

use super::heads::StreamHeads;
use super::place::StreamId;
use super::report::StreamReport;
use super::statements::EpochEnd;

/// A part of a stream to be checked, with its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first seq that is read.
    pub first: Seq,
    /// The last seq that is read; `None`: to the end.
    pub last: Option<Seq>,
}

/// The state of the current stream.
#[derive(Debug)]
pub(super) struct StreamProgress {
    pub(super) stream: StreamId,
    pub(super) window: Window,
    pub(super) head: Head,
    pub(super) last_time: Option<Timestamp>,
    pub(super) counts: StreamReport,
    /// The end that the next epoch names.
    pub(super) end: Option<EpochEnd>,
    /// The heads from outside that were not passed yet.
    pub(super) expected: StreamHeads,
    /// The last record that is itself a head from outside.
    pub(super) confirmed: Seq,
    /// The number of interrupted calls in the opening record, once that was read.
    pub(super) announced: Option<u64>,
    pub(super) interrupted: u64,
    pub(super) closed: bool,
    /// True if the last record is a stand-in for a lost one.
    pub(super) is_lost: bool,
    /// True if nothing binds the records before the current one to it.
    pub(super) is_broken: bool,
}

/// A position relative to the head before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sequence {
    /// The next position.
    Next,
    /// A later position; records are missing.
    AfterGap,
    /// A position that was read before.
    Repeated,
}

impl Window {
    /// A whole stream.
    pub const ALL: Self = Self { first: Seq(1), last: None };

    pub(super) fn contains(&self, seq: Seq) -> bool {
        self.first <= seq && self.last.is_none_or(|last| seq <= last)
    }

    pub(super) fn is_to_the_end(&self) -> bool {
        self.last.is_none()
    }
}

impl StreamProgress {
    pub(super) fn new(
        stream: StreamId,
        window: Window,
        head: Head,
        end: Option<EpochEnd>,
        expected: StreamHeads,
    ) -> Self {
        let counts = StreamReport::new(stream.0, stream.1);
        Self {
            stream,
            window,
            head,
            last_time: None,
            counts,
            end,
            expected,
            confirmed: Seq::ZERO,
            announced: None,
            interrupted: 0,
            closed: false,
            is_lost: false,
            is_broken: false,
        }
    }

    /// The ends that later records name, each with the epoch of that record.
    pub(super) fn named_ends(&self) -> impl Iterator<Item = (Head, Epoch)> + use<> {
        let known = self.end.map(|end| (end.known, end.named_by));
        let taken_over = self.end.and_then(|end| end.takeover).map(|takeover| (takeover.end, takeover.at.epoch));
        known.into_iter().chain(taken_over)
    }
}
