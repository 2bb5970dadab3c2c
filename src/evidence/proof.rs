//! Proofs that a record is in a log: C2SP tlog-proof.
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra BASE64                     only if there is something to add
//! index 73894                      the record's index in the log, from 0
//! gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=      the hashes of the inclusion proof, from the leaf upward
//!                                  (an empty line)
//! CHECKPOINT                       with its signatures
//! ```

use std::fmt;

use super::note::{NOTE_BYTES_MAX, Note, NoteError};
use super::policy::{CheckError, Checked, Policy};
use super::text::{base64, decimal, from_base64, hash, shown};
use super::tree::hash::PROOF_HASHES_MAX;
use super::tree::{Hash, VerifyError, leaf_hash, verify_inclusion};

/// The first line of a proof. *Spec*: C2SP tlog-proof.
pub const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// The most bytes of extra data. *Chosen*: a record of the largest size has its own file.
pub const EXTRA_BYTES_MAX: usize = 64 * 1024;

/// The most bytes of a proof. *Derived*: a note, 63 hashes, and the extra data in base64.
pub const PROOF_BYTES_MAX: usize = NOTE_BYTES_MAX + EXTRA_BYTES_MAX / 3 * 4 + 4096;

/// All that shows that a record is in a log, besides the record and the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogProof {
    /// The index of the record in the log, from 0.
    pub index: u64,
    /// The inclusion proof, from the leaf upward.
    pub hashes: Vec<Hash>,
    /// The checkpoint with its signatures.
    pub note: Note,
    /// Data of the application, which the proof does not cover.
    pub extra: Option<Vec<u8>>,
}

/// Bytes are not a proof, or it does not show what it should.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The proof is too long.
    #[error("proof has {bytes} bytes, limit {PROOF_BYTES_MAX}")]
    TooLong {
        /// The number of bytes.
        bytes: usize,
    },
    /// The proof is not UTF-8.
    #[error("proof is not UTF-8")]
    Utf8,
    /// The first line is another one.
    #[error("proof begins with {found}, not with {FIRST_LINE}")]
    FirstLine {
        /// The beginning of the first line.
        found: String,
    },
    /// There is no empty line before the checkpoint.
    #[error("proof has no empty line before its checkpoint")]
    NoCheckpoint,
    /// A line of the head is wrong.
    #[error("proof line {line} is {found}, and should be {wanted}")]
    Line {
        /// The number of the line, from 1.
        line: usize,
        /// The beginning of the line.
        found: String,
        /// The form that it should have.
        wanted: &'static str,
    },
    /// There are more hashes than a tree can be high.
    #[error("proof has more than {PROOF_HASHES_MAX} hashes")]
    TooManyHashes,
    /// The extra data is too long.
    #[error("proof has more than {EXTRA_BYTES_MAX} bytes of extra data")]
    ExtraTooLong,
    /// The checkpoint is not a note.
    #[error("checkpoint of the proof")]
    Note(#[from] NoteError),
    /// The policy does not accept the checkpoint.
    #[error("checkpoint of the proof")]
    Check(#[from] CheckError),
    /// The record is not in the tree.
    #[error("the record is not number {index} of the log")]
    NotIncluded {
        /// The index in the proof.
        index: u64,
        /// The reason.
        source: VerifyError,
    },
}

impl LogProof {
    /// The proof of these bytes. Nothing is verified.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(ProofError::TooLong { bytes: bytes.len() });
        }
        let text = str::from_utf8(bytes).map_err(|_| ProofError::Utf8)?;
        let first = text.split('\n').next().unwrap_or_default();
        if first != FIRST_LINE {
            return Err(ProofError::FirstLine { found: shown(first) });
        }
        let (head, note) = text.split_once("\n\n").ok_or(ProofError::NoCheckpoint)?;
        let mut lines = head.split('\n').enumerate().map(|(idx, line)| (idx + 1, line)).skip(1).peekable();
        let wrong = |line, found, wanted| ProofError::Line { line, found: shown(found), wanted };
        let mut extra = None;
        if let Some((line, encoded)) = lines.peek().and_then(|(at, line)| Some((*at, line.strip_prefix("extra ")?))) {
            let data = from_base64(encoded).ok_or_else(|| wrong(line, encoded, "\"extra BASE64\""))?;
            extra = Some(data).filter(|data| data.len() <= EXTRA_BYTES_MAX);
            lines.next();
            if extra.is_none() {
                return Err(ProofError::ExtraTooLong);
            }
        }
        let (line, found) = lines.next().unwrap_or((2, ""));
        let index = found.strip_prefix("index ").and_then(decimal);
        let index = index.ok_or_else(|| wrong(line, found, "\"index NUMBER\""))?;
        let mut hashes = Vec::new();
        for (line, found) in lines {
            if hashes.len() == PROOF_HASHES_MAX {
                return Err(ProofError::TooManyHashes);
            }
            hashes.push(hash(found).ok_or_else(|| wrong(line, found, "32 bytes in base64"))?);
        }
        Ok(Self { index, hashes, note: Note::parse(note.as_bytes())?, extra })
    }

    /// Checks that the record with this hash is in a log of the policy, confirmed by the witnesses that it demands.
    ///
    /// # Errors
    /// [`ProofError::Check`] and [`ProofError::NotIncluded`].
    pub fn verify<'a>(&self, record: &[u8; 32], policy: &'a Policy) -> Result<Checked<'a>, ProofError> {
        let checked = policy.check(&self.note)?.confirmed()?;
        let not_included = |source| ProofError::NotIncluded { index: self.index, source };
        verify_inclusion(self.index, leaf_hash(record), checked.checkpoint.head(), &self.hashes)
            .map_err(not_included)?;
        Ok(checked)
    }
}

/// The bytes from which [`LogProof::parse`] makes this proof.
impl fmt::Display for LogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", base64(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{}", base64(&hash.0)))?;
        write!(f, "\n{}", self.note)
    }
}
