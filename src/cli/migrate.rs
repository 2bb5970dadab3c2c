//! `gatepost migrate`: creates or updates the schema, for those who do it with another role than the gateway's.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::{BAD_CONFIG, blocking, complain, load, print};
use crate::audit::sink::postgres;

/// `gatepost migrate`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file with `postgres.url`
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Runs the command.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let config = match load(args.config.as_deref()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let Some(url) = config.postgres.url else {
        complain("postgres.url is not set; set it in the configuration or as GATEPOST_POSTGRES_URL");
        return ExitCode::from(BAD_CONFIG);
    };
    blocking(async move {
        let statement_timeout = config.postgres.statement_timeout;
        let options = postgres::Options { url, statement_timeout, migrate: true };
        let mut connection = postgres::connect(&postgres::connect_options(&options)?).await?;
        let count = postgres::migrate(&mut connection).await.context("the schema is as it was")?;
        Ok(print(&format!("the schema is up to date: {count} migrations applied\n"))?)
    })
}
