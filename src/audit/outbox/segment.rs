//! A segment: a run of records, and its layout as a redb value.

use std::fmt;

use redb::{TypeName, Value};

use crate::audit::codec::{self, CodecError};
use crate::audit::record::{AuditRecord, Epoch, Seq};

/// Consecutive records of one epoch, stored under one key.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    /// The epoch of the records.
    pub epoch: Epoch,
    /// The seq of the first record.
    pub first: Seq,
    /// The seq of the last record and the frames, laid out as a [`SegmentValue`].
    value: Vec<u8>,
}

impl Segment {
    /// Creates a segment of the records whose [frames](codec) are `frames`.
    #[must_use]
    pub fn new(epoch: Epoch, first: Seq, last: Seq, frames: &[u8]) -> Self {
        Self { epoch, first, value: [&last.0.to_le_bytes(), frames].concat() }
    }

    /// Creates an empty segment that begins at `first`, with a buffer for `frames_bytes` of frames.
    #[must_use]
    pub fn begin(epoch: Epoch, first: Seq, frames_bytes: usize) -> Self {
        let mut value = Vec::with_capacity(size_of::<u64>() + frames_bytes);
        value.extend_from_slice(&first.0.to_le_bytes());
        Self { epoch, first, value }
    }

    /// Appends the next record.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] or [`CodecError::Encode`]; nothing is appended.
    pub fn push(&mut self, record: &AuditRecord) -> Result<(), CodecError> {
        codec::encode_record(record, &mut self.value)?;
        self.set_last(record.position.seq);
        Ok(())
    }

    /// The seq of the last record.
    #[must_use]
    pub fn last(&self) -> Seq {
        last(&self.value)
    }

    /// The frames of the records, see [`codec`].
    #[must_use]
    pub fn frames(&self) -> &[u8] {
        self.value.get(size_of::<u64>()..).unwrap_or_default()
    }

    /// Splits off the frames from byte `at` on, which are those of the records from `first` on.
    #[must_use]
    pub fn split_off(&mut self, at: usize, first: Seq) -> Self {
        let rest = Self::new(self.epoch, first, self.last(), self.frames().get(at..).unwrap_or_default());
        self.value.truncate(size_of::<u64>() + at);
        self.set_last(Seq(first.0 - 1));
        rest
    }

    fn set_last(&mut self, last: Seq) {
        if let Some(bytes) = self.value.first_chunk_mut() {
            *bytes = last.0.to_le_bytes();
        }
    }

    /// The segment in a row of the table `segments`.
    pub(super) fn from_row((epoch, first): (u64, u64), value: &[u8]) -> Self {
        Self { epoch: Epoch(epoch), first: Seq(first), value: value.to_vec() }
    }

    /// The bytes of the redb value.
    pub(super) fn value(&self) -> &[u8] {
        &self.value
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, first, .. } = self;
        let (last, bytes) = (self.last(), self.frames().len());
        write!(f, "Segment {epoch}/{first}..={last}, {bytes} bytes")
    }
}

/// The redb value `(last seq u64, record frames)`: 8 bytes little-endian, then the frames.
///
/// The layout is exactly that of redb's own tuple, which version 1 files contain. **Never change it without a new
/// format number, see [`generation`](super::generation).** It is not a tuple here because redb would copy the whole
/// tuple twice before it copies it into a page.
#[derive(Debug)]
pub(super) struct SegmentValue;

impl Value for SegmentValue {
    type SelfType<'a> = &'a [u8];
    type AsBytes<'a> = &'a [u8];

    fn fixed_width() -> Option<usize> {
        None
    }

    fn from_bytes<'a>(data: &'a [u8]) -> &'a [u8]
    where
        Self: 'a,
    {
        data
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b [u8]) -> &'a [u8]
    where
        Self: 'b,
    {
        value
    }

    /// The type name of the tuple, which every existing file contains.
    fn type_name() -> TypeName {
        <(u64, &[u8])>::type_name()
    }
}

/// The seq of the last record in the bytes of a [`SegmentValue`].
pub(super) fn last(value: &[u8]) -> Seq {
    Seq(value.first_chunk().map_or(0, |last| u64::from_le_bytes(*last)))
}

#[cfg(test)]
mod tests {
    use redb::{Database, ReadableDatabase, TableDefinition};

    use super::*;

    #[test]
    fn segment_has_the_layout_of_the_tuple_in_version_1() {
        let segment = Segment::new(Epoch(1), Seq(3), Seq(0x0102_0304_0506_0708), b"frames");
        let tuple = (segment.last().0, segment.frames());
        assert_eq!(<(u64, &[u8])>::as_bytes(&tuple).as_slice(), segment.value());
    }

    #[test]
    fn files_with_tuples_can_be_read_and_extended() {
        const TUPLES: TableDefinition<u64, (u64, &[u8])> = TableDefinition::new("segments");
        const VALUES: TableDefinition<u64, SegmentValue> = TableDefinition::new("segments");
        let database = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TUPLES).unwrap().insert(1, (7, b"old".as_slice())).unwrap();
        transaction.commit().unwrap();
        let transaction = database.begin_write().unwrap();
        let new = Segment::new(Epoch(1), Seq(2), Seq(9), b"new");
        transaction.open_table(VALUES).unwrap().insert(2, new.value()).unwrap();
        transaction.commit().unwrap();
        let transaction = database.begin_read().unwrap();
        let (values, tuples) = (transaction.open_table(VALUES).unwrap(), transaction.open_table(TUPLES).unwrap());
        let old = Segment::from_row((1, 1), values.get(1).unwrap().unwrap().value());
        assert_eq!((old.last(), old.frames()), (Seq(7), b"old".as_slice()));
        assert_eq!(tuples.get(2).unwrap().unwrap().value(), (9, b"new".as_slice()));
    }

    #[test]
    fn split_off_segment_begins_after_the_remaining_one() {
        let mut segment = Segment::new(Epoch(1), Seq(3), Seq(9), b"abcdef");
        let rest = segment.split_off(2, Seq(5));
        assert_eq!((segment.first, segment.last(), segment.frames()), (Seq(3), Seq(4), b"ab".as_slice()));
        assert_eq!((rest.first, rest.last(), rest.frames()), (Seq(5), Seq(9), b"cdef".as_slice()));
    }
}
