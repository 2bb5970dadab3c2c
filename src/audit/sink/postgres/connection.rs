//! Connection options, and connecting within a time limit.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use super::error::{driver_error, timed_out};
use crate::audit::sink::interface::SinkError;
use crate::audit::sink::sqlstate::ErrorClass;
use crate::file_access::{FileAccess, FileKind};

/// Longest connection attempt. *Chosen*: longer than a healthy server needs, shorter than TCP's own timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time beyond the server's `statement_timeout` after which the client treats the connection as dead. *Chosen*: the
/// server's own timeout error arrives within it, even over a slow network.
pub(super) const REPLY_GRACE: Duration = Duration::from_secs(5);

/// Largest file with a password, in bytes. *Chosen*: longer than the tokens that hosted databases take as passwords.
const PASSWORD_BYTES_MAX: usize = 16 * 1024;

/// A connection.
pub type Connection = PgConnection;

/// Settings of a connection to Postgres.
#[derive(Clone)]
pub struct Options {
    /// The URL, `postgres://...`. May contain a password.
    pub url: String,
    /// A file with the password, which is read at each connection, and the access that it may have.
    pub password_file: Option<(PathBuf, FileAccess)>,
    /// The server cancels a statement after this time.
    pub statement_timeout: Duration,
    /// True if [`crate::audit::sink::Sink::prepare`] applies the migrations.
    pub migrate: bool,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // I8: the URL may contain a password.
        f.debug_struct("Options").field("statement_timeout", &self.statement_timeout).finish_non_exhaustive()
    }
}

/// Parses `options`, and reads the password from its file.
///
/// # Errors
/// The URL is not a Postgres URL, or the file cannot be used. The message does not repeat the URL, because it may
/// contain a password.
pub fn connect_options(options: &Options) -> Result<PgConnectOptions, SinkError> {
    let milliseconds = options.statement_timeout.as_millis().to_string();
    let mut connect =
        PgConnectOptions::from_str(&options.url).map_err(|error| driver_error("parse postgres.url", &error))?;
    if let Some((path, files)) = &options.password_file {
        connect = connect.password(&password(path, *files)?);
    }
    Ok(connect.application_name("gatepost").options([
        // *Delivered* means that the record is on Postgres's disk, whatever the server's default is.
        ("synchronous_commit", "on"),
        ("statement_timeout", &milliseconds),
        ("lock_timeout", &milliseconds),
        ("tcp_keepalives_idle", "30"),
    ]))
}

/// The first line of the file.
fn password(path: &Path, files: FileAccess) -> Result<String, SinkError> {
    let refused = |message| {
        let operation = "read postgres.password_file";
        SinkError { operation, class: ErrorClass::Operator, sqlstate: None, message }
    };
    let bytes = files.read(path, FileKind::Secret, PASSWORD_BYTES_MAX).map_err(|error| refused(error.to_string()))?;
    // I8: neither error shows what is in the file.
    let text = String::from_utf8(bytes).map_err(|_| refused(format!("{} is not UTF-8", path.display())))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Connects within a time limit.
///
/// # Errors
/// See [`SinkError`].
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, SinkError> {
    let operation = "connect";
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(result) => result.map_err(|error| driver_error(operation, &error)),
        Err(_) => Err(timed_out(operation, CONNECT_TIMEOUT, ErrorClass::Transient)),
    }
}
