//! `gatepost audit pins`: accepts the definitions of tools as backends list them now.

use std::path::Path;

use anyhow::{Context as _, bail};
use clap::Subcommand;

use crate::cli::output::print;
use crate::config::{Config, Pins, write_pins};
use crate::escape::escape_hidden;
use crate::upstream::Upstreams;
use crate::walls::{Launcher, OwnFiles};

/// `gatepost audit pins`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Accept the definitions of tools as backends list them now: print what changes, and write the pins files
    Accept(Accept),
}

/// `gatepost audit pins accept`
#[derive(Debug, clap::Args)]
struct Accept {
    /// Backends to accept; without any, all that have a file of pins
    #[arg(value_name = "BACKEND")]
    backends: Vec<String>,
    /// Print what would change, and write nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(config: &Config, path: Option<&Path>, args: &Args) -> anyhow::Result<()> {
    let Command::Accept(args) = &args.command;
    let mut chosen = config.backends.clone();
    for alias in &args.backends {
        match config.backends.get(alias) {
            None => bail!("backend {alias} is not configured"),
            Some(backend) if backend.pins_file.is_none() => {
                bail!("backend {alias} has no pins_file: set backends.{alias}.pins_file")
            }
            Some(_) => {}
        }
    }
    chosen.retain(|alias, backend| {
        backend.pins_file.is_some() && (args.backends.is_empty() || args.backends.contains(alias))
    });
    if chosen.is_empty() {
        bail!("no backend has a pins_file: set backends.NAME.pins_file");
    }
    let launcher = Launcher::with_walls(OwnFiles::of(config, path));
    let upstreams = Upstreams::start(&chosen, &launcher)
        .map_err(|faults| anyhow::anyhow!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    let accepted = accept(&chosen, &upstreams, args.dry_run).await;
    upstreams.stop().await;
    accepted
}

async fn accept(
    chosen: &std::collections::BTreeMap<String, crate::config::Backend>,
    upstreams: &Upstreams,
    dry_run: bool,
) -> anyhow::Result<()> {
    for (alias, backend) in chosen {
        let Some(file) = &backend.pins_file else { continue };
        // What is not accepted in one go is not accepted: a file that cannot be read is replaced.
        let old = backend.pins.clone().unwrap_or_default();
        let upstream = upstreams.get(alias).with_context(|| format!("backend {alias} is not configured"))?;
        let tools = upstream.tools().await.with_context(|| format!("cannot list the tools of backend {alias}"))?;
        if !tools.is_whole {
            bail!(
                "the list of tools of backend {alias} cannot be read to its end (see the log); its pins stay as they are"
            );
        }
        let new = upstream.definitions();
        print(&difference(alias, &old, &new))?;
        if !dry_run {
            write_pins(file, &new).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

/// One line for each tool whose pin changes, and a count.
fn difference(alias: &str, old: &Pins, new: &Pins) -> String {
    let mut lines = Vec::new();
    for (tool, digest) in new {
        match old.get(tool) {
            None => lines.push(format!("{alias}/{}: new, {digest}\n", escape_hidden(tool))),
            Some(before) if before != digest => {
                lines.push(format!("{alias}/{}: changed, {before} -> {digest}\n", escape_hidden(tool)));
            }
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|tool| !new.contains_key(*tool));
    lines.extend(gone.map(|tool| format!("{alias}/{}: not listed any more\n", escape_hidden(tool))));
    let count = lines.len();
    lines.push(format!("{alias}: {} tools, {count} changed\n", new.len()));
    lines.concat()
}
