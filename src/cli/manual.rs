//! `gatepost completions` and `gatepost man`, made from the definition of the command line.

use std::path::PathBuf;

use anyhow::Context;
use clap_complete::Shell;
use clap_mangen::Man;

use super::output::print;

/// `gatepost completions`
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// `gatepost man`
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Write a page for each subcommand into this directory, which is created if it is missing
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the completions of a shell.
pub(super) fn completions(args: &CompletionsArgs, command: &mut clap::Command) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, command, "gatepost", &mut text);
    Ok(print(&String::from_utf8_lossy(&text))?)
}

/// Prints the main page, or writes all pages into a directory.
pub(super) fn man(args: &ManArgs, command: clap::Command) -> anyhow::Result<()> {
    if let Some(dir) = &args.dir {
        let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir));
        return written.with_context(|| format!("cannot write to {}", dir.display()));
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page).context("cannot make the page")?;
    Ok(print(&String::from_utf8_lossy(&page))?)
}
