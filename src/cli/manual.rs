//! `gatepost completions` and `gatepost man`: what the command line says of itself, made from its own definition.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, fail, print};

/// `gatepost completions`
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell to complete for
    shell: Shell,
}

/// `gatepost man`
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write a page for each subcommand into this directory, made where it is missing, instead
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Prints the completions of a shell.
#[must_use]
pub fn completions(args: &CompletionsArgs) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gatepost", &mut text);
    written(print(&String::from_utf8_lossy(&text)), "standard output")
}

/// Prints the main page, or writes all pages into a directory.
#[must_use]
pub fn man(args: &ManArgs) -> ExitCode {
    if let Some(dir) = &args.dir {
        return written(write_pages(dir), &dir.display().to_string());
    }
    let mut page = Vec::new();
    let made = Man::new(Cli::command()).render(&mut page);
    written(made.and_then(|()| print(&String::from_utf8_lossy(&page))), "standard output")
}

fn write_pages(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)
}

fn written(result: std::io::Result<()>, place: &str) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write to {place}: {error}")),
    }
}
