//! Standard output and standard error.

use std::io::Write;

use serde::Serialize;

use crate::escape::escape_hidden_lines;

/// Prints text on standard output.
///
/// # Errors
/// Standard output cannot be written, for example because the reader of a pipe has gone.
pub(super) fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints a message on standard error. Nothing can be done if that is closed.
pub(super) fn print_error(message: &str) {
    writeln!(std::io::stderr().lock(), "gatepost: {}", escape_hidden_lines(message)).ok();
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
