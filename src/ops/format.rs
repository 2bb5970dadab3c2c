//! Values formatted for people.

use crate::audit::record::{Call, Timestamp, is_own_method};
pub(crate) use crate::counts::{count, plural};
use crate::escape::{escape_hidden, escape_hidden_lines, excerpt};

/// Longest text of a cell of the console, in characters; the page of a record has the whole text. *Chosen*: a few
/// lines.
const CELL_CHARS_MAX: usize = 160;

/// Most levels of indentation of JSON. *Chosen*: arguments that are nested more deeply stay readable, and the
/// indentation does not become longer than the text.
const INDENT_LEVELS_MAX: usize = 16;

/// The beginning of an untrusted text, for a cell of the console.
pub(crate) fn cell(text: &str) -> String {
    excerpt(text, CELL_CHARS_MAX)
}

/// Indents JSON, with one member per line, and leaves other text as it is. Hidden characters are escaped. Nothing else
/// changes: repeated keys, numbers and escapes stay as they were sent.
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

/// The target of a call as BACKEND/TOOL, or its method if it has none. A backend alone follows the method, and so does
/// a target that looks like a record of the gateway's own: a refused call may name what does not exist.
pub(crate) fn target(call: &Call) -> String {
    let target = match (call.backend_name.as_deref(), call.tool_name.as_deref().or(call.resource_uri.as_deref())) {
        (None, None) => return call.method.to_string(),
        (None, Some(tool)) => tool.to_owned(),
        (Some(backend), None) => return format!("{} {backend}/", call.method),
        (Some(backend), Some(tool)) => format!("{backend}/{tool}"),
    };
    if is_own_method(&target) { format!("{} {target}", call.method) } else { target }
}

/// The subject of a call, after its readable name if there is one, and before the actor that acted on its behalf.
pub(crate) fn who(call: &Call) -> String {
    let subject = &call.client_subject;
    let who = call.client_name.as_ref().map_or_else(|| subject.to_string(), |name| format!("{name} ({subject})"));
    call.actor_subject.as_ref().map_or_else(|| who.clone(), |actor| format!("{who} via {actor}"))
}

/// `2026-11-26 10:00:00.000`, in UTC.
pub(crate) fn date_time(timestamp: Timestamp) -> String {
    timestamp.to_datetime().format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// A number of bytes in the largest unit of which there is at least one.
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

/// An age or a remaining time.
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
    use crate::audit::record::RequestId;

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
        let deep = "[".repeat(120) + &"]".repeat(120);
        assert!((30 * 100..40 * 240).contains(&indented_json(&deep).len()), "bounded by 16 levels");
    }

    #[test]
    fn the_target_of_a_call_is_not_shown_as_an_event_of_the_gateway() {
        let shown =
            |method: &str, backend, tool| target(&Call::new(RequestId::new(), method).with_target(backend, tool));
        assert_eq!(shown("gateway/closed", None, None), "gateway/closed");
        assert_eq!(shown("gateway/refusals", Some("fs"), None), "gateway/refusals fs/");
        assert_eq!(shown("tools/call", Some("fs"), Some("gateway/closed")), "fs/gateway/closed");
        for (backend, tool) in [(Some("gateway"), "closed"), (None, "gateway/closed")] {
            assert_eq!(shown("tools/call", backend, Some(tool)), "tools/call gateway/closed");
        }
        assert_eq!(shown("resources/read", None, Some("session/open")), "resources/read session/open");
    }

    #[test]
    fn a_readable_name_is_shown_together_with_the_subject() {
        let mut call = Call::new(RequestId::new(), "tools/call");
        assert_eq!(who(&call), "anonymous");
        (call.client_subject, call.client_name) = ("5f2c".into(), Some("Ann".into()));
        assert_eq!(who(&call), "Ann (5f2c)");
        call.actor_subject = Some("agent".into());
        assert_eq!(who(&call), "Ann (5f2c) via agent");
    }

    #[test]
    fn numbers_have_units_and_thousands() {
        assert_eq!([bytes(0), bytes(1_536), bytes(8 << 30)], ["0 B", "1.5 KiB", "8.0 GiB"]);
        assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([age(0.25), age(59.9), age(600.0), age(90_000.0)], ["0.2 s", "59 s", "10 min", "25 h"]);
        assert_eq!(date_time(Timestamp::from_micros(1_795_683_600_000_001)), "2026-11-26 09:00:00.000");
        assert_eq!([plural(1, "file"), plural(1_000, "file")], ["1 file", "1,000 files"]);
    }
}
