//! The owners and permissions of the files that the gateway uses.
//!
//! Files with secrets are opened here and nowhere else. The check is made on the open file, so that the file cannot be
//! replaced between check and use. Symbolic links are followed, because Kubernetes mounts secrets behind them.
//!
//! | | may be owned by | may be read by | may be written by |
//! | --- | --- | --- | --- |
//! | secret | the gateway's user, root | the owner, the named group | the owner |
//! | trusted: public keys, certificates, a configuration without secrets | anyone | anyone | its owner and its group |
//! | directory of the outbox | the gateway's user | the owner, the named group | the owner, the named group |
//! | secret in it | the gateway's user, root | the owner, the named group | the owner, the named group |

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, geteuid};

/// Access bits of the group and of others.
const GROUP_ANY: u32 = 0o070;
const GROUP_WRITE: u32 = 0o020;
const OTHERS_ANY: u32 = 0o007;
const OTHERS_WRITE: u32 = 0o002;

/// The owners and permissions that files may have. Cheap to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileAccess {
    /// The group that may read secrets.
    group: Option<Gid>,
    /// Root may use files of any owner.
    any_owner_for_root: bool,
}

/// A file or directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} {reason}")]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// The reason, which is part of the message and therefore not its source.
    pub reason: Box<FileReason>,
}

/// The reason of a [`FileError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileReason {
    /// It cannot be read.
    #[error("cannot be read ({0}): make it a file that the gateway's user may read")]
    Unreadable(#[source] io::Error),
    /// It is larger than what it should contain.
    #[error("is larger than {limit} bytes: is it the right file?")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// It belongs to another user, who may change it.
    #[error("belongs to {owner}, and must belong to {wanted}: {command}")]
    Owner {
        /// The owner.
        owner: String,
        /// The owners that it may have.
        wanted: String,
        /// The remedy.
        command: String,
    },
    /// Its permissions give others access.
    #[error("has mode {found:04o}, which lets {who} {what} it, and must have mode {wanted:04o}: {command}")]
    Mode {
        /// The permissions.
        found: u32,
        /// The others who have access.
        who: &'static str,
        /// Their access, as a verb.
        what: &'static str,
        /// The permissions that it should have.
        wanted: u32,
        /// The remedy.
        command: String,
    },
    /// The directory of the outbox contains a symbolic link, a pipe or a device. Opening a pipe could take for ever.
    #[error("contains the {what} {name:?}, and nothing in it may lead elsewhere: remove it")]
    Elsewhere {
        /// Its type.
        what: &'static str,
        /// Its name.
        name: String,
    },
}

impl FileError {
    fn new(path: &Path, reason: FileReason) -> Self {
        Self { path: path.to_owned(), reason: Box::new(reason) }
    }
}

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// With a secret: others may neither read nor write it.
    Secret,
    /// A secret in the directory of the outbox: the named group may also write it, as it may write in the directory.
    /// Kubernetes gives the files of a volume these permissions.
    OutboxSecret,
    /// Without a secret: others may not write it.
    Trusted,
}

impl FileAccess {
    /// Access for the group `name`, a name or a number, besides the gateway's user and root.
    ///
    /// # Errors
    /// There is no such group.
    pub fn with_group(name: &str) -> Result<Self, String> {
        let group = match name.parse() {
            Ok(id) => Some(Gid::from_raw(id)),
            Err(_) => Group::from_name(name).ok().flatten().map(|group| group.gid),
        };
        let unknown = || format!("{name:?} is not a group of this system: write the name or the number of one");
        Ok(Self { group: Some(group.ok_or_else(unknown)?), ..Self::default() })
    }

    /// The same for a command with which root looks at what belongs to the gateway's user.
    #[must_use]
    pub fn for_operator(self) -> Self {
        Self { any_owner_for_root: true, ..self }
    }

