//! The notary's memory: the last checkpoint that it signed, in a file beside the outbox.
//!
//! ```text
//! name      checkpoint.json
//! contents  {"log": 1, "size": 53, "root": "base64", "note": "the signed note", "keys": ["verifier key"],
//!            "contradiction": [1, "text"]}
//! ```
//!
//! The keys are those that signed, so that what places outside still have of a lost or replaced key is known.
//!
//! The file is written, synced and renamed before the checkpoint goes anywhere. So a gateway that signed a checkpoint
//! remembers it, unless its disk is lost or set back; and that is what [`Memory::check`] finds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::audit::outbox::fs::{Fs, read_file, replace_file};
use crate::audit::record::Epoch;
use crate::audit::tree::Tree;
use crate::evidence::key::VerifierKey;
use crate::evidence::tree::{Hash, TreeHead};
use crate::in_place::in_place;

/// The file in the outbox directory.
const FILE_NAME: &str = "checkpoint.json";

/// The longest file that is read, in bytes. *Derived*: twice the longest note, since JSON escapes line ends, and the
/// keys.
const FILE_BYTES_MAX: usize = 320 * 1024;

/// The most keys that are remembered, the last ones. *Chosen*: a key is replaced once in years, and the largest
/// checkpoint that a place has is newer than the last replacements.
const KEYS_MAX: usize = 16;

/// The last signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The log, named by its first epoch.
    pub log: Epoch,
    /// The tree.
    pub head: TreeHead,
    /// The signed note.
    pub note: String,
}

/// The memory of one gateway.
#[derive(Debug)]
pub struct Memory {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    last: Option<Signed>,
    /// The keys that signed, the last ones last.
    keys: Vec<VerifierKey>,
    /// The log of which a checkpoint is contradicted, and how.
    contradiction: Option<(Epoch, String)>,
}

/// The memory cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file cannot be read, written or made durable.
    #[error("cannot {operation} {path:?}: {source}")]
    Io {
        /// The operation.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is not what the notary wrote.
    #[error(
        "{path:?} is damaged ({what}): nothing is signed any more, because a later checkpoint may exist. Restore the file, \
         or remove it and let a new log begin: see docs/runbook.md, evidence_fork"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        what: String,
    },
}

/// The contents of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    log: u64,
    size: u64,
    root: String,
    note: String,
    keys: Vec<String>,
    contradiction: Option<(u64, String)>,
}

