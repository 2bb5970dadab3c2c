//! How far long work is: one line on standard error that is written over again, where that is a terminal.

use std::io::{self, IsTerminal, Stderr, Write};
use std::time::{Duration, Instant};

/// How long work goes on, or is silent, before the line is shown, and how often it is written again. *Chosen*: what takes
/// less needs no word, and one can read it.
const INTERVAL: Duration = Duration::from_millis(500);

/// The line.
#[derive(Debug)]
pub(super) struct Progress<W: Write = Stderr> {
    /// Nothing where there is no terminal.
    out: Option<W>,
    next: Instant,
    shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self::on(io::stderr().is_terminal().then(io::stderr))
    }
}

impl<W: Write> Progress<W> {
    fn on(out: Option<W>) -> Self {
        Self { out, next: Instant::now() + INTERVAL, shown: false }
    }

    /// So many records were read by now.
    pub(super) fn show(&mut self, records: u64) {
        let Some(out) = self.out.as_mut().filter(|_| self.next <= Instant::now()) else { return };
        (self.next, self.shown) = (Instant::now() + INTERVAL, true);
        // Nobody can be told that standard error is closed.
        write!(out, "\r{records} records read").and_then(|()| out.flush()).ok();
    }

    /// Takes the line away, before something else is written.
    pub(super) fn clear(&mut self) {
        self.next = Instant::now() + INTERVAL;
        if let Some(out) = self.out.as_mut().filter(|_| std::mem::take(&mut self.shown)) {
            write!(out, "\r\x1b[K").and_then(|()| out.flush()).ok();
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
    fn it_is_shown_after_a_while_and_taken_away_before_anything_else() {
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
