//! `gatepost run-backend`: becomes the program of a stdio backend, behind its walls. Only the gateway runs it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use super::output::print_error;
use crate::walls::{BackendStart, OwnFiles, START_ERROR_CODE, exec_backend};

/// `gatepost run-backend`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The gateway's process id
    #[arg(long)]
    parent: u32,
    /// The user to become
    #[arg(long)]
    user: Option<String>,
    /// The outbox directory; without it there are no walls
    #[arg(long)]
    own_dir: Option<PathBuf>,
    /// Files that are closed to the backend
    #[arg(long)]
    own_file: Vec<PathBuf>,
    /// Directories in which the backend may write
    #[arg(long)]
    write: Vec<PathBuf>,
    /// The program and its arguments
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// Becomes the program, or returns the exit code of the failure.
pub(super) fn run(args: Args) -> ExitCode {
    let Args { parent, user, own_dir, own_file, write, command } = args;
    let own = own_dir.map(|dir| OwnFiles { dir, files: own_file });
    let Err(reason) = exec_backend(&BackendStart { parent, user, own, write, command });
    print_error(&reason);
    ExitCode::from(START_ERROR_CODE)
}
