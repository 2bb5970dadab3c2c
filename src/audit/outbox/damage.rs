//! What became of a file that was damaged, for the trail and for people.

use crate::audit::record::{Epoch, RequestId};

/// A file that was damaged, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Damage {
    /// Its name, now in `quarantine/`.
    pub file: String,
    /// The epoch of its records, where any could be read.
    pub epoch: Option<Epoch>,
    /// Records that were kept.
    pub kept: u64,
    /// Records that are lost, each replaced by a gap record.
    pub lost: u64,
    /// Whether it is known where its records ended. If not, more may be lost behind the last one kept.
    pub end_known: bool,
    /// Calls of which it cannot be told any more whether they were open when the gateway died.
    pub maybe_open: Vec<RequestId>,
    /// Why it could not be opened.
    pub cause: String,
}
