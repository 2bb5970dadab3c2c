//! Standard output and standard error.

use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::escape::escape_hidden_lines;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub(super) struct OutputError(io::Error);

impl OutputError {
    pub(super) fn new(error: io::Error) -> Self {
        Self(error)
    }

    /// True if the reader has gone. For example, `head` ends once it has its lines. A command whose output is its
    /// purpose then ends without an error.
    pub(super) fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints text on standard output.
///
/// # Errors
/// Standard output cannot be written, for example because the disk is full or the reader has gone.
pub(super) fn print(text: &str) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(OutputError)
}

/// Returns true if the reader of standard output has gone, so that a command that waits for something to print can end.
pub(super) fn has_no_reader() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    // *Spec*: poll(2): an error is reported for a pipe whose reading end is closed, whatever was asked for.
    let ready = poll(&mut polled, Some(&Timespec::default()));
    ready.is_ok() && polled.iter().any(|polled| polled.revents().contains(PollFlags::ERR))
}

/// Like [`print()`], for a command that does more than print: it continues if the reader has gone.
///
/// # Errors
/// Standard output cannot be written, for another reason.
pub(super) fn print_if_read(text: &str) -> Result<(), OutputError> {
    print(text).or_else(|error| if error.is_closed() { Ok(()) } else { Err(error) })
}

/// A message without the numbers of the system's errors, which follow their texts: ` (os error 2)`.
pub(super) fn without_error_numbers(message: &str) -> String {
    const BEGIN: &str = " (os error ";
    let mut parts = message.split(BEGIN);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let number = part.find(')').and_then(|end| part.split_at_checked(end));
        match number.filter(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
            Some((_, rest)) => out.push_str(rest.strip_prefix(')').unwrap_or(rest)),
            None => out.extend([BEGIN, part]),
        }
    }
    out
}

/// Prints a message on standard error. Nothing can be done if that is closed.
pub(super) fn print_error(message: &str) {
    writeln!(io::stderr().lock(), "gatepost: {}", escape_hidden_lines(&without_error_numbers(message))).ok();
}

/// One value as a line of JSON. Its members are in alphabetical order.
///
/// # Errors
/// The value cannot be written as JSON.
pub(super) fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(format!("{}\n", serde_json::to_value(value)?))
}

/// Values as lines of JSON.
///
/// # Errors
/// As for [`json_line`].
pub(super) fn json_lines<T: Serialize>(values: &[T]) -> serde_json::Result<String> {
    values.iter().map(json_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_errors_are_left_out_and_nothing_else() {
        for (message, shown) in [
            ("a: No such file or directory (os error 2)", "a: No such file or directory"),
            ("a (os error 2): b (os error 13)", "a: b"),
            ("a (os error x) (os error 2", "a (os error x) (os error 2"),
            ("a (os error )", "a (os error )"),
        ] {
            assert_eq!(without_error_numbers(message), shown);
        }
    }
}
