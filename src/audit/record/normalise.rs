//! Limits of a record's fields, and the changes that keep a value within them.

use std::borrow::Cow;

use crate::mcp::json;

/// Longest text of an identity or name field, in bytes.
///
/// *Derived*: a btree row of Postgres has at most 2,704 bytes (a third of a page), and `client_subject` and `tool_name`
/// are each indexed together with a timestamp. 1,024 leaves room for both and for alignment.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Longest URI of a resource, in bytes. *Chosen*: the limit of common HTTP servers; no index contains it.
pub const RESOURCE_BYTES_MAX: usize = 8 * 1024;

/// Longest `error_message`, in bytes. *Chosen*: enough for a backend's message, and small enough to reserve a record's
/// room before its outcome is known.
pub const ERROR_BYTES_MAX: usize = 2048;

/// Deepest nesting of recorded JSON text. *Derived*: Postgres parses `json` recursively and refuses about 6,000 levels
/// at its default `max_stack_depth` (54001). 512 is far below that and above the 128 levels of a client's message.
pub const JSON_DEPTH_MAX: usize = 512;

/// Default for the longest `request_args` and `request_extra` together, in bytes. *Spec*: docs/design.md, "Record".
pub const PARAMS_BYTES_MAX_DEFAULT: usize = 1024 * 1024;

/// The longest `request_args` and `request_extra` together that can be configured, in bytes. *Derived*: half of a
/// frame's body.
pub const PARAMS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Default for the longest `response`, in bytes. *Chosen*: most answers of tools are shorter, and each open call whose
/// answer will be recorded reserves as much of the ring.
pub const RESPONSE_BYTES_MAX_DEFAULT: usize = 64 * 1024;

/// The longest `response` that can be configured, in bytes. *Derived*: a quarter of a frame's body.
pub const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Cuts `text` to `bytes_max` at a character boundary and replaces NUL. Returns whether anything changed.
pub(super) fn normalise(text: &str, bytes_max: usize) -> (Cow<'_, str>, bool) {
    let cut = &text[..text.floor_char_boundary(bytes_max)];
    if !cut.contains('\0') {
        return (Cow::Borrowed(cut), cut.len() < text.len());
    }
    let mut out = cut.replace('\0', "\u{fffd}");
    // I6: the replacement character is longer than NUL.
    out.truncate(out.floor_char_boundary(bytes_max));
    (Cow::Owned(out), true)
}

/// The beginning of `json`, as a JSON string of at most `bytes_max` bytes. An answer is an object, so that
/// the string cannot be taken for a whole one.
pub(super) fn beginning(json: &str, bytes_max: usize) -> String {
    let mut room = bytes_max.saturating_sub(2);
    let end = json.char_indices().find(|(_, c)| {
        let bytes = match c {
            '"' | '\\' => 2,
            '\0'..' ' => 6,
            c => c.len_utf8(),
        };
        let is_full = bytes > room;
        room -= bytes.min(room);
        is_full
    });
    let end = end.map_or(json.len(), |(at, _)| at);
    json::quoted(json.get(..end).unwrap_or_default())
}

/// The deepest nesting of arrays and objects in valid JSON text.
pub(super) fn json_depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_text_is_a_string_within_its_limit() {
        let text = "{\"a\":\"\\u0000\\\"x\",\"b\":\"\u{e9}\u{1}\"}";
        for bytes_max in 2..40 {
            let string = beginning(text, bytes_max);
            let read: String = serde_json::from_str(&string).unwrap();
            assert!(string.len() <= bytes_max && text.starts_with(&read), "{string}");
        }
        assert_eq!(serde_json::from_str::<String>(&beginning(text, 1000)).unwrap(), text);
        assert_eq!(beginning(r#"aa"b"#, 6), r#""aa\"""#);
    }

    #[test]
    fn brackets_inside_strings_do_not_count_as_nesting() {
        assert_eq!(json_depth(r#"{"a":"[[[[\"[[","b":[1]}"#), 2);
    }
}
