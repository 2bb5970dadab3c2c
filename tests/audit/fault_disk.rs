//! A disk that counts, blocks and fails: the outbox's file system over the real one.
//!
//! Every operation that changes something has a number, from 1, so that a dry run tells where a later run can fail. All
//! operations happen under one lock, so that [`Disk::crash_image`] copies what a kill -9 at one moment would leave.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use gatepost::audit::outbox::fs::{DiskFs, Fs};
use redb::StorageBackend;
use tempfile::TempDir;

/// The disk. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By file; a file is told from others of its name by the number of the operation that created it.
    files: BTreeMap<u64, Counts>,
    operations: u64,
    fail: Fail,
    writes_fail: bool,
    gate_closed: bool,
    waiting: usize,
    broken: BTreeSet<u64>,
    written_after_failure: Vec<String>,
    open_handles: BTreeMap<String, usize>,
}

/// What happened to one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub name: String,
    pub writes: u64,
    pub syncs: u64,
    pub bytes: u64,
}

/// Which operations fail.
#[derive(Clone, Copy, Debug, Default)]
enum Fail {
    #[default]
    None,
    Once(u64),
    From(u64),
}

/// A file of the disk.
#[derive(Debug)]
struct File {
    disk: Disk,
    id: u64,
    name: String,
    real: Box<dyn StorageBackend>,
}

impl Disk {
    /// Operations that changed something, so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Writes, fsyncs and bytes of every file that was created, oldest first.
    pub fn counts(&self) -> Vec<Counts> {
        self.state().files.values().cloned().collect()
    }

    /// Lets the operation with this number fail, once.
    pub fn fail_once_at(&self, operation: u64) {
        self.state().fail = Fail::Once(operation);
    }

    /// Lets all operations from this number on fail.
    pub fn fail_from(&self, operation: u64) {
        self.state().fail = Fail::From(operation);
    }

    /// Lets the next operation fail, once.
    pub fn fail_next(&self) {
        let mut state = self.state();
        state.fail = Fail::Once(state.operations + 1);
    }

    /// Lets everything fail from now on.
    pub fn fail(&self) {
        self.fail_from(0);
    }

    /// Lets every write and fsync of a file fail, as a full disk does where files can still be made.
    pub fn fail_writes(&self) {
        self.state().writes_fail = true;
    }

    /// Ends all failures.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.fail, state.writes_fail) = (Fail::None, false);
    }

    /// Files that were written after an operation on them had failed. Has to be empty: I7.
    pub fn written_after_failure(&self) -> Vec<String> {
        self.state().written_after_failure.clone()
    }

    /// Lets every fsync block until [`Disk::open_gate`].
    pub fn close_gate(&self) {
        self.state().gate_closed = true;
    }

    /// Lets fsyncs go on.
    pub fn open_gate(&self) {
        self.state().gate_closed = false;
        self.0.changed.notify_all();
    }

    /// How many fsyncs wait at the gate.
    pub fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// How many handles of files of this name are open.
    pub fn open_handles(&self, name: &str) -> usize {
        self.state().open_handles.get(name).copied().unwrap_or(0)
    }

    /// A copy of `dir` as a kill -9 at this moment would leave it.
    pub fn crash_image(&self, dir: &Path) -> TempDir {
        let state = self.state();
        let image = copy_of(dir);
        drop(state);
        image
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Counts an operation and runs it under the lock, or fails it.
    fn operate<T>(&self, file: Option<u64>, operation: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        state.operations += 1;
        let number = state.operations;
        if let Some(id) = file
            && state.broken.contains(&id)
        {
            let name = state.files[&id].name.clone();
            state.written_after_failure.push(name);
        }
        let fails = match state.fail {
            Fail::None => false,
            Fail::Once(at) => number == at,
            Fail::From(at) => number >= at,
        };
        if fails || (state.writes_fail && file.is_some()) {
            state.broken.extend(file);
            return Err(io::Error::other(format!("injected failure of operation {number}")));
        }
        operation(&mut state)
    }

    fn handle(
        &self,
        state: &mut State,
        id: u64,
        path: &Path,
        file: Box<dyn StorageBackend>,
    ) -> Box<dyn StorageBackend> {
        let name = file_name(path);
        *state.open_handles.entry(name.clone()).or_default() += 1;
        Box::new(File { disk: self.clone(), id, name, real: file })
    }
}

/// A copy of the files in `dir`, but for the lock.
pub fn copy_of(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in dir.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.file_name().unwrap() != "lock" {
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().trim_end_matches(".tmp").to_owned()
}

impl Fs for Disk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DiskFs.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        DiskFs.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        self.operate(None, |state| {
            let file = DiskFs.create(path)?;
            let id = state.operations;
            state.files.insert(id, Counts { name: file_name(path), ..Counts::default() });
            Ok(self.handle(state, id, path, file))
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = DiskFs.open(path)?;
        Ok(self.handle(&mut self.state(), 0, path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(None, |_| DiskFs.rename(from, to))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(None, |_| DiskFs.link(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !path.exists() {
            return DiskFs.remove(path);
        }
        self.operate(None, |_| DiskFs.remove(path))
    }

    fn identity(&self, dir: &Path) -> io::Result<(u64, u64)> {
        DiskFs.identity(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.operate(None, |_| DiskFs.sync_dir(dir))
    }
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        self.real.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.real.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.operate(Some(self.id), |_| self.real.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.waiting += 1;
        while state.gate_closed {
            state = self.disk.0.changed.wait(state).unwrap();
        }
        state.waiting -= 1;
        drop(state);
        // A file that was opened to be read has no number: its fsync writes nothing of this process.
        self.disk.operate((self.id > 0).then_some(self.id), |state| {
            if let Some(counts) = state.files.get_mut(&self.id) {
                counts.syncs += 1;
            }
            self.real.sync_data()
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.operate(Some(self.id), |state| {
            let counts = state.files.entry(self.id).or_default();
            counts.writes += 1;
            counts.bytes += data.len() as u64;
            self.real.write(offset, data)
        })
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Ok(mut state) = self.disk.0.state.lock()
            && let Some(count) = state.open_handles.get_mut(&self.name)
        {
            *count -= 1;
        }
    }
}
