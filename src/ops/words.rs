//! Values as people read them.

use serde_json::Value;

use crate::escape::{escape_hidden, escape_hidden_lines, excerpt};

/// Longest text of a cell of the console, in characters; the page of a record has the whole text. *Chosen*: a few lines.
const CELL_CHARS_MAX: usize = 160;

/// Deepest indentation of JSON. *Chosen*: deeper arguments stay readable, and their indentation takes less room than they do.
const INDENT_LEVELS_MAX: usize = 16;

/// The beginning of an untrusted text, for a cell of the console.
pub(crate) fn cell(text: &str) -> String {
    excerpt(text, CELL_CHARS_MAX)
}

/// JSON text with one member a line, or other text as it is; hidden characters are escaped. Nothing else changes: repeated
/// keys, numbers and escapes stay as they were sent.
pub(crate) fn indented_json(text: &str) -> String {
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return escape_hidden_lines(text);
    }
    let (mut out, mut depth, mut rest) = (String::with_capacity(text.len() * 2), 0_usize, text.trim_start());
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth.min(INDENT_LEVELS_MAX)));
    };
    while let Some(c) = rest.chars().next() {
        let (token, after) = rest.split_at(if c == '"' { string_bytes(rest) } else { c.len_utf8() });
        rest = after.trim_start();
        match c {
            '{' | '[' => {
                out.push(c);
                if !rest.starts_with(['}', ']']) {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                if !out.ends_with(['{', '[']) {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => out.push_str(&escape_hidden(token)),
        }
    }
    out
}

/// The length of the JSON string at the beginning of `text`, its quotes included.
fn string_bytes(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// A field of a record as text; empty where it has no value.
pub(crate) fn text(record: &Value, key: &str) -> String {
    match record.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Where a call went, or what the gateway did.
pub(crate) fn target(record: &Value) -> String {
    match (text(record, "backend_name"), text(record, "tool_name")) {
        (backend, tool) if backend.is_empty() && tool.is_empty() => text(record, "method"),
        (backend, tool) if backend.is_empty() => tool,
        (backend, tool) => format!("{backend}/{tool}"),
    }
}

/// The place of a record, as `which` takes it.
pub(crate) fn id(record: &Value) -> String {
    ["gateway_id", "epoch", "seq"].map(|key| text(record, key)).join("/")
}

/// `2026-11-26 10:00:00.000` of RFC 3339; as it is where it is none.
pub(crate) fn moment(rfc3339: &str) -> String {
    match (rfc3339.get(..10), rfc3339.get(11..23), rfc3339.get(10..11)) {
        (Some(date), Some(time), Some("T")) => format!("{date} {time}"),
        _ => escape_hidden(rfc3339).into_owned(),
    }
}

/// Bytes in the unit that suits them.
pub(crate) fn bytes(count: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| count >> shift > 0);
    unit.map_or_else(
        || format!("{count} B"),
        |(unit, shift)| {
            let tenths = (u128::from(count) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        },
    )
}

/// A count with its thousands apart.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count of things, as `1 file`, `2 files`.
pub(crate) fn some(number: usize, thing: &str) -> String {
    format!("{} {thing}{}", count(number as u64), if number == 1 { "" } else { "s" })
}

/// An age.
pub(crate) fn age(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float is clamped")]
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7_200 => format!("{} min", whole / 60),
        7_200..172_800 => format!("{} h", whole / 3_600),
        _ => format!("{} d", whole / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented_json_changes_nothing_but_white_space_and_hidden_characters() {
        let json = r#"{"a":1.50,"a":[ ],"b" : [1,{}],"c\"}":"\u202e{,:\\"}"#;
        let expected = r#"{
  "a": 1.50,
  "a": [],
  "b": [
    1,
    {}
  ],
  "c\"}": "\u202e{,:\\"
}"#;
        assert_eq!(indented_json(json), expected);
        assert_eq!(indented_json("[\"\u{202e}\"]"), "[\n  \"\\u{202e}\"\n]");
        assert_eq!(indented_json("not\nJSON\u{7}"), "not\nJSON\\u{7}");
        let deep = "[".repeat(512) + &"]".repeat(512);
        assert!(indented_json(&deep).len() < 50 * deep.len());
    }

    #[test]
    fn numbers_are_read_easily() {
        assert_eq!([bytes(0), bytes(1_536), bytes(8 << 30)], ["0 B", "1.5 KiB", "8.0 GiB"]);
        assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([age(0.25), age(59.9), age(600.0), age(90_000.0)], ["0.2 s", "59 s", "10 min", "25 h"]);
        assert_eq!(moment("2026-11-26T10:00:00.000001Z"), "2026-11-26 10:00:00.000");
    }
}
