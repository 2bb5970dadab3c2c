//! The Postgres of a configuration, if it has one.

use super::exit::{BAD_USAGE, CommandError};
use crate::audit::sink::postgres::{self, Options};
use crate::config::Config;
use crate::file_access::FileKind;
use crate::walls::postgres_files;

/// The options to deliver with; `None` if no database is configured, so that the trail is in the outbox.
pub(super) fn options(config: &Config) -> Option<Options> {
    let url = config.postgres.url.clone()?;
    let password_file = config.postgres.password_file.clone().map(|path| (path, config.audit.files));
    Some(Options { url, password_file, statement_timeout: config.postgres.statement_timeout, migrate: false })
}

/// The options to read the trail with; `None` as for [`options`].
pub(super) fn reader_options(config: &Config) -> Option<Options> {
    let Some(url) = config.postgres.reader_url.clone() else { return options(config) };
    let statement_timeout = config.postgres.statement_timeout;
    Some(Options { url, password_file: None, statement_timeout, migrate: false })
}

/// Checks the files with secrets for Postgres: the password, and what the driver opens by itself, the client's key and
/// the file of passwords.
///
/// # Errors
/// Others may read or change one of them, or the password's file cannot be read.
pub(super) fn check_files(config: &Config) -> Result<(), String> {
    if let Some(path) = &config.postgres.password_file {
        let opened = config.audit.files.open(path, FileKind::Secret);
        opened.map_err(|error| format!("postgres.password_file: {error}"))?;
    }
    postgres_files(config).iter().try_for_each(|path| {
        let checked = config.audit.files.open(path, FileKind::Secret);
        checked.map(drop).map_err(|error| format!("postgres.url: {error}"))
    })
}

/// The options to connect with, for a command that changes a database.
///
/// # Errors
/// No database is configured; `consequence` says why the command needs one.
pub(super) fn required(config: &Config, consequence: &str) -> anyhow::Result<Options> {
    options(config).ok_or_else(|| not_set(consequence))
}

/// The options to connect with, for a command that only reads a database.
///
/// # Errors
/// As for [`required`].
pub(super) fn required_reader(config: &Config, consequence: &str) -> anyhow::Result<Options> {
    reader_options(config).ok_or_else(|| not_set(consequence))
}

fn not_set(consequence: &str) -> anyhow::Error {
    let message = format!(
        "postgres.url is not set{consequence}; set it in the configuration, as GATEPOST_POSTGRES_URL, or in a file of \
         variables (--env-file)"
    );
    CommandError::NotConfigured { message, code: BAD_USAGE }.into()
}

/// Connects.
///
/// # Errors
/// The database cannot be reached.
pub(super) async fn connect(options: &Options) -> anyhow::Result<postgres::Connection> {
    Ok(postgres::connect(options).await?)
}
