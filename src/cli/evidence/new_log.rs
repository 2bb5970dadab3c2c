//! `gatepost evidence new-log`: lets a new log begin at the next start, after a contradiction to the old one.

use crate::audit::outbox::fs::DiskFs;
use crate::audit::outbox::{OutboxError, mark_new_log};
use crate::cli::exit::{CommandError, usage};
use crate::cli::global_args::GlobalArgs;
use crate::cli::output::{json_line, print};
use crate::cli::slots;
use crate::config::Config;
use crate::counts::plural;

/// `gatepost evidence new-log`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (config, file) = args.global.load()?;
    mark(&config, args.global.json).map_err(|error| file.explain(error))
}

fn mark(config: &Config, json: bool) -> anyhow::Result<()> {
    let dir = &config.audit.dir;
    let no_outbox = |what: &str| {
        CommandError::NoOutbox(format!(
            "{} is not an outbox directory: {what}; name one with --dir, or the configuration with --config",
            dir.display()
        ))
    };
    let outboxes = slots::outboxes(dir).map_err(|error| no_outbox(&error.to_string()))?;
    let outbox = match &outboxes[..] {
        [outbox] => outbox,
        [] => return Err(no_outbox("it has no outbox file").into()),
        [.., last] => {
            return Err(usage(format!(
                "{} has {}, each with a log of its own: name one, for example --dir {}",
                dir.display(),
                plural(outboxes.len() as u64, "outbox"),
                last.display()
            )));
        }
    };
    mark_new_log(&DiskFs, outbox).map_err(|error| match error {
        OutboxError::Locked { path, holder } => anyhow::anyhow!(
            "{} is in use by {holder}: stop that gateway, run this command again, and start it",
            path.display()
        ),
        error => error.into(),
    })?;
    if json {
        return Ok(print(&json_line(&serde_json::json!({ "dir": outbox.display().to_string() }))?)?);
    }
    Ok(print(&format!(
        "the next start on {} begins a new log, which is named after its first epoch\n\
         Its name and key are then in the log (\"signs checkpoints\") and in gatepost evidence policy. Give them to the \
         witnesses, which refuse the new log until they have them, and to those who check records.\n\
         Records of the old log are proven as before: keep its lines in policies.\n",
        outbox.display()
    ))?)
}
