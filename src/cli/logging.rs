//! The program's log, on standard error.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::escape::escape_hidden;

/// Starts the log as `log.filter` and `log.format` say.
///
/// # Errors
/// `log.filter` is not a filter.
pub(super) fn start(config: &Config) -> Result<(), String> {
    // Notices of migrations ("already exists, skipping") are not useful to operators.
    let filter = EnvFilter::try_new(format!("sqlx::postgres::notice=warn,{}", config.log.filter))
        .map_err(|error| format!("log.filter {:?}: {error}", config.log.filter))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match config.log.format {
        LogFormat::Text => builder.with_ansi(false).with_writer(|| EscapedLines(io::stderr())).init(),
        // JSON escapes control characters itself, and programs read it.
        LogFormat::Json => builder.json().with_writer(io::stderr).init(),
    }
    Ok(())
}

/// Writes each event as one line, even if a backend or a database put line breaks into it.
struct EscapedLines<W>(W);

impl<W: Write> Write for EscapedLines<W> {
    /// `event` is one complete event: `tracing_subscriber` writes each with one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = escape_hidden(text.strip_suffix('\n').unwrap_or(&text));
        self.0.write_all(format!("{line}\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_without_hidden_characters() {
        let mut log = EscapedLines(Vec::new());
        log.write_all("ERROR said=a\nERROR forged\u{202e}\n".as_bytes()).unwrap();
        log.write_all(b"INFO next\n").unwrap();
        assert_eq!(String::from_utf8(log.0).unwrap(), "ERROR said=a\\nERROR forged\\u{202e}\nINFO next\n");
    }
}
