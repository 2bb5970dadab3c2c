//! The process of a running gateway: its log, its signals and its exit code.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::{CommandError, report, usage};
use super::gateway_error::GatewayError;
use super::logging;
use super::output::without_error_numbers;
use crate::config::Config;
use crate::escape::escape_hidden_lines;
use crate::log::Log;

/// Longest wait for the log's reader at the end. *Chosen*: a reader that is alive takes milliseconds, and a service
/// manager that waits for the end loses nothing by a second.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The same after a second signal. *Chosen*: shorter than a person notices.
const HURRIED_FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// Exit code after a second signal. *Spec*: 128 and the number of SIGINT, as shells report it.
const INTERRUPTED: i32 = 130;

/// The rest of a gateway's work after a signal.
pub(super) const DRAIN: &str = "waiting for open calls, then storing and delivering records";

/// Runs `command` with a log on standard error, which also gets its error. Nothing is written to standard error past
/// the log, because that would wait for its reader.
///
/// # Errors
/// [`CommandError::Reported`] if `command` failed.
pub(super) async fn run(command: impl AsyncFnOnce(Log) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let log = FlushedLog(Log::on_standard_error()?);
    let Err(error) = Box::pin(command(log.0.clone())).await else { return Ok(()) };
    let code = report(&error, |message| {
        for line in escape_hidden_lines(&without_error_numbers(message)).lines() {
            log.0.add(format!("gatepost: {line}").as_bytes());
        }
    });
    Err(CommandError::Reported { code }.into())
}

/// Flushes the log when it is dropped, after a panic too.
struct FlushedLog(Log);

impl Drop for FlushedLog {
    fn drop(&mut self) {
        self.0.flush(FLUSH_TIMEOUT);
    }
}

/// Connects the log and runs `work`. Its error goes to the log.
///
/// # Errors
/// The log cannot be started, or [`CommandError::Reported`] if `work` failed.
pub(super) async fn run_logged(
    config: &Config,
    log: &Log,
    work: impl Future<Output = Result<(), GatewayError>>,
) -> anyhow::Result<()> {
    logging::start(config, log).map_err(usage)?;
    work.await.map_err(|error| {
        // An event is one line, and a configuration may have several faults.
        for line in error.to_string().lines() {
            tracing::error!(error = line, "gateway stopped");
        }
        CommandError::Reported { code: error.exit_code() }.into()
    })
}

/// A token that the first SIGTERM or SIGINT cancels; `rest` is the work that is left then. The second one ends the
/// process immediately. Both act before they are logged, on a thread of their own: the second one ends a gateway even
/// if no thread of its runtime runs any more.
///
/// # Errors
/// The signals cannot be received.
pub(super) fn stop_on_signal(log: &Log, rest: &'static str) -> Result<CancellationToken, GatewayError> {
    let failed = |source| GatewayError::Io { operation: "receive signals", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        let signals = signal(SignalKind::terminate()).and_then(|one| Ok((one, signal(SignalKind::interrupt())?)));
        signals.map_err(failed)?
    };
    let stop = CancellationToken::new();
    let (token, log) = (stop.clone(), log.clone());
    let wait = move || {
        runtime.block_on(either(&mut terminate, &mut interrupt));
        token.cancel();
        tracing::info!("stopping: {rest}; a second signal ends now");
        runtime.block_on(either(&mut terminate, &mut interrupt));
        tracing::error!("second signal: exiting without waiting");
        log.flush(HURRIED_FLUSH_TIMEOUT);
        std::process::exit(INTERRUPTED);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(failed)?;
    Ok(stop)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
}

/// Makes a write beyond the limit for the size of files (`ulimit -f`, `LimitFSIZE=`) an error of that write, as on a
/// full disk, instead of the end of the process. A write to a pipe without a reader is one already: the standard
/// library ignores SIGPIPE. Programs that are started do not inherit either.
///
/// # Errors
/// The signal cannot be handled.
pub(super) fn survive_file_size_limit() -> io::Result<()> {
    // A handler, once installed, stays; a program that is started gets the default action.
    signal(SignalKind::from_raw(nix::sys::signal::Signal::SIGXFSZ as i32)).map(drop)
}
