//! Why the outbox cannot be opened, written or read: each error names the file, the reason and what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::audit::codec;
use crate::audit::record::GatewayId;

/// Why the outbox cannot be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {operation} {path}: {source}{remedy}", path = .path.display(), remedy = remedy(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// redb refused.
    #[error("cannot {operation} outbox file {path}: {source}", path = .path.display())]
    Redb {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: Box<redb::Error>,
    },
    /// Another process has the directory.
    #[error(
        "outbox directory {path} is in use by {holder}; stop that gateway or give this one a directory of its own",
        path = .path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the holder wrote into the lock file.
        holder: String,
    },
    /// A file of a later version.
    #[error("outbox file {path} has format {found}, this Gatepost knows {known}; use a newer one", path = .path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// What is known here.
        known: u32,
    },
    /// A file that no outbox wrote.
    #[error("{path} is no outbox: it is {what}; move it away or name another directory", path = .path.display())]
    NotAnOutbox {
        /// The file or directory.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// The directory belongs to a gateway with another id.
    #[error(
        "outbox directory {path} belongs to gateway {found}, the configuration says {configured}; \
         change audit.gateway_id or audit.dir",
        path = .path.display()
    )]
    OtherGateway {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: GatewayId,
        /// Whose it should be.
        configured: GatewayId,
    },
    /// The directory's name leads to another directory than at the start, or to none.
    #[error(
        "outbox directory {path} was moved, removed or replaced under the running gateway; move it back, or stop the \
         gateway, whose open calls end as interrupted"
    , path = .path.display())]
    Replaced {
        /// The directory.
        path: PathBuf,
    },
    /// A stored frame that does not decode.
    #[error("outbox file {path} holds a broken {what}", path = .path.display())]
    Frame {
        /// The file.
        path: PathBuf,
        /// What is broken.
        what: String,
        /// How.
        source: codec::Error,
    },
}

/// What to do about what the file system said, where that is known.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; give the directory of audit.dir to the user that Gatepost runs as, with mode 0700"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; mount it writable, or set audit.dir to a directory on another disk",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room on that file system, or set audit.dir to a directory on another one"
        }
        io::ErrorKind::NotADirectory => "; set audit.dir to a directory",
        _ => "",
    }
}

impl Error {
    /// Whether the file is damaged: no I/O error that may pass, and no file that a newer version reads well.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Redb { source, .. } => match source.as_ref() {
                // redb's words for a wrong magic number, and the overlay's for a file that ends too early.
                redb::Error::Io(error) => {
                    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
                }
                redb::Error::PreviousIo => false,
                // Also a file that redb takes for an old one: format 1 was never written by an older redb.
                _ => true,
            },
            Self::NotAnOutbox { .. } | Self::Frame { .. } => true,
            Self::Io { .. }
            | Self::Locked { .. }
            | Self::NewerFormat { .. }
            | Self::OtherGateway { .. }
            | Self::Replaced { .. } => false,
        }
    }

    /// Whether the disk, or the user's share of it, is full.
    pub(super) fn is_disk_full(&self) -> bool {
        let full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::Io { source, .. } => full(source),
            Self::Redb { source, .. } => matches!(source.as_ref(), redb::Error::Io(error) if full(error)),
            _ => false,
        }
    }

    pub(super) fn redb(operation: &'static str, path: &Path, source: impl Into<redb::Error>) -> Self {
        Self::Redb { operation, path: path.to_owned(), source: Box::new(source.into()) }
    }
}
