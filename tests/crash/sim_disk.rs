//! A simulated disk: the outbox's file system in memory, seeded and deterministic.
//!
//! Every operation that changes something has a number, from 1, so that a dry run tells where a later run can crash or
//! fail. Two images are kept of everything, see [`content`] and [`directory`]: what processes see, and what is on the
//! platter. A crash freezes the disk (all handles fail from then on) and [`SimDisk::crashed`] is what the next process
//! finds: after a *kill* what processes saw, after a *power loss* the platter, with what was not synced kept in part.
//!
//! The root directory is there and durable; the outbox's directory is made in it by the outbox.

pub mod content;
pub mod directory;
pub mod fault;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use content::Content;
use directory::{Directory, Inode};
pub use fault::{Crash, Fault, Lie, Moment};
use gatepost::audit::outbox::fs::Fs;
use redb::StorageBackend;

use crate::common::rng::Rng;

/// The disk. Clones share it.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Inner>);

type Watcher = Box<dyn FnMut(Moment) + Send>;

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    watcher: Mutex<Option<Watcher>>,
}

#[derive(Clone, Debug)]
struct File {
    content: Content,
    name: String,
    handles: usize,
    /// An operation on it has failed.
    failed: bool,
    final_name: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: BTreeMap<Inode, File>,
    directories: BTreeMap<PathBuf, Directory>,
    inodes: Inode,
    rng: Option<Rng>,
    operations: u64,
    /// The numbers of the operations that were an fsync.
    syncs: Vec<u64>,
    crash_at: Option<u64>,
    frozen: bool,
    fault: Fault,
    failures: u64,
    /// Room for pages, bytes.
    capacity: Option<u64>,
    lie: Lie,
    written_after_failure: Vec<String>,
    /// One line an operation, where asked for.
    trace: Option<Vec<String>>,
}

/// A handle.
#[derive(Debug)]
struct Handle {
    disk: SimDisk,
    inode: Inode,
    writable: bool,
}

impl SimDisk {
    /// An empty disk whose directory `root` is there.
    pub fn new(root: &Path, seed: u64) -> Self {
        let disk = Self::default();
        {
            let mut state = disk.state();
            state.rng = Some(Rng::new(seed));
            state.inodes = 1;
            state.directories.insert(root.to_owned(), Directory::new(1));
        }
        disk
    }

    /// Calls `watcher` at every [`Moment`], on the thread of the operation, until [`SimDisk::unwatch`].
    pub fn watch(&self, watcher: impl FnMut(Moment) + Send + 'static) {
        *self.0.watcher.lock().unwrap() = Some(Box::new(watcher));
    }

    pub fn unwatch(&self) {
        *self.0.watcher.lock().unwrap() = None;
    }

    /// Operations that changed something, so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Which of them were an fsync of a file or a directory.
    pub fn syncs(&self) -> Vec<u64> {
        self.state().syncs.clone()
    }

    /// From now on writes down what is done.
    pub fn keep_trace(&self) {
        self.state().trace.get_or_insert_default();
    }

