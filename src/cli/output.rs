//! Standard output and standard error.

use std::io::{self, Write};

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

/// Like [`print()`], for a command that does more than print: it continues if the reader has gone.
///
/// # Errors
/// Standard output cannot be written, for another reason.
pub(super) fn print_if_read(text: &str) -> Result<(), OutputError> {
    print(text).or_else(|error| if error.is_closed() { Ok(()) } else { Err(error) })
}

/// Prints a message on standard error. Nothing can be done if that is closed.
pub(super) fn print_error(message: &str) {
    writeln!(io::stderr().lock(), "gatepost: {}", escape_hidden_lines(message)).ok();
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
