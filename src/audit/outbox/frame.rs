//! The stored bytes of one record, for people who look.

use super::{Error, Reader, salvage};
use crate::audit::record::{Epoch, Seq};

/// A record's bytes and where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The file's name.
    pub file: String,
    /// The first seq of its segment, which is the segment's key.
    pub segment: Seq,
    /// Where in the segment it begins, bytes.
    pub offset: usize,
    /// Its bytes, see [`codec`](crate::audit::codec).
    pub bytes: Vec<u8>,
}

impl Reader {
    /// The stored bytes of the record at this place; `None` where none is stored or its bytes rotted.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn frame(&self, epoch: Epoch, seq: Seq) -> Result<Option<Frame>, Error> {
        for number in self.numbers() {
            let Some(file) = self.file(number)? else { continue };
            let Some(segment) = file.segment_from(epoch, seq)? else { continue };
            let mut frames = salvage::scan(segment.frames());
            if let Some((offset, length, _)) = frames.find(|(_, _, record)| record.position.seq == seq) {
                let bytes = segment.frames().get(offset..offset + length).unwrap_or_default().to_vec();
                return Ok(Some(Frame { file: number.file_name(), segment: segment.first, offset, bytes }));
            }
        }
        Ok(None)
    }
}
