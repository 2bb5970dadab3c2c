//! The reasons why a checkpoint is not signed, and the HTTP status of each.

use crate::evidence::add_checkpoint::RequestError;
use crate::evidence::checkpoint::CheckpointError;
use crate::evidence::cosignature::SignError;
use crate::evidence::note::NoteError;
use crate::evidence::tree::VerifyError;

use super::store::StoreError;

/// A checkpoint is not signed. *Spec*: C2SP tlog-witness, `add-checkpoint`, for all but the last three.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request has not the form of one.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The note is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The older tree would be larger than the newer one.
    #[error("the old size is {old_size}, and the checkpoint has {size} records")]
    Sizes {
        /// The old size in the request.
        old_size: u64,
        /// The size of the checkpoint.
        size: u64,
    },
    /// The witness does not know this log.
    #[error("this witness does not know the log {origin}: its operator must add the log's key")]
    Origin {
        /// The origin of the checkpoint.
        origin: String,
    },
    /// No known key of the log signed, or its signature does not match.
    #[error("{0}")]
    Signature(#[source] NoteError),
    /// The last checkpoint that was signed has another size.
    #[error("the old size is {old_size}, and the last checkpoint that was signed has {known} records")]
    OldSize {
        /// The old size in the request.
        old_size: u64,
        /// The size of the last checkpoint.
        known: u64,
    },
    /// The checkpoint does not continue the last one.
    #[error("the checkpoint of {origin} with {size} records does not continue the one with {old_size}: {source}")]
    Inconsistent {
        /// The origin of the checkpoint.
        origin: String,
        /// The size of the checkpoint.
        size: u64,
        /// The size of the last one.
        old_size: u64,
        /// The reason.
        source: VerifyError,
    },
    /// The clock went back.
    #[error("the clock of the witness shows {now} s since 1970, and the last signature is of {last} s: set the clock")]
    Clock {
        /// The time of the clock.
        now: u64,
        /// The time of the last signature.
        last: u64,
    },
    /// The library cannot sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The state cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Request(_) | Self::Checkpoint(_) | Self::Sizes { .. } => 400,
            Self::Signature(_) => 403,
            Self::Origin { .. } => 404,
            Self::OldSize { .. } => 409,
            // Also another root at the same size. The stable version of the specification has 409 there, and the later
            // draft 422: a client that is told the size that it sent would try for ever.
            Self::Inconsistent { .. } => 422,
            Self::Clock { .. } | Self::Sign(_) | Self::Store(_) => 500,
        }
    }
}
