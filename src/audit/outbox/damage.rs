//! The description of a damaged file, for the trail and for operators.

use crate::audit::record::{Epoch, RequestId};

/// A damaged file: what was kept of it and what was lost.
///
/// It is stored as JSON in the file that replaces the damaged one (`outbox/generation.rs`) and in the
/// `gateway/gap` record. Never rename a field: files and trails of earlier versions have these names.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Damage {
    /// The name of the file in `quarantine/`.
    pub file: String,
    /// The epoch of the records, if any could be read.
    pub epoch: Option<Epoch>,
    /// The number of records that were kept.
    pub kept: u64,
    /// The number of records that are lost, each replaced by a gap record.
    pub lost: u64,
    /// True if the end of the records is known. If not, more may be lost after the last record that was kept.
    pub end_known: bool,
    /// Calls of which it can no longer be determined whether they were open when the gateway crashed.
    pub maybe_open: Vec<RequestId>,
    /// The reason why the file could not be opened.
    pub cause: String,
}
