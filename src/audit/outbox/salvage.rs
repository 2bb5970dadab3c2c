//! Salvaging records from damaged bytes. Every record that can be read keeps its position, and every one that cannot is
//! replaced by a `gateway/gap` record, so that the stream stays complete and each loss is visible in it.
//!
//! There are two levels. [`records`] repairs one segment whose position in the stream is known: it finds the whole
//! frames and fills the gaps between them. [`scan`] finds whole frames anywhere in a file whose structure is lost.
//!
//! The gaps are [runs](LostRun), which damage records name, and from which each stand-in is made.

use std::collections::BTreeMap;

use super::segment::Segment;
use crate::audit::chain::Head;
use crate::audit::codec;
use crate::audit::lost::LostRun;
use crate::audit::record::{AuditRecord, Digest, Epoch, GatewayId, RequestId, Seq, StreamPosition, Timestamp};

/// A whole segment, or what could be read of a damaged one.
#[derive(Debug)]
pub(super) struct Salvaged {
    /// All records, with stand-ins for the lost ones.
    pub(super) records: Vec<AuditRecord>,
    /// The lost records.
    pub(super) runs: Vec<LostRun>,
}

/// The records of a segment, with stand-ins for the lost ones. `before` is the head before the segment and `end` the
/// hash of its last record, if they are known.
#[must_use]
pub(super) fn records(segment: &Segment, gateway_id: GatewayId, before: Option<Head>, end: Option<Digest>) -> Salvaged {
    let (epoch, bounds) = (segment.epoch, (segment.first, segment.last()));
    let mut found = BTreeMap::new();
    for (_, _, record) in scan(segment.frames()) {
        let position = record.position;
        if position.gateway_id == gateway_id && position.epoch == epoch && (bounds.0..=bounds.1).contains(&position.seq)
        {
            found.entry(position.seq).or_insert(record);
        }
    }
    let neighbour = |seq| found.get(&seq).map(Neighbour::of);
    let runs = lost_runs(epoch, bounds, before, found.keys().copied(), neighbour, end);
    Salvaged { records: fill(gateway_id, bounds, before, &found, &runs), runs }
}

/// The record beside a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbour {
    position: StreamPosition,
    timestamp: Timestamp,
}

impl Neighbour {
    pub(super) fn of(record: &AuditRecord) -> Self {
        Self { position: record.position, timestamp: record.entry.call.timestamp }
    }
}

/// The runs of records between `first` and `last` that are not in `found`, which rises. `neighbour` reads a record that
/// is. `before` is the head before `first` and `end` the hash of the record at `last`, if they are known.
pub(super) fn lost_runs(
    epoch: Epoch,
    (first, last): (Seq, Seq),
    before: Option<Head>,
    found: impl Iterator<Item = Seq>,
    neighbour: impl Fn(Seq) -> Option<Neighbour>,
    end: Option<Digest>,
) -> Vec<LostRun> {
    let mut runs = Vec::new();
    let mut from = first;
    for next in found.chain([last.next()]) {
        if from < next {
            let previous = neighbour(Seq(from.0.saturating_sub(1)));
            let (run_last, following) = (Seq(next.0 - 1), neighbour(next));
            // The record before the first of a stream has no hash: its place is filled with zeros.
            let known = before.or((from == Seq(1)).then_some(Head::START)).filter(|head| head.seq.next() == from);
            let timestamp = previous.or(following).map(|beside| beside.timestamp);
            runs.push(LostRun {
                epoch,
                first: from,
                last: run_last,
                prev_hash: previous.map(|previous| previous.position.hash).or(known.map(|head| head.hash)),
                hash: following.map(|next| next.position.prev_hash).or(end.filter(|_| run_last == last)),
                timestamp: timestamp.unwrap_or(Timestamp::from_micros(0)),
            });
        }
        from = next.next();
    }
    runs
}

