//! An entry in the list of generation files.

use std::sync::Arc;

use super::file_number::FileNumber;
use super::generation::{FileSpan, Generation};
use crate::audit::record::{Epoch, Seq, Timestamp};

/// An entry of the list, which is ordered from the oldest file to the newest.
#[derive(Clone, Debug)]
pub(super) struct ListedFile {
    pub(super) number: FileNumber,
    /// Known once the file was opened.
    pub(super) epoch: Option<Epoch>,
    /// The first record of a sealed file, known once it was opened.
    pub(super) first: Option<Seq>,
    /// The last record of a sealed file; zero if it has none.
    pub(super) last: Option<Seq>,
    /// When the file was begun, if it is known.
    pub(super) begun: Option<Timestamp>,
    /// The size of a sealed file.
    pub(super) bytes: u64,
    /// True if all its records are delivered.
    pub(super) kept: bool,
    /// Present if the file is being written.
    pub(super) active: Option<Arc<Generation>>,
}

impl ListedFile {
    /// The size of the file in bytes.
    pub(super) fn size(&self) -> u64 {
        self.active.as_ref().map_or(self.bytes, |active| active.len())
    }

    /// The contents of a sealed file, if they are known.
    pub(super) fn file_span(&self) -> Option<FileSpan> {
        let (epoch, first, last, begun) = (self.epoch?, self.first?, self.last?, self.begun?);
        self.active.is_none().then_some(FileSpan { epoch, first, last, begun })
    }
}
