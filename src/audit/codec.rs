//! The bytes of a record and of an intent in the outbox.
//!
//! ```text
//! offset  width  field
//!      0      4  magic, the ASCII letters "GPRF"
//!      4      1  format version, 2
//!      5      1  codec of the body, 1 = bincode 2, standard configuration, little-endian
//!      6      1  kind, 1 = record, 2 = intent
//!      7      1  reserved, 0
//!      8      4  length of the body in bytes, u32 little-endian
//!     12      4  CRC-32C of bytes 0..12 and of the body, u32 little-endian
//!     16      n  body
//! ```
//!
//! **Warning: this layout is on the disks of running gateways and in `audit_quarantine`.** Never change a byte of it,
//! or the order and the types of the columns in `record/column.rs`, without a new format version in byte 4, a decoder
//! that still reads version 2, and new golden frames beside `codec/record_v2.hex`. If the test
//! `version_2_decodes_for_ever` fails, the code is wrong, not the golden frame.
//!
//! A frame is valid if its checksum, version, codec, kind and reserved byte are correct and the decoder uses the whole
//! body. The checksum is compared before anything is decoded, because bincode decodes most flipped bits into other
//! values without an error. Decoding arbitrary bytes never panics and never allocates more than [`BODY_BYTES_MAX`].
//!
//! A segment is a sequence of record frames with nothing between them.
//!
//! Only this module uses bincode.

mod body;
mod error;
pub mod explain;
mod layout;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{BorrowDecode, Encode};

pub use error::CodecError;
pub(super) use layout::MAGIC;
pub use layout::{BODY_BYTES_MAX, HEADER_BYTES};

use body::{DecodedIntent, DecodedRecord, IntentBody, RecordBody};
use layout::{CODEC_BINCODE, VERSION};

use super::record::{AuditRecord, Call};

/// The configuration of bincode: variable-length integers. The limit only guards decoding; [`frame`] guards encoding.
const BINCODE: Configuration<LittleEndian, Varint, Limit<BODY_BYTES_MAX>> =
    bincode::config::standard().with_little_endian().with_limit::<BODY_BYTES_MAX>();

/// The kind of a frame, byte 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameKind {
    Record = 1,
    Intent = 2,
}

/// Appends the frame of `record` to `out`.
///
/// # Errors
/// [`CodecError::TooLong`] or [`CodecError::Encode`]; `out` is unchanged.
pub fn encode_record(record: &AuditRecord, out: &mut Vec<u8>) -> Result<(), CodecError> {
    frame(FrameKind::Record, &RecordBody(record), out)
}

/// The frame of the intent of `call`.
///
/// # Errors
/// [`CodecError::TooLong`] or [`CodecError::Encode`].
pub fn encode_intent(call: &Call) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(HEADER_BYTES + call.size_bytes());
    frame(FrameKind::Intent, &IntentBody(call), &mut out)?;
    Ok(out)
}

/// Decodes the record frame at the start of `bytes`; returns it with its length in bytes.
///
/// # Errors
/// See [`CodecError`].
pub fn decode_record(bytes: &[u8]) -> Result<(AuditRecord, usize), CodecError> {
    let (DecodedRecord(record), length) = unframe(FrameKind::Record, bytes)?;
    Ok((record, length))
}

/// Decodes an intent frame that is all of `bytes`.
///
/// # Errors
/// See [`CodecError`].
pub fn decode_intent(bytes: &[u8]) -> Result<Call, CodecError> {
    let (call, length) = decode_intent_at(bytes)?;
    if length != bytes.len() {
        return Err(CodecError::Trailing { bytes: bytes.len(), used: length });
    }
    Ok(call)
}

/// Decodes the intent frame at the start of `bytes`; returns it with its length in bytes.
///
/// # Errors
/// See [`CodecError`].
pub fn decode_intent_at(bytes: &[u8]) -> Result<(Call, usize), CodecError> {
    let (DecodedIntent(call), length) = unframe(FrameKind::Intent, bytes)?;
    Ok((call, length))
}

/// The records of a segment, in order. The iteration ends after the first error.
pub fn decode_segment(bytes: &[u8]) -> impl Iterator<Item = Result<AuditRecord, CodecError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let decoded = decode_record(rest);
        rest = match &decoded {
            Ok((_, length)) => rest.get(*length..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(decoded.map(|(record, _)| record))
    })
}

