//! A file whose contents may change while the gateway runs.
//!
//! It is looked at once a second at most, when somebody asks, and read again when its change time, length or inode
//! changed: unlike the modification time, the change time follows permissions too, and cannot be set back. What cannot be read or used then leaves the contents at hand in use, with a warning: half a file, as an editor
//! writes it, locks nobody out. The reads are of small local files and block for as long.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often the file is looked at. *Chosen*: nobody waits longer for a change, and a look costs microseconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How contents are made of their file.
type Read<T> = Box<dyn Fn(File) -> Result<T, Box<dyn std::error::Error>> + Send + Sync>;

/// Contents with their file.
pub(super) struct Watched<T> {
    path: PathBuf,
    read: Read<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    contents: Arc<T>,
    stamp: Stamp,
    looked: Instant,
    /// The last warning, which is not given twice in a row.
    warned: Option<String>,
}

/// What changes with a file's contents.
type Stamp = (i64, i64, u64, u64);

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ctime(), metadata.ctime_nsec(), metadata.len(), metadata.ino())
}

impl<T> Watched<T> {
    /// Reads the file for the first time.
    pub(super) fn open<E: std::error::Error + From<io::Error> + 'static>(
        path: &Path,
        read: impl Fn(File) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        let file = File::open(path)?;
        // Before the contents: what is written meanwhile is noticed at the next look.
        let stamp = stamp(&file.metadata()?);
        let contents = Arc::new(read(file)?);
        let state = Mutex::new(State { contents, stamp, looked: Instant::now(), warned: None });
        let read = Box::new(move |file| read(file).map_err(Into::into));
        Ok(Self { path: path.to_owned(), read, state })
    }

    /// The contents as of the last second.
    pub(super) fn get(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = Instant::now();
            match self.changed(state.stamp) {
                Ok(None) => state.warned = None,
                Ok(Some((stamp, contents))) => {
                    tracing::info!(path = %self.path.display(), "read again, since it has changed");
                    (state.stamp, state.contents, state.warned) = (stamp, Arc::new(contents), None);
                }
                Err(error) => {
                    let error = error.to_string();
                    if state.warned.as_ref() != Some(&error) {
                        let path = self.path.display();
                        tracing::warn!(%path, error, "it changed and is of no use: what was read before stays in use");
                    }
                    state.warned = Some(error);
                }
            }
        }
        Arc::clone(&state.contents)
    }

    fn changed(&self, known: Stamp) -> Result<Option<(Stamp, T)>, Box<dyn std::error::Error>> {
        let file = File::open(&self.path)?;
        let found = stamp(&file.metadata()?);
        if found == known { Ok(None) } else { Ok(Some((found, (self.read)(file)?))) }
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The whole of a file, or `None` where it is longer than `limit`.
pub(super) fn read_bounded(file: File, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    // I6: a file is read to its limit and no further.
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit).then_some(bytes))
}
