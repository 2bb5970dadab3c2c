//! The options of all commands that read a trail or an outbox.

use std::path::PathBuf;

use super::config_args::{CONFIG_HELP, ConfigArgs, ConfigFile, ENV_FILE_HELP};
use super::configuration::load;
use super::exit::CommandError;
use super::output::print_error;
use super::terminal::{ColorWhen, Terminal};
use crate::config::Config;
use crate::ops::time_arg::Zone;

/// The heading of these options in the help.
const HEADING: &str = "Global options";

/// Options of all commands that read a trail or an outbox.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct GlobalArgs {
    #[arg(long, global = true, value_name = "FILE", help = CONFIG_HELP, help_heading = HEADING)]
    config: Option<PathBuf>,
    #[arg(long, global = true, value_name = "FILE", help = ENV_FILE_HELP, help_heading = HEADING)]
    env_file: Vec<PathBuf>,
    /// Outbox directory, or one of its slots, instead of audit.dir of the configuration
    #[arg(long, global = true, value_name = "DIR", help_heading = HEADING)]
    dir: Option<PathBuf>,
    /// Print JSON lines instead of text
    #[arg(long, global = true, help_heading = HEADING)]
    pub(super) json: bool,
    /// Read and print times in the local time zone (TZ) instead of UTC, except in JSON and CSV
    #[arg(long, global = true, help_heading = HEADING)]
    local: bool,
    // Not a doc comment: clippy would require Markdown in it, and the help would print the Markdown unchanged.
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        help_heading = HEADING,
        help = "Color: auto is on a terminal, unless NO_COLOR is set or TERM is dumb"
    )]
    color: ColorWhen,
}

impl GlobalArgs {
    /// The options that name the configuration.
    pub(super) fn config_args(&self) -> ConfigArgs {
        ConfigArgs { config: self.config.clone(), env_file: self.env_file.clone() }
    }

    /// The terminal to print to.
    pub(super) fn terminal(&self) -> Terminal {
        Terminal::of_standard_output(self.color, if self.local { Zone::Local } else { Zone::Utc })
    }

    /// Loads the configuration. A line on standard error names the file if the command line does not.
    ///
    /// # Errors
    /// The configuration has faults.
    pub(super) fn load(&self) -> Result<(Config, ConfigFile), CommandError> {
        let file = self.config_args().find();
        if file.is_found() {
            print_error(&file.to_string());
        }
        let mut config = load(file.path())?;
        config.audit.dir = self.dir.clone().unwrap_or_else(|| file.resolve(&config.audit.dir));
        Ok((config, file))
    }
}
