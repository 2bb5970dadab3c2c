//! Names of tools and prompts at the endpoint of all backends: the alias of the backend, [`SEPARATOR`], and the name.

/// The separator between alias and name. An alias does not contain it.
pub(crate) const SEPARATOR: &str = "__";

/// Longest name, in characters. *Measured*: common clients refuse longer names, and names with characters other than
/// letters, digits, `_` and `-`, and the whole list with them (docs/measurements.md, "MCP").
pub(crate) const NAME_CHARS_MAX: usize = 64;

/// Digits of the digest at the end of a name that stands for another. *Derived*: 32 bits; a backend lists at most some
/// thousand names.
pub(crate) const DIGEST_CHARS: usize = 8;

/// Returns true if clients accept the byte in a name.
#[must_use]
pub const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Returns true if `name` has the form of one that stands for another. A backend's own name of this form is replaced,
/// too.
#[must_use]
pub fn is_replaced(name: &str) -> bool {
    let Some((_, digest)) = name.rsplit_once(SEPARATOR).filter(|(head, _)| head.contains(SEPARATOR)) else {
        return false;
    };
    digest.len() == DIGEST_CHARS && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns true if clients accept `name`, with its alias before it, and it does not have the form of one that stands
/// for another.
#[must_use]
pub fn is_plain(name: &str) -> bool {
    name.len() <= NAME_CHARS_MAX && name.bytes().all(is_name_byte) && !is_replaced(name)
}