    /// What was done, one line an operation.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone().unwrap_or_default()
    }

    /// Freezes the disk at the operation with this number, which takes effect, in the page cache only, or does not.
    pub fn crash_at(&self, operation: u64) {
        self.state().crash_at = Some(operation);
    }

    pub fn is_frozen(&self) -> bool {
        self.state().frozen
    }

    pub fn fail(&self, fault: Fault) {
        self.state().fault = fault;
    }

    /// How many operations failed as they were told to, for want of room too.
    pub fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Gives pages so much room, or as much as they like.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Room that is taken, bytes.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    pub fn lie(&self, lie: Lie) {
        self.state().lie = lie;
    }

    /// Files that were written after an operation on them had failed. Has to be empty: I7.
    pub fn written_after_failure(&self) -> Vec<String> {
        self.state().written_after_failure.clone()
    }

    /// The names in `dir`, sorted.
    pub fn names(&self, dir: &Path) -> Vec<String> {
        self.state().directories.get(dir).map(|directory| directory.names.keys().cloned().collect()).unwrap_or_default()
    }

    /// The length of a file.
    pub fn len_of(&self, path: &Path) -> u64 {
        let state = self.state();
        let inode = state.inode(path).unwrap();
        state.files[&inode].content.live.len
    }

    /// Flips a bit of a file at rest.
    pub fn flip(&self, path: &Path, bit: u64) {
        self.at_rest(path, |image| {
            let mut byte = [0];
            image.read(bit / 8, &mut byte).unwrap();
            image.write(bit / 8, &[byte[0] ^ (1 << (bit % 8))]);
        });
    }

    /// Cuts a file at rest.
    pub fn truncate(&self, path: &Path, len: u64) {
        self.at_rest(path, |image| image.set_len(len));
    }

    fn at_rest(&self, path: &Path, change: impl FnOnce(&mut content::Image)) {
        let mut state = self.state();
        let inode = state.inode(path).unwrap();
        let content = &mut state.files.get_mut(&inode).unwrap().content;
        let mut image = content.live.clone();
        change(&mut image);
        *content = Content::durable(image);
    }

    /// What the next process finds. Nothing fails or lies any more, and numbers begin again.
    pub fn crashed(&self, crash: Crash, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let state = self.state();
        let mut files = state.files.clone();
        let mut directories = state.directories.clone();
        drop(state);
        if crash == Crash::PowerLoss {
            for directory in directories.values_mut() {
                *directory = directory.after_power_loss(&mut rng);
            }
            for file in files.values_mut() {
                file.content = Content::durable(file.content.after_power_loss(&mut rng));
            }
        }
        let mut state = State { files, directories, inodes: self.state().inodes, rng: Some(rng), ..State::default() };
        for file in state.files.values_mut() {
            (file.handles, file.failed) = (0, false);
        }
        state.drop_unreachable();
        Self(Arc::new(Inner { state: Mutex::new(state), watcher: Mutex::default() }))
    }

    /// The same disk with its root under another path.
    pub fn moved_to(self, root: &Path) -> Self {
        {
            let mut state = self.state();
            let old = state.directories.iter().find(|(_, directory)| directory.inode == 1).unwrap().0.clone();
            let moved = |path: PathBuf| root.join(path.strip_prefix(&old).unwrap());
            state.directories =
                std::mem::take(&mut state.directories).into_iter().map(|(path, names)| (moved(path), names)).collect();
            // The lock file is a real one, and needs a real directory.
            state.directories.keys().for_each(|path| std::fs::create_dir_all(path).unwrap());
        }
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn tell(&self, moment: Moment) {
        // Taken out meanwhile: what the watcher does to the disk is not told of.
        let watcher = self.0.watcher.lock().unwrap().take();
        if let Some(mut watcher) = watcher {
            watcher(moment);
            self.0.watcher.lock().unwrap().get_or_insert(watcher);
        }
    }

    /// Counts an operation and runs it, or fails it, or freezes the disk in the middle of it.
    fn operate<T>(
        &self,
        what: &str,
        file: Option<Inode>,
        operation: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        if state.frozen {
            return Err(io::Error::other("the simulated disk is frozen"));
        }
        state.operations += 1;
        let number = state.operations;
        let is_sync = what.starts_with("sync");
        if is_sync {
            state.syncs.push(number);
        }
        if state.trace.is_some() {
            let name = file.and_then(|inode| state.files.get(&inode)).map_or("", |file| &file.name);
            let line = format!("{what} {name}");
            state.trace.get_or_insert_default().push(line);
        }
        if let Some(failed) = file.and_then(|inode| state.files.get(&inode)).filter(|file| file.failed) {
            let name = failed.name.clone();
            state.written_after_failure.push(name);
        }
        if state.crash_at == Some(number) {
            // A sync that is cut off leaves its pages as any that were not synced.
            let done = if !is_sync && state.toss(50) { operation(&mut state).ok() } else { None };
            state.frozen = true;
            drop(state);
            // A handle takes the lock when it is dropped.
            drop(done);
            self.tell(Moment::Crashed);
            return Err(io::Error::other(format!("crashed at operation {number}")));
        }
        let fails = match state.fault {
            Fault::None => false,
            Fault::Once(at) => number == at,
            Fault::From(at) => number >= at,
        };
        let result = if fails {
            Err(io::Error::other(format!("injected failure of operation {number}")))
        } else {
            operation(&mut state)
        };
        let Err(error) = &result else { return result };
        if !fails && error.kind() != io::ErrorKind::StorageFull {
            return result;
        }
        state.failures += 1;
        if let Some(inode) = file
            && fails
            && is_sync
        {
            state.forget(inode);
        }
        let swallowed = state.lie == Lie::SwallowedFailure && is_sync && file.is_some();
        if let Some(file) = file.and_then(|inode| state.files.get_mut(&inode)) {
            file.failed = true;
        }
        drop(state);
        self.tell(Moment::Failed);
        if swallowed { Err(UNHEARD.into()) } else { result }
    }

    fn handle(&self, state: &mut State, inode: Inode, writable: bool) -> Box<dyn StorageBackend> {
        if let Some(file) = state.files.get_mut(&inode) {
            file.handles += 1;
        }
        Box::new(Handle { disk: self.clone(), inode, writable })
    }
}