/// Appends the frame of `body` to `out`; leaves `out` unchanged after an error.
fn frame<T: Encode>(kind: FrameKind, body: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = out.len();
    let result = write_frame(kind, body, out, start);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn write_frame<T: Encode>(kind: FrameKind, body: &T, out: &mut Vec<u8>, start: usize) -> Result<(), CodecError> {
    out.extend_from_slice(&[0; HEADER_BYTES]);
    bincode::encode_into_std_write(body, out, BINCODE).map_err(|error| CodecError::Encode(Box::new(error)))?;
    let frame = out.get_mut(start..).unwrap_or_default();
    let bytes = frame.len() - HEADER_BYTES;
    // I6: a body over the limit could not be decoded, so it is never written.
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= BODY_BYTES_MAX).ok_or(CodecError::TooLong { bytes })?;
    let (header, body) = frame.split_at_mut(HEADER_BYTES);
    let [l0, l1, l2, l3] = length.to_le_bytes();
    let [m0, m1, m2, m3] = MAGIC;
    let covered = [m0, m1, m2, m3, VERSION, CODEC_BINCODE, kind as u8, 0, l0, l1, l2, l3];
    let checksum = checksum(&covered, body);
    let (head, tail) = header.split_at_mut(covered.len());
    head.copy_from_slice(&covered);
    tail.copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// Checks the frame at the start of `bytes` and decodes its body; returns it with the length of the frame.
fn unframe<'b, T: BorrowDecode<'b, ()>>(expected: FrameKind, bytes: &'b [u8]) -> Result<(T, usize), CodecError> {
    let cut = |need| CodecError::Truncated { have: bytes.len(), need };
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| cut(HEADER_BYTES))?;
    let [m0, m1, m2, m3, version, codec, kind, reserved, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let magic = [m0, m1, m2, m3];
    if magic != MAGIC {
        return Err(CodecError::Magic { found: magic });
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > BODY_BYTES_MAX {
        return Err(CodecError::TooLong { bytes: length });
    }
    let body = rest.get(..length).ok_or_else(|| cut(HEADER_BYTES + length))?;
    let found = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = checksum(header.first_chunk::<12>().unwrap_or(&[0; 12]), body);
    if found != computed {
        return Err(CodecError::Checksum { found, computed });
    }
    if version != VERSION || codec != CODEC_BINCODE || kind != expected as u8 || reserved != 0 {
        return Err(CodecError::Unsupported { version, codec, kind });
    }
    let (value, used) =
        bincode::borrow_decode_from_slice(body, BINCODE).map_err(|error| CodecError::Decode(Box::new(error)))?;
    if used != length {
        return Err(CodecError::Trailing { bytes: length, used });
    }
    Ok((value, HEADER_BYTES + length))
}

fn checksum(covered: &[u8; 12], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(covered), body)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::audit::chain::{self, Head};
    use crate::audit::record::{
        Caller, Correlation, Entry, Epoch, GatewayId, Outcome, RequestId, Salt, Salts, Status, Timestamp,
    };

    fn sample(args: &str, tool: Option<&str>, status: Status) -> AuditRecord {
        let mut call = Call::new(RequestId(Uuid::from_bytes([7; 16])), "tools/call")
            .with_caller(&Caller { role: Some("analyst".into()), ..Caller::anonymous() })
            .with_correlation(&Correlation { rpc_id: Some("42".into()), ..Correlation::default() })
            .with_target(Some("example"), tool)
            .with_arguments(
                Some(args.to_owned()),
                Some(crate::audit::record::RecordKey::from_bytes([0; 32]).digest(args.as_bytes())),
            );
        call.timestamp = Timestamp::from_micros(1_700_000_000_000_001);
        let mut entry = Entry::new(
            call,
            Outcome::answered(status, None, b"{}", &crate::audit::record::RecordKey::from_bytes([0; 32])),
            Duration::from_micros(1500),
        );
        entry.salts = Salts { who: Salt([3; 32]), circumstances: Salt([4; 32]), content: Salt([5; 32]) };
        let position = chain::link(GatewayId(Uuid::from_bytes([1; 16])), Epoch(3), Head::START, &entry);
        AuditRecord { position, entry }
    }

    fn encoded(record: &AuditRecord) -> Vec<u8> {
        let mut out = Vec::new();
        encode_record(record, &mut out).unwrap();
        out
    }

    #[test]
    fn version_2_decodes_for_ever() {
        let golden = include_str!("codec/record_v2.hex").trim();
        let record = sample(r#"{"text":"hi"}"#, Some("echo"), Status::Ok);
        assert_eq!(hex::encode(encoded(&record)), golden);
        let golden = include_str!("codec/intent_v2.hex").trim();
        assert_eq!(hex::encode(encode_intent(&record.entry.call).unwrap()), golden);
    }

    #[test]
    fn every_strict_prefix_and_every_flipped_bit_is_rejected() {
        let bytes = encoded(&sample("{}", None, Status::Denied));
        for length in 0..bytes.len() {
            assert!(decode_record(&bytes[..length]).is_err(), "prefix of {length} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_record(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn i6_a_record_over_the_limit_is_rejected_and_leaves_the_buffer_unchanged() {
        let mut record = sample("{}", None, Status::Ok);
        record.entry.error_message = Some("x".repeat(BODY_BYTES_MAX));
        let mut out = vec![1, 2, 3];
        assert!(matches!(encode_record(&record, &mut out), Err(CodecError::TooLong { .. })));
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn intent_keeps_the_names_of_normalised_fields() {
        let call = sample("{}", Some("a\0b"), Status::Ok).entry.call;
        let decoded = decode_intent(&encode_intent(&call).unwrap()).unwrap();
        assert_eq!(decoded, call);
        assert_eq!(decoded.normalised, ["tool_name"]);
    }

    #[test]
    fn segment_yields_its_records_in_order_and_stops_at_an_error() {
        let record = sample("{}", None, Status::Ok);
        let mut bytes = encoded(&record);
        let second = bytes.len();
        bytes.extend_from_within(..);
        assert_eq!(decode_segment(&bytes).filter_map(Result::ok).count(), 2);
        bytes[second + 20] ^= 1;
        let decoded: Vec<_> = decode_segment(&bytes).collect();
        assert!(matches!(decoded[..], [Ok(_), Err(CodecError::Checksum { .. })]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(decode_record(&bytes).is_err());
            prop_assert!(decode_intent(&bytes).is_err());
        }

        #[test]
        fn records_survive_the_round_trip(
            text in ".{0,80}",
            status in 0_usize..Status::ALL.len(),
            ms in 0_u64..1 << 40,
        ) {
            let mut record = sample(&serde_json::json!({ "text": text }).to_string(), Some(&text), Status::ALL[status]);
            record.entry.latency_ms = Duration::from_micros(ms).as_secs_f64() * 1000.0;
            let bytes = encoded(&record);
            let (mut decoded, length) = decode_record(&bytes).unwrap();
            prop_assert_eq!(length, bytes.len());
            decoded.entry.call.normalised.clone_from(&record.entry.call.normalised);
            prop_assert_eq!(decoded, record);
        }
    }
}
