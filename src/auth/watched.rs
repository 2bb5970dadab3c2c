//! A file whose contents may change while the gateway runs.
//!
//! The file is checked when its contents are needed, at most once per second, and read again if its change time, length
//! or inode has changed. The change time is used because, unlike the modification time, it follows permissions too and
//! cannot be set back. If the file cannot be read or used, the previous contents stay in use and a warning is logged,
//! so that a half-written file locks no caller out. Reads block; the files are small and local.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::file_access::{FileAccess, FileError, FileKind};

/// Least time between two checks of the file. *Chosen*: a change takes effect soon enough, and a check takes
/// microseconds.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Parses the contents of the file.
type Read<T> = Box<dyn Fn(File) -> Result<T, Box<dyn std::error::Error>> + Send + Sync>;

/// A watched file and its parsed contents.
pub(crate) struct WatchedFile<T> {
    path: PathBuf,
    files: FileAccess,
    kind: FileKind,
    read: Read<T>,
    loaded: Mutex<Loaded<T>>,
}

struct Loaded<T> {
    contents: Arc<T>,
    stamp: Stamp,
    checked: Instant,
    /// The last warning, which is not logged twice in a row.
    warning: Option<String>,
}

/// The change time in seconds and nanoseconds, the length and the inode: one of them changes with the contents.
pub(crate) type Stamp = (i64, i64, u64, u64);

/// The stamp of a file.
pub(crate) fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ctime(), metadata.ctime_nsec(), metadata.len(), metadata.ino())
}

impl<T> WatchedFile<T> {
    /// Reads the file for the first time. Its owner and permissions are checked whenever it is read.
    pub(crate) fn open<E: std::error::Error + From<io::Error> + From<FileError> + 'static>(
        path: &Path,
        files: FileAccess,
        kind: FileKind,
        read: impl Fn(File) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        let file = files.open(path, kind)?;
        // Taken before the contents are read, so that a change in between is noticed at the next check.
        let stamp = stamp(&file.metadata()?);
        let contents = Arc::new(read(file)?);
        let loaded = Mutex::new(Loaded { contents, stamp, checked: Instant::now(), warning: None });
        let read = Box::new(move |file| read(file).map_err(Into::into));
        Ok(Self { path: path.to_owned(), files, kind, read, loaded })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The contents, at most a second old.
    pub(crate) fn get(&self) -> Arc<T> {
        let mut loaded = self.loaded.lock();
        if loaded.checked.elapsed() >= CHECK_INTERVAL {
            loaded.checked = Instant::now();
            match self.read_if_changed(loaded.stamp) {
                Ok(None) => loaded.warning = None,
                Ok(Some((stamp, contents))) => {
                    tracing::info!(path = %self.path.display(), "reloaded changed file");
                    (loaded.stamp, loaded.contents, loaded.warning) = (stamp, Arc::new(contents), None);
                }
                Err(error) => {
                    let error = error.to_string();
                    if loaded.warning.as_ref() != Some(&error) {
                        let path = self.path.display();
                        tracing::warn!(%path, error, "cannot reload changed file; keeping the previous contents");
                    }
                    loaded.warning = Some(error);
                }
            }
        }
        Arc::clone(&loaded.contents)
    }

    fn read_if_changed(&self, known: Stamp) -> Result<Option<(Stamp, T)>, Box<dyn std::error::Error>> {
        let file = self.files.open(&self.path, self.kind)?;
        let found = stamp(&file.metadata()?);
        if found == known { Ok(None) } else { Ok(Some((found, (self.read)(file)?))) }
    }
}

impl<T> fmt::Debug for WatchedFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The contents of a file. `None`: the file is longer than `limit` bytes.
pub(crate) fn read_bounded(file: File, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    // I6: a file is read up to its limit.
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit).then_some(bytes))
}
