//! Pieces that the text formats share: base64, decimal numbers, lines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::tree::Hash;
use super::tree::hash::SIZE_MAX;

/// Base64 with padding: RFC 4648, section 4.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a base64 text, if it is the one way to write them.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// The hash that a line of base64 holds.
pub(super) fn hash(line: &str) -> Option<Hash> {
    Some(Hash(from_base64(line)?.try_into().ok()?))
}

/// A decimal number without sign and leading zeros, at most [`SIZE_MAX`].
pub(super) fn decimal(text: &str) -> Option<u64> {
    let is_canonical = text == "0" || !text.starts_with('0');
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_canonical && is_number && *number <= SIZE_MAX)
}

/// The part of a text that an error message may show: 64 characters, escaped.
pub(super) fn shown(text: &str) -> String {
    /// *Chosen*: enough to recognize a line.
    const SHOWN_CHARS: usize = 64;
    let cut: String = text.chars().take(SHOWN_CHARS).collect();
    format!("{cut:?}{}", if cut.len() < text.len() { "..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_have_one_spelling() {
        for (text, number) in [("0", 0), ("7", 7), ("9223372036854775807", SIZE_MAX)] {
            assert_eq!(decimal(text), Some(number));
        }
        for text in
            ["", "00", "07", "+7", "-7", " 7", "7 ", "7.0", "0x7", "9223372036854775808", "99999999999999999999"]
        {
            assert_eq!(decimal(text), None, "{text}");
        }
    }

    #[test]
    fn base64_has_one_spelling() {
        assert_eq!(from_base64(&base64(&[255, 0, 7])), Some(vec![255, 0, 7]));
        // Without padding, with bits left over, of the URL alphabet, with white space.
        for text in ["/w", "/x==", "_w==", "/w==\n", " /w=="] {
            assert_eq!(from_base64(text), None, "{text}");
        }
        assert!(hash(&base64(&[1; 32])).is_some() && hash(&base64(&[1; 31])).is_none());
    }
}
