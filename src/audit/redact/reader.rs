//! Reading the tokens of valid JSON text. Of text that is not valid, a reader ends or reports [`NotJson`].

use std::ops::Range;

/// The text is not JSON, or is nested too deeply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotJson;

/// A position in JSON text.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    json: &'a str,
    at: usize,
}

/// The kind of a token with content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// The name of a member, with its quotes.
    Name,
    /// A string, with its quotes.
    Text,
    /// A number.
    Number,
}

impl<'a> Reader<'a> {
    pub(super) fn new(json: &'a str) -> Self {
        Self { json, at: 0 }
    }

    /// The position, in bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The first byte of the next token.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let bytes = self.json.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    /// Reads the byte `wanted`, if it is the next token.
    pub(super) fn take(&mut self, wanted: u8) -> bool {
        let is_next = self.peek() == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    /// Reads a string. Returns its range, with the quotes.
    pub(super) fn string(&mut self) -> Result<Range<usize>, NotJson> {
        let begin = self.at;
        if !self.take(b'"') {
            return Err(NotJson);
        }
        let begin = begin.max(self.at - 1);
        let bytes = self.json.as_bytes();
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let skipped = memchr::memchr2(b'"', b'\\', rest).ok_or(NotJson)?;
            let is_end = rest.get(skipped) == Some(&b'"');
            self.at += skipped + if is_end { 1 } else { 2 };
            if is_end {
                return Ok(begin..self.at);
            }
        }
    }

    /// Reads a value of any kind. Returns its range.
    pub(super) fn value(&mut self) -> Result<Range<usize>, NotJson> {
        let first = self.peek().ok_or(NotJson)?;
        let begin = self.at;
        match first {
            b'"' => return self.string(),
            b'{' | b'[' => {
                let mut depth = 0_usize;
                loop {
                    match self.peek().ok_or(NotJson)? {
                        b'"' => {
                            self.string()?;
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    self.at += 1;
                    if depth == 0 {
                        return Ok(begin..self.at);
                    }
                }
            }
            _ => self.literal(),
        }
        if self.at == begin { Err(NotJson) } else { Ok(begin..self.at) }
    }

    /// Skips a number or a word.
    fn literal(&mut self) {
        let rest = self.json.as_bytes().get(self.at..).unwrap_or_default();
        let is_part = |byte: &&u8| byte.is_ascii_digit() || matches!(**byte, b'+' | b'-' | b'.' | b'e' | b'E');
        let word = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word.as_bytes()));
        self.at += word.map_or_else(|| rest.iter().take_while(is_part).count(), str::len);
    }
}

/// The tokens of JSON text that have content, in order, with their ranges.
pub(super) fn tokens(json: &str) -> impl Iterator<Item = (TokenKind, Range<usize>)> {
    let mut reader = Reader::new(json);
    std::iter::from_fn(move || {
        loop {
            match reader.peek()? {
                b'"' => {
                    let range = reader.string().ok()?;
                    let kind = if reader.peek() == Some(b':') { TokenKind::Name } else { TokenKind::Text };
                    return Some((kind, range));
                }
                b'-' | b'0'..=b'9' => {
                    let begin = reader.at();
                    reader.literal();
                    return Some((TokenKind::Number, begin..reader.at()));
                }
                _ => reader.at += 1,
            }
        }
    })
}

/// Replaces parts of `text`. The ranges are in order and do not overlap.
pub(super) fn spliced(text: &str, edits: &[(Range<usize>, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (range, new) in edits {
        out.push_str(text.get(at..range.start).unwrap_or_default());
        out.push_str(new);
        at = range.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_tokens_have_their_ranges() {
        let json = r#" {"a\"b" : [1, "x\\", {"c":-2.5e3}], "d":null} "#;
        let mut reader = Reader::new(json);
        assert_eq!(&json[reader.value().unwrap()], json.trim());
        assert_eq!(reader.peek(), None);
        let found: Vec<_> = tokens(json).map(|(kind, range)| (kind, &json[range])).collect();
        let (name, text, number) = (TokenKind::Name, TokenKind::Text, TokenKind::Number);
        let expected = [
            (name, r#""a\"b""#),
            (number, "1"),
            (text, r#""x\\""#),
            (name, r#""c""#),
            (number, "-2.5e3"),
            (name, r#""d""#),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn text_that_is_not_json_is_an_error_and_not_a_panic() {
        for text in ["", "{", "[1", "x", "S3", "\"", "\"\\", "}", ",", "{\"a\":", "\u{e9}", "\"\u{e9}"] {
            assert_eq!(Reader::new(text).value(), Err(NotJson), "{text:?}");
            tokens(text).for_each(drop);
        }
    }
}
