//! The command line: one file a subcommand.
//!
//! Exit codes: 0 success; 1 the work failed, or records were lost; 2 bad usage or configuration; 3 the outbox cannot be
//! opened.

pub mod audit;
pub mod config_check;
pub mod example_backend;
mod logging;
pub mod manual;
mod matching;
pub mod migrate;
pub mod outbox;
mod progress;
pub mod quickstart;
pub mod serve;
pub mod stdio;
mod table;
pub mod token;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, Loaded};
use crate::escape::escape_hidden_lines;

/// The work failed.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const BAD_CONFIG: u8 = 2;
/// The outbox cannot be opened.
const NO_OUTBOX: u8 = 3;

/// Where OpenTelemetry's collector is. *Spec*: OTLP exporter configuration.
const OTLP_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// An MCP gateway whose audit trail is complete.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway over HTTP
    Serve(serve::Args),
    /// Run the gateway as a stdio server, for clients that start their servers themselves
    Stdio(stdio::Args),
    /// Look into the outbox of a live gateway, or of a dead one's directory
    Outbox(outbox::Args),
    /// Ask the audit trail
    Audit(audit::Args),
    /// Create or update the schema in Postgres
    Migrate(migrate::Args),
    /// Mint a development token, or hash a static one
    Token(token::Args),
    /// Work on configuration files
    Config(ConfigArgs),
    /// Run the example MCP server over stdio
    ExampleBackend,
    /// Print the completions of a shell
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write all of them
    Man(manual::ManArgs),
}

#[derive(Debug, clap::Args)]
struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Validate a configuration without starting anything
    Check(config_check::Args),
}

impl Cli {
    /// Runs the subcommand.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(args) => serve::run(&args),
            Command::Stdio(args) => stdio::run(&args),
            Command::Outbox(args) => outbox::run(&args),
            Command::Audit(args) => audit::run(&args),
            Command::Migrate(args) => migrate::run(&args),
            Command::Token(args) => token::run(&args),
            Command::Config(ConfigArgs { command: ConfigCommand::Check(args) }) => config_check::run(&args),
            Command::ExampleBackend => blocking(example_backend::run()),
            Command::Completions(args) => manual::completions(&args),
            Command::Man(args) => manual::man(&args),
        }
    }
}

/// Which configuration a reading command takes its directory and URL from.
#[derive(Clone, Debug, clap::Args)]
struct Source {
    /// Configuration file [default: only `GATEPOST_*` variables and defaults]
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// Outbox directory, instead of the configuration's `audit.dir`
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    /// Print JSON lines instead of a table
    #[arg(long, global = true)]
    json: bool,
}

impl Source {
    fn load(&self) -> Result<Config, ExitCode> {
        let mut config = load(self.config.as_deref())?;
        if let Some(dir) = &self.dir {
            config.audit.dir.clone_from(dir);
        }
        Ok(config)
    }
}

/// Loads a configuration, or says every fault.
fn load(path: Option<&std::path::Path>) -> Result<Config, ExitCode> {
    load_whole(path).map(|loaded| loaded.config)
}

/// The same, with its file.
fn load_whole(path: Option<&std::path::Path>) -> Result<Loaded, ExitCode> {
    let loaded = Config::load_whole(path, environment()).map(|mut loaded| {
        // The standard's own variable, which may be set for every process of a machine.
        let standard = || std::env::var(OTLP_VARIABLE).ok().filter(|endpoint| !endpoint.is_empty());
        loaded.config.telemetry.otlp_endpoint = loaded.config.telemetry.otlp_endpoint.take().or_else(standard);
        loaded
    });
    loaded.map_err(|faults| {
        for fault in faults {
            complain(&fault.to_string());
        }
        ExitCode::from(BAD_CONFIG)
    })
}

/// The environment; variables that are no UTF-8 name nothing of ours, and a caller's token is no setting.
fn environment() -> impl Iterator<Item = (String, String)> {
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    all.filter(|(name, _)| name != stdio::TOKEN_VARIABLE)
}

/// Runs `work` on a runtime of its own and reports its error.
fn blocking(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn fail(message: &str) -> ExitCode {
    complain(message);
    ExitCode::from(FAILED)
}

/// One line on standard error. Where that is closed nobody can be told.
fn complain(message: &str) {
    writeln!(std::io::stderr().lock(), "gatepost: {}", escape_hidden_lines(message)).ok();
}

/// Text on standard output.
///
/// # Errors
/// It cannot be written, for example since the reader of a pipe has gone.
fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
