//! The state of a witness: the last checkpoint that it signed of each log, in a directory of its own.
//!
//! ```text
//! witness                    the verifier keys of the witness that made the directory
//! lock                       see the lock of an outbox
//! HASH.checkpoint            a checkpoint with the signatures of log and witness; HASH is the SHA-256 of the origin in
//!                            hexadecimal digits
//! HASH.new                   one that is being written; ignored
//! ```
//!
//! A checkpoint is written to a new file, synced, and renamed over the old one; then the directory is synced. A write
//! that fails in any step leaves the older file or the newer one, whole; the next write begins with a new file again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use crate::audit::outbox::fs::{Fs, create_durable_dir, read_file, replace_file};
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::cosignature::UnixTime;
use crate::evidence::key::VerifierKey;
use crate::evidence::note::{NOTE_BYTES_MAX, Note};
use crate::evidence::signature::Signature;

/// The file that makes a directory that of a witness.
const MARKER: &str = "witness";

/// The end of the names of files with a checkpoint.
const CHECKPOINT_SUFFIX: &str = ".checkpoint";

/// A checkpoint that the witness signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The checkpoint with the signatures of the log and of the witness.
    pub note: Note,
    /// The time in the witness's signatures.
    pub time: UnixTime,
}

/// The last checkpoint of each log, in memory and on the disk.
#[derive(Debug)]
pub struct Store {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    /// By the hash of the origin.
    last: BTreeMap<String, Signed>,
}

/// The state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// An operation of the file system failed. The disk may be full or read-only, or the permissions wrong.
    #[error("cannot {operation} {path}: {source}", path = .path.display())]
    Io {
        /// The operation, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The directory is not one of a witness.
    #[error(
        "{path} is not the directory of a witness: if this witness never ran, make it with --create; if its directory \
         was lost, make a new key too, since the old key must not sign without its state",
        path = .path.display()
    )]
    NotWitness {
        /// The directory.
        path: PathBuf,
    },
    /// The directory exists already.
    #[error("{path} is the directory of a witness already: start without --create", path = .path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A checkpoint cannot be read, or is not of the log that its name says.
    #[error("{path} is damaged: {reason}; restore nothing older, or the witness would contradict itself", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A checkpoint was not signed by a key of this witness.
    #[error(
        "{path} was not signed by a key that was given: give the witness's earlier --key too, until each log has sent a \
         checkpoint",
        path = .path.display()
    )]
    OtherKeys {
        /// The file.
        path: PathBuf,
    },
}

impl Store {
    /// Makes the directory of a new witness with these keys.
    ///
    /// # Errors
    /// [`StoreError::Exists`] and [`StoreError::Io`].
    pub fn create(fs: &dyn Fs, dir: &Path, keys: &[&VerifierKey]) -> Result<(), StoreError> {
        let failed = io_error("create", dir);
        create_durable_dir(fs, dir).map_err(&failed)?;
        if fs.list(dir).map_err(&failed)?.iter().any(|name| name == MARKER || name.ends_with(CHECKPOINT_SUFFIX)) {
            return Err(StoreError::Exists { path: dir.to_owned() });
        }
        let keys: Vec<String> = keys.iter().map(|key| format!("{key}\n")).collect();
        let path = dir.join(MARKER);
        replace_file(fs, &path, keys.concat().as_bytes()).map_err(io_error("write", &path))
    }

    /// Reads the state in `dir`. The checkpoints must be signed by one of `keys`.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is changed.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, keys: &[&VerifierKey]) -> Result<Self, StoreError> {
        let names = match fs.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(io_error("read", dir))?,
        };
        if !names.iter().any(|name| name == MARKER) {
            return Err(StoreError::NotWitness { path: dir.to_owned() });
        }
        let mut last = BTreeMap::new();
        for hash in names.iter().filter_map(|name| name.strip_suffix(CHECKPOINT_SUFFIX)) {
            let path = dir.join(format!("{hash}{CHECKPOINT_SUFFIX}"));
            let bytes = read_file(fs.as_ref(), &path, NOTE_BYTES_MAX).map_err(io_error("read", &path))?;
            last.insert(hash.to_owned(), signed(&bytes, hash, &path, keys)?);
        }
        Ok(Self { fs, dir: dir.to_owned(), last })
    }

    /// The last checkpoint of the log `origin`.
    #[must_use]
    pub fn last(&self, origin: &str) -> Option<&Signed> {
        self.last.get(&origin_hash(origin))
    }

    /// The same for the SHA-256 of an origin, in hexadecimal digits.
    #[must_use]
    pub fn last_by_hash(&self, origin_hash: &str) -> Option<&Signed> {
        self.last.get(origin_hash)
    }

    /// Makes `signed` the last checkpoint of its log.
    ///
    /// # Errors
    /// [`StoreError::Io`]: the older one is still the last. The file may have either.
    ///
    /// # Durability
    /// The checkpoint is on the disk when this returns.
    pub fn put(&mut self, signed: Signed) -> Result<(), StoreError> {
        let hash = origin_hash(signed.checkpoint.origin());
        let path = self.dir.join(format!("{hash}{CHECKPOINT_SUFFIX}"));
        let note = signed.note.to_string();
        replace_file(self.fs.as_ref(), &path, note.as_bytes()).map_err(io_error("write", &path))?;
        self.last.insert(hash, signed);
        Ok(())
    }
}

/// The SHA-256 of an origin in hexadecimal digits. *Spec*: C2SP tlog-witness names a log so in URLs.
#[must_use]
pub fn origin_hash(origin: &str) -> String {
    hex::encode(digest(&SHA256, origin.as_bytes()))
}

fn io_error(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { operation, path: path.to_owned(), source }
}

fn signed(bytes: &[u8], hash: &str, path: &Path, keys: &[&VerifierKey]) -> Result<Signed, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let note = Note::parse(bytes).map_err(|error| damaged(error.to_string()))?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(|error| damaged(error.to_string()))?;
    if origin_hash(checkpoint.origin()) != hash {
        return Err(damaged(format!("it is of the log {}, whose file has another name", checkpoint.origin())));
    }
    let is_own =
        |signature: &Signature| keys.iter().any(|key| key.name() == signature.name() && key.id() == signature.id());
    if !note.signatures().iter().any(is_own) {
        return Err(StoreError::OtherKeys { path: path.to_owned() });
    }
    let verified = note.verify(keys.iter().copied()).map_err(|error| damaged(error.to_string()))?;
    let time = verified.iter().filter_map(|verified| verified.time).max();
    let time = time.ok_or_else(|| StoreError::OtherKeys { path: path.to_owned() })?;
    Ok(Signed { checkpoint, note, time })
}
