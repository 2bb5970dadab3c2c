//! A witness as an anchor.

use super::anchor::{AnchorClient, AnchorError, History, Largest};
use super::memory::Signed;
use crate::audit::record::Epoch;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore};
use crate::evidence::note::Note;
use crate::evidence::tree::TreeHead;
use crate::witness::client::{ClientError, SubmitError, WitnessClient};

/// A witness that gets each checkpoint.
#[derive(Clone, Debug)]
pub struct WitnessAnchor {
    client: WitnessClient,
    /// The log and the size that the witness signed last, as far as it is known.
    known: Option<(Epoch, u64)>,
}

impl WitnessAnchor {
    /// The witness that `client` reaches.
    #[must_use]
    pub fn new(client: WitnessClient) -> Self {
        Self { client, known: None }
    }

    /// The tree that the witness signed last, if it refused because of that. A status alone ends nothing, since anything
    /// between gateway and witness may have sent it.
    async fn refused_for(&self, error: &ClientError, note: &Note) -> Option<TreeHead> {
        use ClientError::{Ahead, Contradiction, Moving};
        if !matches!(error, Ahead { .. } | Contradiction { .. } | Moving { .. }) {
            return None;
        }
        let (_, checkpoint) = self.client.last(note.text().lines().next()?).await.ok()??;
        Some(checkpoint.head())
    }
}

impl AnchorClient for WitnessAnchor {
    fn kind(&self) -> AnchorKind {
        AnchorKind::Witness
    }

    async fn largest(&self, log: &str) -> Result<Largest, AnchorError> {
        let last = self.client.last(log).await?;
        Ok(last.map_or(Largest::Nothing, |(_, checkpoint)| Largest::Checkpoint(checkpoint.head())))
    }

    async fn confirm<S: CheckpointStore>(
        &mut self,
        signed: &Signed,
        mut records: History<'_, S>,
    ) -> Result<Vec<u8>, AnchorError> {
        let note = Note::parse(signed.note.as_bytes()).map_err(ClientError::Signature)?;
        let known = self.known.filter(|(log, _)| *log == signed.log).map_or(0, |(_, size)| size);
        let error = match self.client.submit(&note, known, &mut records).await {
            Ok(cosigned) => {
                self.known = Some((signed.log, signed.head.size));
                let lines: Vec<_> = cosigned.signatures.iter().map(|line| format!("{line}\n")).collect();
                return Ok(lines.concat().into_bytes());
            }
            Err(SubmitError::Proof { old_size, source }) => return Err(AnchorError::Proof { old_size, source }),
            Err(SubmitError::Witness(error)) => error,
        };
        let other = self.refused_for(&error, &note).await.filter(|head| records.contradict(*head));
        Err(match other {
            Some(head) => AnchorError::Contradiction { size: head.size, cause: error.to_string() },
            None => error.into(),
        })
    }
}
