//! A text as a reader sees it who removes escapes, with the way back to the text itself.
//!
//! Errors repeat what was sent in many forms: as JSON inside of a string, as the source text of a program, in a URL.

use std::borrow::Cow;
use std::ops::Range;

/// Most layers of escapes that are removed. *Chosen*: each program on the way of a message adds one; a text with more
/// is suspicious.
const LEVELS_MAX: usize = 8;

/// The bytes of a text after some of its escapes were removed.
#[derive(Clone, Debug)]
pub(super) struct View<'t> {
    text: Cow<'t, [u8]>,
    /// For each byte of `text`, and for its end, the place in the original text; empty if both are the same.
    origins: Vec<usize>,
}

impl<'t> View<'t> {
    /// The text itself.
    pub(super) fn of(text: &'t str) -> Self {
        Self { text: Cow::Borrowed(text.as_bytes()), origins: Vec::new() }
    }

    /// The bytes.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The part of the original text that became `range`.
    pub(super) fn origin(&self, range: Range<usize>) -> Range<usize> {
        self.origin_of(range.start)..self.origin_of(range.end)
    }

    fn origin_of(&self, at: usize) -> usize {
        self.origins.get(at).copied().unwrap_or(at)
    }

    /// Shows this view, and those that follow by removing escapes, to `search`. `None`: there are more.
    pub(super) fn each(self, mut search: impl FnMut(&Self)) -> Option<()> {
        let mut view = self;
        for _ in 0..LEVELS_MAX {
            search(&view);
            if let Some(decoded) = view.without_percent() {
                search(&decoded);
            }
            match view.without_escapes() {
                Some(next) => view = next,
                None => return Some(()),
            }
        }
        None
    }

    /// The text without the escapes of JSON and of common programming languages. `None`: it has none.
    pub(super) fn without_escapes(&self) -> Option<Self> {
        self.decoded(b'\\', escape)
    }

    /// The text without the escapes of a URL. `None`: it has none.
    fn without_percent(&self) -> Option<Self> {
        self.decoded(b'%', |rest| Some((Decoded::Byte(hex(rest.get(1..3)?)?), 3)))
    }

    /// The text with each escape that begins with `first` replaced. `decode` returns what it stands for and its length.
    fn decoded(&self, first: u8, decode: impl Fn(&[u8]) -> Option<(Decoded, usize)>) -> Option<Self> {
        memchr::memchr(first, &self.text)?;
        let (mut text, mut origins) = (Vec::with_capacity(self.text.len()), Vec::with_capacity(self.text.len() + 1));
        let (mut at, mut is_changed) = (0, false);
        while let Some(&byte) = self.text.get(at) {
            let rest = self.text.get(at..).unwrap_or_default();
            let found = if byte == first { decode(rest) } else { None };
            is_changed |= found.is_some();
            let (decoded, length) = found.unwrap_or((Decoded::Byte(byte), 1));
            decoded.push(&mut text);
            origins.resize(text.len(), self.origin_of(at));
            at += length;
        }
        origins.push(self.origin_of(at));
        is_changed.then_some(Self { text: Cow::Owned(text), origins })
    }
}

/// The meaning of an escape.
enum Decoded {
    Byte(u8),
    Char(char),
}

impl Decoded {
    fn push(self, text: &mut Vec<u8>) {
        match self {
            Self::Byte(byte) => text.push(byte),
            Self::Char(c) => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The escape at the beginning of `rest`, which begins with a backslash.
fn escape(rest: &[u8]) -> Option<(Decoded, usize)> {
    let simple = |byte| Some((Decoded::Byte(byte), 2));
    match rest.get(1)? {
        byte @ (b'"' | b'\'' | b'\\' | b'/') => simple(*byte),
        b'b' => simple(8),
        b'f' => simple(12),
        b'n' => simple(b'\n'),
        b'r' => simple(b'\r'),
        b't' => simple(b'\t'),
        b'x' => Some((Decoded::Char(char::from(hex(rest.get(2..4)?)?)), 4)),
        b'u' if rest.get(2) == Some(&b'{') => {
            let digits = rest.get(3..rest.len().min(10))?;
            let length = digits.iter().position(|byte| *byte == b'}')?;
            let code = u32::from_str_radix(std::str::from_utf8(digits.get(..length)?).ok()?, 16).ok()?;
            Some((Decoded::Char(char::from_u32(code)?), length + 4))
        }
        b'u' => {
            let first = unit(rest)?;
            let second = || rest.get(6..).filter(|rest| rest.starts_with(b"\\u")).and_then(unit);
            match char::from_u32(first) {
                Some(c) => Some((Decoded::Char(c), 6)),
                None if first < 0xdc00 => match second() {
                    Some(low @ 0xdc00..0xe000) => {
                        let code = 0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00);
                        Some((Decoded::Char(char::from_u32(code)?), 12))
                    }
                    _ => Some((Decoded::Char(char::REPLACEMENT_CHARACTER), 6)),
                },
                None => Some((Decoded::Char(char::REPLACEMENT_CHARACTER), 6)),
            }
        }
        b'U' => {
            let digits = std::str::from_utf8(rest.get(2..10)?).ok()?;
            Some((Decoded::Char(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?), 10))
        }
        _ => None,
    }
}

/// The number in `\uXXXX`.
fn unit(rest: &[u8]) -> Option<u32> {
    let (high, low) = (hex(rest.get(2..4)?)?, hex(rest.get(4..6)?)?);
    Some(u32::from(high) << 8 | u32::from(low))
}

/// The byte that two hexadecimal digits stand for.
fn hex(digits: &[u8]) -> Option<u8> {
    let [high, low] = digits else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}
