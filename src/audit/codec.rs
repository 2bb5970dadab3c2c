//! The bytes of a record and of an intent in the outbox.
//!
//! ```text
//! offset  width  field
//!      0      4  magic, the ASCII letters "GPRF"
//!      4      1  format version, 1
//!      5      1  codec of the body, 1 = bincode 2, standard configuration, little-endian
//!      6      1  kind, 1 = record, 2 = intent
//!      7      1  reserved, 0
//!      8      4  length of the body in bytes, u32 little-endian
//!     12      4  CRC-32C of bytes 0..12 and of the body, u32 little-endian
//!     16      n  body
//! ```
//!
//! A frame is valid when its checksum, version, codec, kind and reserved byte are, and its body is used up by the
//! decoder. Version 1 decodes for ever. The checksum is compared before anything is decoded, since bincode itself turns
//! most flipped bits into other values without an error. Decoding arbitrary bytes never panics and never allocates more
//! than [`BODY_BYTES_MAX`].
//!
//! A segment is record frames, one after another, with nothing between them.
//!
//! This is the only module that names bincode.

pub mod explain;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};
use uuid::Uuid;

use super::record::{
    AuditRecord, Call, Digest, Entry, Epoch, GatewayId, NORMALISABLE, RequestId, Seq, Status, StreamPosition, Text,
    Timestamp,
};

/// Bytes before the body.
pub const HEADER_BYTES: usize = 16;

/// Longest body, in bytes. *Derived*: [`ARGS_BYTES_MAX`](super::record::ARGS_BYTES_MAX), every text at its limit (about
/// 14 KiB) and the fixed part, rounded up to a power of two.
pub const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

pub(super) const MAGIC: [u8; 4] = *b"GPRF";
const VERSION: u8 = 1;
const CODEC_BINCODE: u8 = 1;

/// bincode's format: variable-length integers; the limit guards decoding only, [`frame`] guards encoding.
const FORMAT: Configuration<LittleEndian, Varint, Limit<BODY_BYTES_MAX>> =
    bincode::config::standard().with_little_endian().with_limit::<BODY_BYTES_MAX>();

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Record = 1,
    Intent = 2,
}

/// Why bytes are no valid frame, or a value cannot become one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes end before the frame does.
    #[error("frame is cut: {have} bytes, {need} needed")]
    Cut {
        /// Bytes there are.
        have: usize,
        /// Bytes the frame has.
        need: usize,
    },
    /// The bytes do not begin as a frame.
    #[error("no frame begins here: magic is {found:02x?}")]
    Magic {
        /// The four bytes there.
        found: [u8; 4],
    },
    /// A checksum that differs.
    #[error("frame checksum is {found:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// The checksum in the frame.
        found: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
    /// A frame from a newer version, or of another kind.
    #[error("frame has version {version}, codec {codec}, kind {kind}; this Gatepost reads version 1, codec 1")]
    Unknown {
        /// Its version.
        version: u8,
        /// Its codec.
        codec: u8,
        /// Its kind.
        kind: u8,
    },
    /// A body beyond the limit.
    #[error("frame body is {bytes} bytes, limit {BODY_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// bincode refused the body.
    #[error("frame body cannot be decoded")]
    Decode(#[source] Box<bincode::error::DecodeError>),
    /// bincode refused the value.
    #[error("record cannot be encoded")]
    Encode(#[source] Box<bincode::error::EncodeError>),
    /// The body is longer than what it decodes to.
    #[error("frame body is {bytes} bytes, of which {used} were used")]
    Trailing {
        /// Its length.
        bytes: usize,
        /// What the decoder used.
        used: usize,
    },
    /// A value that no record may hold.
    #[error("frame holds an impossible {field}")]
    Value {
        /// Which.
        field: &'static str,
    },
}

/// Appends the frame of `record` to `out`.
///
/// # Errors
/// [`Error::TooLong`] or [`Error::Encode`]; `out` is as before.
pub fn encode_record(record: &AuditRecord, out: &mut Vec<u8>) -> Result<(), Error> {
    frame(Kind::Record, &RecordBody::<&str>::from(record), out)
}

/// The frame of an intent.
///
/// # Errors
/// [`Error::TooLong`] or [`Error::Encode`].
pub fn encode_intent(call: &Call) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(HEADER_BYTES + call.size_bytes());
    frame(Kind::Intent, &CallBody::<&str>::from(call), &mut out)?;
    Ok(out)
}