/// An error that [`Lie::SwallowedFailure`] hides. Nothing else here is interrupted.
const UNHEARD: io::ErrorKind = io::ErrorKind::Interrupted;

fn heard(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == UNHEARD { Ok(()) } else { Err(error) })
}

impl State {
    fn toss(&mut self, percent: u64) -> bool {
        self::percent(self.rng.get_or_insert_with(|| Rng::new(0)), percent)
    }

    fn directory(&mut self, path: &Path) -> io::Result<(&mut Directory, String)> {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let parent = self.directories.get_mut(path.parent().unwrap()).ok_or(io::ErrorKind::NotFound)?;
        Ok((parent, name))
    }

    fn inode(&self, path: &Path) -> io::Result<Inode> {
        let name = path.file_name().unwrap().to_string_lossy();
        let parent = self.directories.get(path.parent().unwrap()).ok_or(io::ErrorKind::NotFound)?;
        Ok(*parent.names.get(name.as_ref()).ok_or(io::ErrorKind::NotFound)?)
    }

    fn content(&mut self, inode: Inode) -> &mut Content {
        &mut self.files.get_mut(&inode).expect("a handle keeps its file").content
    }

    fn forget(&mut self, inode: Inode) {
        let mut rng = self.rng.take().unwrap_or_else(|| Rng::new(0));
        self.content(inode).forget(&mut rng);
        self.rng = Some(rng);
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<Inode> =
            self.directories.values().flat_map(|directory| directory.names.values().copied()).collect();
        let taking = self.files.iter().filter(|(inode, file)| file.handles > 0 || named.contains(inode));
        taking.map(|(_, file)| file.content.live.pages() as u64 * 4096).sum()
    }

    fn has_room(&self, inode: Inode, offset: u64, length: usize) -> bool {
        let Some(capacity) = self.capacity else { return true };
        let added = self.files[&inode].content.live.pages_added(offset, length) as u64 * 4096;
        added == 0 || self.used() + added <= capacity
    }

    /// Forgets files without a handle and directories that have no name and can get none back by a crash.
    fn drop_unreachable(&mut self) {
        loop {
            let named: BTreeSet<Inode> = self.directories.values().flat_map(Directory::inodes).collect();
            let count = self.directories.len();
            self.directories.retain(|_, directory| directory.inode == 1 || named.contains(&directory.inode));
            if self.directories.len() == count {
                self.files.retain(|inode, file| file.handles > 0 || named.contains(inode));
                return;
            }
        }
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SimDisk")
    }
}

