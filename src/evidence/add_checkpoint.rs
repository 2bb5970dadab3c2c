//! The request by which a log submits a checkpoint to a witness: C2SP tlog-witness, `POST /add-checkpoint`.
//!
//! ```text
//! old 20852014                     the size of the tree that the witness has signed last, 0 if none
//! BASE64                           a hash of the consistency proof on each line; none or more
//!                                  (an empty line)
//! CHECKPOINT                       with its signatures
//! ```

use std::fmt;

use super::note::{NOTE_BYTES_MAX, Note, NoteError};
use super::text::{base64, decimal, hash, shown};
use super::tree::Hash;
use super::tree::hash::PROOF_HASHES_MAX;

/// The most bytes of a request. *Derived*: a note, and 63 hashes in base64 with the first line.
pub const REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + 4096;

/// The content type of the response that has the size of the tree that the witness knows. *Spec*: C2SP tlog-witness.
pub const SIZE_CONTENT_TYPE: &str = "text/x.tlog.size";

/// A checkpoint, and the proof that its tree continues the one of `old_size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size of the older tree, zero if there is none.
    pub old_size: u64,
    /// The consistency proof.
    pub proof: Vec<Hash>,
    /// The checkpoint.
    pub note: Note,
}

/// Bytes are not such a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request is too long.
    #[error("the request has {bytes} bytes, limit {REQUEST_BYTES_MAX}")]
    TooLong {
        /// The number of bytes.
        bytes: usize,
    },
    /// The request is not UTF-8.
    #[error("the request is not UTF-8")]
    Utf8,
    /// The first line is wrong.
    #[error("the request begins with {found}, and not with \"old SIZE\"")]
    OldSize {
        /// The beginning of the first line.
        found: String,
    },
    /// A line of the proof is not a hash.
    #[error("line {line} of the request is {found}, and should be 32 bytes in base64, or empty before the checkpoint")]
    Proof {
        /// The number of the line, from 1.
        line: usize,
        /// The beginning of the line.
        found: String,
    },
    /// The proof is too long.
    #[error("the proof has more than {PROOF_HASHES_MAX} hashes")]
    TooManyHashes,
    /// There is no empty line before the checkpoint.
    #[error("the request has no empty line before its checkpoint")]
    NoCheckpoint,
    /// The checkpoint is not a signed note.
    #[error("the checkpoint is not a signed note: {0}")]
    Note(#[from] NoteError),
}

impl AddCheckpoint {
    /// The request of these bytes. Nothing is verified.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLong { bytes: bytes.len() });
        }
        let text = str::from_utf8(bytes).map_err(|_| RequestError::Utf8)?;
        let (head, note) = text.split_once("\n\n").ok_or(RequestError::NoCheckpoint)?;
        let mut lines = head.split('\n');
        let first = lines.next().unwrap_or_default();
        let old_size = first.strip_prefix("old ").and_then(decimal);
        let old_size = old_size.ok_or_else(|| RequestError::OldSize { found: shown(first) })?;
        let mut proof = Vec::new();
        for (idx, line) in lines.enumerate() {
            if idx == PROOF_HASHES_MAX {
                return Err(RequestError::TooManyHashes);
            }
            proof.push(hash(line).ok_or_else(|| RequestError::Proof { line: idx + 2, found: shown(line) })?);
        }
        Ok(Self { old_size, proof, note: Note::parse(note.as_bytes())? })
    }
}

/// The bytes from which [`AddCheckpoint::parse`] makes this request.
impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", base64(&hash.0)))?;
        write!(f, "\n{}", self.note)
    }
}
