//! The names of generation files.

use std::path::{Path, PathBuf};

use super::error::OutboxError;
use super::fs::Fs;

/// The number of a generation file. Numbers order the files and, with them, the epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileNumber(pub(super) u64);

impl FileNumber {
    pub(super) fn file_name(self) -> String {
        format!("outbox-{:06}.redb", self.0)
    }

    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.file_name())
    }

    /// The number in the name of a generation file, or `None` if `name` is not one.
    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("outbox-")?.strip_suffix(".redb")?;
        (digits.len() >= 6).then(|| digits.parse().ok().map(Self)).flatten()
    }

    /// The numbers of the generation files in `dir`, oldest first.
    pub(super) fn list(fs: &dyn Fs, dir: &Path) -> Result<Vec<Self>, OutboxError> {
        let names = fs.list(dir).map_err(OutboxError::io("list", dir))?;
        let mut numbers: Vec<_> = names.iter().filter_map(|name| Self::from_file_name(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}
