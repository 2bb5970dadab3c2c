//! The progress of a long command: one line on standard error, updated in place, if standard error is a terminal.

use std::io::{self, IsTerminal, Stderr, Write};
use std::time::{Duration, Instant};

use crate::counts::plural;

/// Time without output after which the line appears, and the interval between its updates. *Chosen*: shorter commands
/// need no line, and each update can be read.
const INTERVAL: Duration = Duration::from_millis(500);

/// The line.
#[derive(Debug)]
pub(super) struct Progress<W: Write = Stderr> {
    /// The terminal; `None` if standard error is not a terminal.
    terminal: Option<W>,
    next: Instant,
    shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self::on(io::stderr().is_terminal().then(io::stderr))
    }
}

impl<W: Write> Progress<W> {
    fn on(terminal: Option<W>) -> Self {
        Self { terminal, next: Instant::now() + INTERVAL, shown: false }
    }

    /// Shows the number of records read so far.
    pub(super) fn show(&mut self, records: u64) {
        let Some(terminal) = self.terminal.as_mut().filter(|_| self.next <= Instant::now()) else { return };
        (self.next, self.shown) = (Instant::now() + INTERVAL, true);
        // Nothing can be done if standard error is closed.
        write!(terminal, "\r{} read", plural(records, "record")).and_then(|()| terminal.flush()).ok();
    }

    /// Removes the line, before something else is written.
    pub(super) fn clear(&mut self) {
        self.next = Instant::now() + INTERVAL;
        if let Some(terminal) = self.terminal.as_mut().filter(|_| std::mem::take(&mut self.shown)) {
            write!(terminal, "\r\x1b[K").and_then(|()| terminal.flush()).ok();
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_appears_after_a_while_and_is_removed_before_other_output() {
        let (mut terminal, long_ago) = (Vec::new(), Instant::now());
        let mut progress = Progress::on(Some(&mut terminal));
        progress.show(1);
        progress.next = long_ago;
        progress.show(2);
        progress.show(3);
        progress.clear();
        progress.clear();
        progress.show(4);
        drop(progress);
        assert_eq!(String::from_utf8(terminal).unwrap(), "\r2 records read\r\u{1b}[K");
        Progress::<Vec<u8>>::on(None).show(5);
    }
}
