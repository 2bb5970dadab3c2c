//! The text of a checkpoint: C2SP tlog-checkpoint.
//!
//! ```text
//! example.com/gatepost/0d9c3fa6-...                 origin: which log this is
//! 20852163                                          size: how many records the tree has, in decimal
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=      root of the tree, in base64
//! ```
//!
//! Each line ends in a line feed. Gatepost writes no further lines, and keeps those of other logs.

use std::fmt;

use super::text::{base64, decimal, hash, shown};
use super::tree::hash::SIZE_MAX;
use super::tree::{Hash, TreeHead};

/// The most bytes of an origin. *Spec*: C2SP tlog-cosignature, `log_origin<1..2^8-1>`.
pub const ORIGIN_BYTES_MAX: usize = 255;

/// A log's tree at one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    head: TreeHead,
    extensions: Vec<String>,
}

/// A text is not that of a checkpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A line is missing, or the last has no line end.
    #[error("checkpoint has fewer than three lines, or the last does not end")]
    Cut,
    /// The origin cannot be one.
    #[error("checkpoint origin {origin}: it must have 1 to {ORIGIN_BYTES_MAX} bytes, without control characters")]
    Origin {
        /// The beginning of the origin.
        origin: String,
    },
    /// The size is not a number.
    #[error("checkpoint size {size}: it must be a decimal number up to {SIZE_MAX}, without leading zeros")]
    Size {
        /// The beginning of the line.
        size: String,
    },
    /// The root is not a hash.
    #[error("checkpoint root {root}: it must be 32 bytes in base64")]
    Root {
        /// The beginning of the line.
        root: String,
    },
    /// A line after the third is empty.
    #[error("checkpoint has an empty line after its root")]
    Extension,
}

impl Checkpoint {
    /// The checkpoint of the log `origin` at this size.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] and [`CheckpointError::Size`].
    pub fn new(origin: &str, head: TreeHead) -> Result<Self, CheckpointError> {
        let is_allowed = (1..=ORIGIN_BYTES_MAX).contains(&origin.len()) && !origin.chars().any(char::is_control);
        if !is_allowed {
            return Err(CheckpointError::Origin { origin: shown(origin) });
        }
        if head.size > SIZE_MAX {
            return Err(CheckpointError::Size { size: head.size.to_string() });
        }
        Ok(Self { origin: origin.to_owned(), head, extensions: Vec::new() })
    }

    /// The checkpoint of a text, which is that of a note.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError::Cut)?.split('\n');
        let mut next = || lines.next().ok_or(CheckpointError::Cut);
        let (origin, size, root) = (next()?, next()?, next()?);
        let head = TreeHead {
            size: decimal(size).ok_or_else(|| CheckpointError::Size { size: shown(size) })?,
            root: hash(root).ok_or_else(|| CheckpointError::Root { root: shown(root) })?,
        };
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(CheckpointError::Extension);
        }
        Ok(Self { extensions, ..Self::new(origin, head)? })
    }

    /// The log: a name that only it has.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The size and the root of the tree.
    #[must_use]
    pub fn head(&self) -> TreeHead {
        self.head
    }

    /// The number of records in the tree.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.head.size
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.head.root
    }

    /// Further lines, which other logs may have. A cosignature by ML-DSA-44 does not cover them.
    #[must_use]
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

/// The text from which [`Checkpoint::parse`] makes this checkpoint.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.head.size, base64(&self.head.root.0))?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
