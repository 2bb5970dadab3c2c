//! Decodes any bytes as a frame: no panic; what decodes encodes to the same bytes; every strict prefix and every
//! flipped bit of a valid frame is refused.
//!
//! The input is decoded as it is, and once more as the body of a frame whose header has the right length and checksum,
//! so that the decoder after the checksum is reached too. libFuzzer checks that no allocation exceeds the limit:
//! `-malloc_limit_mb` in `scripts/fuzz`.

use gatepost::audit::codec::{self, BODY_BYTES_MAX, HEADER_BYTES};

/// The longest frame, in bytes, of which every byte and every prefix is tried; of longer ones, a sample. *Chosen*: so
/// that one input takes less than a millisecond.
const EXHAUSTIVE_BYTES: usize = 256;

pub fn run(data: &[u8]) {
    decode(data);
    for kind in [1, 2] {
        decode(&framed(kind, data));
    }
}

/// A frame around `body` with a valid header.
pub fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = b"GPRF\x01\x01".to_vec();
    frame.extend([kind, 0]);
    frame.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&frame), body);
    frame.extend(checksum.to_le_bytes());
    frame.extend(body);
    frame
}

fn decode(bytes: &[u8]) {
    for record in codec::decode_segment(bytes).flatten() {
        let mut frame = Vec::new();
        codec::encode_record(&record, &mut frame).unwrap();
        let (again, length) = codec::decode_record(&frame).unwrap();
        assert_eq!((&again, length), (&record, frame.len()), "a decoded record encodes to itself");
        refuses_all_but(&frame, |bytes| codec::decode_record(bytes).is_ok());
    }
    if let Ok((call, length)) = codec::decode_intent_at(bytes) {
        assert!(length <= bytes.len() && length <= HEADER_BYTES + BODY_BYTES_MAX);
        let frame = codec::encode_intent(&call).unwrap();
        assert_eq!(codec::decode_intent(&frame).unwrap(), call);
        refuses_all_but(&frame, |bytes| codec::decode_intent(bytes).is_ok());
    }
}

fn refuses_all_but(frame: &[u8], accepts: impl Fn(&[u8]) -> bool) {
    let step = frame.len() / EXHAUSTIVE_BYTES + 1;
    for length in (0..frame.len()).step_by(step) {
        assert!(!accepts(&frame[..length]), "a prefix of {length} of {} bytes is not a frame", frame.len());
    }
    let mut flipped = frame.to_vec();
    for byte in (0..frame.len()).step_by(step) {
        let bit = 1 << (byte % 8);
        flipped[byte] ^= bit;
        assert!(!accepts(&flipped), "a frame with bit {bit:#x} of byte {byte} flipped is refused");
        flipped[byte] ^= bit;
    }
}
