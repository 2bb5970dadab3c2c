//! The Landlock ruleset of a plan.
//!
//! *Spec*: landlock(7). A rule grants rights on a file or on everything below a directory; nothing can be denied below
//! it. Rules are tied to files and directories, not to paths: an entry that is replaced later has no rule.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, PathBeneath, Ruleset, RulesetAttr as _, RulesetCreated,
    RulesetCreatedAttr as _, RulesetError, Scope,
};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::plan::{Granted, Plan};

/// The newest ABI whose rights are used. Its rights are those of files; no right restricts the network. *Chosen*: the
/// last that this code was written for. The kernel's own ABI may be older: then fewer rights are restricted.
const ABI_USED: ABI = ABI::V9;

/// Most rules. *Chosen*: a directory with closed entries has a rule for each other entry; a hundred thousand take
/// about 10 MB in the kernel and half a second.
const RULES_MAX: usize = 100_000;

/// Devices that every program may use. *Chosen*: those without a state of their own, and terminals.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"];

/// Directories of devices and shared memory that every program may use.
const DEVICE_DIRS: [&str; 2] = ["/dev/pts", "/dev/shm"];

/// The walls cannot be built.
#[derive(Debug, thiserror::Error)]
pub(super) enum LandlockError {
    #[error("Landlock refused a rule: {0}")]
    Ruleset(#[from] RulesetError),
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the directories that contain closed paths have more than {RULES_MAX} entries")]
    TooManyRules,
}

/// A ruleset that is complete and not enforced yet.
pub(super) struct Walls(RulesetCreated);

/// The identity of a file or directory: its device and inode number.
type FileId = (u64, u64);

struct Builder {
    rules: RulesetCreated,
    count: usize,
    /// Closed paths, and the directories that contain them. An entry that is one of these gets no rule.
    without_rule: BTreeSet<FileId>,
}

impl Walls {
    /// Makes the ruleset of `plan`: reading and executing everywhere except the closed paths, writing in the write
    /// roots and on the usual devices. Names in directories can be listed everywhere.
    ///
    /// # Errors
    /// A directory cannot be read, or the kernel refuses a rule.
    pub(super) fn new(plan: &Plan) -> Result<Self, LandlockError> {
        let rules = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI_USED))?
            .scope(Scope::from_all(ABI_USED))?
            .create()?;
        let mut ancestors = plan.ancestors();
        // The entries of /dev are granted one by one too, without the disks.
        ancestors.extend(["/", "/dev"].map(PathBuf::from));
        let without_rule = ancestors.iter().chain(&plan.closed).filter_map(|path| file_id_of_path(path)).collect();
        let mut builder = Builder { rules, count: 0, without_rule };
        builder.grant_path(Path::new("/"), AccessFs::ReadDir.into())?;
        for dir in &ancestors {
            builder.grant_entries(dir, reading())?;
        }
        for root in &plan.write {
            match &root.granted {
                Granted::Whole(path) => builder.grant_path(path, writing())?,
                Granted::Entries { directories, .. } => {
                    for dir in directories {
                        builder.grant_entries(dir, writing())?;
                    }
                }
                Granted::Closed(_) | Granted::Missing => {}
            }
        }
        for path in DEVICES.iter().chain(&DEVICE_DIRS) {
            builder.grant_path(Path::new(path), writing())?;
        }
        Ok(Self(builder.rules))
    }

    /// Sets `no_new_privs` and enforces the ruleset on this thread and on its descendants, for ever. Returns the ABI of
    /// Landlock that is enforced; 0 if the kernel has none.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(super) fn enforce(self) -> Result<u32, LandlockError> {
        let status = self.0.restrict_self()?;
        Ok(match status.landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
            _ => 0,
        })
    }
}

/// Reading, executing, and connecting to sockets.
fn reading() -> BitFlags<AccessFs> {
    AccessFs::from_read(ABI_USED) | AccessFs::ResolveUnix
}

/// Everything except making devices: a disk of the machine contains the closed files.
fn writing() -> BitFlags<AccessFs> {
    AccessFs::from_all(ABI_USED) & !(AccessFs::MakeChar | AccessFs::MakeBlock)
}

impl Builder {
    /// Grants `access` to the file at `path`, or to everything below it. A path that cannot be opened is left out.
    fn grant_path(&mut self, path: &Path, access: BitFlags<AccessFs>) -> Result<(), LandlockError> {
        match rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => self.grant(file, access),
            Err(_) => Ok(()),
        }
    }

    /// Grants `access` to each entry of `dir` and to everything below it, except closed paths, the directories that
    /// contain them, symbolic links and disks.
    fn grant_entries(&mut self, dir: &Path, access: BitFlags<AccessFs>) -> Result<(), LandlockError> {
        let failed = |source: Errno| LandlockError::Read { path: dir.to_owned(), source: source.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match rustix::fs::open(dir, flags, Mode::empty()) {
            // What cannot be listed here cannot be listed by the backend either, and is not granted.
            Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) => return Ok(()),
            other => other.map_err(failed)?,
        };
        for entry in Dir::read_from(&opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // `NOFOLLOW`: a link that replaced the entry a moment ago must not lead the rule elsewhere.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(file) = rustix::fs::openat(&opened, name, flags, Mode::empty()) else { continue };
            let Ok((id, kind)) = identify(&file) else { continue };
            if !self.without_rule.contains(&id) && !matches!(kind, FileType::Symlink | FileType::BlockDevice) {
                self.grant(file, access)?;
            }
        }
        Ok(())
    }

    fn grant(&mut self, file: OwnedFd, access: BitFlags<AccessFs>) -> Result<(), LandlockError> {
        // I6: the number of rules is bounded.
        self.count += 1;
        if self.count > RULES_MAX {
            return Err(LandlockError::TooManyRules);
        }
        let is_dir = identify(&file).is_ok_and(|(_, kind)| kind == FileType::Directory);
        let access = if is_dir { access } else { access & AccessFs::from_file(ABI_USED) };
        (&mut self.rules).add_rule(PathBeneath::new(file, access))?;
        Ok(())
    }
}

fn identify(file: impl AsFd) -> io::Result<(FileId, FileType)> {
    let stat = rustix::fs::fstat(file)?;
    Ok(((stat.st_dev, stat.st_ino), FileType::from_raw_mode(stat.st_mode)))
}

fn file_id_of_path(path: &Path) -> Option<FileId> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
    identify(file).ok().map(|(id, _)| id)
}