/// The records from `first` to `last`: those in `found`, and the stand-ins of `runs` for the others. `before` is the
/// stream's head before them, if it is known; a run to whose beginning no other hash belongs is linked to it.
pub(super) fn fill(
    gateway_id: GatewayId,
    (first, last): (Seq, Seq),
    before: Option<Head>,
    found: &BTreeMap<Seq, AuditRecord>,
    runs: &[LostRun],
) -> Vec<AuditRecord> {
    let mut out: Vec<AuditRecord> = Vec::new();
    let mut previous = before.filter(|head| head.seq.next() == first).map(|head| head.hash);
    let mut seq = first;
    while seq <= last {
        let run = runs.get(runs.partition_point(|run| run.last < seq)).filter(|run| run.first <= seq);
        let stand_in = run.map(|run| {
            let linked = run.prev_hash.filter(|_| seq == run.first).or(previous);
            run.stand_in(gateway_id, seq, linked.unwrap_or(Digest::ZERO))
        });
        if let Some(record) = stand_in.or_else(|| found.get(&seq).cloned()) {
            previous = Some(record.position.hash);
            out.push(record);
        }
        seq = seq.next();
    }
    out
}

/// Links the stand-ins at the beginning of `records` to `after`, as far as the runs that they are in leave that open:
/// the hash before a run may not have been known, and stand-ins of an earlier damage may have been delivered.
pub(super) fn relink(records: &mut [AuditRecord], after: Head, runs: &[LostRun]) {
    let Some(position) = records.first().map(|first| first.position) else { return };
    let run = runs.iter().find(|run| run.epoch == position.epoch && (run.first..=run.last).contains(&position.seq));
    let Some(run) = run.filter(|run| position.seq > run.first || run.prev_hash.is_none()) else { return };
    // A caller may know the place before these records and not its hash.
    let is_known = after == Head::START || after.hash != Digest::ZERO;
    if position.seq != after.seq.next() || !is_known {
        return;
    }
    let mut hash = after.hash;
    for record in records.iter_mut().take_while(|record| record.position.seq <= run.last) {
        let StreamPosition { gateway_id, seq, prev_hash, .. } = record.position;
        if prev_hash == hash || *record != run.stand_in(gateway_id, seq, prev_hash) {
            return;
        }
        *record = run.stand_in(gateway_id, seq, hash);
        hash = record.position.hash;
    }
}

/// The whole record frames in `bytes`, each with its offset and length, in the order of offsets.
pub(super) fn scan(bytes: &[u8]) -> impl Iterator<Item = (usize, usize, AuditRecord)> {
    frames(bytes, |rest| codec::decode_record(rest).ok())
}

/// The calls of the whole intent frames in `bytes`.
pub(super) fn scan_intents(bytes: &[u8]) -> impl Iterator<Item = RequestId> {
    frames(bytes, |rest| codec::decode_intent_at(rest).ok()).map(|(_, _, call)| call.request_id)
}

/// The frames in `bytes` that `decode` accepts, each with its offset and length.
fn frames<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Option<(T, usize)>) -> impl Iterator<Item = (usize, usize, T)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let offset = at + find(bytes.get(at..)?, codec::MAGIC)?;
            if let Some((value, length)) = decode(bytes.get(offset..)?) {
                at = offset + length;
                return Some((offset, length, value));
            }
            at = offset + 1;
        }
    })
}

