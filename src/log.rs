//! The gateway's log: a bounded queue, and a thread that writes its lines to standard error.
//!
//! The log decides nothing. Adding a line never waits for its reader and never fails: a line that does not fit in the
//! queue, or that cannot be written, is dropped and counted. As soon as lines can be written again, one line says how
//! many were dropped, at the place where they are missing. Until then an alarm is active (`docs/runbook.md`).
//!
//! Knows nothing of filters and levels: [`crate::cli`] connects it with `tracing`.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use parking_lot::{Condvar, Mutex};
use serde_json::json;

use crate::config::LogFormat;
use crate::escape::escape_hidden;

/// Most lines in the queue. *Chosen*: the lines of two seconds at 4,000 calls a second.
const LINES_MAX: usize = 8_192;

/// Most bytes of the lines in the queue. *Chosen*: 512 bytes for each line; most have fewer.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Time between two attempts to write, while there are no new lines and the last attempt failed. *Chosen*: as often as
/// the alarms are checked.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two attempts to write to a descriptor that another process made non-blocking and that is full.
/// *Chosen*: short against the time in which the queue fills.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The log. Cheap to clone; its thread runs as long as the process.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

/// The number of dropped lines. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct DroppedLines(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// All dropped lines. Written by everyone who adds a line and by the thread.
    dropped: AtomicU64,
    /// Those of them that a written line counts. Written by the thread.
    reported: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Notified when the queue is no longer empty.
    filled: Condvar,
    /// Notified when the queue is empty and its last line was written or dropped.
    emptied: Condvar,
    dropped: DroppedLines,
}

#[derive(Debug)]
struct Queue {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Lines that were dropped after the last one in the queue.
    dropped_after: u64,
    /// The thread is writing a line that it took from the queue.
    is_writing: bool,
    format: LogFormat,
}

#[derive(Debug)]
struct Line {
    text: Box<[u8]>,
    /// Lines that were dropped between the previous one and this one.
    dropped_before: u64,
}

impl Log {
    /// Starts the thread that writes to `output`, in plain text until [`Log::set_format`].
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let queue =
            Queue { lines: VecDeque::new(), bytes: 0, dropped_after: 0, is_writing: false, format: LogFormat::Text };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped: DroppedLines::default(),
        });
        let log = Self(Arc::clone(&shared));
        std::thread::Builder::new().name("log".to_owned()).spawn(move || Writer::new(shared, output).run())?;
        Ok(log)
    }

    /// The log on the process's standard error. It is written past the lock of [`io::stderr`], on which others would
    /// wait while a full pipe blocks the thread.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated, or the thread cannot be started.
    pub fn on_standard_error() -> io::Result<Self> {
        use std::os::fd::AsFd as _;
        Self::start(std::fs::File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    /// Sets the format of the lines that are added from now on.
    pub fn set_format(&self, format: LogFormat) {
        self.0.queue.lock().format = format;
    }

    /// Adds a line, without its line feed, or drops it if it does not fit. Never waits for the line to be written.
    pub fn add(&self, line: &[u8]) {
        let mut queue = self.0.queue.lock();
        // I6: the queue is bounded, by count and by bytes.
        if queue.lines.len() >= LINES_MAX || queue.bytes + line.len() > BYTES_MAX {
            queue.dropped_after += 1;
            self.0.dropped.add(1);
        } else {
            let dropped_before = std::mem::take(&mut queue.dropped_after);
            queue.bytes += line.len();
            queue.lines.push_back(Line { text: line.into(), dropped_before });
        }
        drop(queue);
        self.0.filled.notify_one();
    }

    /// Adds an event that did not come by way of `tracing`, in the format of the log.
    pub fn add_event(&self, level: &str, target: &str, message: &str, fields: &[(&str, &str)]) {
        let format = self.0.queue.lock().format;
        self.add(event(format, level, target, message, fields).as_bytes());
    }

    /// Counts a line as dropped that could not even be made.
    pub fn count_dropped(&self) {
        self.0.queue.lock().dropped_after += 1;
        self.0.dropped.add(1);
        self.0.filled.notify_one();
    }

    /// Waits until all lines are written or dropped, at most for `timeout`. Returns whether they are.
    #[expect(clippy::must_use_candidate, reason = "at the end of a process nothing else can be done")]
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut queue = self.0.queue.lock();
        while !queue.is_done() {
            if self.0.emptied.wait_until(&mut queue, deadline).timed_out() {
                return queue.is_done();
            }
        }
        true
    }

    /// The number of dropped lines.
    #[must_use]
    pub fn dropped_lines(&self) -> DroppedLines {
        self.0.dropped.clone()
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("dropped", &self.0.dropped).finish_non_exhaustive()
    }
}

impl DroppedLines {
    /// All lines that were dropped.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Those that no written line counts yet: while there are any, the log is not being written.
    #[must_use]
    pub fn unreported(&self) -> u64 {
        let reported = self.0.reported.load(Ordering::Relaxed);
        self.count().saturating_sub(reported)
    }