/// Decodes the record frame at the start of `bytes`; returns it with its length in bytes.
///
/// # Errors
/// See [`Error`].
pub fn decode_record(bytes: &[u8]) -> Result<(AuditRecord, usize), Error> {
    let (body, length) = unframe::<RecordBody<String>>(Kind::Record, bytes)?;
    Ok((AuditRecord::try_from(body)?, length))
}

/// Decodes an intent, which is all of `bytes`.
///
/// # Errors
/// See [`Error`].
pub fn decode_intent(bytes: &[u8]) -> Result<Call, Error> {
    let (call, length) = decode_intent_at(bytes)?;
    if length != bytes.len() {
        return Err(Error::Trailing { bytes: bytes.len(), used: length });
    }
    Ok(call)
}

/// Decodes the intent frame at the start of `bytes`; returns it with its length in bytes.
///
/// # Errors
/// See [`Error`].
pub fn decode_intent_at(bytes: &[u8]) -> Result<(Call, usize), Error> {
    let (body, length) = unframe::<CallBody<String>>(Kind::Intent, bytes)?;
    Ok((Call::try_from(body)?, length))
}

/// The records of a segment, in order. The first fault ends the iteration.
pub fn decode_segment(bytes: &[u8]) -> impl Iterator<Item = Result<AuditRecord, Error>> {
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

fn frame<T: Encode>(kind: Kind, body: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    let result = write_frame(kind, body, out, start);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn write_frame<T: Encode>(kind: Kind, body: &T, out: &mut Vec<u8>, start: usize) -> Result<(), Error> {
    out.extend_from_slice(&[0; HEADER_BYTES]);
    bincode::encode_into_std_write(body, out, FORMAT).map_err(|error| Error::Encode(Box::new(error)))?;
    let frame = out.get_mut(start..).unwrap_or_default();
    let bytes = frame.len() - HEADER_BYTES;
    // I6: a body beyond the limit would never decode again, so it is never written.
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= BODY_BYTES_MAX).ok_or(Error::TooLong { bytes })?;
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

fn unframe<T: Decode<()>>(want: Kind, bytes: &[u8]) -> Result<(T, usize), Error> {
    let cut = |need| Error::Cut { have: bytes.len(), need };
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| cut(HEADER_BYTES))?;
    let [m0, m1, m2, m3, version, codec, kind, reserved, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let magic = [m0, m1, m2, m3];
    if magic != MAGIC {
        return Err(Error::Magic { found: magic });
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > BODY_BYTES_MAX {
        return Err(Error::TooLong { bytes: length });
    }
    let body = rest.get(..length).ok_or_else(|| cut(HEADER_BYTES + length))?;
    let found = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = checksum(header.first_chunk::<12>().unwrap_or(&[0; 12]), body);
    if found != computed {
        return Err(Error::Checksum { found, computed });
    }
    if version != VERSION || codec != CODEC_BINCODE || kind != want as u8 || reserved != 0 {
        return Err(Error::Unknown { version, codec, kind });
    }
    let (value, used) = bincode::decode_from_slice(body, FORMAT).map_err(|error| Error::Decode(Box::new(error)))?;
    if used != length {
        return Err(Error::Trailing { bytes: length, used });
    }
    Ok((value, HEADER_BYTES + length))
}

fn checksum(covered: &[u8; 12], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(covered), body)
}

/// A [`Call`] as it is laid out; the field order is the format. Text is borrowed to be encoded, owned when decoded.
#[derive(Encode, Decode)]
struct CallBody<T> {
    request_id: [u8; 16],
    timestamp: i64,
    method: T,
    client_subject: T,
    client_role: Option<T>,
    client_issuer: Option<T>,
    token_id: Option<T>,
    client_addr: Option<T>,
    session_id: Option<T>,
    rpc_id: Option<T>,
    tool_name: Option<T>,
    backend_name: Option<T>,
    request_args: Option<T>,
    args_digest: Option<[u8; 32]>,
    /// Bit n: the field at position n of [`NORMALISABLE`] was changed.
    normalised: u16,
}

/// An [`AuditRecord`] as it is laid out; the field order is the format.
#[derive(Encode, Decode)]
struct RecordBody<T> {
    gateway_id: [u8; 16],
    epoch: u64,
    seq: u64,
    prev_hash: [u8; 32],
    hash: [u8; 32],
    call: CallBody<T>,
    /// Position in [`Status::ALL`].
    response_status: u8,
    error_message: Option<T>,
    response_digest: Option<[u8; 32]>,
    response_bytes: Option<u64>,
    latency_ms: f64,
}

impl<'a> From<&'a Call> for CallBody<&'a str> {
    fn from(call: &'a Call) -> Self {
        let bit = |column: &&str| NORMALISABLE.iter().position(|name| name == column).map_or(0, |idx| 1 << idx);
        Self {
            request_id: call.request_id.0.into_bytes(),
            timestamp: call.timestamp.micros(),
            method: &call.method,
            client_subject: &call.client_subject,
            client_role: call.client_role.as_deref(),
            client_issuer: call.client_issuer.as_deref(),
            token_id: call.token_id.as_deref(),
            client_addr: call.client_addr.as_deref(),
            session_id: call.session_id.as_deref(),
            rpc_id: call.rpc_id.as_deref(),
            tool_name: call.tool_name.as_deref(),
            backend_name: call.backend_name.as_deref(),
            request_args: call.request_args.as_deref(),
            args_digest: call.args_digest.map(|digest| digest.0),
            normalised: call.normalised.iter().fold(0, |mask, column| mask | bit(column)),
        }
    }
}

impl TryFrom<CallBody<String>> for Call {
    type Error = Error;

    fn try_from(body: CallBody<String>) -> Result<Self, Error> {
        let timestamp = Timestamp::from_micros(body.timestamp);
        if timestamp.micros() != body.timestamp {
            return Err(Error::Value { field: "timestamp" });
        }
        if usize::from(body.normalised) >> NORMALISABLE.len() != 0 {
            return Err(Error::Value { field: "normalised" });
        }
        let changed = |(idx, _): &(usize, &&str)| body.normalised & (1 << idx) != 0;
        Ok(Self {
            request_id: RequestId(Uuid::from_bytes(body.request_id)),
            timestamp,
            method: body.method.into(),
            client_subject: body.client_subject.into(),
            client_role: body.client_role.map(Text::from),
            client_issuer: body.client_issuer.map(Text::from),
            token_id: body.token_id.map(Text::from),
            client_addr: body.client_addr.map(Text::from),
            session_id: body.session_id.map(Text::from),
            rpc_id: body.rpc_id.map(Text::from),
            tool_name: body.tool_name.map(Text::from),
            backend_name: body.backend_name.map(Text::from),
            request_args: body.request_args,
            args_digest: body.args_digest.map(Digest),
            normalised: NORMALISABLE.iter().enumerate().filter(changed).map(|(_, name)| *name).collect(),
        })
    }
}

impl<'a> From<&'a AuditRecord> for RecordBody<&'a str> {
    fn from(record: &'a AuditRecord) -> Self {
        let AuditRecord { position, entry } = record;
        let status = Status::ALL.iter().position(|status| *status == entry.response_status);
        Self {
            gateway_id: position.gateway_id.0.into_bytes(),
            epoch: position.epoch.0,
            seq: position.seq.0,
            prev_hash: position.prev_hash.0,
            hash: position.hash.0,
            call: CallBody::from(&entry.call),
            response_status: status.and_then(|idx| u8::try_from(idx).ok()).unwrap_or(u8::MAX),
            error_message: entry.error_message.as_deref(),
            response_digest: entry.response_digest.map(|digest| digest.0),
            response_bytes: entry.response_bytes,
            latency_ms: entry.latency_ms,
        }
    }
}

