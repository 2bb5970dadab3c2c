//! The rules by which a trail is judged.

use std::time::Duration;

use super::place::StreamId;
use crate::audit::record::Timestamp;

/// The store that the records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Postgres, which has every stream from its first record on, and cursors.
    Postgres,
    /// An outbox, which removes the beginning of a stream once it is delivered, and has no cursors.
    Outbox,
}

impl Origin {
    pub(super) fn store(self) -> &'static str {
        match self {
            Self::Postgres => "this database",
            Self::Outbox => "this directory",
        }
    }
}

/// The file of heads of `--expect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// There is none.
    #[default]
    Nothing,
    /// It confirms what is up to its heads.
    Heads,
    /// The same, and what is after them is not proven.
    OnlyHeads,
}

impl Expect {
    /// The file of a command line, if it has one.
    #[must_use]
    pub fn new(is_given: bool, strict: bool) -> Self {
        match (is_given, strict) {
            (false, _) => Self::Nothing,
            (true, false) => Self::Heads,
            (true, true) => Self::OnlyHeads,
        }
    }
}

/// The rules by which a trail is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most faults, and most unproven parts, to list; all are counted.
    pub findings_max: usize,
    /// The time of the snapshot.
    pub now: Timestamp,
    /// The age up to which a missing end is not a fault.
    pub settle: Duration,
    /// The file of heads.
    pub expect: Expect,
    /// True if the live gateway itself reads its own records.
    pub vouched: bool,
    /// True if the store is a replica, which may lag.
    pub replica: bool,
    /// The streams that live gateways are writing.
    pub live: Vec<StreamId>,
}
