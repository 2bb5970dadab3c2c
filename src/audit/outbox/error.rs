//! The errors of the outbox. Each message names the file, the reason and, if there is one, a remedy.

use std::io;
use std::path::{Path, PathBuf};

use super::lock::LockError;
use crate::audit::codec::CodecError;
use crate::audit::record::GatewayId;

/// The outbox cannot be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// A file-system operation outside redb failed: on the directory, the lock, the ballast, or a file that is created,
    /// renamed, linked or removed. The disk may be full or read-only, or the permissions wrong.
    #[error("cannot {operation} {path}: {source}{remedy}", path = .path.display(), remedy = remedy(source))]
    Io {
        /// The operation, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
    /// redb returned an error: its own I/O failed, or it found the file damaged.
    #[error("cannot {operation} outbox file {path}: {source}", path = .path.display())]
    Redb {
        /// The operation, as a verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of redb.
        source: Box<redb::Error>,
    },
    /// Another process holds the directory's lock: usually a second gateway that was started with the same `audit.dir`.
    #[error(
        "outbox directory {path} is in use by {holder}; stop that gateway or give this one a directory of its own",
        path = .path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The contents of the lock file, which the holder wrote.
        holder: String,
    },
    /// The file was written by a later version of Gatepost. Nothing is changed.
    #[error(
        "outbox file {path} has format {found}, but this version of Gatepost reads only format {known}; \
         use a newer version",
        path = .path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format in the file's meta table.
        found: u32,
        /// The format that this version reads.
        known: u32,
    },
    /// The file has the name of a generation file, and is empty or has no usable meta table.
    #[error(
        "{path} is not an outbox file: {what}; move it away, or set audit.dir to another directory",
        path = .path.display()
    )]
    NotAnOutbox {
        /// The file.
        path: PathBuf,
        /// The reason why the file is not an outbox file.
        what: String,
    },
    /// The directory was begun by a gateway with another id: `audit.dir` or `audit.gateway_id` was changed, or the
    /// directory was copied from another gateway.
    #[error(
        "outbox directory {path} belongs to gateway {found}, but the configuration says {configured}; \
         change audit.gateway_id or audit.dir",
        path = .path.display()
    )]
    OtherGateway {
        /// The directory.
        path: PathBuf,
        /// The id in the directory's files.
        found: GatewayId,
        /// The id in the configuration.
        configured: GatewayId,
    },
    /// The directory's path no longer leads to the directory that was opened: it was moved, removed or mounted over
    /// while the gateway ran.
    #[error(
        "outbox directory {path} was moved, removed or replaced under the running gateway; move it back, or stop the \
         gateway, whose open calls end as interrupted",
        path = .path.display()
    )]
    DirectoryReplaced {
        /// The directory.
        path: PathBuf,
    },
    /// A frame that should be whole does not decode: an intent whose bytes were damaged.
    #[error("outbox file {path} contains a broken {what}", path = .path.display())]
    BrokenFrame {
        /// The file.
        path: PathBuf,
        /// The kind of frame and its key.
        what: String,
        /// The reason.
        source: CodecError,
    },
}

/// The remedy for an error of the file system, or nothing if none is known.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; give the directory of audit.dir to the user that Gatepost runs as, with mode 0700"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; mount it writable, or set audit.dir to a directory on another disk",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room on that file system, or set audit.dir to a directory on another one"
        }
        io::ErrorKind::FileTooLarge => "; raise the limit for the size of files (ulimit -f, LimitFSIZE=)",
        io::ErrorKind::NotADirectory => "; set audit.dir to a directory",
        _ => "",
    }
}

/// Returns true if the disk, or the user's quota on it, is full.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl OutboxError {
    /// Returns true if the file is damaged. I/O errors that may pass, and files that a newer version can read, are not
    /// damage.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Redb { source, .. } => match source.as_ref() {
                // redb's error for a wrong magic number, and the overlay's for a file that ends too early.
                redb::Error::Io(error) => {
                    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
                }
                redb::Error::PreviousIo => false,
                // This includes a file that redb takes for an older version's: no older redb ever wrote format 1.
                _ => true,
            },
            Self::NotAnOutbox { .. } | Self::BrokenFrame { .. } => true,
            Self::Io { .. }
            | Self::Locked { .. }
            | Self::NewerFormat { .. }
            | Self::OtherGateway { .. }
            | Self::DirectoryReplaced { .. } => false,
        }
    }

    /// Returns true if the disk, or the user's quota on it, is full.
    pub(super) fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_disk_full(source),
            Self::Redb { source, .. } => matches!(source.as_ref(), redb::Error::Io(error) if is_disk_full(error)),
            _ => false,
        }
    }

    /// Turns an I/O error of `operation` on `path` into [`OutboxError::Io`].
    pub(super) fn lock(dir: &Path, error: LockError) -> Self {
        match error {
            LockError::Held(holder) => Self::Locked { path: dir.to_owned(), holder },
            LockError::Io(source) => Self::io("lock", dir)(source),
        }
    }

    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }

    pub(super) fn redb(operation: &'static str, path: &Path, source: impl Into<redb::Error>) -> Self {
        Self::Redb { operation, path: path.to_owned(), source: Box::new(source.into()) }
    }
}
