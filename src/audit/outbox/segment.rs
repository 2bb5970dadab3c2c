//! A run of records as it is stored.

use std::fmt;

use redb::{TypeName, Value};

use crate::audit::codec;
use crate::audit::record::{AuditRecord, Epoch, Seq};

/// Consecutive records of one epoch: what stands under one key.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    /// Their epoch.
    pub epoch: Epoch,
    /// The first one's place.
    pub first: Seq,
    /// The last one's place and the frames, as [`Laid`] says.
    value: Vec<u8>,
}

impl Segment {
    /// A segment of the records whose [frames](codec) are `frames`.
    #[must_use]
    pub fn new(epoch: Epoch, first: Seq, last: Seq, frames: &[u8]) -> Self {
        Self { epoch, first, value: [&last.0.to_le_bytes(), frames].concat() }
    }

    /// An empty one, which begins at `first`; `frames_bytes` are expected.
    #[must_use]
    pub fn begin(epoch: Epoch, first: Seq, frames_bytes: usize) -> Self {
        let mut value = Vec::with_capacity(size_of::<u64>() + frames_bytes);
        value.extend_from_slice(&first.0.to_le_bytes());
        Self { epoch, first, value }
    }

    /// Adds the record that follows.
    ///
    /// # Errors
    /// [`codec::Error::TooLong`] or [`codec::Error::Encode`]; nothing is added.
    pub fn push(&mut self, record: &AuditRecord) -> Result<(), codec::Error> {
        codec::encode_record(record, &mut self.value)?;
        self.set_last(record.position.seq);
        Ok(())
    }

    /// The last one's place.
    #[must_use]
    pub fn last(&self) -> Seq {
        last(&self.value)
    }

    /// The frames, see [`codec`].
    #[must_use]
    pub fn frames(&self) -> &[u8] {
        self.value.get(size_of::<u64>()..).unwrap_or_default()
    }

    /// Takes the frames from byte `at` on, of the records from `first` on, as a segment of their own.
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

    pub(super) fn of_value((epoch, first): (u64, u64), value: &[u8]) -> Self {
        Self { epoch: Epoch(epoch), first: Seq(first), value: value.to_vec() }
    }

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

/// `(last seq u64, record frames)` as redb lays out a tuple of these: 8 bytes little-endian, and the frames. Laid out
/// by [`Segment`], since redb copies a tuple twice as a whole before it copies it into a page.
#[derive(Debug)]
pub(super) struct Laid;

impl Value for Laid {
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

    /// The tuple's: it is in every file there is.
    fn type_name() -> TypeName {
        <(u64, &[u8])>::type_name()
    }
}

/// The last record's place in such a value.
pub(super) fn last(value: &[u8]) -> Seq {
    Seq(value.first_chunk().map_or(0, |last| u64::from_le_bytes(*last)))
}

#[cfg(test)]
mod tests {
    use redb::{Database, ReadableDatabase, TableDefinition};

    use super::*;

    #[test]
    fn a_segment_is_laid_out_as_the_tuple_that_version_1_holds() {
        let segment = Segment::new(Epoch(1), Seq(3), Seq(0x0102_0304_0506_0708), b"frames");
        let tuple = (segment.last().0, segment.frames());
        assert_eq!(<(u64, &[u8])>::as_bytes(&tuple).as_slice(), segment.value());
    }

    #[test]
    fn a_file_with_tuples_is_read_and_written_on() {
        const TUPLES: TableDefinition<u64, (u64, &[u8])> = TableDefinition::new("segments");
        const LAID: TableDefinition<u64, Laid> = TableDefinition::new("segments");
        let database = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TUPLES).unwrap().insert(1, (7, b"old".as_slice())).unwrap();
        transaction.commit().unwrap();
        let transaction = database.begin_write().unwrap();
        let new = Segment::new(Epoch(1), Seq(2), Seq(9), b"new");
        transaction.open_table(LAID).unwrap().insert(2, new.value()).unwrap();
        transaction.commit().unwrap();
        let transaction = database.begin_read().unwrap();
        let (laid, tuples) = (transaction.open_table(LAID).unwrap(), transaction.open_table(TUPLES).unwrap());
        let old = Segment::of_value((1, 1), laid.get(1).unwrap().unwrap().value());
        assert_eq!((old.last(), old.frames()), (Seq(7), b"old".as_slice()));
        assert_eq!(tuples.get(2).unwrap().unwrap().value(), (9, b"new".as_slice()));
    }

    #[test]
    fn what_is_split_off_begins_where_the_rest_ends() {
        let mut segment = Segment::new(Epoch(1), Seq(3), Seq(9), b"abcdef");
        let rest = segment.split_off(2, Seq(5));
        assert_eq!((segment.first, segment.last(), segment.frames()), (Seq(3), Seq(4), b"ab".as_slice()));
        assert_eq!((rest.first, rest.last(), rest.frames()), (Seq(5), Seq(9), b"cdef".as_slice()));
    }
}
