//! Confirmations that were stored, checked again: a row of the database proves nothing by itself.

use super::bucket::BucketError;
use super::client::Client;
use super::time_stamp::TimeStampAnchorError;
use crate::command::RunError;
use crate::evidence::checkpoint::{Checkpoint, CheckpointError};
use crate::evidence::note::Note;
use crate::witness::client::ClientError;

/// A stored confirmation does not count.
#[derive(Debug, thiserror::Error)]
pub enum RecheckError {
    /// It is not a signature of the witness over this checkpoint.
    #[error(transparent)]
    Witness(#[from] ClientError),
    /// It is not a token of the time-stamp authority over this note.
    #[error(transparent)]
    TimeStamp(#[from] TimeStampAnchorError),
    /// The bucket does not keep this checkpoint.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The program does not confirm this checkpoint.
    #[error(transparent)]
    Command(#[from] RunError),
    /// The note is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl Client {
    /// Checks that this anchor has confirmed the checkpoint in `note`, which its log has signed: `proof` is what the
    /// database has as the confirmation. Signatures and tokens are verified; a bucket is read again, and a program is
    /// run again, because what the database has of them proves nothing.
    ///
    /// # Errors
    /// [`RecheckError`].
    pub async fn recheck(&self, note: &Note, proof: &[u8]) -> Result<(), RecheckError> {
        match self {
            Self::Witness(anchor) => anchor.client().verify(note.text(), proof).map(drop)?,
            Self::TimeStamp(anchor) => anchor.verify(&note.to_string(), proof)?,
            Self::Bucket(anchor) => anchor.kept(&Checkpoint::parse(note.text())?).await.map(drop)?,
            Self::Command(anchor) => anchor.keep(&note.to_string()).await.map(drop)?,
        }
        Ok(())
    }
}
