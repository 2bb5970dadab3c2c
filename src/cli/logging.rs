//! Connects `tracing` and panics with the log.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{Config, LogFormat};
use crate::log::Log;

/// Targets of the libraries whose events are logged. Those of all others are not, whatever `log.filter` says: they were
/// not written for this program's log and may have a URL, a header or a connection string in them (I8).
const LIBRARY_TARGETS: [&str; 1] = ["sqlx::postgres::notice"];

/// Sends events to `log` as `log.filter` and `log.format` say, and panics always.
///
/// # Errors
/// `log.filter` is not a filter, or another subscriber is in place.
pub(super) fn start(config: &Config, log: &Log) -> Result<(), String> {
    log.set_format(config.log.format);
    let started = subscriber(config, log)?.try_init();
    started.map_err(|error| format!("the log cannot be started: {error}"))?;
    log_panics(log.clone());
    Ok(())
}

fn subscriber(config: &Config, log: &Log) -> Result<impl Subscriber + Send + Sync, String> {
    // Notices of migrations ("already exists, skipping") are not useful to operators.
    let filter = EnvFilter::try_new(format!("sqlx::postgres::notice=warn,{}", config.log.filter))
        .map_err(|error| format!("log.filter {:?}: {error}", config.log.filter))?;
    let lines = tracing_subscriber::fmt::layer()
        // What it cannot write, it would report by a macro that panics.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_writer(LogLines(log.clone()));
    let log = log.clone();
    let lines = match config.log.format {
        LogFormat::Text => lines.map_event_format(|format| Guarded { format, log }).boxed(),
        LogFormat::Json => lines.json().map_event_format(|format| Guarded { format, log }).boxed(),
    };
    // I8: no secret enters a log line.
    let own = filter_fn(|metadata| is_logged(metadata.target()));
    Ok(tracing_subscriber::registry().with(lines).with(filter).with(own))
}

fn is_logged(target: &str) -> bool {
    let crate_name = target.split_once("::").map_or(target, |(name, _)| name);
    crate_name == env!("CARGO_CRATE_NAME") || LIBRARY_TARGETS.contains(&target)
}

/// Logs panics instead of writing them to standard error, which may block the thread that panics. The log is used
/// directly, because a panic inside of `tracing` may have locked what an event needs.
fn log_panics(log: Log) {
    panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = Backtrace::capture();
        let trace = backtrace.to_string();
        let mut fields = vec![
            ("thread", thread.name().unwrap_or("unnamed")),
            ("location", &location),
            ("reason", panic.payload_as_str().unwrap_or("unknown")),
        ];
        if backtrace.status() == BacktraceStatus::Captured {
            fields.push(("backtrace", &trace));
        }
        log.add_event("ERROR", "gatepost::panic", "panicked (a bug in Gatepost)", &fields);
    }));
}

/// Makes the writer of each event.
struct LogLines(Log);

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine(&self.0)
    }
}

/// Writes one event. It never fails: what does not fit in the log is counted there.
struct LogLine<'a>(&'a Log);

impl io::Write for LogLine<'_> {
    /// `event` is one complete event: `tracing_subscriber` writes each with one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.add(event.strip_suffix(b"\n").unwrap_or(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats events, and survives values whose formatting panics: the event is dropped and counted, and the task that
/// logged it continues.
struct Guarded<F> {
    format: F,
    log: Log,
}

impl<S, N, F> FormatEvent<S, N> for Guarded<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let format = AssertUnwindSafe(|| self.format.format_event(ctx, writer, event));
        let formatted = panic::catch_unwind(format).unwrap_or(Err(fmt::Error));
        formatted.inspect_err(|_| self.log.count_dropped())
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Output {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Panics;

    impl fmt::Display for Panics {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("while it is formatted")
        }
    }

    /// The lines that `events` leaves in a log with this format and filter, and how many were dropped.
    fn lines(format: LogFormat, filter: &str, events: impl FnOnce()) -> (Vec<String>, u64) {
        let (output, mut config) = (Output::default(), Config::default());
        config.log = crate::config::Log { format, filter: filter.to_owned() };
        let log = Log::start(output.clone()).unwrap();
        log.set_format(format);
        tracing::subscriber::with_default(subscriber(&config, &log).unwrap(), events);
        assert!(log.flush(Duration::from_secs(30)));
        let text = String::from_utf8(output.0.lock().clone()).unwrap();
        (text.lines().map(str::to_owned).collect(), log.dropped_lines().count())
    }

    #[test]
    fn a_value_that_panics_while_it_is_formatted_costs_one_line() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let (lines, dropped) = lines(format, "info", || {
                tracing::info!(value = %Panics, "never seen");
                tracing::info!("seen");
            });
            assert_eq!((lines.len(), dropped), (2, 1), "{lines:?}");
            assert!(lines.iter().any(|line| line.contains("seen") && !line.contains("never")), "{lines:?}");
            assert!(lines.iter().any(|line| line.contains("dropped")), "{lines:?}");
        }
    }

    #[test]
    fn i8_a_library_never_writes_to_the_log() {
        for filter in ["trace", "reqwest=trace,sqlx_postgres::options=trace,gatepostx=trace,trace"] {
            let (lines, _) = lines(LogFormat::Text, filter, || {
                tracing::error!(target: "sqlx_postgres::options::parse", value = "secret", "unknown parameter");
                tracing::warn!(target: "reqwest::connect", "https://secret@host/");
                tracing::warn!(target: "gatepostx", "secret");
                tracing::warn!(target: "sqlx::postgres::notice", "a notice");
                tracing::trace!("own");
            });
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert!(lines[0].contains("a notice") && lines[1].contains("own"), "{lines:?}");
        }
    }

    #[test]
    fn a_panic_is_logged_whatever_the_filter_says() {
        let output = Output::default();
        let log = Log::start(output.clone()).unwrap();
        let previous = panic::take_hook();
        log_panics(log.clone());
        let ended = std::thread::Builder::new().name("bug".to_owned()).spawn(|| panic!("a\nb")).unwrap().join();
        panic::set_hook(previous);
        assert!(ended.is_err() && log.flush(Duration::from_secs(30)));
        let text = String::from_utf8(output.0.lock().clone()).unwrap();
        assert!(
            text.contains("ERROR gatepost::panic: panicked (a bug in Gatepost) thread=bug location=src/cli/"),
            "{text}"
        );
        assert!(text.contains("reason=a\\nb") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn an_event_is_one_line_without_hidden_characters() {
        let (lines, _) = lines(LogFormat::Text, "info", || tracing::info!("said=a\nERROR forged\u{202e}"));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with("said=a\\nERROR forged\\u{202e}"), "{lines:?}");
    }
}
