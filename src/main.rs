//! The shell: reads the command line and hands over.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    gatepost::cli::Cli::parse().run()
}
