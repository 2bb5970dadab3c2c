//! One process per outbox directory: an advisory lock on the file `lock`, which names its holder.
//!
//! The kernel drops the lock with the process, however it ends, so a stale file locks nobody out.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::audit::record::GatewayId;

/// The lock's name in the outbox directory.
pub const LOCK_NAME: &str = "lock";

/// How often a held lock is tried again, and the pause between. *Chosen*: a look at it takes microseconds.
const LOOKS: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The held lock.
#[derive(Debug)]
pub(super) struct Lock(File);

/// Why the lock could not be had.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process holds it; what it wrote there.
    Held(String),
    Io(io::Error),
}

impl Lock {
    /// Takes the lock of `dir` without waiting.
    pub(super) fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(LOCK_NAME);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(LockError::Io)?;
        // One who only looks holds it shared, for a moment.
        let mut locked = file.try_lock();
        for _ in 0..LOOKS {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(LOOK_PAUSE);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(LockError::Io)?;
                Err(LockError::Held(holder.trim().to_owned()))
            }
            Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
        }
    }

    /// The gateway's id that the last holder wrote, if it can be read.
    pub(super) fn signed(&mut self) -> Option<GatewayId> {
        let mut text = String::new();
        self.0.rewind().ok()?;
        self.0.read_to_string(&mut text).ok()?;
        let (_, id) = text.trim().rsplit_once("gateway ")?;
        id.parse().ok().map(GatewayId)
    }

    /// Writes who holds it.
    pub(super) fn sign(&mut self, holder: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        writeln!(self.0, "{holder}")
    }
}

/// Whether a process holds the lock of `dir`, and what it wrote there.
///
/// # Errors
/// The lock file cannot be read.
pub fn holder(dir: &Path) -> io::Result<Option<String>> {
    let mut file = match File::open(dir.join(LOCK_NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            Ok(Some(holder.trim().to_owned()))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}
