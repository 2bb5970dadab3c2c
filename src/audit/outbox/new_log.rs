//! The mark in an outbox directory by which an operator lets a new log begin with the next epoch.

use std::io;
use std::path::Path;

use super::error::OutboxError;
use super::fs::Fs;
use super::lock::Lock;

/// The name of the file, which is empty. The start that finds it removes it.
pub(super) const NEW_LOG_NAME: &str = "new-log";

/// Marks the outbox in `dir`, durably: its next epoch begins a new log. The lock keeps a gateway from starting
/// meanwhile.
///
/// # Errors
/// [`OutboxError::Locked`] if a gateway runs on it, or any I/O error. It may be marked then.
pub fn mark_new_log(fs: &dyn Fs, dir: &Path) -> Result<(), OutboxError> {
    let _lock = Lock::take(dir).map_err(|error| OutboxError::lock(dir, error))?;
    match fs.create(&dir.join(NEW_LOG_NAME)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(OutboxError::io("mark", dir)(error));
        }
        _ => {}
    }
    fs.sync_dir(dir).map_err(OutboxError::io("sync", dir))
}