    /// Opens a file and checks its owner and permissions.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(self, path: &Path, kind: FileKind) -> Result<File, FileError> {
        let unreadable = |source| FileError::new(path, FileReason::Unreadable(source));
        let file = File::open(path).map_err(unreadable)?;
        self.check(path, &file.metadata().map_err(unreadable)?, kind)?;
        Ok(file)
    }

    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read(self, path: &Path, kind: FileKind, limit: usize) -> Result<Vec<u8>, FileError> {
        let error = |reason| FileError::new(path, reason);
        let mut bytes = Vec::new();
        // I6: a file is read up to its limit.
        let mut file = self.open(path, kind)?.take(limit as u64 + 1);
        file.read_to_end(&mut bytes).map_err(|source| error(FileReason::Unreadable(source)))?;
        if bytes.len() > limit { Err(error(FileReason::TooLarge { limit })) } else { Ok(bytes) }
    }

    /// Checks an open file: `metadata` is of the file, and not of a link to it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn check(self, path: &Path, metadata: &Metadata, kind: FileKind) -> Result<(), FileError> {
        self.reason(path, Facts::of(metadata), kind).map_or(Ok(()), |reason| Err(FileError::new(path, reason)))
    }

    /// Checks the directory of the outbox. A directory that does not exist or cannot be read passes; opening the outbox
    /// reports that.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn check_dir(self, dir: &Path) -> Result<(), FileError> {
        let error = |reason| FileError::new(dir, reason);
        let Ok(metadata) = std::fs::metadata(dir) else { return Ok(()) };
        if let Some(reason) = self.dir_reason(dir, Facts::of(&metadata), geteuid()).filter(|_| metadata.is_dir()) {
            return Err(error(reason));
        }
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if let Some(what) = entry.file_type().ok().and_then(leads_elsewhere) {
                let name = entry.file_name().to_string_lossy().into_owned();
                return Err(error(FileReason::Elsewhere { what, name }));
            }
        }
        Ok(())
    }

    /// The reason why a file cannot be used.
    fn reason(self, path: &Path, facts: Facts, kind: FileKind) -> Option<FileReason> {
        if kind == FileKind::Trusted {
            return mode(path, facts, OTHERS_WRITE, "all users", "change", 0o644);
        }
        let user = geteuid();
        let is_operator = self.any_owner_for_root && user.is_root();
        if facts.owner != user && !facts.owner.is_root() && !is_operator {
            return Some(owner(path, facts, user, " or root"));
        }
        let is_named = self.group == Some(facts.group);
        let wanted = if is_named { 0o640 } else { 0o600 };
        let may_write = is_named && kind == FileKind::OutboxSecret;
        mode(path, facts, OTHERS_ANY, "all users", "use", wanted)
            .or_else(|| mode(path, facts, GROUP_WRITE, "its group", "change", wanted).filter(|_| !may_write))
            .or_else(|| mode(path, facts, GROUP_ANY, "its group", "read", wanted).filter(|_| !is_named))
    }

    fn dir_reason(self, dir: &Path, facts: Facts, user: Uid) -> Option<FileReason> {
        if facts.owner != user {
            return Some(owner(dir, facts, user, ""));
        }
        mode(dir, facts, OTHERS_ANY, "all users", "use", 0o700).or_else(|| {
            mode(dir, facts, GROUP_ANY, "its group", "use", 0o700).filter(|_| self.group != Some(facts.group))
        })
    }
}

/// The owner and the permissions of a file.
#[derive(Clone, Copy, Debug)]
struct Facts {
    owner: Uid,
    group: Gid,
    mode: u32,
}

impl Facts {
    fn of(metadata: &Metadata) -> Self {
        Self {
            owner: Uid::from_raw(metadata.uid()),
            group: Gid::from_raw(metadata.gid()),
            mode: metadata.mode() & 0o7777,
        }
    }
}

fn owner(path: &Path, facts: Facts, user: Uid, others: &str) -> FileReason {
    let name = user_name(user);
    FileReason::Owner {
        owner: format!("user {}", user_name(facts.owner)),
        wanted: format!("user {name}, who runs this{others}"),
        command: format!("chown {name} {}, or run this as its owner", quoted(path)),
    }
}

/// The error, if the mode has any of the bits `forbidden`.
fn mode(
    path: &Path,
    facts: Facts,
    forbidden: u32,
    who: &'static str,
    what: &'static str,
    wanted: u32,
) -> Option<FileReason> {
    let named = if who == "its group" && what != "change" {
        format!(", or name its group ({}) in server.secrets_group", facts.group)
    } else {
        String::new()
    };
    let command = format!("chmod {wanted:o} {}{named}", quoted(path));
    (facts.mode & forbidden != 0).then_some(FileReason::Mode { found: facts.mode, who, what, wanted, command })
}

fn user_name(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name)
}

