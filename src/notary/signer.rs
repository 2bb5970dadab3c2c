//! The keys of a gateway's log, and the notes that they sign.

use std::fmt;

use zeroize::Zeroizing;

use crate::audit::record::{Epoch, GatewayId, Timestamp};
use crate::evidence::checkpoint::{Checkpoint, CheckpointError};
use crate::evidence::cosignature::{self, SignError, UnixTime};
use crate::evidence::key::{KeyError, SigningKey, VerifierKey};
use crate::evidence::note::{Note, NoteError};
use crate::evidence::tree::TreeHead;

/// Signs checkpoints. Its `Debug` output has no secret.
pub struct Signer {
    origin: String,
    /// The texts of the secret keys. The name in a key is the log's, so that a key is made anew for each log.
    secrets: Vec<Zeroizing<String>>,
}

/// A checkpoint cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is no such checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The key does not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The signatures do not make a note.
    #[error(transparent)]
    Note(#[from] NoteError),
}

impl Signer {
    /// A signer for the logs below `origin`, by keys with these texts.
    #[must_use]
    pub fn new(origin: &str, secrets: Vec<Zeroizing<String>>) -> Self {
        Self { origin: origin.to_owned(), secrets }
    }

    /// Checks the text of a key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn check(secret: &str) -> Result<(), KeyError> {
        SigningKey::parse(secret).map(drop)
    }

    /// The name of a gateway's log.
    #[must_use]
    pub fn log_name(&self, gateway_id: GatewayId, log: Epoch) -> String {
        log_name(&self.origin, gateway_id, log)
    }

    /// The verifier keys of the log with this name.
    ///
    /// # Errors
    /// [`KeyError`], for example because the name is too long for a key.
    pub fn verifiers(&self, name: &str) -> Result<Vec<VerifierKey>, KeyError> {
        let key = |secret: &Zeroizing<String>| Ok(SigningKey::parse_named(secret, name)?.verifier().clone());
        self.secrets.iter().map(key).collect()
    }

    /// The signed note of the checkpoint of a log.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn sign(&self, gateway_id: GatewayId, log: Epoch, head: TreeHead) -> Result<String, SignerError> {
        let name = self.log_name(gateway_id, log);
        let text = Checkpoint::new(&name, head)?.to_string();
        let now = u64::try_from(Timestamp::now().micros() / 1_000_000).unwrap_or_default();
        let time = UnixTime::from_seconds(now)?;
        let mut signatures = Vec::new();
        for secret in &self.secrets {
            signatures.push(cosignature::sign(&SigningKey::parse_named(secret, &name)?, &text, time)?);
        }
        Ok(Note::new(text, signatures)?.to_string())
    }
}

/// The name of a gateway's log below `origin`: the log that begins with epoch 1 has none of its own.
#[must_use]
pub fn log_name(origin: &str, gateway_id: GatewayId, log: Epoch) -> String {
    let first = format!("{origin}/{gateway_id}");
    if log == Epoch(1) { first } else { format!("{first}/{log}") }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("origin", &self.origin).field("keys", &self.secrets.len()).finish()
    }
}
