//! The bytes that are signed, for each signature type: C2SP signed-note and tlog-cosignature.
//!
//! ```text
//! type    signature                                    signed bytes
//! 0x01    Ed25519 (64 bytes)                           text of the note
//! 0x04    time (8 bytes) || Ed25519 (64 bytes)         "cosignature/v1" LF "time " time in decimal LF || text
//! 0x06    time (8 bytes) || ML-DSA-44 (2420 bytes)     "subtree/v1" LF NUL || length of name (1 byte) || name || time
//!                                                      || length of origin (1 byte) || origin || 0 (8 bytes)
//!                                                      || size (8 bytes) || root (32 bytes)
//! ```
//!
//! Numbers of several bytes are big-endian; times are seconds since 1970.

use super::checkpoint::{Checkpoint, CheckpointError};
use super::key::{KeyError, SignatureType, SigningKey, VerifierKey};
use super::signature::Signature;

/// The most seconds of a time. *Spec*: C2SP tlog-cosignature, 2^63 - 1.
const TIME_MAX: u64 = i64::MAX as u64;

/// The length of the time in a cosignature. *Spec*: C2SP tlog-cosignature, `u64`.
const TIME_BYTES: usize = 8;

/// The length of an Ed25519 signature. *Spec*: RFC 8032.
const ED25519_BYTES: usize = 64;

/// Seconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

/// A text cannot be signed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key makes cosignatures, and they are of checkpoints only.
    #[error("key {key} signs checkpoints only")]
    Checkpoint {
        /// The key's name.
        key: String,
        /// The reason why the text is not a checkpoint.
        source: CheckpointError,
    },
    /// The clock shows a time that a cosignature cannot have.
    #[error(
        "the clock shows {seconds} s since 1970, and a cosignature needs a time from 1 to {TIME_MAX} s: set the clock"
    )]
    Time {
        /// The time.
        seconds: u64,
    },
    /// The library could not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl UnixTime {
    /// A time that a cosignature can have.
    ///
    /// # Errors
    /// [`SignError::Time`]: it is zero, which stands for "no statement", or too late.
    pub fn from_seconds(seconds: u64) -> Result<Self, SignError> {
        if (1..=TIME_MAX).contains(&seconds) { Ok(Self(seconds)) } else { Err(SignError::Time { seconds }) }
    }

    /// The seconds since 1970.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }
}

/// Signs the text of a note. The time enters cosignatures only.
///
/// # Errors
/// [`SignError`].
pub fn sign(key: &SigningKey, text: &str, time: UnixTime) -> Result<Signature, SignError> {
    let verifier = key.verifier();
    let not_checkpoint = |source| SignError::Checkpoint { key: verifier.name().to_owned(), source };
    let message = message(verifier, text, time).map_err(not_checkpoint)?;
    let mut bytes = Vec::new();
    if verifier.signature_type().is_cosignature() {
        bytes.extend_from_slice(&time.0.to_be_bytes());
    }
    bytes.extend(key.sign(&message)?);
    Ok(Signature::new(verifier, bytes))
}

/// The signature of a note's text that the holder of an Ed25519 key (type 0x01) made of the text's bytes; `None` if it
/// does not match.
#[must_use]
pub fn signed_elsewhere(key: &VerifierKey, text: &str, bytes: &[u8]) -> Option<Signature> {
    let is_valid = key.signature_type() == SignatureType::Ed25519 && verify(key, text, bytes).is_ok();
    is_valid.then(|| Signature::new(key, bytes.to_vec()))
}

/// The time that a cosignature states. Only its key tells it from a signature without a time, and verifies it.
#[must_use]
pub fn stated_time(signature: &Signature) -> Option<UnixTime> {
    let seconds = signature.bytes().first_chunk::<TIME_BYTES>()?;
    UnixTime::from_seconds(u64::from_be_bytes(*seconds)).ok()
}

/// True if the signature has the length of a cosignature by Ed25519, and not that of one by ML-DSA-44. Only its key
/// tells which it is.
#[must_use]
pub fn has_ed25519_length(signature: &Signature) -> bool {
    signature.bytes().len() == TIME_BYTES + ED25519_BYTES
}

/// A signature does not match.
pub(super) struct Invalid;

/// Verifies a signature of this text, and returns its time if it has one. One by ML-DSA-44 may have the time zero: its
/// signer does not say when this was the largest tree.
pub(super) fn verify(key: &VerifierKey, text: &str, bytes: &[u8]) -> Result<Option<UnixTime>, Invalid> {
    let (time, signature) = if key.signature_type().is_cosignature() {
        let (time, signature) = bytes.split_first_chunk::<TIME_BYTES>().ok_or(Invalid)?;
        match u64::from_be_bytes(*time) {
            0 if key.signature_type() == SignatureType::CosignatureMlDsa44 => (None, signature),
            seconds => (Some(UnixTime::from_seconds(seconds).map_err(|_| Invalid)?), signature),
        }
    } else {
        (None, bytes)
    };
    let message = message(key, text, time.unwrap_or(UnixTime(0))).map_err(|_| Invalid)?;
    if key.verifies(&message, signature) { Ok(time) } else { Err(Invalid) }
}

/// The bytes that are signed, as drawn above.
fn message(key: &VerifierKey, text: &str, time: UnixTime) -> Result<Vec<u8>, CheckpointError> {
    if key.signature_type() == SignatureType::Ed25519 {
        return Ok(text.as_bytes().to_vec());
    }
    let checkpoint = Checkpoint::parse(text)?;
    if key.signature_type() == SignatureType::CosignatureEd25519 {
        return Ok(format!("cosignature/v1\ntime {}\n{text}", time.0).into_bytes());
    }
    let mut message = b"subtree/v1\n\0".to_vec();
    opaque(&mut message, key.name());
    message.extend_from_slice(&time.0.to_be_bytes());
    opaque(&mut message, checkpoint.origin());
    message.extend_from_slice(&0_u64.to_be_bytes());
    message.extend_from_slice(&checkpoint.size().to_be_bytes());
    message.extend_from_slice(&checkpoint.root().0);
    Ok(message)
}

/// Appends a text with its length in one byte. Names and origins have at most 255 bytes.
fn opaque(message: &mut Vec<u8>, text: &str) {
    message.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    message.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::tree::{TreeHead, empty_root};

    #[test]
    fn a_signature_without_time_is_valid_by_ml_dsa_44_only() {
        let text = Checkpoint::new("example.com/log", TreeHead { size: 0, root: empty_root() }).unwrap().to_string();
        for (signature_type, seconds, expected) in [
            (SignatureType::CosignatureMlDsa44, 0, Some(None)),
            (SignatureType::CosignatureMlDsa44, 7, Some(Some(UnixTime(7)))),
            (SignatureType::CosignatureMlDsa44, TIME_MAX + 1, None),
            (SignatureType::CosignatureEd25519, 0, None),
            (SignatureType::CosignatureEd25519, 7, Some(Some(UnixTime(7)))),
            (SignatureType::CosignatureEd25519, TIME_MAX + 1, None),
            (SignatureType::Ed25519, 7, Some(None)),
        ] {
            let (key, _) = SigningKey::generate("example.com/log", signature_type).unwrap();
            let signature = sign(&key, &text, UnixTime(seconds)).unwrap();
            let verified = verify(key.verifier(), &text, signature.bytes()).ok();
            assert_eq!(verified, expected, "{signature_type:?} {seconds}");
            assert!(verify(key.verifier(), "not a checkpoint\n", signature.bytes()).is_err());
        }
    }
}