/// The offset of the first `needle` in `bytes`.
fn find(bytes: &[u8], needle: [u8; 4]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle.as_slice())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::audit::chain;
    use crate::audit::lost::{LostRuns, is_stand_in};
    use crate::audit::record::{Call, Entry, Outcome, Status};

    fn stream(count: u64) -> (Vec<AuditRecord>, Segment) {
        let (gateway_id, epoch, mut head) = (GatewayId(Uuid::from_u128(7)), Epoch(3), Head::START);
        let (mut records, mut frames) = (Vec::new(), Vec::new());
        for n in 0..count {
            let call = Call::new(RequestId::new(), "tools/call").with_target(Some("b"), Some(&format!("t{n}")));
            let entry = Entry::new(
                call,
                Outcome::answered(Status::Ok, None, b"{}", &crate::audit::record::RecordKey::from_bytes([0; 32])),
                Duration::from_millis(1),
            );
            let position = chain::link(gateway_id, epoch, head, &entry);
            head = Head::after(&position);
            let record = AuditRecord { position, entry };
            codec::encode_record(&record, &mut frames).unwrap();
            records.push(record);
        }
        (records, Segment::new(epoch, Seq(1), Seq(count), &frames))
    }

    fn linked(records: &[AuditRecord]) -> bool {
        records.windows(2).all(|pair| {
            pair[1].position.prev_hash == pair[0].position.hash && pair[1].position.seq == pair[0].position.seq.next()
        })
    }

    #[test]
    fn undamaged_segment_is_unchanged() {
        let (records, segment) = stream(9);
        let salvaged = super::records(&segment, records[0].position.gateway_id, Some(Head::START), None);
        assert_eq!((salvaged.records, salvaged.runs), (records, Vec::new()));
    }

    #[test]
    fn a_flipped_bit_costs_one_record_and_leaves_a_gap_record() {
        let (records, segment) = stream(5);
        let gateway_id = records[0].position.gateway_id;
        for bit in 0..segment.frames().len() * 8 {
            let mut frames = segment.frames().to_vec();
            frames[bit / 8] ^= 1 << (bit % 8);
            let rotten = Segment::new(segment.epoch, segment.first, segment.last(), &frames);
            let Salvaged { records: repaired, runs } = super::records(&rotten, gateway_id, Some(Head::START), None);
            assert_eq!(repaired.len(), 5, "bit {bit}");
            assert!(linked(&repaired), "bit {bit}");
            let changed: Vec<_> = repaired.iter().zip(&records).filter(|(now, then)| now != then).collect();
            let [(gap, lost)] = changed[..] else { panic!("bit {bit}: {} records changed", changed.len()) };
            assert_eq!(gap.entry.call.method, "gateway/gap");
            assert_eq!(gap.position.seq, lost.position.seq);
            let mut explained = LostRuns::default();
            for run in &runs {
                explained.add(gateway_id, *run);
            }
            let is_explained = |record: &AuditRecord| !is_stand_in(record) || explained.explains(record);
            assert!(repaired.iter().all(is_explained), "bit {bit}: {runs:?}");
            let again = super::records(&rotten, gateway_id, Some(Head::START), None);
            assert_eq!(repaired, again.records, "a stand-in is always the same");
        }
    }

    #[test]
    fn stream_stays_linked_over_runs_of_lost_records() {
        let (records, segment) = stream(6);
        let frames: Vec<_> = [&records[0], &records[4]]
            .iter()
            .flat_map(|record| {
                let mut frame = Vec::new();
                codec::encode_record(record, &mut frame).unwrap();
                frame
            })
            .collect();
        let rest = Segment::new(segment.epoch, segment.first, segment.last(), &frames);
        let Salvaged { records: filled, runs } =
            super::records(&rest, records[0].position.gateway_id, Some(Head::START), None);
        let places: Vec<_> = runs.iter().map(|run| (run.first.0, run.last.0, run.hash)).collect();
        assert_eq!(places, [(2, 4, Some(records[3].position.hash)), (6, 6, None)]);
        assert!(linked(&filled));
        let methods: Vec<_> = filled.iter().map(|record| record.entry.call.method.as_str()).collect();
        let (call, gap) = ("tools/call", "gateway/gap");
        assert_eq!(methods, [call, gap, gap, gap, call, gap]);
    }

    #[test]
    fn stand_ins_are_linked_to_what_was_delivered_if_their_run_leaves_it_open() {
        let (records, _) = stream(9);
        let gateway_id = records[0].position.gateway_id;
        let (end, delivered) = (Digest::of(b"end"), Head { seq: Seq(3), hash: Digest::of(b"delivered") });
        let run = |first, prev_hash| LostRun {
            epoch: Epoch(3),
            first: Seq(first),
            last: Seq(6),
            prev_hash,
            hash: Some(end),
            timestamp: Timestamp::from_micros(0),
        };
        let known = Some(Digest::of(b"known"));
        for (run, moves) in [(run(4, None), true), (run(2, known), true), (run(4, known), false)] {
            let filled = fill(gateway_id, (Seq(4), Seq(6)), None, &BTreeMap::new(), &[run]);
            let mut again = filled.clone();
            relink(&mut again, delivered, &[run]);
            assert_eq!(again[0].position.prev_hash == delivered.hash, moves, "{run:?}");
            assert_eq!(again == filled, !moves);
            assert!(linked(&again) && again[2].position.hash == end);
            relink(&mut again, Head { seq: Seq(2), ..delivered }, &[run]);
            assert_eq!(again[0].position.prev_hash == delivered.hash, moves, "another place");
        }
    }
}
