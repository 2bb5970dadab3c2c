//! `gatepost migrate`: creates or updates the schema, for deployments in which a database role other than the gateway's
//! does this.

use anyhow::Context;

use super::config_args::ConfigArgs;
use super::configuration::load;
use super::database;
use super::output::{print, print_error};
use crate::audit::sink::postgres::gateways::{Registration, set_registration};
use crate::audit::sink::postgres::{self, Options};
use crate::ops::format::plural;

/// `gatepost migrate`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
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
    let file = args.config.find();
    if file.is_found() {
        print_error(&file.to_string());
    }
    let config = load(file.path())?;
    let options = database::required(&config, "").map_err(|error| file.explain(error))?;
    let options = Options { migrate: true, ..options };
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
