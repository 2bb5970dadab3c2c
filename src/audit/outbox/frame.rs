//! The stored bytes of one record, for inspection.

use super::error::OutboxError;
use super::reader::Reader;
use super::salvage;
use crate::audit::record::{Epoch, Seq};

/// The bytes of a record, and their position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFrame {
    /// The name of the file.
    pub file: String,
    /// The first seq of the record's segment, which is the segment's key.
    pub segment: Seq,
    /// The offset of the frame in the segment, in bytes.
    pub offset: usize,
    /// The bytes of the frame, see [`codec`](crate::audit::codec).
    pub bytes: Vec<u8>,
}

impl Reader {
    /// The stored bytes of a record; `None` if no such record is stored or its bytes are damaged.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn frame(&self, epoch: Epoch, seq: Seq) -> Result<Option<RecordFrame>, OutboxError> {
        for number in self.numbers() {
            let Some(file) = self.file(number)? else { continue };
            let Some(segment) = file.segment_from(epoch, seq)? else { continue };
            let mut frames = salvage::scan(segment.frames());
            if let Some((offset, length, _)) = frames.find(|(_, _, record)| record.position.seq == seq) {
                let bytes = segment.frames().get(offset..offset + length).unwrap_or_default().to_vec();
                return Ok(Some(RecordFrame { file: number.file_name(), segment: segment.first, offset, bytes }));
            }
        }
        Ok(None)
    }
}
