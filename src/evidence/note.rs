//! Signed notes: C2SP signed-note.
//!
//! ```text
//! text, which ends in a line feed
//!                                                      (an empty line)
//! U+2014 " " NAME " " base64( ID (4 bytes) || signature ) LF      for each signature
//! ```

use std::fmt;

use super::cosignature::{self, UnixTime};
use super::key::{KeyId, VerifierKey};
use super::signature::Signature;
use super::text::shown;

/// The most signatures of a note. *Chosen*: twice the 16 that C2SP signed-note demands.
pub const SIGNATURES_MAX: usize = 32;

/// The most bytes of a note. *Derived*: [`SIGNATURES_MAX`] lines of ML-DSA-44 (3.5 KB each), and a page of text.
pub const NOTE_BYTES_MAX: usize = 128 * 1024;

/// A text with its signatures, which [`Note::verify`] checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

/// A signature that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<'a> {
    /// The key that signed.
    pub key: &'a VerifierKey,
    /// The time at which it signed, if the signature includes it.
    pub time: Option<UnixTime>,
}

/// Bytes are not a signed note, or no signature counts.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The note is too long.
    #[error("note has {bytes} bytes, limit {NOTE_BYTES_MAX}")]
    TooLong {
        /// The number of bytes.
        bytes: usize,
    },
    /// The note is not UTF-8.
    #[error("note is not UTF-8 at byte {at}")]
    Utf8 {
        /// The offset of the first byte that is not.
        at: usize,
    },
    /// The note contains a control character other than a line feed.
    #[error("note has the control character {character:?}")]
    Control {
        /// The character.
        character: char,
    },
    /// There is no empty line between text and signatures.
    #[error("note has no empty line between its text and its signatures")]
    NoSignatures,
    /// The text is empty or its last line does not end.
    #[error("text of the note is empty or does not end in a line end")]
    Text,
    /// A line is not a signature line.
    #[error("line {line} after the text of the note is not a signature line: {text}")]
    Line {
        /// The number of the line, from 1.
        line: usize,
        /// The beginning of the line.
        text: String,
    },
    /// There are too many signatures.
    #[error("note has more than {SIGNATURES_MAX} signatures")]
    TooMany,
    /// A signature of a known key is wrong: the text or the signature was changed.
    #[error("the signature of {name} (key id {id}) does not match: note or signature was changed")]
    Invalid {
        /// The key's name.
        name: String,
        /// The key's id.
        id: KeyId,
    },
    /// None of the signatures is of a known key.
    #[error("note is not signed by any of the {keys} known keys; it is signed by {signers}")]
    Unknown {
        /// The number of known keys.
        keys: usize,
        /// The names and ids of the signers.
        signers: String,
    },
}

impl Note {
    /// A note of this text with these signatures.
    ///
    /// # Errors
    /// [`NoteError::Text`], [`NoteError::Control`], [`NoteError::TooMany`] and [`NoteError::TooLong`].
    pub fn new(text: String, signatures: Vec<Signature>) -> Result<Self, NoteError> {
        if text.len() < 2 || !text.ends_with('\n') {
            return Err(NoteError::Text);
        }
        if let Some(character) = control_character(&text) {
            return Err(NoteError::Control { character });
        }
        if signatures.len() > SIGNATURES_MAX {
            return Err(NoteError::TooMany);
        }
        let note = Self { text, signatures };
        let bytes = note.to_string().len();
        if bytes > NOTE_BYTES_MAX { Err(NoteError::TooLong { bytes }) } else { Ok(note) }
    }

    /// The note of these bytes. The signatures are not checked.
    ///
    /// # Errors
    /// [`NoteError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong { bytes: bytes.len() });
        }
        let note = str::from_utf8(bytes).map_err(|error| NoteError::Utf8 { at: error.valid_up_to() })?;
        if let Some(character) = control_character(note) {
            return Err(NoteError::Control { character });
        }
        // The last empty line is the separator: signature lines are not empty, and the text may have empty lines.
        let (text, lines) = note.rsplit_once("\n\n").ok_or(NoteError::NoSignatures)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::NoSignatures)?;
        let mut signatures = Vec::new();
        for (idx, line) in lines.split('\n').enumerate() {
            // Refused before the rest is decoded.
            if idx == SIGNATURES_MAX {
                return Err(NoteError::TooMany);
            }
            let wrong = || NoteError::Line { line: idx + 1, text: shown(line) };
            signatures.push(Signature::parse(line).ok_or_else(wrong)?);
        }
        Self::new(format!("{text}\n"), signatures)
    }

    /// The text, with its last line end.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, verified or not.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The signatures of `keys`, of which there is at least one. Signatures of other keys are ignored.
    ///
    /// # Errors
    /// [`NoteError::Invalid`] if a signature of one of the keys does not match, whatever the others do, and
    /// [`NoteError::Unknown`] if no signature is of one of the keys.
    pub fn verify<'a>(&self, keys: impl IntoIterator<Item = &'a VerifierKey>) -> Result<Vec<Verified<'a>>, NoteError> {
        let keys: Vec<&VerifierKey> = keys.into_iter().collect();
        let mut verified = Vec::new();
        for signature in &self.signatures {
            let signed = |key: &&&VerifierKey| key.name() == signature.name() && key.id() == signature.id();
            for key in keys.iter().filter(signed) {
                let time = cosignature::verify(key, &self.text, signature.bytes())
                    .map_err(|_| NoteError::Invalid { name: signature.name().to_owned(), id: signature.id() })?;
                verified.push(Verified { key, time });
            }
        }
        if verified.is_empty() {
            let signers: Vec<String> = self.signatures.iter().map(|signer| format!("{signer:?}")).collect();
            return Err(NoteError::Unknown { keys: keys.len(), signers: signers.join(", ") });
        }
        Ok(verified)
    }
}

/// The bytes from which [`Note::parse`] makes this note.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

/// The first control character that a note cannot have. *Spec*: C2SP signed-note.
fn control_character(text: &str) -> Option<char> {
    text.chars().find(|c| *c < ' ' && *c != '\n')
}
