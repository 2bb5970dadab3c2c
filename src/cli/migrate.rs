//! `gatepost migrate`: creates or updates the schema, for deployments in which a database role other than the gateway's
//! does this.

use std::path::PathBuf;

use anyhow::Context;

use super::configuration::load;
use super::database;
use super::output::print;
use crate::audit::sink::postgres::gateways::{Registration, set_registration};
use crate::audit::sink::postgres::{self, Options};
use crate::ops::format::plural;

/// `gatepost migrate`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration file with postgres.url [default: only GATEPOST_* variables and defaults]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The logins that may register a gateway: the owner of the tables (gatepost audit gateways add), or also the first
    /// one that delivers in its name [default: unchanged, at first owner]
    #[arg(long, value_name = "WHO")]
    register: Option<Who>,
}

/// The logins that may register a gateway.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Who {
    Owner,
    First,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    let config = load(args.config.as_deref())?;
    let options = Options { migrate: true, ..database::required(&config, "")? };
    let mut connection = database::connect(&options).await?;
    let count = postgres::migrate(&mut connection).await.context("the schema is unchanged")?;
    if let Some(who) = args.register {
        let registration = match who {
            Who::Owner => Registration::Owner,
            Who::First => Registration::First,
        };
        set_registration(&mut connection, registration).await?;
    }
    Ok(print(&format!("the schema is up to date: {} applied\n", plural(count as u64, "migration")))?)
}
