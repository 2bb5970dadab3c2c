//! Tables for people, as wide as the terminal.
//!
//! Without a terminal nothing is cut. On a terminal no line is wrapped: long texts are cut first, then names, then ids
//! and times, which have shorter forms. If that is not enough, columns are left out.

use super::terminal::{Terminal, Tone};
use crate::escape::{escape_hidden, excerpt};

/// Widest column without a terminal, in characters; a longer cell moves the rest of its row. *Chosen*: seven columns
/// fit a wide screen.
const COLUMN_CHARS_MAX: usize = 40;

/// Blanks between two columns.
const GAP: usize = 2;

/// The contents of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text that is cut first: arguments, errors, reasons.
    Text,
    /// A name, cut when all texts are.
    Name,
    /// A number or a word of ours, never cut.
    Fixed,
    /// An id or a digest: its beginning says which it is.
    Id,
    /// A time in RFC 3339, which has shorter forms.
    Time,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Its heading.
    pub(super) heading: &'static str,
    /// Its contents.
    pub(super) kind: Kind,
    /// The column with the highest rank is left out first; 0: never.
    pub(super) rank: u8,
}

impl Column {
    /// A column that is never left out.
    pub(super) const fn new(heading: &'static str, kind: Kind) -> Self {
        Self { heading, kind, rank: 0 }
    }
}

/// A cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn new(text: &impl ToString, tone: Tone) -> Self {
        Self { text: text.to_string(), tone }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: Tone::Plain }
    }
}

/// Rows under headings. Hidden characters are escaped.
pub(super) fn table<C: Into<Cell>>(columns: &[Column], rows: Vec<Vec<C>>, terminal: Terminal) -> String {
    Table::new(columns.to_vec(), terminal).begin(rows)
}

/// A table to which rows are added after it was printed.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    terminal: Terminal,
    /// The width of each column, once it has begun; `None`: the column is left out.
    widths: Vec<Option<usize>>,
}

impl Table {
    pub(super) fn new(columns: Vec<Column>, terminal: Terminal) -> Self {
        Self { columns, terminal, widths: Vec::new() }
    }

    /// The headings and the first rows, which determine the widths.
    pub(super) fn begin<C: Into<Cell>>(&mut self, rows: Vec<Vec<C>>) -> String {
        let rows = cells(rows);
        let natural: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(idx, column)| {
                let widths = rows.iter().filter_map(|row| row.get(idx)).map(|cell| chars(&escape_hidden(&cell.text)));
                widths.max().unwrap_or(0).max(column.heading.len())
            })
            .collect();
        self.widths = match self.terminal.width {
            Some(width) => fit(&self.columns, &natural, width),
            None => natural.iter().map(|width| Some((*width).min(COLUMN_CHARS_MAX))).collect(),
        };
        let headings = self.columns.iter().map(|column| Cell::new(&column.heading, Tone::Heading)).collect();
        self.line(headings) + &self.lines(rows)
    }

    /// More rows under those that were printed.
    pub(super) fn more<C: Into<Cell>>(&self, rows: Vec<Vec<C>>) -> String {
        self.lines(cells(rows))
    }

    /// The headings of the columns that are left out.
    pub(super) fn left_out(&self) -> Vec<&'static str> {
        let columns = self.columns.iter().zip(&self.widths);
        columns.filter(|(_, width)| width.is_none()).map(|(column, _)| column.heading).collect()
    }

    fn lines(&self, rows: Vec<Vec<Cell>>) -> String {
        rows.into_iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, row: Vec<Cell>) -> String {
        let (mut out, mut used, mut blanks) = (String::new(), 0, 0);
        for ((cell, column), width) in row.into_iter().zip(&self.columns).zip(&self.widths) {
            let Some(width) = *width else { continue };
            let room = self.terminal.width.map(|all| width.min(all.saturating_sub(used + blanks)));
            let text = shortened(&cell.text, column.kind, room);
            if !text.is_empty() {
                out.extend(std::iter::repeat_n(' ', blanks));
                out.push_str(&self.terminal.paint(cell.tone, &text));
                used += blanks + chars(&text);
                blanks = 0;
            }
            // No blanks at the end of a line.
            blanks += width.saturating_sub(chars(&text)) + GAP;
        }
        out.push('\n');
        out
    }
}

fn cells<C: Into<Cell>>(rows: Vec<Vec<C>>) -> Vec<Vec<Cell>> {
    rows.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect()
}

