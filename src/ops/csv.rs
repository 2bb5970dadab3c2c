//! Records as CSV, with the columns of the table. *Spec*: RFC 4180.

use std::borrow::Cow;

use crate::audit::record::{AuditRecord, COLUMNS};
use crate::escape::is_hidden;
use crate::ops::columns::{Value, displayed};

/// The line with the names of the columns.
pub(crate) fn header() -> String {
    COLUMNS.each_ref().map(|column| column.name).join(",") + "\n"
}

/// The line of a record. NULL is an empty cell, an empty text is `""`.
pub(crate) fn line(record: &AuditRecord, text: CellText) -> String {
    COLUMNS.each_ref().map(|column| cell(&displayed(column, record), text)).join(",") + "\n"
}

/// The text of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellText {
    /// As recorded.
    Exact,
    /// With an apostrophe before what a spreadsheet would take for a formula.
    SafeInSpreadsheets,
}

/// A cell. *Spec*: RFC 4180. Text is always quoted, to differ from NULL.
fn cell(value: &Value<'_>, text: CellText) -> String {
    match (value, text) {
        (Value::Null, _) => String::new(),
        (Value::Text(exact), CellText::Exact) => quoted(exact),
        (Value::Text(exact), CellText::SafeInSpreadsheets) => quoted(&without_formulas(exact)),
        (Value::Number(number), _) => number.clone(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The text with an apostrophe before each part that a spreadsheet would execute. Parts begin at the text's beginning
/// and after what a spreadsheet may take for the end of a cell, because it was told of another separator than the
/// comma: a semicolon, a tab, a line break.
fn without_formulas(text: &str) -> Cow<'_, str> {
    let parts: Vec<&str> = text.split_inclusive([';', '\t', '\r', '\n']).collect();
    if !is_formula(text) && !parts.iter().any(|part| is_formula(part)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for (idx, part) in parts.iter().enumerate() {
        if is_formula(part) || idx == 0 && is_formula(text) {
            safe.push('\'');
        }
        safe.push_str(part);
    }
    Cow::Owned(safe)
}

/// Returns true if a spreadsheet may take the text for a formula: it begins with one of `= + - @ | %`, the full-width
/// forms of the first four, tab or carriage return, also after quotes, spaces and characters without a glyph, which are
/// dropped. `|` and `%` are not in OWASP's list; other exporters mark them too, and a mark costs nothing.
fn is_formula(text: &str) -> bool {
    let begin = text.trim_start_matches(|c: char| {
        !matches!(c, '\t' | '\r' | '\n') && (c.is_whitespace() || is_hidden(c) || matches!(c, '"' | '\''))
    });
    begin.starts_with(['=', '+', '-', '@', '|', '%', '\t', '\r', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sample;

    #[test]
    fn text_is_quoted_and_null_is_empty() {
        let mut record = sample::record(1, 2, "a,\"b\"\n=1");
        record.entry.error_message = Some(String::new());
        let cells = COLUMNS.each_ref().map(|column| (column.name, cell(&displayed(column, &record), CellText::Exact)));
        let find = |name: &str| cells.iter().find(|(known, _)| *known == name).unwrap().1.as_str();
        assert_eq!(find("tool_name"), "\"a,\"\"b\"\"\n=1\"");
        assert_eq!([find("client_role"), find("error_message"), find("latency_ms")], ["", "\"\"", "1.5"]);
    }

    #[test]
    fn no_cell_is_a_formula_by_default() {
        let safe = |text: &'static str| cell(&Value::Text(text.into()), CellText::SafeInSpreadsheets);
        for (text, expected) in [
            ("=1+1", "\"'=1+1\""),
            ("=cmd|'/c calc'!A1", "\"'=cmd|'/c calc'!A1\""),
            ("=HYPERLINK(\"http://evil\",\"x\")", "\"'=HYPERLINK(\"\"http://evil\"\",\"\"x\"\")\""),
            ("+1", "\"'+1\""),
            ("-32602: bad", "\"'-32602: bad\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("|calc", "\"'|calc\""),
            ("%0A=1", "\"'%0A=1\""),
            ("\t=1", "\"'\t'=1\""),
            ("\r=1", "\"'\r'=1\""),
            ("\tx", "\"'\tx\""),
            (" \u{a0}\"'=1", "\"' \u{a0}\"\"'=1\""),
            ("\0=1", "\"'\0=1\""),
            ("\u{feff}\u{200b}=1", "\"'\u{feff}\u{200b}=1\""),
            ("\u{ff1d}1", "\"'\u{ff1d}1\""),
            ("a;=1", "\"a;'=1\""),
            ("a\n=1", "\"a\n'=1\""),
        ] {
            assert_eq!(safe(text), expected, "{text:?}");
        }
        for text in ["", "echo", "a=1", "{\"a\":[1,-5],\"b\":\"=1\"}", "2027-01-01T00:00:00Z", "'", "a\nb;c\td"] {
            assert_eq!(safe(text), quoted(text), "unchanged");
            assert_eq!(cell(&Value::Text(text.into()), CellText::Exact), quoted(text));
        }
        assert_eq!(cell(&Value::Text("=1".into()), CellText::Exact), "\"=1\"");
        assert_eq!(cell(&Value::Number("-1.5".to_owned()), CellText::SafeInSpreadsheets), "-1.5");
    }
}
