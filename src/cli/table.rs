//! Plain tables for people.

use crate::escape::excerpt;

/// Widest cell, in characters. *Chosen*: seven columns fit a wide terminal.
const CELL_CHARS_MAX: usize = 40;

/// Rows under headings, with columns as wide as their widest cell. Hidden characters are escaped, long cells are cut.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_hidden_characters_escaped() {
        let rows = vec![vec!["a\u{1b}[31m".to_owned(), "b".repeat(60)], vec!["longer cell".to_owned(), String::new()]];
        let text = table(&["X", "Y"], &rows);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "X            Y");
        assert_eq!(lines[1], format!("a\\u{{1b}}[31m  {}...", "b".repeat(37)));
        assert_eq!(lines[2], "longer cell");
    }

    #[test]
    fn a_cell_of_multi_byte_characters_is_cut_and_not_emptied() {
        // Three bytes each, so that byte 37 is inside a character.
        let text = table(&["X"], &[vec!["\u{65e5}".repeat(60)]]);
        assert_eq!(text.lines().nth(1), Some(&*format!("{}...", "\u{65e5}".repeat(37))));
    }
}