/// The widths of the columns on a terminal of `width`; `None`: the column is left out.
fn fit(columns: &[Column], natural: &[usize], width: usize) -> Vec<Option<usize>> {
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    let of = |idx: usize| columns.get(idx).copied().unwrap_or(Column::new("", Kind::Text));
    let natural = |idx: usize| natural.get(idx).copied().unwrap_or(0).min(width);
    let least = |idx: usize| natural(idx).min(least(of(idx)));
    let gaps = |kept: &[usize]| GAP * kept.len().saturating_sub(1);
    while kept.iter().map(|idx| least(*idx)).sum::<usize>() + gaps(&kept) > width {
        let dropped = kept.iter().copied().filter(|idx| of(*idx).rank > 0).max_by_key(|idx| of(*idx).rank);
        let Some(dropped) = dropped else { break };
        kept.retain(|idx| *idx != dropped);
    }
    let mut widths: Vec<Option<usize>> = vec![None; columns.len()];
    for idx in &kept {
        if let Some(width) = widths.get_mut(*idx) {
            *width = Some(natural(*idx));
        }
    }
    for kind in [Kind::Text, Kind::Name, Kind::Id, Kind::Time] {
        loop {
            let excess = (widths.iter().flatten().sum::<usize>() + gaps(&kept)).saturating_sub(width);
            let can_shrink =
                |idx: &usize| of(*idx).kind == kind && widths.get(*idx).copied().flatten() > Some(least(*idx));
            let widest = (0..columns.len()).filter(can_shrink).max_by_key(|idx| widths.get(*idx).copied().flatten());
            let (Some(widest), true) = (widest, excess > 0) else { break };
            if let Some(Some(width)) = widths.get_mut(widest) {
                *width -= 1;
            }
        }
    }
    // A time takes no more than its form, and the names get the rest.
    for idx in kept.iter().copied().filter(|idx| of(*idx).kind == Kind::Time) {
        let whole = natural(idx);
        if let Some(Some(width)) = widths.get_mut(idx).filter(|width| **width < Some(whole)) {
            *width =
                [whole.saturating_sub(SECONDS_CHARS), 19].into_iter().find(|form| form <= width).unwrap_or(least(idx));
        }
    }
    for idx in kept.iter().copied().filter(|idx| matches!(of(*idx).kind, Kind::Name | Kind::Text)) {
        let rest = width.saturating_sub(widths.iter().flatten().sum::<usize>() + gaps(&kept));
        if let Some(Some(width)) = widths.get_mut(idx) {
            *width = natural(idx).min(*width + rest);
        }
    }
    widths
}

/// The least useful width of a column, in characters. *Chosen*: a name and an id are told apart by so many.
fn least(column: Column) -> usize {
    let usual = match column.kind {
        Kind::Fixed => usize::MAX,
        Kind::Text | Kind::Name => 10,
        Kind::Id => 11,
        Kind::Time => SHORT_TIME.len(),
    };
    usual.max(column.heading.len())
}

/// The form of a time without its year.
const SHORT_TIME: &str = "11-26 10:00:00";

/// Characters of the fraction of a second in RFC 3339, with six digits.
const SECONDS_CHARS: usize = ".123456".len();

/// The beginning of a text, or the form of a time, in at most `room` characters; `None`: the whole text.
fn shortened(text: &str, kind: Kind, room: Option<usize>) -> String {
    let Some(room) = room else { return escape_hidden(text).into_owned() };
    if kind == Kind::Time && text.len() > room {
        // 2026-11-26T10:00:00.000000Z, or with an offset at its end.
        let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
        let zone = text.get(26..).unwrap_or_default();
        let forms = [
            format!("{}{zone}", part(0..19)),
            format!("{} {}", part(0..10), part(11..19)),
            format!("{} {}", part(5..10), part(11..19)),
            part(11..19).to_owned(),
        ];
        if let Some(form) = forms.into_iter().find(|form| form.len() <= room) {
            return form;
        }
    }
    let mut chars_max = room;
    loop {
        let cut = excerpt(text, chars_max);
        if chars(&cut) <= room || chars_max == 0 {
            // An excerpt has at least one character.
            return if chars(&cut) <= room { cut } else { String::new() };
        }
        chars_max -= 1;
    }
}

/// Characters that take two columns of a terminal. *Spec*: Unicode 17.0, UAX 11, W and F, as whole blocks. A character
/// that is counted as wide and is not only makes its line shorter.
const WIDE: [(char, char); 12] = [
    ('\u{1100}', '\u{115f}'),
    ('\u{231a}', '\u{231b}'),
    ('\u{2600}', '\u{27bf}'),
    ('\u{2e80}', '\u{303e}'),
    ('\u{3041}', '\u{a4cf}'),
    ('\u{a960}', '\u{a97f}'),
    ('\u{ac00}', '\u{d7a3}'),
    ('\u{f900}', '\u{faff}'),
    ('\u{fe30}', '\u{fe6f}'),
    ('\u{ff00}', '\u{ff60}'),
    ('\u{ffe0}', '\u{ffe6}'),
    ('\u{1f000}', '\u{3fffd}'),
];

