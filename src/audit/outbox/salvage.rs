//! Salvaging records from damaged bytes. Every record that can be read keeps its position, and every one that cannot is
//! replaced by a `gateway/gap` record, so that the stream stays complete and each loss is visible in it.
//!
//! There are two levels. [`records`] repairs one segment whose position in the stream is known: it finds the whole
//! frames and fills the gaps between them. [`scan`] finds whole frames anywhere in a file whose structure is lost.
//!
//! The id of a gap record is derived from its position, and its time is that of the record next to it. Its hash is that
//! of the lost record, if the next record or the stream's head contains it. The chain then continues over the gap
//! record, and verification sees that the hash of this one record is not computed from its contents.

use std::collections::BTreeMap;
use std::time::Duration;

use super::segment::Segment;
use crate::audit::chain::{self, Head};
use crate::audit::codec;
use crate::audit::record::{
    AuditRecord, Call, Digest, Entry, Epoch, GatewayId, Outcome, RequestId, Salt, Salts, Seq, Status, StreamPosition,
    Timestamp,
};

/// The records of a segment after `after`, with gap records for the lost ones. `end` is the hash of the segment's last
/// record, if it is known.
#[must_use]
pub(super) fn records(segment: &Segment, gateway_id: GatewayId, after: Head, end: Option<Digest>) -> Vec<AuditRecord> {
    let first = segment.first.max(after.seq.next());
    let mut found = BTreeMap::new();
    for (_, _, record) in scan(segment.frames()) {
        let StreamPosition { epoch, seq, gateway_id: owner, .. } = record.position;
        if owner == gateway_id && epoch == segment.epoch && (first..=segment.last()).contains(&seq) {
            found.entry(seq).or_insert(record);
        }
    }
    fill(gateway_id, segment.epoch, (first, segment.last()), after, &found, end)
}

