//! Any bytes as a frame: no panic; what decodes is what was encoded; every strict prefix and every flipped bit of a whole
//! frame is refused.
//!
//! The input is taken as it is, and once more as a frame's body behind a header whose length and checksum are right, so
//! that the decoder behind the checksum is reached too. That nothing is allocated beyond the limit is libFuzzer's part:
//! `-malloc_limit_mb`, see `docs/testing.md`.

use gatepost::audit::codec::{self, BODY_BYTES_MAX, HEADER_BYTES};

/// The longest frame of which every bit is flipped and every prefix tried; of longer ones a part. *Chosen*: so that one
/// input takes less than a millisecond.
const EXHAUSTIVE_BYTES: usize = 256;

pub fn run(data: &[u8]) {
    decode(data);
    for kind in [1, 2] {
        decode(&framed(kind, data));
    }
}

/// A frame whose header is right for `body`.
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
        assert_eq!((&again, length), (&record, frame.len()), "what was decoded is what is encoded");
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
        assert!(!accepts(&frame[..length]), "a prefix of {length} of {} bytes is no frame", frame.len());
    }
    let mut flipped = frame.to_vec();
    for byte in (0..frame.len()).step_by(step) {
        let bit = 1 << (byte % 8);
        flipped[byte] ^= bit;
        assert!(!accepts(&flipped), "bit {bit:#x} of byte {byte} makes no other frame");
        flipped[byte] ^= bit;
    }
}