/// The columns of a terminal that a text takes, or more.
fn chars(text: &str) -> usize {
    let width = |c: char| if WIDE.iter().any(|(first, last)| (*first..=*last).contains(&c)) { 2 } else { 1 };
    text.chars().map(width).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: [Column; 2] = [Column::new("X", Kind::Name), Column::new("Y", Kind::Text)];

    fn on(width: usize) -> Terminal {
        Terminal { width: Some(width), ..Terminal::default() }
    }

    #[test]
    fn columns_are_aligned_and_hidden_characters_escaped() {
        let rows =
            || vec![vec!["a\u{1b}[31m".to_owned(), "b".repeat(60)], vec!["longer cell".to_owned(), String::new()]];
        let text = table(&TEXT, rows(), Terminal::default());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "X            Y");
        assert_eq!(lines[1], format!("a\\u{{1b}}[31m  {}", "b".repeat(60)));
        assert_eq!(lines[2], "longer cell");
        let text = table(&TEXT, rows(), on(53));
        assert_eq!(text.lines().nth(1), Some(&*format!("a\\u{{1b}}[31m  {}...", "b".repeat(37))));
    }

    #[test]
    fn without_a_terminal_a_long_cell_is_whole_and_does_not_widen_the_others() {
        let columns = [Column::new("X", Kind::Text), Column::new("Y", Kind::Fixed)];
        let rows = vec![vec!["b".repeat(90), "1".to_owned()], vec!["c".to_owned(), "2".to_owned()]];
        let text = table(&columns, rows, Terminal::default());
        assert_eq!(text.lines().nth(1), Some(&*format!("{}  1", "b".repeat(90))));
        assert_eq!(text.lines().nth(2), Some(&*format!("c{}  2", " ".repeat(39))));
    }

    /// The columns of a table of records.
    fn records(width: usize) -> (Vec<String>, Vec<&'static str>) {
        let columns = vec![
            Column::new("EPOCH/SEQ", Kind::Fixed),
            Column::new("TIME", Kind::Time),
            Column::new("WHO", Kind::Name),
            Column { rank: 1, ..Column::new("ERROR", Kind::Text) },
            Column { rank: 2, ..Column::new("MS", Kind::Fixed) },
        ];
        let mut made = Table::new(columns, on(width));
        let row = ["1/20", "2026-11-26T10:00:00.123456Z", "someone@example.com", &"e\u{65e5}".repeat(30), "0.1"];
        let row = row.map(str::to_owned).to_vec();
        let text = made.begin(vec![row.clone()]) + &made.more(vec![row]);
        (text.lines().map(str::to_owned).collect(), made.left_out())
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_and_times_and_ids_are_cut_last() {
        for width in 1..200 {
            let (lines, _) = records(width);
            assert!(lines.iter().all(|line| chars(line) <= width), "{width}: {lines:?}");
            assert!(lines[1].starts_with("1/20") || width < 9, "{width}: {lines:?}");
        }
        let (lines, left_out) = records(100);
        assert!(lines[1].starts_with("1/20       2026-11-26T10:00:00.123456Z  someone@example.com  e\u{65e5}"));
        assert!(lines[1].contains("...") && left_out.is_empty(), "{lines:?}");
        let (lines, left_out) = records(60);
        assert!(lines[1].contains(" 2026-11-26T10:00:00Z ") && left_out.is_empty(), "{lines:?}");
        let (lines, left_out) = records(40);
        assert!(lines[1].starts_with("1/20       11-26 10:00:00  someone@ex..."), "{lines:?}");
        assert_eq!(left_out, ["ERROR", "MS"]);
        assert_eq!(lines[1], lines[2], "rows that follow have the same columns");
    }

    #[test]
    fn a_cell_of_wide_characters_is_cut_by_the_columns_that_it_takes() {
        let text = table(&TEXT, vec![vec!["a".to_owned(), "\u{65e5}".repeat(60)]], on(43));
        assert_eq!(text.lines().nth(1), Some(&*format!("a  {}...", "\u{65e5}".repeat(18))));
    }

    #[test]
    fn colours_do_not_change_the_columns() {
        let row = || vec![Cell::new(&"denied", Tone::Notable), Cell::from("b".repeat(9))];
        let plain = table(&TEXT, vec![row()], on(12));
        let colored = table(&TEXT, vec![row()], Terminal { has_colors: true, ..on(12) });
        assert_ne!(plain, colored);
        let mut without = colored;
        for code in ["\u{1b}[1m", "\u{1b}[33m", "\u{1b}[0m"] {
            without = without.replace(code, "");
        }
        assert_eq!(plain, without);
    }
}