/// The records from `first` to `last`: those in `found`, and gap records for the others. `after` is the stream's head
/// before them, if it is known; a lost first record is linked to it. `end` is the hash of the record at `last`, if it
/// is known.
#[must_use]
pub(super) fn fill(
    gateway_id: GatewayId,
    epoch: Epoch,
    (first, last): (Seq, Seq),
    after: Head,
    found: &BTreeMap<Seq, AuditRecord>,
    end: Option<Digest>,
) -> Vec<AuditRecord> {
    let mut out: Vec<AuditRecord> = Vec::new();
    let mut head = Some(after).filter(|head| head.seq.next() == first);
    let mut seq = first;
    while seq <= last {
        let record = found.get(&seq).cloned().unwrap_or_else(|| {
            let next = if seq == last { end } else { found.get(&seq.next()).map(|next| next.position.prev_hash) };
            let prev_hash = head.map_or(Digest::ZERO, |head| head.hash);
            let neighbour = out.last().or_else(|| found.range(seq..).next().map(|(_, record)| record));
            LostRecord { gateway_id, epoch, seq, prev_hash, hash: next }.gap(neighbour)
        });
        head = Some(Head::after(&record.position));
        out.push(record);
        seq = seq.next();
    }
    out
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

/// A record that is lost.
#[derive(Clone, Copy, Debug)]
struct LostRecord {
    gateway_id: GatewayId,
    epoch: Epoch,
    seq: Seq,
    prev_hash: Digest,
    /// The hash of the lost record, if the next record or the stream's head contains it.
    hash: Option<Digest>,
}

impl LostRecord {
    /// The gap record that replaces the lost record. It always has the same contents, and so the same hash: the shipper
    /// may have delivered it before. Never change its details or its message.
    fn gap(&self, neighbour: Option<&AuditRecord>) -> AuditRecord {
        let Self { gateway_id, epoch, seq, prev_hash, hash } = *self;
        let details = serde_json::json!({ "lost": 1, "epoch": epoch, "seq": seq, "hash": hash });
        let mut call = Call::gateway_event("gap", &details);
        let derived = position_digest(gateway_id, epoch, seq);
        // A UUID v8, always the same for one position.
        let id = derived.0.first_chunk().copied().unwrap_or_default();
        call.request_id = RequestId(uuid::Builder::from_custom_bytes(id).into_uuid());
        let unknown = Timestamp::from_micros(0);
        call.timestamp = neighbour.map_or(unknown, |neighbour| neighbour.entry.call.timestamp);
        let message = "the record at this place is lost: its bytes in the outbox are damaged";
        let mut entry = Entry::new(call, Outcome::failed(Status::Error, message), Duration::ZERO);
        // Nothing in a gap record has to be hidden.
        let salt = Salt(derived.0);
        entry.salts = Salts { who: salt, circumstances: salt, content: salt };
        let before = Head { seq: Seq(seq.0.saturating_sub(1)), hash: prev_hash };
        let position = chain::link(gateway_id, epoch, before, &entry);
        AuditRecord { position: StreamPosition { hash: hash.unwrap_or(position.hash), ..position }, entry }
    }
}

/// Returns true if `record` is a gap record that replaces a lost record. Its hashes may differ from one reading to the
/// next: they come from the records before and after it, as far as these are read together with it.
#[must_use]
pub fn replaces_lost_record(record: &AuditRecord) -> bool {
    let call = &record.entry.call;
    let details = || serde_json::from_str::<serde_json::Value>(call.request_args.as_deref()?).ok();
    let here = |details: serde_json::Value| {
        details.get("lost").is_some()
            && details.get("seq").and_then(serde_json::Value::as_u64) == Some(record.position.seq.0)
    };
    call.method == "gateway/gap" && details().is_some_and(here)
}

/// SHA-256 of a position: what is random in other records comes from it in a gap record.
fn position_digest(gateway_id: GatewayId, epoch: Epoch, seq: Seq) -> Digest {
    let mut name = gateway_id.0.as_bytes().to_vec();
    name.extend_from_slice(&epoch.0.to_le_bytes());
    name.extend_from_slice(&seq.0.to_le_bytes());
    Digest::of(&name)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

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
        assert_eq!(super::records(&segment, records[0].position.gateway_id, Head::START, None), records);
    }

    #[test]
    fn a_flipped_bit_costs_one_record_and_leaves_a_gap_record() {
        let (records, segment) = stream(5);
        let gateway_id = records[0].position.gateway_id;
        for bit in 0..segment.frames().len() * 8 {
            let mut frames = segment.frames().to_vec();
            frames[bit / 8] ^= 1 << (bit % 8);
            let rotten = Segment::new(segment.epoch, segment.first, segment.last(), &frames);
            let repaired = super::records(&rotten, gateway_id, Head::START, None);
            assert_eq!(repaired.len(), 5, "bit {bit}");
            assert!(linked(&repaired), "bit {bit}");
            let changed: Vec<_> = repaired.iter().zip(&records).filter(|(now, then)| now != then).collect();
            let [(gap, lost)] = changed[..] else { panic!("bit {bit}: {} records changed", changed.len()) };
            assert_eq!(gap.entry.call.method, "gateway/gap");
            assert_eq!(gap.position.seq, lost.position.seq);
            assert_eq!(
                repaired,
                super::records(&rotten, gateway_id, Head::START, None),
                "a gap record is always the same"
            );
        }
    }

    #[test]
    fn stream_stays_linked_over_runs_of_lost_records() {
        let (records, segment) = stream(6);
        let found: BTreeMap<_, _> =
            [&records[0], &records[4]].map(|record| (record.position.seq, record.clone())).into();
        let filled = fill(
            records[0].position.gateway_id,
            segment.epoch,
            (segment.first, segment.last()),
            Head::START,
            &found,
            None,
        );
        assert!(linked(&filled));
        let methods: Vec<_> = filled.iter().map(|record| record.entry.call.method.as_str()).collect();
        let (call, gap) = ("tools/call", "gateway/gap");
        assert_eq!(methods, [call, gap, gap, gap, call, gap]);
    }
}