    fn add(&self, lines: u64) {
        self.0.dropped.fetch_add(lines, Ordering::Relaxed);
    }
}

impl Queue {
    fn is_done(&self) -> bool {
        self.lines.is_empty() && self.dropped_after == 0 && !self.is_writing
    }
}

/// The thread that writes.
struct Writer<W> {
    shared: Arc<Shared>,
    output: W,
    /// A line was written in part only: the next one begins with a line feed.
    is_mid_line: bool,
    /// Dropped lines that come before the next line and that no written line counts.
    missing: u64,
}

impl<W: Write> Writer<W> {
    fn new(shared: Arc<Shared>, output: W) -> Self {
        Self { shared, output, is_mid_line: false, missing: 0 }
    }

    fn run(mut self) {
        loop {
            let (line, format) = self.next();
            if self.missing > 0 {
                let dropped = self.missing.to_string();
                let message = "log lines were dropped, because they could not be written in time";
                let notice = event(format, "WARN", "gatepost::log", message, &[("dropped", &dropped)]);
                if self.write(notice.as_bytes()).is_ok() {
                    self.shared.dropped.0.reported.fetch_add(self.missing, Ordering::Relaxed);
                    self.missing = 0;
                }
            }
            // While the notice cannot be written, no line is: the notice would come too late.
            if let Some(line) = line
                && (self.missing > 0 || self.write_line(&line, format).is_err())
            {
                self.missing += 1;
                self.shared.dropped.add(1);
            }
        }
    }

