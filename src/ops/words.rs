//! Values as people read them.

use serde_json::Value;

/// Longest text of a cell, in characters; the whole of it is in the record's own page. *Chosen*: a few lines.
const CELL_MAX: usize = 160;

/// Text whose control characters, and those that turn its direction or take no room, are written as escapes: what a
/// record holds must not look like something else.
pub(crate) fn visible(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    text.chars().map(|c| if hidden(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// The beginning of it.
pub(crate) fn short(text: &str) -> String {
    match text.char_indices().nth(CELL_MAX) {
        Some((end, _)) => format!("{}...", visible(text.get(..end).unwrap_or_default())),
        None => visible(text),
    }
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
        _ => visible(rfc3339),
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
    fn what_would_hide_is_visible() {
        assert_eq!(visible("a\u{202e}b\u{200b}\u{7}\n\u{e9}"), "a\\u{202e}b\\u{200b}\\u{7}\\u{a}\u{e9}");
        assert_eq!(short(&"x".repeat(CELL_MAX)), "x".repeat(CELL_MAX));
        assert_eq!(short(&"\u{e9}".repeat(CELL_MAX + 1)), format!("{}...", "\u{e9}".repeat(CELL_MAX)));
    }

    #[test]
    fn numbers_are_read_easily() {
        assert_eq!([bytes(0), bytes(1_536), bytes(8 << 30)], ["0 B", "1.5 KiB", "8.0 GiB"]);
        assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([age(0.25), age(59.9), age(600.0), age(90_000.0)], ["0.2 s", "59 s", "10 min", "25 h"]);
        assert_eq!(moment("2026-11-26T10:00:00.000001Z"), "2026-11-26 10:00:00.000");
    }
}
