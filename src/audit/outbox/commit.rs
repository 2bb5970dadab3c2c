//! The contents of one commit.

use std::sync::Arc;

use super::segment::Segment;
use crate::audit::chain::Head;
use crate::audit::record::{Epoch, RequestId};
use crate::audit::tree::Tree;

/// The changes that one commit makes. They take effect together or not at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Commit<'a> {
    /// New records, in order.
    pub segments: &'a [Segment],
    /// The stream's head after the new records, if there are any.
    pub head: Option<Head>,
    /// Intents of calls that are about to be forwarded: id and frame.
    pub begun: &'a [(RequestId, Arc<[u8]>)],
    /// Calls that have ended; their intents are removed.
    pub ended: &'a [RequestId],
    /// The delivered position of each epoch. Segments up to it are removed, unless `keeps` is set.
    pub delivered: &'a [(Epoch, Head)],
    /// True if delivered segments stay until their file is removed. The writer sets it.
    pub keeps: bool,
    /// Earlier epochs whose end in Postgres is settled from now on.
    pub settled: &'a [Epoch],
    /// The tree after the new records.
    pub tree: Option<&'a Tree>,
    /// True if the last record of this commit closes the epoch.
    pub closes: bool,
}

impl Commit<'_> {
    /// The size of the new records in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.frames().len() as u64).sum()
    }
}
