//! How a simulated disk ends, fails and lies, and what its watcher is told.

/// What can be known of a moment by who watches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A directory was looked at: the outbox does this once at the begin of every commit.
    Looked,
    /// The disk froze.
    Crashed,
    /// An operation failed as it was told to.
    Failed,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// What was written is still in the page cache, synced or not.
    Kill,
    /// Only the platter is left.
    PowerLoss,
}

/// Which operations fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    Once(u64),
    From(u64),
}

/// A promise that a disk breaks. Each is a seeded fault: the suite must notice it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    #[default]
    None,
    /// An fsync of a file says that it succeeded and does nothing.
    FileSync,
    /// An fsync of a file takes effect with the next one, after it has returned.
    LateFileSync,
    /// A file's fsyncs do nothing before it has its final name.
    SyncAfterRename,
    /// An fsync of a directory says that it succeeded and does nothing.
    DirectorySync,
    /// The oldest file is gone as soon as there is a newer one.
    EarlyUnlink,
    /// A failure is not told of.
    SwallowedFailure,
    /// No second file can be made.
    NoSecondFile,
}
