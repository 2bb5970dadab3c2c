//! Cutting a batch into segments. redb stores one segment under one key.

use crate::audit::outbox::Segment;
use crate::audit::record::{AuditRecord, Seq};

/// The size at which a segment is closed, in bytes. *Measured*: redb writes large values in power-of-two runs of pages
/// (`docs/measurements.md`, "redb"); a little less than 2^8 x 4096 leaves room for the page header and the last record.
const SEGMENT_BYTES: usize = 240 * 4096;

/// The size up to which a segment is not split, in bytes. *Chosen*: the unused part of its pages is smaller than the
/// other pages that a commit writes.
const SPLIT_BYTES_MIN: usize = 64 * 1024;

/// The bytes that redb needs in a run of pages besides the value. *Derived*: a leaf with one key of 16 bytes and one
/// value needs less than 64 bytes; rounded up.
const PAGE_HEADER_BYTES: usize = 128;

/// Builds segments of at most about [`SEGMENT_BYTES`] each.
#[derive(Debug, Default)]
pub(super) struct Builder {
    /// The expected size of the next segment, so that its buffer does not have to grow.
    expected_bytes: usize,
    full: Vec<Segment>,
    open: Option<Segment>,
    /// The ends of the frames in `open`, in bytes from its start.
    ends: Vec<usize>,
}

impl Builder {
    /// A builder for about as many bytes as there are in `segments`.
    pub(super) fn like(segments: &[Segment]) -> Self {
        let bytes = segments.iter().map(|segment| segment.frames().len()).max();
        Self { expected_bytes: bytes.unwrap_or_default().min(SEGMENT_BYTES) / 8 * 9, ..Self::default() }
    }

    /// Adds the next record of the stream.
    pub(super) fn push(&mut self, record: &AuditRecord) {
        let AuditRecord { position, .. } = record;
        let segment =
            self.open.get_or_insert_with(|| Segment::begin(position.epoch, position.seq, self.expected_bytes));
        let pushed = segment.push(record);
        pushed.expect("every field of a record is bounded far below the limit of a frame when it is made");
        let bytes = segment.frames().len();
        self.ends.push(bytes);
        if bytes >= SEGMENT_BYTES {
            self.full.extend(self.open.take());
            self.ends.clear();
        }
    }

    /// The segments of all added records.
    pub(super) fn finish(mut self) -> Vec<Segment> {
        if let Some(last) = self.open {
            split(last, &self.ends, &mut self.full);
        }
        self.full
    }
}

/// The segments of `records`.
pub(super) fn of<'a>(records: impl Iterator<Item = &'a AuditRecord>) -> Vec<Segment> {
    let mut segments = Builder::default();
    records.for_each(|record| segments.push(record));
    segments.finish()
}

/// Splits a segment whose frames end at `ends` into parts that fill the runs of pages that redb uses for them.
fn split(mut segment: Segment, mut ends: &[usize], segments: &mut Vec<Segment>) {
    let mut begin = 0;
    loop {
        let bytes = segment.frames().len();
        let run = (bytes + PAGE_HEADER_BYTES).next_power_of_two();
        let fit = ends.partition_point(|end| end - begin + PAGE_HEADER_BYTES <= run / 2);
        let cut = fit.checked_sub(1).and_then(|last| ends.get(last)).map(|end| end - begin);
        let Some(cut) = cut.filter(|_| bytes > SPLIT_BYTES_MIN && run - bytes > run / 8) else {
            segments.push(segment);
            return;
        };
        let rest = segment.split_off(cut, Seq(segment.first.0 + fit as u64));
        segments.push(std::mem::replace(&mut segment, rest));
        (begin, ends) = (begin + cut, ends.split_at(fit).1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::{self, Head};
    use crate::audit::codec;
    use crate::audit::record::{Call, Entry, Epoch, GatewayId, Outcome, RequestId, Status};

    fn records(count: usize, args_bytes: usize) -> Vec<AuditRecord> {
        let (id, mut head) = (GatewayId(uuid::Uuid::nil()), Head::START);
        let json = format!("\"{}\"", "x".repeat(args_bytes));
        let call = Call::new(RequestId::new(), "tools/call").with_arguments(
            Some(json.clone()),
            Some(crate::audit::record::RecordKey::from_bytes([0; 32]).digest(json.as_bytes())),
        );
        let outcome = Outcome::answered(Status::Ok, None, b"{}", &crate::audit::record::RecordKey::from_bytes([0; 32]));
        let entry = Entry::new(call, outcome, std::time::Duration::ZERO);
        let next = |_| {
            let position = chain::link(id, Epoch(1), head, &entry);
            head = Head::after(&position);
            AuditRecord { position, entry: entry.clone() }
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn segments_contain_every_record_once_and_fill_the_pages_that_redb_writes() {
        for (count, args_bytes) in [(1, 0), (7, 70_000), (300, 10), (1_024, 200), (1_024, 400), (5_000, 300)] {
            let records = records(count, args_bytes);
            let segments = of(records.iter());
            let (mut seq, mut bytes, mut written) = (Seq::ZERO, 0, 0);
            for segment in &segments {
                assert_eq!(segment.first, seq.next());
                seq = segment.last();
                let decoded: Vec<_> = codec::decode_segment(segment.frames()).map(Result::unwrap).collect();
                assert_eq!(decoded.first().map(|record| record.position.seq), Some(segment.first));
                assert_eq!(decoded.last().map(|record| record.position.seq), Some(segment.last()));
                bytes += segment.frames().len();
                written += (segment.frames().len() + PAGE_HEADER_BYTES).next_power_of_two();
            }
            assert_eq!(seq.0, count as u64);
            assert!(written - bytes <= bytes / 4 + SPLIT_BYTES_MIN, "{written} for {bytes} bytes of {count} records");
        }
    }
}
