//! The file with the key of the digests in records.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::slots;
use crate::audit::record::DigestKey;
use crate::config::Config;
use crate::file_access::{FileError, FileKind};

/// The key's file in the outbox directory.
const KEY_NAME: &str = "digest.key";

/// Longest file that is read, in bytes. *Derived*: 64 digits and a line end, with room.
const FILE_BYTES_MAX: usize = 128;

/// The key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DigestKeyError {
    /// The file cannot be read, or others may read it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file does not contain a key.
    #[error(
        "{path:?} is not a digest key: it must contain 64 hexadecimal digits. Restore it from a backup: with \
             another key, no earlier record can be compared with its arguments or answer"
    )]
    Contents {
        /// The file.
        path: PathBuf,
    },
    /// A new key cannot be stored.
    #[error("cannot create the digest key {path:?}: {source}")]
    Create {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The path of the key of `config`.
pub(super) fn path(config: &Config) -> PathBuf {
    let (audit, in_parent) = (&config.audit, slots::parent(&config.audit.dir).map(|dir| dir.join(KEY_NAME)));
    let in_dir = audit.dir.join(KEY_NAME);
    // The slots of a directory share its key, also for a command that names one of them.
    let default = || in_parent.filter(|key| key.exists() && !in_dir.exists()).unwrap_or(in_dir);
    audit.digest_key_file.clone().unwrap_or_else(default)
}

/// Reads the key of `config`.
///
/// # Errors
/// [`DigestKeyError`], also if there is no file.
pub(super) fn read(config: &Config) -> Result<DigestKey, DigestKeyError> {
    let path = path(config);
    let kind = if config.audit.digest_key_file.is_none() { FileKind::OutboxSecret } else { FileKind::Secret };
    let text = config.audit.files.read(&path, kind, FILE_BYTES_MAX)?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim_ascii(), &mut bytes).map_err(|_| DigestKeyError::Contents { path })?;
    Ok(DigestKey::from_bytes(bytes))
}

/// Reads the key of `config`, or makes and stores one if there is no file.
///
/// # Errors
/// [`DigestKeyError`]; no file is left behind then, or a complete one.
pub(super) fn read_or_create(config: &Config) -> Result<DigestKey, DigestKeyError> {
    let path = path(config);
    if !path.exists() {
        create(&path).map_err(|source| DigestKeyError::Create { path, source })?;
    }
    read(config)
}

/// Stores a new key at `path`, unless another process has just done so.
fn create(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let new = path.with_extension(format!("new-{}", std::process::id()));
    // `create_new` follows no symbolic link.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let text = hex::encode(DigestKey::random().as_bytes()) + "\n";
    let stored = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    // A link, unlike a rename, does not replace the key of another process.
    let linked = stored.and_then(|()| match std::fs::hard_link(&new, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    std::fs::remove_file(&new)?;
    linked.and_then(|()| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(dir: &Path) -> Config {
        let mut config = Config::default();
        config.audit.dir = dir.join("data");
        config
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let key = read_or_create(&config).unwrap();
        assert_eq!(read_or_create(&config).unwrap().as_bytes(), key.as_bytes());
        let names: Vec<_> = config.audit.dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [KEY_NAME]);
        let mode = path(&config).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(path(&config), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_or_create(&config), Err(DigestKeyError::File(_))));
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        read_or_create(&config).unwrap();
        for text in ["", "00", &"0".repeat(63), &"g".repeat(64)] {
            std::fs::write(path(&config), text).unwrap();
            let error = read_or_create(&config).unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
            assert_eq!(std::fs::read_to_string(path(&config)).unwrap(), text);
        }
    }
}
