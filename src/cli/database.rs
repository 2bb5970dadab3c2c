//! The Postgres of a configuration, if it has one.

use super::exit::usage;
use crate::audit::sink::postgres::{self, Options};
use crate::config::Config;
use crate::file_access::FileKind;
use crate::walls::postgres_files;

/// The options to connect with; `None` if no database is configured, so that the trail is in the outbox.
pub(super) fn options(config: &Config) -> Option<Options> {
    let postgres = &config.postgres;
    let url = postgres.url.clone()?;
    Some(Options { url, statement_timeout: postgres.statement_timeout, migrate: false })
}

/// Checks the files with secrets that the driver opens by itself: the client's key and the file of passwords.
///
/// # Errors
/// Others may read or change one of them.
pub(super) fn check_files(config: &Config) -> Result<(), String> {
    postgres_files(config).iter().try_for_each(|path| {
        let checked = config.audit.files.open(path, FileKind::Secret);
        checked.map(drop).map_err(|error| format!("postgres.url: {error}"))
    })
}

/// The options to connect with, for a command that needs a database.
///
/// # Errors
/// No database is configured; `consequence` says why the command needs one.
pub(super) fn required(config: &Config, consequence: &str) -> anyhow::Result<Options> {
    options(config).ok_or_else(|| {
        usage(format!("postgres.url is not set{consequence}; set it in the configuration or as GATEPOST_POSTGRES_URL"))
    })
}

/// Connects.
///
/// # Errors
/// The database cannot be reached.
pub(super) async fn connect(options: &Options) -> anyhow::Result<postgres::Connection> {
    Ok(postgres::connect(&postgres::connect_options(options)?).await?)
}
