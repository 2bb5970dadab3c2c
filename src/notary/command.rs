//! A program as an anchor: it gets the checkpoint, and says by its exit code whether it is kept.

use std::time::Duration;

use super::anchor::{AnchorClient, AnchorError, History, Largest};
use super::memory::Signed;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore};
use crate::command::{self, Run, RunError};

/// The longest run. *Chosen*: it may ask a server, and the next checkpoint waits for it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest output, in bytes. *Derived*: the longest proof that `audit_anchor` takes, halved.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// A program that gets each checkpoint as its standard input.
#[derive(Clone, Debug)]
pub struct CommandAnchor {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Variables that it does not get.
    pub withheld: Vec<String>,
    /// The shortest time between two checkpoints that it gets.
    pub interval: Duration,
}

impl AnchorClient for CommandAnchor {
    fn kind(&self) -> AnchorKind {
        AnchorKind::Command
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    /// It is not asked.
    async fn largest(&self, _: &str) -> Result<Largest, AnchorError> {
        Ok(Largest::Unknown)
    }

    async fn confirm<S: CheckpointStore>(
        &mut self,
        signed: &Signed,
        _: History<'_, S>,
    ) -> Result<Vec<u8>, AnchorError> {
        Ok(self.keep(&signed.note).await?)
    }
}

impl CommandAnchor {
    /// Runs the program with a signed note, and returns what it prints.
    ///
    /// # Errors
    /// [`RunError`]: it did not keep the note.
    pub(super) async fn keep(&self, note: &str) -> Result<Vec<u8>, RunError> {
        let run = Run {
            words: &self.words,
            withheld: &self.withheld,
            input: Some(note.as_bytes()),
            output_bytes_max: OUTPUT_BYTES_MAX,
            timeout: TIMEOUT,
        };
        command::output(run).await
    }
}
