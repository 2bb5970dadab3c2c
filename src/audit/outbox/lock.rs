//! The lock of an outbox directory: an advisory lock on the file `lock`, which names its holder. It allows one process.
//!
//! The kernel releases the lock when the process ends, in whatever way, so a stale lock file does not matter.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::audit::record::GatewayId;

/// The name of the lock file in the outbox directory.
pub const LOCK_NAME: &str = "lock";

/// The number of retries if the lock is held, and the pause before each. *Chosen*: [`holder`] takes a shared lock for
/// microseconds, so the first retry usually succeeds.
const RETRIES: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(File);

/// Keeps the directory locked until it is dropped, also after the outbox itself is closed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hold(#[expect(dead_code, reason = "held only")] pub(super) Arc<Lock>);

/// The lock could not be taken.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process holds it. The text is what that process wrote into the file.
    Held(String),
    /// The lock file cannot be created, locked or read.
    Io(io::Error),
}

impl Lock {
    /// Takes the lock of `dir`. Waits only for a moment, for processes that look at the lock.
    pub(crate) fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(LOCK_NAME);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // A link would lead out of the directory.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .map_err(LockError::Io)?;
        // `holder` in another process takes a shared lock for a moment.
        let mut locked = file.try_lock();
        for _ in 0..RETRIES {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(RETRY_PAUSE);
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

    /// The gateway id that the last holder wrote, if it can be read.
    pub(super) fn read_gateway_id(&mut self) -> Option<GatewayId> {
        let mut text = String::new();
        self.0.rewind().ok()?;
        self.0.read_to_string(&mut text).ok()?;
        gateway_id_in(&text)
    }

    /// Writes a description of the holder into the file.
    pub(super) fn write_holder(&mut self, holder: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        writeln!(self.0, "{holder}")
    }
}

/// The gateway in a description of the holder.
fn gateway_id_in(holder: &str) -> Option<GatewayId> {
    let (_, id) = holder.trim().rsplit_once("gateway ")?;
    id.parse().ok().map(GatewayId)
}

/// The gateway that held the lock of `dir` last, if it can be read.
#[must_use]
pub fn last_gateway_id(dir: &Path) -> Option<GatewayId> {
    gateway_id_in(&std::fs::read_to_string(dir.join(LOCK_NAME)).ok()?)
}

/// The process that holds the lock of `dir`, as it described itself; `None` if no process does.
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
