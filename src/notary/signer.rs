//! The keys of a gateway's log, and the notes that they sign.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::audit::record::{Epoch, GatewayId, Timestamp};
use crate::command::{self, Run, RunError};
use crate::evidence::checkpoint::{Checkpoint, CheckpointError};
use crate::evidence::cosignature::{self, SignError, UnixTime};
use crate::evidence::key::{KeyError, SigningKey, VerifierKey};
use crate::evidence::note::{Note, NoteError};
use crate::evidence::signature::Signature;
use crate::evidence::tree::TreeHead;

/// The longest run of a command that signs. *Chosen*: a key in a network service answers in a second; nothing waits for
/// it but the next checkpoint.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest output of a command that signs, in bytes. *Derived*: ten times a signature in base64.
const OUTPUT_BYTES_MAX: usize = 1024;

/// The length of an Ed25519 signature, in bytes. *Spec*: RFC 8032.
const SIGNATURE_BYTES: usize = 64;

/// Signs checkpoints. Its `Debug` output has no secret.
pub struct Signer {
    origin: String,
    /// The texts of the secret keys. The name in a key is the log's, so that a key is made anew for each log.
    secrets: Vec<Zeroizing<String>>,
    command: Option<SignCommand>,
}

/// A command that signs with a key that this process does not have.
#[derive(Debug)]
pub struct SignCommand {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Variables that it does not get.
    pub withheld: Vec<String>,
    /// The public half of its key, of type 0x01, under any name.
    pub verifier: VerifierKey,
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
    /// The command that signs does not end well.
    #[error("evidence.sign_command: {0}")]
    Command(#[from] RunError),
    /// The command that signs prints no signature.
    #[error("evidence.sign_command: {program:?} must print {SIGNATURE_BYTES} bytes in base64 and nothing else")]
    Output {
        /// The program.
        program: String,
    },
    /// The command signs with another key, or other bytes.
    #[error(
        "evidence.sign_command: the signature that {program:?} printed is not one by evidence.verifier_key over its \
         input: it has another key, or signs other bytes"
    )]
    Wrong {
        /// The program.
        program: String,
    },
}

impl Signer {
    /// A signer for the logs below `origin`, by keys with these texts.
    #[must_use]
    pub fn new(origin: &str, secrets: Vec<Zeroizing<String>>) -> Self {
        Self { origin: origin.to_owned(), secrets, command: None }
    }

    /// The same, by the key of this command too.
    #[must_use]
    pub fn with_command(self, command: SignCommand) -> Self {
        Self { command: Some(command), ..self }
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
        let own = self.secrets.iter().map(key);
        self.command.iter().map(|command| command.verifier.named(name)).chain(own).collect()
    }

    /// The signed note of the checkpoint of a log.
    ///
    /// # Errors
    /// [`SignerError`].
    ///
    /// # Cancel safety
    /// If the future is dropped, a command that signs is killed.
    pub async fn sign(&self, gateway_id: GatewayId, log: Epoch, head: TreeHead) -> Result<String, SignerError> {
        let name = self.log_name(gateway_id, log);
        let text = Checkpoint::new(&name, head)?.to_string();
        let now = u64::try_from(Timestamp::now().micros() / 1_000_000).unwrap_or_default();
        let time = UnixTime::from_seconds(now)?;
        let mut signatures = Vec::new();
        if let Some(command) = &self.command {
            signatures.push(command.sign(&name, &text).await?);
        }
        for secret in &self.secrets {
            signatures.push(cosignature::sign(&SigningKey::parse_named(secret, &name)?, &text, time)?);
        }
        Ok(Note::new(text, signatures)?.to_string())
    }
}

impl SignCommand {
    /// The command's signature of `text`, verified.
    async fn sign(&self, name: &str, text: &str) -> Result<Signature, SignerError> {
        let run = Run {
            words: &self.words,
            withheld: &self.withheld,
            input: Some(text.as_bytes()),
            output_bytes_max: OUTPUT_BYTES_MAX,
            timeout: COMMAND_TIMEOUT,
        };
        let printed = command::output(run).await?;
        let program = || self.words.first().cloned().unwrap_or_default();
        let bytes = BASE64_STANDARD.decode(printed.trim_ascii()).ok().filter(|bytes| bytes.len() == SIGNATURE_BYTES);
        let bytes = bytes.ok_or_else(|| SignerError::Output { program: program() })?;
        let key = self.verifier.named(name)?;
        cosignature::signed_elsewhere(&key, text, &bytes).ok_or_else(|| SignerError::Wrong { program: program() })
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
        f.debug_struct("Signer")
            .field("origin", &self.origin)
            .field("keys", &self.secrets.len())
            .finish_non_exhaustive()
    }
}
