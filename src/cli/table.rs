//! Plain tables for people.

use serde_json::Value;

use crate::escape::excerpt;

/// Widest cell, in characters. *Chosen*: seven columns fit a wide terminal.
const CELL_CHARS_MAX: usize = 40;

/// Rows under headings, columns as wide as their widest cell.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines: Vec<Vec<String>> = vec![headings.iter().map(|&heading| heading.to_owned()).collect()];
    lines.extend(rows.iter().map(|row| row.iter().map(|text| excerpt(text, CELL_CHARS_MAX)).collect()));
    let width = |idx: usize| lines.iter().filter_map(|row| row.get(idx)).map(|text| text.chars().count()).max();
    let widths: Vec<usize> = (0..headings.len()).map(|idx| width(idx).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &lines {
        let padded = row.iter().zip(&widths).map(|(text, width)| format!("{text:width$}"));
        out.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A record's columns for a table of records.
pub(super) const RECORD_HEADINGS: [&str; 9] =
    ["EPOCH/SEQ", "TIME", "WHO", "ROLE", "BACKEND/TOOL", "STATUS", "MS", "ARGUMENTS", "ERROR"];

/// One record as a row. `record` is an `AuditRecord` as JSON.
pub(super) fn record_row(record: &Value) -> Vec<String> {
    let text = |key: &str| match record.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let target = match (text("backend_name"), text("tool_name")) {
        (backend, tool) if backend.is_empty() && tool.is_empty() => text("method"),
        (backend, tool) => format!("{backend}/{tool}"),
    };
    let latency = record.get("latency_ms").and_then(Value::as_f64).map_or(String::new(), |ms| format!("{ms:.1}"));
    vec![
        format!("{}/{}", text("epoch"), text("seq")),
        text("timestamp"),
        text("client_subject"),
        text("client_role"),
        target,
        text("response_status"),
        latency,
        text("request_args"),
        text("error_message"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_harmless() {
        let rows = vec![vec!["a\u{1b}[31m".to_owned(), "b".repeat(60)], vec!["longer cell".to_owned(), String::new()]];
        let text = table(&["X", "Y"], &rows);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "X            Y");
        assert_eq!(lines[1], format!("a\\u{{1b}}[31m  {}...", "b".repeat(37)));
        assert_eq!(lines[2], "longer cell");
    }

    #[test]
    fn a_cell_of_long_characters_is_cut_and_not_emptied() {
        // Three bytes each: 37 bytes are no end of a character.
        let text = table(&["X"], &[vec!["\u{65e5}".repeat(60)]]);
        assert_eq!(text.lines().nth(1), Some(&*format!("{}...", "\u{65e5}".repeat(37))));
    }
}
