//! The file system, as the outbox uses it. Tests implement it to crash, to tear writes, to fail and to fill the disk.

use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::StorageBackend;
use rustix::fs::OFlags;

/// A file system. Every method returns after its effect is visible to other processes, but creations, renames and
/// unlinks survive a power loss only after [`Fs::sync_dir`].
pub trait Fs: Debug + Send + Sync + 'static {
    /// Creates `dir` and its parents with mode 0700. Does nothing if it exists.
    ///
    /// # Errors
    /// Any I/O error.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names in `dir`, in no particular order.
    ///
    /// # Errors
    /// Any I/O error.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates an empty file with mode 0600, for reading and writing.
    ///
    /// # Errors
    /// Any I/O error; [`io::ErrorKind::AlreadyExists`] if the file exists.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;

    /// Opens an existing file for reading. Writing to it fails.
    ///
    /// # Errors
    /// Any I/O error.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;

    /// Renames a file within its directory, and replaces an existing one.
    ///
    /// # Errors
    /// Any I/O error.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name, in another directory of the same file system.
    ///
    /// # Errors
    /// Any I/O error.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Unlinks a file.
    ///
    /// # Errors
    /// Any I/O error.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The device and inode of `path`. They differ if another file or directory is now at the same path.
    ///
    /// # Errors
    /// Any I/O error.
    fn identity(&self, path: &Path) -> io::Result<(u64, u64)>;

    /// Makes the directory's entries durable.
    ///
    /// # Errors
    /// Any I/O error.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// Creates `dir` if it does not exist, and makes its name durable. The name is synced even if the directory exists,
/// because an earlier process may have ended before it did so.
///
/// # Errors
/// Any I/O error.
pub(crate) fn create_durable_dir(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.to_owned(),
    };
    let missing = dir.ancestors().filter(|path| !path.as_os_str().is_empty());
    let created_in: Vec<_> = missing.take_while(|path| fs.identity(path).is_err()).map(parent).collect();
    fs.create_dir(dir)?;
    // The first is the parent of `dir` itself, which is synced below.
    for parent in created_in.iter().skip(1) {
        fs.sync_dir(parent)?;
    }
    match fs.sync_dir(&parent(dir)) {
        // If this user may not read the parent, another user created the directory and its name is not ours to sync.
        Err(error) if created_in.is_empty() && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Replaces the file at `path`, or makes it, whole and durably. The contents are first written to a file beside it with
/// the extension `new`; a symbolic link at either path is not followed.
///
/// # Errors
/// Any I/O error. The file has its old contents or the new ones, and another attempt may succeed.
///
/// # Durability
/// The new contents survive a power loss once this returns.
pub fn replace_file(fs: &dyn Fs, path: &Path, contents: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = fs.create(&new)?;
    file.set_len(contents.len() as u64)?;
    file.write(0, contents)?;
    file.sync_data()?;
    drop(file);
    fs.rename(&new, path)?;
    fs.sync_dir(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Reads a file of at most `bytes_max` bytes.
///
/// # Errors
/// Any I/O error; [`io::ErrorKind::FileTooLarge`] if the file is longer.
pub fn read_file(fs: &dyn Fs, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let file = fs.open(path)?;
    // I6: a file is read up to its limit.
    let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if length > bytes_max {
        let text = format!("the file has {length} bytes, limit {bytes_max}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    let mut bytes = vec![0; length];
    file.read(0, &mut bytes)?;
    Ok(bytes)
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFs;

/// A file of the real file system.
#[derive(Debug)]
struct DiskFile(File);

impl Fs for DiskFs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        dir.read_dir()?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(DiskFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        // A link would lead out of the directory.
        let file = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
        Ok(Box::new(DiskFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        let meta = std::fs::metadata(path)?;
        Ok((meta.dev(), meta.ino()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl StorageBackend for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
