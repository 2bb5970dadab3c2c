//! The options of all commands that read a trail or an outbox.

use std::path::{Path, PathBuf};

use super::configuration::load;
use super::exit::CommandError;
use crate::config::Config;

/// The heading of these options in the help.
const HEADING: &str = "Global options";

/// Options of all commands that read a trail or an outbox.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct GlobalArgs {
    /// Configuration file [default: only GATEPOST_* variables and defaults]
    #[arg(long, global = true, value_name = "FILE", help_heading = HEADING)]
    config: Option<PathBuf>,
    /// Outbox directory, or one of its slots, instead of audit.dir of the configuration
    #[arg(long, global = true, value_name = "DIR", help_heading = HEADING)]
    dir: Option<PathBuf>,
    /// Print JSON lines instead of text
    #[arg(long, global = true, help_heading = HEADING)]
    pub(super) json: bool,
}

impl GlobalArgs {
    /// The configuration file, if one is given.
    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Loads the configuration.
    ///
    /// # Errors
    /// The configuration has faults.
    pub(super) fn load(&self) -> Result<Config, CommandError> {
        let mut config = load(self.config.as_deref())?;
        if let Some(dir) = &self.dir {
            config.audit.dir.clone_from(dir);
        }
        Ok(config)
    }
}
