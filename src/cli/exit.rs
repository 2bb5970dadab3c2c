//! The end of a command: its exit code, and the line on standard error that says why.

use std::process::ExitCode;

use super::output::{OutputError, print_error};
use crate::config::ConfigError;
use crate::counts::plural;

/// The command failed.
pub(super) const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub(super) const BAD_USAGE: u8 = 2;
/// The directory is not an outbox, or the outbox cannot be opened.
pub(super) const NO_OUTBOX: u8 = 3;

/// A check found no fault, but something is not proven.
pub(super) const NOT_PROVEN: u8 = 4;

/// An error with an exit code other than [`FAILED`]. All other errors have that one.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// The command line or the configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// The configuration has these faults.
    #[error("the configuration has {}", plural(.0.len() as u64, "fault"))]
    Configuration(Vec<ConfigError>),
    /// A setting that the command needs is not set.
    #[error("{message}")]
    NotConfigured {
        /// The message.
        message: String,
        /// The exit code.
        code: u8,
    },
    /// The directory is not an outbox of this version.
    #[error("{0}")]
    NoOutbox(String),
    /// No fault was found, but something is not proven.
    #[error("{0}")]
    NotProven(String),
    /// The reason was printed or logged before.
    #[error("failed")]
    Reported {
        /// The exit code.
        code: u8,
    },
}

/// An error that the command line or the configuration causes.
pub(super) fn usage(message: impl Into<String>) -> anyhow::Error {
    CommandError::Usage(message.into()).into()
}

/// Reports the error, if there is one, on standard error, and returns the exit code. If the reader of standard output
/// has gone, the command succeeded: the reader has what it wanted.
pub(super) fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.downcast_ref::<OutputError>().is_some_and(OutputError::is_closed) {
        return ExitCode::SUCCESS;
    }
    ExitCode::from(report(&error, print_error))
}

/// Passes the messages of an error to `print`, and returns the exit code.
pub(super) fn report(error: &anyhow::Error, print: impl Fn(&str)) -> u8 {
    let code = match error.downcast_ref::<CommandError>() {
        Some(CommandError::Reported { code }) => return *code,
        Some(CommandError::Configuration(faults)) => {
            for fault in faults {
                print(&fault.to_string());
            }
            return BAD_USAGE;
        }
        Some(CommandError::Usage(_)) => BAD_USAGE,
        Some(CommandError::NoOutbox(_)) => NO_OUTBOX,
        Some(CommandError::NotConfigured { code, .. }) => *code,
        Some(CommandError::NotProven(_)) => NOT_PROVEN,
        None => FAILED,
    };
    print(&format!("{error:#}"));
    code
}
