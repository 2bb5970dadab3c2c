//! The outbox's disk space: its fill level, and the ballast that keeps a full disk from blocking it.
//!
//! The ballast is a file of zeros. When the disk is full, the ballast is unlinked: its blocks are enough for a new
//! generation file with the records of all open calls and refusals. No new call begins until the backlog is delivered,
//! its files are unlinked, and the ballast is written again.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::is_disk_full;
use super::fs::Fs;

/// The size of the ballast in bytes. *Measured*: a redb file on a full disk works again once 4 MiB are freed
/// (`docs/measurements.md`, "redb"). A new generation file takes less than 100 KiB, which leaves 3 KiB for the record
/// of each of 1,024 open calls.
const BALLAST_BYTES: usize = 4 * 1024 * 1024;

/// The size of the reserve for a start on a full disk, in bytes. *Derived*: a new generation file takes less than 100
/// KiB; the rest is for the records of calls that were open.
const RESERVE_BYTES: usize = 512 * 1024;

/// The shortest time between attempts to write the ballast. *Chosen*: each attempt writes all of it, which is too much
/// for every commit.
const BALLAST_RETRY: Duration = Duration::from_secs(1);

const BALLAST_NAME: &str = "ballast";
const RESERVE_NAME: &str = "reserve";

/// The fill level of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Space {
    /// The size of the generation files with undelivered records, in bytes.
    pub used_bytes: u64,
    /// The size of those whose records are all delivered and kept for a while.
    pub kept_bytes: u64,
    /// The quota in bytes.
    pub max_bytes: u64,
    /// True if the disk was full and has had no room for the ballast since.
    pub disk_full: bool,
}

impl Space {
    /// Returns true if a call may begin: the quota and the disk have room.
    #[must_use]
    pub fn has_room(self) -> bool {
        self.used_bytes < self.max_bytes && !self.disk_full
    }

    /// The used percentage of the quota, at most 100. The disk may be full before the quota is.
    #[must_use]
    pub fn percent(self) -> u64 {
        (self.used_bytes.saturating_mul(100) / self.max_bytes.max(1)).min(100)
    }
}

/// A file of zeros in the outbox directory, which is unlinked to free its blocks when the disk is full.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    bytes: usize,
    held: bool,
    /// The disk was full, and has had no room for the file since.
    disk_full: bool,
    last_attempt: Option<Instant>,
}

impl Ballast {
    /// The ballast of a running gateway.
    pub(super) fn new(fs: &dyn Fs, dir: &Path) -> Self {
        Self::at(fs, dir.join(BALLAST_NAME), BALLAST_BYTES)
    }

    /// The reserve, which is released only at a start.
    pub(super) fn reserve(fs: &dyn Fs, dir: &Path) -> Self {
        Self::at(fs, dir.join(RESERVE_NAME), RESERVE_BYTES)
    }

    /// The file at `path`, which an earlier process may have written already.
    fn at(fs: &dyn Fs, path: PathBuf, bytes: usize) -> Self {
        let held = fs.open(&path).and_then(|file| file.len()).is_ok_and(|length| length == bytes as u64);
        Self { path, bytes, held, disk_full: false, last_attempt: None }
    }

    /// Returns true if the disk was full and has had no room for the file since.
    pub(super) fn disk_full(&self) -> bool {
        self.disk_full
    }

    /// Writes the file if it does not exist and the last attempt was long enough ago. If the disk has no room for it,
    /// the disk counts as full; after any other failure it is only tried again.
    pub(super) fn hold(&mut self, fs: &dyn Fs) {
        if self.held || self.last_attempt.is_some_and(|at| at.elapsed() < BALLAST_RETRY) {
            return;
        }
        self.last_attempt = Some(Instant::now());
        match self.write(fs) {
            Ok(()) => (self.held, self.disk_full) = (true, false),
            Err(error) => {
                self.disk_full |= is_disk_full(&error);
                let path = self.path.display();
                tracing::warn!(%error, %path, "could not write the outbox ballast; retrying later");
                self.remove(fs);
            }
        }
    }

    /// Unlinks the file to free its blocks. Returns whether there was one.
    pub(super) fn release(&mut self, fs: &dyn Fs) -> bool {
        let held = std::mem::replace(&mut self.held, false);
        self.last_attempt = Some(Instant::now());
        self.disk_full = true;
        if held {
            let path = self.path.display();
            tracing::error!(%path, "the disk of the outbox is full; no call begins until it has room: free space on it");
            self.remove(fs);
        }
        held
    }

    fn write(&self, fs: &dyn Fs) -> io::Result<()> {
        self.remove(fs);
        let file = fs.create(&self.path)?;
        file.write(0, &vec![0; self.bytes])?;
        file.sync_data()
    }

    fn remove(&self, fs: &dyn Fs) {
        match fs.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "could not remove the outbox ballast");
            }
            _ => {}
        }
    }
}
