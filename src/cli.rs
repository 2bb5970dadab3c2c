//! The command line: one file per subcommand.
//!
//! Each has `Args` and a function `run`, which returns an error if the command failed. [`exit`] turns it into a message
//! and an exit code: 0 success; 1 failure, or records were lost; 2 wrong usage or configuration; 3 the outbox cannot be
//! opened.

mod audit;
mod command_line;
mod config_args;
mod config_check;
mod configuration;
mod database;
mod digest_key;
mod env_file;
mod evidence;
mod example_backend;
mod exit;
mod export_dir;
mod filter_args;
mod gateway_error;
mod gateway_process;
mod global_args;
mod health;
mod leftovers;
mod logging;
mod manual;
mod migrate;
mod notary;
mod open_files;
mod opening;
mod outbox;
mod outbox_client;
mod output;
mod pipeline;
mod preflight;
mod program;
mod progress;
mod record_view;
mod run_backend;
mod serve;
mod slots;
mod stdio;
mod table;
mod table_args;
mod terminal;
mod token;
mod trail;
mod witness;

use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use config_args::ConfigArgs;
use env_file::Unreadable;
use output::{OutputError, print};

/// An MCP gateway whose audit trail is complete.
#[derive(Debug, Parser)]
#[command(name = "gatepost", version, about, max_term_width = 80)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway over HTTP
    Serve(serve::Args),
    /// Run the gateway as a stdio server, for clients that start their own servers
    Stdio(stdio::Args),
    /// Print the condition of a running gateway; exit code 1 if it cannot audit calls or does not answer
    Health(health::Args),
    /// Inspect or change the outbox of a live gateway, or of a dead one's directory
    #[command(visible_alias = "debug")]
    Outbox(outbox::Args),
    /// Read and verify the audit trail
    Audit(audit::Args),
    /// Make keys that sign checkpoints and policies that name them, and print evidence in plain words
    Evidence(evidence::Args),
    /// Run a witness: it signs checkpoints of logs, each only if it continues the one before
    Witness(witness::Args),
    /// Create or update the schema in Postgres
    Migrate(migrate::Args),
    /// Mint a development token, or hash a static one
    Token(token::Args),
    /// Validate configuration files
    Config(ConfigArguments),
    /// Run the example MCP server over stdio
    ExampleBackend,
    /// Become the program of a stdio backend, behind its walls; only the gateway runs this
    #[command(hide = true)]
    RunBackend(run_backend::Args),
    /// Print the version
    Version,
    /// Print shell completions
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write all manual pages
    Man(manual::ManArgs),
}

#[derive(Debug, clap::Args)]
struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Validate a configuration without starting anything
    Check(config_check::Args),
}

/// Runs this process's command line.
#[must_use]
pub fn run() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(wrong) if wrong.use_stderr() => wrong.exit(),
        // The help or the version.
        Err(text) => exit::exit_code(text.print().map_err(|error| OutputError::new(error).into())),
    }
}

impl Cli {
    /// Runs the subcommand and reports its error.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if let Command::RunBackend(args) = self.command {
            // Without a runtime: it becomes another program, and must have one thread.
            return run_backend::run(args);
        }
        if let Some((config, unreadable)) = self.command.config_args()
            && let Err(error) = env_file::enter(&config, unreadable)
        {
            return exit::exit_code(Err(error));
        }
        exit::exit_code(self.command.run())
    }
}

impl Command {
    /// The options that name the configuration, for the commands that read files of variables. A gateway gets its
    /// variables from the service manager.
    fn config_args(&self) -> Option<(ConfigArgs, Unreadable)> {
        match self {
            Self::Outbox(args) => Some((args.config_args(), Unreadable::Reported)),
            Self::Audit(args) => Some((args.config_args(), Unreadable::Reported)),
            Self::Evidence(args) => Some((args.config_args()?, Unreadable::Reported)),
            Self::Migrate(args) => Some((args.config.clone(), Unreadable::Reported)),
            Self::Token(args) => Some((args.config_args()?, Unreadable::Reported)),
            // Before each start of the unit, with its variables.
            Self::Config(ConfigArguments { command: ConfigCommand::Check(args) }) => {
                Some((args.config.clone(), Unreadable::Expected))
            }
            _ => None,
        }
    }

    /// Runs the subcommand on a runtime of its own: of several threads to serve, otherwise of one.
    fn run(self) -> anyhow::Result<()> {
        if !matches!(self, Self::ExampleBackend) {
            close_memory();
        }
        let mut builder = match self {
            Self::Serve(_) | Self::Stdio(_) | Self::Witness(_) => tokio::runtime::Builder::new_multi_thread(),
            _ => tokio::runtime::Builder::new_current_thread(),
        };
        let runtime = builder.enable_all().build().context("cannot start the runtime")?;
        let result = runtime.block_on(Box::pin(self.dispatch()));
        // A blocked read of standard input cannot be cancelled, and nothing else is left by now.
        runtime.shutdown_background();
        result
    }

    async fn dispatch(self) -> anyhow::Result<()> {
        gateway_process::survive_file_size_limit().context("cannot handle SIGXFSZ")?;
        match self {
            Self::Serve(args) => gateway_process::run(async |log| serve::run(&args, &log).await).await,
            Self::Stdio(args) => gateway_process::run(async |log| stdio::run(&args, &log).await).await,
            Self::Health(args) => health::run(&args).await,
            Self::Outbox(args) => outbox::run(&args).await,
            Self::Audit(args) => audit::run(&args).await,
            Self::Evidence(args) => evidence::run(&args).await,
            Self::Witness(args) => gateway_process::run(async |log| witness::run(&args, &log).await).await,
            Self::Migrate(args) => migrate::run(&args).await,
            Self::Token(args) => token::run(&args),
            Self::Config(ConfigArguments { command: ConfigCommand::Check(args) }) => config_check::run(&args).await,
            Self::ExampleBackend => example_backend::run().await,
            Self::RunBackend(args) => {
                run_backend::run(args);
                Ok(())
            }
            Self::Version => Ok(print(&format!("gatepost {}\n", env!("CARGO_PKG_VERSION")))?),
            Self::Completions(args) => manual::completions(&args, &mut Cli::command()),
            Self::Man(args) => manual::man(&args, Cli::command()),
        }
    }
}

/// Closes this process's memory, environment and open files in `/proc` to other processes of the same user, and
/// prevents core dumps: they contain secrets.
fn close_memory() {
    // *Spec*: prctl(2), PR_SET_DUMPABLE. It cannot fail with this value.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).ok();
}
