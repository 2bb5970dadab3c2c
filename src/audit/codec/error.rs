//! The errors of the codec.

use super::layout::BODY_BYTES_MAX;

/// Bytes are not a valid frame, or a value cannot be encoded as one.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the frame does: a segment or file that was cut, or a damaged length field.
    #[error("frame is cut: it has {have} bytes of {need}")]
    Truncated {
        /// The number of bytes that are there.
        have: usize,
        /// The number of bytes of the whole frame, as far as it is known.
        need: usize,
    },
    /// The bytes do not begin with the magic of a frame: they are damaged, or no frame begins at this offset.
    #[error("no frame begins here: magic is {found:02x?}")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The checksum does not match: a byte of the frame was damaged on the disk, or overwritten.
    #[error("frame checksum is {found:#010x}, but its bytes give {computed:#010x}")]
    Checksum {
        /// The checksum in the frame.
        found: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The frame is undamaged, but a later version of Gatepost wrote it, or it is of the other kind: an intent instead
    /// of a record, or a record instead of an intent.
    #[error(
        "frame has version {version}, codec {codec}, kind {kind}; this version of Gatepost reads version 1, codec 1"
    )]
    Unsupported {
        /// The format version.
        version: u8,
        /// The codec of the body.
        codec: u8,
        /// The kind of the frame.
        kind: u8,
    },
    /// The body is longer than the limit. When decoding, the length field is damaged; when encoding, a field of the
    /// record is longer than its constructor allows.
    #[error("frame body is {bytes} bytes, limit {BODY_BYTES_MAX}")]
    TooLong {
        /// The length of the body.
        bytes: usize,
    },
    /// bincode cannot decode the body although its checksum is right: it was encoded by different code.
    #[error("frame body cannot be decoded")]
    Decode(#[source] Box<bincode::error::DecodeError>),
    /// bincode cannot encode the value. No known record causes this.
    #[error("record cannot be encoded")]
    Encode(#[source] Box<bincode::error::EncodeError>),
    /// Bytes are left over after decoding: it was encoded by different code, or more than one frame was given.
    #[error("frame body is {bytes} bytes, of which {used} were used")]
    Trailing {
        /// The length of the body.
        bytes: usize,
        /// The number of bytes that the decoder used.
        used: usize,
    },
    /// A field has a value that no record can have, for example a negative latency. The checksum is right, so it was
    /// encoded by different code.
    #[error("frame contains an invalid {field}")]
    InvalidValue {
        /// The name of the field.
        field: &'static str,
    },
}
