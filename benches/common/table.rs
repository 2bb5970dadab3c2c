//! Tables that read well in a terminal and in Markdown.

use super::machine;

/// Rows under a header; the first column is text, the others are figures.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { rows: vec![header.map(str::to_owned).to_vec()] }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(self.rows[0].len(), N, "a cell a column");
        self.rows.push(Vec::from(cells));
    }

    pub fn print(&self) {
        let columns = self.rows[0].len();
        let width = |idx: usize| self.rows.iter().map(|row| row[idx].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (at, row) in self.rows.iter().enumerate() {
            let cell = |(idx, text): (usize, &String)| {
                let width = widths[idx];
                if idx == 0 { format!(" {text:<width$} ") } else { format!(" {text:>width$} ") }
            };
            println!("|{}|", row.iter().enumerate().map(cell).collect::<Vec<_>>().join("|"));
            if at == 0 {
                let rule = |(idx, width): (usize, &usize)| {
                    if idx == 0 { "-".repeat(width + 2) } else { format!("{}:", "-".repeat(width + 1)) }
                };
                println!("|{}|", widths.iter().enumerate().map(rule).collect::<Vec<_>>().join("|"));
            }
        }
    }
}

/// What a bench prints first.
pub fn title(name: &str, claim: &str) {
    println!("## {name}\n\n{claim}\n\n{}\n", machine::line());
}

/// One line: the goal, what was reached, and whether that is enough.
pub fn goal(what: &str, reached: &str, met: bool) {
    println!("\n- {what}: {reached}, {}", if met { "met" } else { "**missed**" });
}

/// `1234567.8` as `1 234 568`.
pub fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A count of things.
pub fn whole(count: usize) -> String {
    self::count(count as f64)
}

/// A ratio, two figures behind the point.
pub fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

/// Mebibytes, one figure behind the point.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1024.0 / 1024.0)
}
