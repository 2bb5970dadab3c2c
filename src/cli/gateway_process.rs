//! The process of a running gateway: its log, its signals and its exit code.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::{CommandError, usage};
use super::gateway_error::GatewayError;
use super::logging;
use crate::config::Config;

/// Starts the log and runs `work`. Its error goes to the log.
///
/// # Errors
/// The log cannot be started, or [`CommandError::Reported`] if `work` failed.
pub(super) async fn run_logged(
    config: &Config,
    work: impl Future<Output = Result<(), GatewayError>>,
) -> anyhow::Result<()> {
    logging::start(config).map_err(usage)?;
    work.await.map_err(|error| {
        // An event is one line, and a configuration may have several faults.
        for line in error.to_string().lines() {
            tracing::error!(error = line, "gateway stopped");
        }
        CommandError::Reported { code: error.exit_code() }.into()
    })
}

/// A token that the first SIGTERM or SIGINT cancels. The second one ends the process immediately.
///
/// # Errors
/// The signals cannot be received.
pub(super) fn stop_on_signal() -> Result<CancellationToken, GatewayError> {
    let failed = |source| GatewayError::Io { operation: "receive signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!(
            "stopping: waiting for open calls, then storing and delivering records; a second signal ends now"
        );
        token.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::error!("second signal: exiting without waiting");
        std::process::exit(130);
    });
    Ok(stop)
}
