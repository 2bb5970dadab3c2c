//! How much of the disk the outbox may use, and the ballast that keeps a full disk from wedging it.
//!
//! The ballast is a file of zeros. When the disk is full it is unlinked, and what it held is enough for a new generation
//! with the outcomes and refusals of calls that are open; no new call begins until the backlog is delivered, its files are
//! unlinked, and the ballast is made again.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::fs::Fs;

/// Size of the ballast, bytes. *Measured*: docs/measurements.md, "redb", releasing 4 MiB freed a full redb file for good; here a new
/// generation takes under 100 KiB, which leaves 3 KiB for the outcome of each of 1,024 open calls.
const BALLAST_BYTES: usize = 4 * 1024 * 1024;

/// Size of the start's reserve, bytes. *Derived*: a new generation takes under 100 KiB; the rest is for the records of
/// calls that were open.
const RESERVE_BYTES: usize = 512 * 1024;

/// How often it is tried again to make the ballast. *Chosen*: each try writes it, so not at every commit.
const BALLAST_RETRY: Duration = Duration::from_secs(1);

const BALLAST_NAME: &str = "ballast";
const RESERVE_NAME: &str = "reserve";

/// How full the outbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Space {
    /// Bytes of all generation files.
    pub used_bytes: u64,
    /// The quota.
    pub max_bytes: u64,
    /// Whether the disk has been full and the ballast is spent.
    pub disk_full: bool,
}

impl Space {
    /// Whether a call may begin: quota and disk have room.
    #[must_use]
    pub fn has_room(self) -> bool {
        self.used_bytes < self.max_bytes && !self.disk_full
    }

    /// Percent of the quota in use; 100 where the disk is full.
    #[must_use]
    pub fn percent(self) -> u64 {
        if self.has_room() { self.used_bytes.saturating_mul(100) / self.max_bytes.max(1) } else { 100 }
    }
}

/// Whether an error says that the disk, or the user's share of it, is full.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The ballast file of one directory.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    bytes: usize,
    held: bool,
    /// The disk was full, and has not had room for the ballast since.
    disk_full: bool,
    tried: Option<Instant>,
}

impl Ballast {
    /// The ballast of a running gateway.
    pub(super) fn new(fs: &dyn Fs, dir: &Path) -> Self {
        Self::of(fs, dir.join(BALLAST_NAME), BALLAST_BYTES)
    }

    /// The reserve that only a start may use.
    pub(super) fn reserve(fs: &dyn Fs, dir: &Path) -> Self {
        Self::of(fs, dir.join(RESERVE_NAME), RESERVE_BYTES)
    }

    /// One that an earlier process made is held already.
    fn of(fs: &dyn Fs, path: PathBuf, bytes: usize) -> Self {
        let held = fs.open(&path).and_then(|file| file.len()).is_ok_and(|length| length == bytes as u64);
        Self { path, bytes, held, disk_full: false, tried: None }
    }

    /// Whether the disk was full, and has not had room for the ballast since.
    pub(super) fn disk_full(&self) -> bool {
        self.disk_full
    }

    /// Makes it, where it is not held and the last try is a while ago. A disk without room for it counts as full; any
    /// other failure is only tried again.
    pub(super) fn hold(&mut self, fs: &dyn Fs) {
        if self.held || self.tried.is_some_and(|at| at.elapsed() < BALLAST_RETRY) {
            return;
        }
        self.tried = Some(Instant::now());
        match self.make(fs) {
            Ok(()) => (self.held, self.disk_full) = (true, false),
            Err(error) => {
                self.disk_full |= is_disk_full(&error);
                tracing::warn!(%error, path = %self.path.display(), "no room for the outbox's ballast");
                self.remove(fs);
            }
        }
    }

    /// Frees its blocks. Returns whether there were any.
    pub(super) fn release(&mut self, fs: &dyn Fs) -> bool {
        let held = std::mem::replace(&mut self.held, false);
        self.tried = Some(Instant::now());
        self.disk_full = true;
        if held {
            tracing::error!("the disk of the outbox is full: no call begins until the backlog is delivered");
            self.remove(fs);
        }
        held
    }

    fn make(&self, fs: &dyn Fs) -> io::Result<()> {
        self.remove(fs);
        let file = fs.create(&self.path)?;
        file.write(0, &vec![0; self.bytes])?;
        file.sync_data()
    }

    fn remove(&self, fs: &dyn Fs) {
        match fs.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "the outbox's ballast is not removed");
            }
            _ => {}
        }
    }
}