    /// Waits for the next line, or until there are dropped lines to report. The line counts as being written.
    fn next(&mut self) -> (Option<Box<[u8]>>, LogFormat) {
        let mut queue = self.shared.queue.lock();
        queue.is_writing = false;
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.text.len();
                queue.is_writing = true;
                self.missing += line.dropped_before;
                return (Some(line.text), queue.format);
            }
            if queue.dropped_after > 0 {
                queue.is_writing = true;
                self.missing += std::mem::take(&mut queue.dropped_after);
                return (None, queue.format);
            }
            self.shared.emptied.notify_all();
            if self.missing == 0 {
                self.shared.filled.wait(&mut queue);
            } else if self.shared.filled.wait_for(&mut queue, RETRY_INTERVAL).timed_out() && queue.lines.is_empty() {
                queue.is_writing = true;
                return (None, queue.format);
            }
        }
    }

    fn write_line(&mut self, line: &[u8], format: LogFormat) -> io::Result<()> {
        match format {
            // A backend or a database may have put line breaks into it.
            LogFormat::Text => {
                let text = String::from_utf8_lossy(line);
                self.write(escape_hidden(&text).as_bytes())
            }
            // JSON escapes control characters itself, and programs read it.
            LogFormat::Json => self.write(line),
        }
    }

    /// Writes a line with one system call if possible, so that lines of several processes in one pipe do not mix.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let begin: &[u8] = if self.is_mid_line { b"\n" } else { b"" };
        let whole = [begin, line, b"\n"].concat();
        let mut rest = &whole[..];
        while !rest.is_empty() {
            match self.output.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    self.is_mid_line = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(POLL_INTERVAL),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// An event as `tracing_subscriber` writes it, without the line feed.
fn event(format: LogFormat, level: &str, target: &str, message: &str, fields: &[(&str, &str)]) -> String {
    let time = Utc::now().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    match format {
        LogFormat::Text => {
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!("{time} {level:>5} {target}: {message}{}", fields.concat())
        }
        LogFormat::Json => {
            let mut all: serde_json::Map<_, _> =
                fields.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
            all.insert("message".to_owned(), json!(message));
            json!({ "timestamp": time, "level": level, "fields": all, "target": target }).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Asks the test what to do with each write.
    struct Asking {
        writes: Sender<String>,
        results: Receiver<io::Result<usize>>,
    }

    impl Write for Asking {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.writes.send(String::from_utf8(line.to_vec()).unwrap()).unwrap();
            self.results.recv().unwrap_or(Ok(line.len())).map(|most| most.min(line.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The other side of an [`Asking`].
    struct Reader {
        writes: Receiver<String>,
        results: Sender<io::Result<usize>>,
    }

    impl Reader {
        /// Waits for the next write, which gets `result`.
        fn answer(&self, result: io::Result<usize>) -> String {
            let written = self.writes.recv_timeout(LONG).unwrap();
            self.results.send(result).unwrap();
            written
        }

        fn accept(&self) -> String {
            self.answer(Ok(usize::MAX))
        }

        fn fail(&self) -> String {
            self.answer(Err(io::ErrorKind::BrokenPipe.into()))
        }

        /// Accepts everything from now on.
        fn leave(self) -> Receiver<String> {
            self.writes
        }
    }

    fn log() -> (Log, Reader) {
        let ((writes, reader_writes), (reader_results, results)) = (mpsc::channel(), mpsc::channel());
        let log = Log::start(Asking { writes, results }).unwrap();
        (log, Reader { writes: reader_writes, results: reader_results })
    }

    fn counts(log: &Log) -> (u64, u64) {
        (log.dropped_lines().count(), log.dropped_lines().unreported())
    }

    #[test]
    fn lines_that_cannot_be_written_are_dropped_and_reported_where_they_are_missing() {
        let (log, reader) = log();
        log.add(b"one");
        assert_eq!(reader.accept(), "one\n");
        log.add(b"two");
        assert_eq!(reader.fail(), "two\n");
        assert!(reader.fail().contains("dropped=1"), "tried again without a new line");
        log.add(b"three");
        // Three is not written before the notice, and is lost with it.
        assert!(reader.fail().contains("dropped=1"));
        let notice = reader.accept();
        assert!(notice.contains("WARN gatepost::log: log lines were dropped") && notice.contains("dropped=2\n"));
        log.add(b"four");
        assert_eq!(reader.accept(), "four\n");
        assert!(log.flush(LONG));
        assert_eq!(counts(&log), (2, 0));
    }

    #[test]
    fn i6_the_queue_of_a_log_that_nobody_reads_is_bounded_and_keeps_its_order() {
        let (log, reader) = log();
        log.add(b"written");
        assert_eq!(reader.writes.recv_timeout(LONG).unwrap(), "written\n"); // and not answered
        for idx in 0..LINES_MAX + 3 {
            log.add(idx.to_string().as_bytes());
        }
        assert_eq!(counts(&log), (3, 3));
        assert!(!log.flush(Duration::from_millis(1)), "it waits for the reader only as long as it may");
        reader.results.send(Ok(usize::MAX)).unwrap();
        assert_eq!(reader.accept(), "0\n");
        // There is room for one line only after the thread took the next one from the queue.
        assert_eq!(reader.writes.recv_timeout(LONG).unwrap(), "1\n");
        log.add(b"last");
        reader.results.send(Ok(usize::MAX)).unwrap();
        let lines = reader.leave();
        assert!(log.flush(LONG));
        let lines: Vec<_> = lines.try_iter().collect();
        assert_eq!(lines.len(), LINES_MAX, "from 2 on, the notice and the last line");
        assert_eq!(lines[LINES_MAX - 3], format!("{}\n", LINES_MAX - 1));
        assert!(lines[LINES_MAX - 2].contains("dropped=3"), "{}", lines[LINES_MAX - 2]);
        assert_eq!(lines[LINES_MAX - 1], "last\n");
        assert_eq!(counts(&log), (3, 0));
    }

    #[test]
    fn i6_the_bytes_in_the_queue_are_bounded() {
        let (log, reader) = log();
        log.add(b"written");
        reader.writes.recv_timeout(LONG).unwrap();
        log.add(&vec![b'x'; BYTES_MAX]);
        log.add(b"y");
        assert_eq!(log.dropped_lines().count(), 1);
        assert_eq!(log.0.queue.lock().bytes, BYTES_MAX);
        drop(reader.leave());
    }

    #[test]
    fn a_line_that_was_written_in_part_does_not_join_the_next_one() {
        let (log, reader) = log();
        log.add(b"lost");
        assert_eq!(reader.answer(Ok(2)), "lost\n");
        assert_eq!(reader.fail(), "st\n");
        let notice = reader.accept();
        assert!(notice.starts_with('\n') && notice.contains("dropped=1"), "{notice}");
        log.add(b"next");
        assert_eq!(reader.accept(), "next\n");
    }

    #[test]
    fn a_descriptor_that_another_process_made_non_blocking_loses_nothing() {
        let (log, reader) = log();
        log.add(b"line");
        for error in [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted] {
            assert_eq!(reader.answer(Err(error.into())), "line\n");
        }
        assert_eq!(reader.answer(Ok(3)), "line\n");
        assert_eq!(reader.accept(), "e\n");
        assert!(log.flush(LONG));
        assert_eq!(counts(&log), (0, 0));
    }

    #[test]
    fn events_past_tracing_have_the_format_of_the_log() {
        let (log, reader) = log();
        log.add_event("ERROR", "gatepost::panic", "panicked", &[("reason", "a\nb")]);
        let line = reader.accept();
        assert!(line.ends_with(" ERROR gatepost::panic: panicked reason=a\\nb\n"), "{line}");
        log.set_format(LogFormat::Json);
        log.add_event("ERROR", "gatepost::panic", "panicked", &[("reason", "a\nb")]);
        let line: serde_json::Value = serde_json::from_str(&reader.accept()).unwrap();
        assert_eq!(line["fields"], json!({ "message": "panicked", "reason": "a\nb" }));
        assert_eq!((&line["level"], &line["target"]), (&json!("ERROR"), &json!("gatepost::panic")));
    }
}
