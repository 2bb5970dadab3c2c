//! Signature lines of notes.

use std::fmt;

use super::key::{KeyId, VerifierKey, checked_name};
use super::text::{base64, from_base64};

/// The beginning of a signature line: an em dash and a space. *Spec*: C2SP signed-note.
const DASH: &str = "\u{2014} ";

/// One signature line, which may be of any type.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    name: String,
    id: KeyId,
    bytes: Vec<u8>,
}

impl Signature {
    pub(super) fn new(key: &VerifierKey, bytes: Vec<u8>) -> Self {
        Self { name: key.name().to_owned(), id: key.id(), bytes }
    }

    /// The signature of a line without its line end.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(DASH)?.split_once(' ')?;
        let decoded = from_base64(encoded)?;
        let (id, bytes) = decoded.split_first_chunk().filter(|(_, bytes)| !bytes.is_empty())?;
        Some(Self { name: checked_name(name).ok()?.to_owned(), id: KeyId(*id), bytes: bytes.to_vec() })
    }

    /// The name of the key that signed.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the key that signed.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The bytes after the id, whose form depends on the key's type.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The line, without its line end.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{DASH}{} {}", self.name, base64(&[&self.id.0, &self.bytes[..]].concat()))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.name, self.id)
    }
}