impl Fs for SimDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if self.state().directories.contains_key(dir) {
            return Ok(());
        }
        // The lock file is a real one, and needs a real directory.
        std::fs::create_dir_all(dir)?;
        self.operate("mkdir", None, |state| {
            state.inodes += 1;
            let inode = state.inodes;
            let (parent, name) = state.directory(dir)?;
            parent.put(&name, inode);
            state.directories.insert(dir.to_owned(), Directory::new(inode));
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let directory = state.directories.get(dir).ok_or(io::ErrorKind::NotFound)?;
        Ok(directory.names.keys().cloned().collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        self.operate("create", None, |state| {
            state.inodes += 1;
            let (inode, lie) = (state.inodes, state.lie);
            let (directory, name) = state.directory(path)?;
            if lie == Lie::NoSecondFile && directory.names.keys().any(|name| name.starts_with("outbox-")) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            if directory.names.contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            directory.put(&name, inode);
            let content = Content::default();
            state.files.insert(inode, File { content, name, handles: 0, failed: false, final_name: false });
            Ok(self.handle(state, inode, true))
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.state();
        let inode = state.inode(path)?;
        Ok(self.handle(&mut state, inode, false))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate("rename", None, |state| {
            let inode = state.inode(from)?;
            let (directory, old) = state.directory(from)?;
            let new = to.file_name().unwrap().to_string_lossy();
            directory.rename(&old, &new);
            if state.lie == Lie::EarlyUnlink {
                let (directory, _) = state.directory(to)?;
                let older = directory.names.keys().find(|name| name.starts_with("outbox-")).cloned();
                if let Some(older) = older.filter(|older| *older != new) {
                    directory.remove(&older);
                }
            }
            let file = state.files.get_mut(&inode).unwrap();
            (file.name, file.final_name) = (new.into_owned(), true);
            state.drop_unreachable();
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate("link", None, |state| {
            let inode = state.inode(from)?;
            let (directory, name) = state.directory(to)?;
            if directory.names.contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            directory.put(&name, inode);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.state().inode(path)?;
        self.operate("remove", None, |state| {
            let (directory, name) = state.directory(path)?;
            directory.remove(&name);
            Ok(())
        })
    }

    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        let known = self.state().directories.get(path).map(|directory| directory.inode);
        match known {
            Some(inode) => {
                self.tell(Moment::Looked);
                Ok((0, inode))
            }
            None => Ok((0, self.state().inode(path)?)),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.operate("sync directory", None, |state| {
            if state.lie != Lie::DirectorySync {
                state.directories.get_mut(dir).ok_or(io::ErrorKind::NotFound)?.sync();
            }
            Ok(())
        })
    }
}

impl Handle {
    fn change(
        &self,
        what: &str,
        offset: u64,
        length: usize,
        change: impl FnOnce(&mut State) -> io::Result<()>,
    ) -> io::Result<()> {
        heard(self.disk.operate(what, Some(self.inode), |state| {
            if !self.writable {
                let name = state.files[&self.inode].name.clone();
                state.written_after_failure.push(name);
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            if !state.has_room(self.inode, offset, length) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            change(state)
        }))
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().content(self.inode).live.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.state().content(self.inode).live.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change("set_len", 0, 0, |state| {
            state.content(self.inode).set_len(len);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        heard(self.disk.operate("sync", Some(self.inode), |state| {
            let lie = state.lie;
            let file = state.files.get_mut(&self.inode).expect("a handle keeps its file");
            match lie {
                Lie::FileSync => {}
                Lie::SyncAfterRename if !file.final_name => {}
                Lie::LateFileSync => file.content.sync_late(),
                _ => file.content.sync(),
            }
            Ok(())
        }))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change("write", offset, data.len(), |state| {
            state.content(self.inode).write(offset, data);
            Ok(())
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(mut state) = self.disk.0.state.lock() {
            if let Some(file) = state.files.get_mut(&self.inode) {
                file.handles -= 1;
            }
            state.drop_unreachable();
        }
    }
}

/// True in `percent` of a hundred throws.
pub fn percent(rng: &mut Rng, percent: u64) -> bool {
    rng.below(100) < percent
}