impl Memory {
    /// Reads the memory in the outbox directory `dir`; nothing was signed if there is no file.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn read(fs: Arc<dyn Fs>, dir: &Path) -> Result<Self, MemoryError> {
        let path = dir.join(FILE_NAME);
        let bytes = match read_file(fs.as_ref(), &path, FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { fs, path, last: None, keys: Vec::new(), contradiction: None });
            }
            Err(source) => return Err(MemoryError::Io { operation: "read", path, source }),
            Ok(bytes) => bytes,
        };
        let damaged = |what: String| MemoryError::Damaged { path: path.clone(), what };
        let contents: Contents = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let root = BASE64_STANDARD.decode(&contents.root).ok().and_then(|root| root.try_into().ok());
        let root = Hash(root.ok_or_else(|| damaged("its root is not 32 bytes in base64".to_owned()))?);
        let head = TreeHead { size: contents.size, root };
        let last = (head.size > 0).then_some(Signed { log: Epoch(contents.log), head, note: contents.note });
        let keys: Result<_, _> = contents.keys.iter().map(|key| VerifierKey::parse(key)).collect();
        let keys = keys.map_err(|error| damaged(format!("its keys: {error}")))?;
        let contradiction = contents.contradiction.map(|(log, text)| (Epoch(log), text));
        Ok(Self { fs, path, last, keys, contradiction })
    }

    /// The keys that signed, of any log: the last 16.
    #[must_use]
    pub fn keys(&self) -> &[VerifierKey] {
        &self.keys
    }

    /// The last signed checkpoint, of whatever log.
    #[must_use]
    pub fn last(&self) -> Option<&Signed> {
        self.last.as_ref()
    }

    /// The last signed checkpoint of the log.
    #[must_use]
    pub fn last_of(&self, log: Epoch) -> Option<&Signed> {
        self.last.as_ref().filter(|last| last.log == log)
    }

    /// Checks that nothing contradicts what was signed: the outbox, whose tree is `tree`, and the largest checkpoint
    /// that another place (named first in `elsewhere`) has of its log, if it has one.
    ///
    /// # Errors
    /// A sentence that says what contradicts what.
    pub fn check(&self, tree: &Tree, elsewhere: Option<(&str, TreeHead)>) -> Result<(), String> {
        // A newer log that has ended does not let an older one continue.
        if let Some((_, text)) = self.contradiction.as_ref().filter(|(log, _)| *log >= tree.log) {
            return Err(text.clone());
        }
        if let Some(later) = self.last.as_ref().filter(|last| last.log > tree.log) {
            let (later, log) = (later.log, tree.log);
            return Err(format!(
                "a checkpoint of log {later} was signed, and the outbox continues the older log {log}"
            ));
        }
        let (log, last) = (tree.log, self.last_of(tree.log).map(|signed| signed.head));
        if let Some(last) =
            last.filter(|last| last.size > tree.size() || last.size == tree.size() && last.root != tree.root())
        {
            let size = tree.size();
            let found = if last.size > size { format!("only {size} records") } else { "other records".to_owned() };
            return Err(format!(
                "a checkpoint of {} records of log {log} was signed, and the outbox has {found}",
                last.size
            ));
        }
        let Some((place, other)) = elsewhere else { return Ok(()) };
        match last {
            Some(last) if other.size < last.size || other == last => Ok(()),
            Some(last) => Err(format!(
                "{place} has a checkpoint of {} records of log {log}, and the last one that this gateway signed has {}{}",
                other.size,
                last.size,
                if last.size == other.size { " and another root" } else { "" },
            )),
            None => Err(format!(
                "{place} has a checkpoint of {} records of log {log}, and this gateway does not remember to have signed one",
                other.size
            )),
        }
    }

    /// Remembers a checkpoint that `keys` signed. It may be published once this returns.
    ///
    /// # Errors
    /// [`MemoryError::Io`]: the checkpoint must not be published.
    pub fn remember(&mut self, signed: Signed, keys: &[VerifierKey]) -> Result<(), MemoryError> {
        self.keys.retain(|key| !keys.contains(key));
        self.keys.extend_from_slice(keys);
        self.keys.drain(..self.keys.len().saturating_sub(KEYS_MAX));
        self.store(Some(&signed), self.contradiction.as_ref())?;
        self.last = Some(signed);
        Ok(())
    }

    /// Remembers that something contradicts what was signed. Nothing is signed of this log and of older ones any more,
    /// also after a restart. One contradiction suffices: the first of the newest log.
    ///
    /// # Errors
    /// [`MemoryError::Io`]: it is remembered in this process only.
    pub fn remember_contradiction(&mut self, log: Epoch, text: &str) -> Result<(), MemoryError> {
        if self.contradiction.as_ref().is_none_or(|(of, _)| *of < log) {
            self.contradiction = Some((log, text.to_owned()));
        }
        self.store(self.last.as_ref(), self.contradiction.as_ref())
    }

    fn store(&self, last: Option<&Signed>, contradiction: Option<&(Epoch, String)>) -> Result<(), MemoryError> {
        let contents = Contents {
            log: last.map_or(0, |last| last.log.0),
            size: last.map_or(0, |last| last.head.size),
            root: BASE64_STANDARD.encode(last.map_or([0; 32], |last| last.head.root.0)),
            note: last.map_or_else(String::new, |last| last.note.clone()),
            keys: self.keys.iter().map(ToString::to_string).collect(),
            contradiction: contradiction.map(|(log, text)| (log.0, text.clone())),
        };
        let io = |source| MemoryError::Io { operation: "write", path: self.path.clone(), source };
        let text = serde_json::to_string(&contents).map_err(|error| io(error.into()))?;
        // A slow disk delays this task, and no call.
        in_place(|| replace_file(self.fs.as_ref(), &self.path, format!("{text}\n").as_bytes())).map_err(io)
    }
}