impl TryFrom<RecordBody<String>> for AuditRecord {
    type Error = Error;

    fn try_from(body: RecordBody<String>) -> Result<Self, Error> {
        let status = Status::ALL.get(usize::from(body.response_status)).copied();
        if !body.latency_ms.is_finite() || body.latency_ms < 0.0 {
            return Err(Error::Value { field: "latency_ms" });
        }
        Ok(Self {
            position: StreamPosition {
                gateway_id: GatewayId(Uuid::from_bytes(body.gateway_id)),
                epoch: Epoch(body.epoch),
                seq: Seq(body.seq),
                prev_hash: Digest(body.prev_hash),
                hash: Digest(body.hash),
            },
            entry: Entry {
                call: Call::try_from(body.call)?,
                response_status: status.ok_or(Error::Value { field: "response_status" })?,
                error_message: body.error_message,
                response_digest: body.response_digest.map(Digest),
                response_bytes: body.response_bytes,
                latency_ms: body.latency_ms,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use crate::audit::chain::{self, Head};
    use crate::audit::record::{Caller, Correlation, Outcome};
    use crate::audit::redact::Redaction;

    use super::*;

    fn sample(args: &str, tool: Option<&str>, status: Status) -> AuditRecord {
        let mut call = Call::new(RequestId(Uuid::from_bytes([7; 16])), "tools/call")
            .with_caller(&Caller { role: Some("analyst".into()), ..Caller::anonymous() })
            .with_correlation(&Correlation { rpc_id: Some("42".into()), ..Correlation::default() })
            .with_target(Some("example"), tool)
            .with_arguments(args, &Redaction::none(), 4096);
        call.timestamp = Timestamp::from_micros(1_700_000_000_000_001);
        let entry = Entry::new(call, Outcome::answered(status, None, b"{}"), Duration::from_micros(1500));
        let position = chain::link(GatewayId(Uuid::from_bytes([1; 16])), Epoch(3), Head::START, &entry);
        AuditRecord { position, entry }
    }

    fn encoded(record: &AuditRecord) -> Vec<u8> {
        let mut out = Vec::new();
        encode_record(record, &mut out).unwrap();
        out
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    #[test]
    fn version_1_decodes_for_ever() {
        let golden = include_str!("codec/record_v1.hex").trim();
        let record = sample(r#"{"text":"hi"}"#, Some("echo"), Status::Ok);
        assert_eq!(hex(&encoded(&record)), golden);
        let golden = include_str!("codec/intent_v1.hex").trim();
        assert_eq!(hex(&encode_intent(&record.entry.call).unwrap()), golden);
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
    fn i6_a_record_beyond_the_limit_is_refused_and_leaves_nothing() {
        let mut record = sample("{}", None, Status::Ok);
        record.entry.error_message = Some("x".repeat(BODY_BYTES_MAX));
        let mut out = vec![1, 2, 3];
        assert!(matches!(encode_record(&record, &mut out), Err(Error::TooLong { .. })));
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn an_intent_keeps_what_was_normalised() {
        let call = sample("{}", Some("a\0b"), Status::Ok).entry.call;
        let decoded = decode_intent(&encode_intent(&call).unwrap()).unwrap();
        assert_eq!(decoded, call);
        assert_eq!(decoded.normalised, ["tool_name"]);
    }

    #[test]
    fn a_segment_gives_its_records_in_order_and_stops_at_a_fault() {
        let record = sample("{}", None, Status::Ok);
        let mut bytes = encoded(&record);
        let second = bytes.len();
        bytes.extend_from_within(..);
        assert_eq!(decode_segment(&bytes).filter_map(Result::ok).count(), 2);
        bytes[second + 20] ^= 1;
        let decoded: Vec<_> = decode_segment(&bytes).collect();
        assert!(matches!(decoded[..], [Ok(_), Err(Error::Checksum { .. })]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(decode_record(&bytes).is_err());
            prop_assert!(decode_intent(&bytes).is_err());
        }

        #[test]
        fn records_survive_the_round_trip(text in ".{0,80}", status in 0_usize..Status::ALL.len(), ms in 0_u64..1 << 40) {
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
