//! The constants of the frame layout, which is drawn in [`codec`](super). They are the on-disk format: never change one
//! without a new [`VERSION`].

/// The length of the header, which precedes the body, in bytes.
pub const HEADER_BYTES: usize = 16;

/// The longest body in bytes. *Derived*: [`PARAMS_BYTES_MAX`](crate::audit::record::PARAMS_BYTES_MAX),
/// [`RESPONSE_BYTES_MAX`](crate::audit::record::RESPONSE_BYTES_MAX), every text at its limit (about 30 KiB) and the
/// fixed part, rounded up to a power of two.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The first bytes of every frame.
pub(in crate::audit) const MAGIC: [u8; 4] = *b"GPRF";

/// The format version that this code writes and reads.
pub(super) const VERSION: u8 = 2;

/// The number of bincode among the codecs of the body.
pub(super) const CODEC_BINCODE: u8 = 1;
