//! Directories for outboxes, and a file system that counts what is written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use gatepost::audit::outbox::fs::{DiskFs, Fs};
use redb::StorageBackend;
use tempfile::TempDir;

/// Where benches put their files: `GATEPOST_BENCH_DIR`, else the directory for temporary files. Should be a disk.
pub fn root() -> PathBuf {
    std::env::var_os("GATEPOST_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// A directory that is removed when dropped.
pub fn directory(name: &str) -> TempDir {
    tempfile::Builder::new().prefix(&format!("gatepost-bench-{name}-")).tempdir_in(root()).unwrap()
}

/// The type of the file system at `path`.
pub fn file_system(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut best = (0, "unknown file system".to_owned());
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(at), Some(kind)) = (words.next(), words.next())
            && path.starts_with(at)
            && at.len() >= best.0
        {
            best = (at.len(), kind.to_owned());
        }
    }
    best.1
}

/// The redb files in `dir` and their size in bytes.
pub fn usage(dir: &Path) -> (usize, u64) {
    let sizes: Vec<u64> = databases(dir).iter().filter_map(|path| Some(path.metadata().ok()?.len())).collect();
    (sizes.len(), sizes.iter().sum())
}

/// The redb files in `dir`.
pub fn databases(dir: &Path) -> Vec<PathBuf> {
    let paths = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "redb")).collect()
}

/// Drops the pages of the files in `dir` from the page cache, so that the next reader goes to the disk.
pub fn cool(dir: &Path) {
    for entry in dir.read_dir().unwrap() {
        let file = std::fs::File::open(entry.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    }
}

/// What was written, and a gate before each fsync.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes given to `write`.
    pub written: AtomicU64,
    /// Calls of fsync.
    pub syncs: AtomicU64,
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Counters {
    /// From now on fsync waits.
    pub fn close_gate(&self) {
        *self.closed.lock().unwrap() = true;
    }

    /// From now on fsync goes through.
    pub fn open_gate(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }
}

/// The real file system, counted.
#[derive(Clone, Debug, Default)]
pub struct CountingFs(pub Arc<Counters>);

#[derive(Debug)]
struct CountingFile {
    file: Box<dyn StorageBackend>,
    counters: Arc<Counters>,
}

impl CountingFs {
    fn counted(&self, file: Box<dyn StorageBackend>) -> Box<dyn StorageBackend> {
        Box::new(CountingFile { file, counters: Arc::clone(&self.0) })
    }
}

impl Fs for CountingFs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DiskFs.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        DiskFs.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Ok(self.counted(DiskFs.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Ok(self.counted(DiskFs.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        DiskFs.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        DiskFs.link(from, to)
    }

    fn identity(&self, dir: &Path) -> io::Result<(u64, u64)> {
        DiskFs.identity(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        DiskFs.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        DiskFs.sync_dir(dir)
    }
}

impl StorageBackend for CountingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut closed = self.counters.closed.lock().unwrap();
        while *closed {
            closed = self.counters.opened.wait(closed).unwrap();
        }
        drop(closed);
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.counters.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write(offset, data)
    }
}