/// The path as a word for a shell.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// The name of a type of directory entries of which reading or writing would not end in the directory.
fn leads_elsewhere(kind: FileType) -> Option<&'static str> {
    let is_device = kind.is_block_device() || kind.is_char_device();
    if kind.is_symlink() {
        Some("symbolic link")
    } else if kind.is_fifo() {
        Some("pipe")
    } else {
        is_device.then_some("device")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn file(dir: &Path, mode: u32) -> PathBuf {
        let path = dir.join(format!("{mode:o}"));
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn facts(owner: u32, mode: u32) -> Facts {
        Facts { owner: Uid::from_raw(owner), group: Gid::from_raw(7), mode }
    }

    #[test]
    fn a_secret_is_for_its_owner_and_the_named_group() {
        let dir = tempfile::tempdir().unwrap();
        let group = fs::metadata(dir.path()).unwrap().gid().to_string();
        let (nobody, named) = (FileAccess::default(), FileAccess::with_group(&group).unwrap());
        let other = FileAccess::with_group("4711").unwrap();
        for (mode, by_owner, by_group) in [
            (0o400, true, true),
            (0o600, true, true),
            (0o700, true, true),
            (0o440, false, true),
            (0o640, false, true),
            (0o650, false, true),
            (0o620, false, false),
            (0o660, false, false),
            (0o604, false, false),
            (0o602, false, false),
            (0o601, false, false),
            (0o644, false, false),
            (0o666, false, false),
        ] {
            let path = file(dir.path(), mode);
            let read = |access: FileAccess| access.read(&path, FileKind::Secret, 6).is_ok();
            assert_eq!((read(nobody), read(other), read(named)), (by_owner, by_owner, by_group), "{mode:o}");
        }
    }

    #[test]
    fn a_secret_in_the_outbox_may_be_written_by_the_named_group_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), 0o660);
        let named = FileAccess::with_group(&fs::metadata(&path).unwrap().gid().to_string()).unwrap();
        for (access, kind, allowed) in [
            (named, FileKind::OutboxSecret, true),
            (named, FileKind::Secret, false),
            (FileAccess::default(), FileKind::OutboxSecret, false),
            (FileAccess::with_group("4711").unwrap(), FileKind::OutboxSecret, false),
        ] {
            assert_eq!(access.read(&path, kind, 6).is_ok(), allowed, "{access:?} {kind:?}");
        }
        let path = file(dir.path(), 0o662);
        assert!(named.read(&path, FileKind::OutboxSecret, 6).is_err());
    }

    #[test]
    fn the_error_names_path_modes_and_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), 0o644);
        let shown = FileAccess::default().read(&path, FileKind::Secret, 6).unwrap_err().to_string();
        let path = path.display();
        assert_eq!(
            shown,
            format!("\"{path}\" has mode 0644, which lets all users use it, and must have mode 0600: chmod 600 {path}")
        );
        let shown =
            FileAccess::default().reason(Path::new("/a b'c"), facts(0, 0o440), FileKind::Secret).unwrap().to_string();
        let wanted = "must have mode 0600: chmod 600 '/a b'\\''c', or name its group (7) in server.secrets_group";
        assert!(shown.ends_with(wanted), "{shown}");
    }

    #[test]
    fn a_secret_of_another_user_is_refused_and_one_of_root_is_not() {
        let other = if geteuid().is_root() { 65_534 } else { geteuid().as_raw() + 1 };
        let access = FileAccess::default();
        let reason = |owner| access.reason(Path::new("/x"), facts(owner, 0o600), FileKind::Secret);
        assert!(matches!(reason(other), Some(FileReason::Owner { .. })));
        assert!(reason(0).is_none() && reason(geteuid().as_raw()).is_none());
        let shown = reason(other).unwrap().to_string();
        assert!(shown.contains("chown ") && shown.contains("/x"), "{shown}");
    }

    #[test]
    fn a_trusted_file_is_not_writable_by_all() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, allowed) in [(0o644, true), (0o664, true), (0o666, false), (0o602, false)] {
            let path = file(dir.path(), mode);
            assert_eq!(FileAccess::default().read(&path, FileKind::Trusted, 6).is_ok(), allowed, "{mode:o}");
        }
    }

    #[test]
    fn a_link_is_followed_and_its_target_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        // As Kubernetes mounts a secret: key -> ..data/key, ..data -> ..2027_01_01.
        fs::create_dir(dir.path().join("..2027")).unwrap();
        symlink("..2027", dir.path().join("..data")).unwrap();
        for (mode, allowed) in [(0o400, true), (0o444, false)] {
            let target = file(&dir.path().join("..2027"), mode);
            let link = dir.path().join(format!("key{mode}"));
            symlink(Path::new("..data").join(target.file_name().unwrap()), &link).unwrap();
            assert_eq!(FileAccess::default().read(&link, FileKind::Secret, 6).is_ok(), allowed);
        }
    }

    #[test]
    fn i6_a_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), 0o600);
        assert!(FileAccess::default().read(&path, FileKind::Secret, 6).is_ok());
        let error = FileAccess::default().read(&path, FileKind::Secret, 5).unwrap_err();
        assert!(error.to_string().ends_with("is larger than 5 bytes: is it the right file?"), "{error}");
    }

    #[test]
    fn the_directory_of_an_outbox_is_the_gateways_own() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let access = FileAccess::default();
        access.check_dir(&dir).unwrap();
        fs::create_dir_all(&dir).unwrap();
        let group = FileAccess::with_group(&fs::metadata(&dir).unwrap().gid().to_string()).unwrap();
        for (mode, by_owner, by_group) in [
            (0o700, true, true),
            (0o770, false, true),
            (0o2770, false, true),
            (0o750, false, true),
            (0o705, false, false),
            (0o777, false, false),
        ] {
            fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            let found = (access.check_dir(&dir).is_ok(), group.check_dir(&dir).is_ok());
            assert_eq!(found, (by_owner, by_group), "{mode:o}");
        }
        let strangers = facts(4711, 0o700);
        assert!(matches!(access.dir_reason(&dir, strangers, Uid::from_raw(12)), Some(FileReason::Owner { .. })));
        // Root's directory is not the gateway's own: it could not write in it.
        assert!(access.dir_reason(&dir, facts(0, 0o700), Uid::from_raw(12)).is_some());
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        symlink("/nonexistent", dir.join("serve.tmp")).unwrap();
        let error = access.check_dir(&dir).unwrap_err().to_string();
        assert!(error.contains("contains the symbolic link \"serve.tmp\""), "{error}");
    }
}
