//! To be written.
use std::process::ExitCode;
/// Nothing yet.
#[derive(Debug, clap::Args)]
pub struct Args {}
/// Nothing yet.
#[must_use]
pub fn run(_args: &Args) -> ExitCode {
    ExitCode::SUCCESS
}
