//! Connecting: the servers of a URL in turn, each within a time limit.
//!
//! The driver gets no URL: its own parser logs what it does not know, with values, and tries names, addresses and TLS
//! differently from libpq. It gets one address at a time, over TCP through [`super::relay`].

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _};

use super::error::{driver_error, for_operator, timed_out};
use super::login::Refusal;
use super::relay;
use super::tls;
use crate::audit::sink::interface::SinkError;
use crate::audit::sink::sqlstate::ErrorClass;
use crate::audit::sql::{self, Connection};
use crate::file_access::{FileAccess, FileKind};
use crate::postgres_url::{ChannelBinding, Host, PostgresUrl, Server, Target};

/// Longest attempt to connect to one address, if the URL names none. *Chosen*: longer than a healthy server needs,
/// shorter than TCP's own timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time beyond the server's `statement_timeout` after which the client treats the connection as dead. *Chosen*: the
/// server's own timeout error arrives within it, even over a slow network.
pub(super) const REPLY_GRACE: Duration = Duration::from_secs(5);

/// Largest file with a password, in bytes. *Chosen*: longer than the tokens that hosted databases take as passwords.
const PASSWORD_BYTES_MAX: usize = 16 * 1024;

const OPERATION: &str = "connect";

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

/// Parses the URL of `options`.
///
/// # Errors
/// It is not a Postgres URL. The message does not repeat it, because it may contain a password.
pub(super) fn parse_url(options: &Options) -> Result<PostgresUrl, SinkError> {
    PostgresUrl::parse(&options.url).map_err(|fault| for_operator("read postgres.url", format!("it {fault}")))
}

/// Connects to a server that the URL of `options` allows: one that accepts writes, if it does not say which.
///
/// # Errors
/// See [`SinkError`]: the errors of all servers. It has class `Operator` if that of one of them has.
pub async fn connect(options: &Options) -> Result<Connection, SinkError> {
    let url = parse_url(options)?;
    let password = match &options.password_file {
        Some((path, files)) => Some(password(path, *files)?),
        None => None,
    };
    let (mut second_choice, mut errors) = (None, Vec::new());
    for (number, server) in url.servers.iter().enumerate() {
        let place = |error: SinkError| if url.servers.len() > 1 { numbered(number + 1, error) } else { error };
        let addresses = match addresses(server).await {
            Ok(addresses) => addresses,
            Err(error) => {
                errors.push(place(error));
                continue;
            }
        };
        let is_only = url.servers.len() == 1 && addresses.len() == 1;
        for address in addresses {
            let attempt = Attempt { url: &url, server, address, password: password.as_deref() };
            match attempt.connect(is_only).await {
                Ok((connection, Choice::First)) => return Ok(Connection::new(connection, options.statement_timeout)),
                Ok((connection, Choice::Second)) => second_choice = second_choice.or(Some(connection)),
                Err(error) => errors.push(place(error)),
            }
        }
    }
    match second_choice {
        Some(connection) => Ok(Connection::new(connection, options.statement_timeout)),
        None => Err(all(errors)),
    }
}

/// The rank of a server that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    First,
    /// Used if no other one answers.
    Second,
}

/// One attempt to connect.
struct Attempt<'a> {
    url: &'a PostgresUrl,
    server: &'a Server,
    /// `None`: the server's socket.
    address: Option<SocketAddr>,
    password: Option<&'a str>,
}

impl Attempt<'_> {
    /// Connects within the time limit. With `is_only`, there is no other server to try.
    async fn connect(&self, is_only: bool) -> Result<(PgConnection, Choice), SinkError> {
        let limit = self.url.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        match tokio::time::timeout(limit, self.connect_and_choose(is_only)).await {
            Ok(result) => result,
            Err(_) => Err(timed_out(OPERATION, limit, ErrorClass::Transient)),
        }
    }

    async fn connect_and_choose(&self, is_only: bool) -> Result<(PgConnection, Choice), SinkError> {
        let mut connection = self.open().await?;
        if self.url.target == Some(Target::Any) || self.url.target.is_none() && is_only {
            return Ok((connection, Choice::First));
        }
        let is_standby = is_standby(&mut connection).await?;
        let choice = match (self.url.target, is_standby) {
            (None | Some(Target::ReadWrite | Target::Primary), false)
            | (Some(Target::Standby | Target::PreferStandby), true)
            | (Some(Target::Any), _) => Choice::First,
            (None, true) | (Some(Target::PreferStandby), false) => Choice::Second,
            (Some(Target::ReadWrite | Target::Primary), true) => {
                // The standbys and the primary change places without a person's help.
                connection.close().await.ok();
                let message = "it is a standby, which accepts no writes".to_owned();
                return Err(SinkError { operation: OPERATION, class: ErrorClass::Transient, sqlstate: None, message });
            }
            (Some(Target::Standby), false) => {
                connection.close().await.ok();
                let message = "it is not a standby".to_owned();
                return Err(SinkError { operation: OPERATION, class: ErrorClass::Transient, sqlstate: None, message });
            }
        };
        Ok((connection, choice))
    }

    async fn open(&self) -> Result<PgConnection, SinkError> {
        let options = self.driver_options()?;
        let binding = match self.url.channel_binding {
            Some(binding) => binding,
            None => tls::binding_of_environment()?.unwrap_or(ChannelBinding::Prefer),
        };
        let Some(address) = self.address else {
            if binding == ChannelBinding::Require {
                let reason = "channel_binding is require, and a connection over a socket has no TLS to bind to: \
                              remove it from the URL";
                return Err(for_operator(OPERATION, reason));
            }
            return options.connect().await.map_err(|error| connect_error(&error, None));
        };
        let stream =
            relay::connect(address).await.map_err(|error| transient(format!("cannot reach {address}: {error}")))?;
        let mode = match self.url.ssl_mode {
            Some(mode) => mode,
            None => tls::mode_of_environment()?.unwrap_or_else(|| self.server.default_ssl_mode()),
        };
        let name = match &self.server.host {
            Host::Tcp { name, .. } => name.as_str(),
            Host::Socket(_) => "",
        };
        let files = tls::Files::of(self.url.ssl_root_cert.as_deref(), self.url.ssl_client.as_ref());
        let stream = tls::protect(stream, mode, name, &files).await?;
        let (dir, refusal) =
            relay::start(stream, binding).map_err(|error| transient(format!("cannot relay: {error}")))?;
        options.socket(dir).port(relay::PORT).connect().await.map_err(|error| connect_error(&error, Some(&refusal)))
    }

    /// The options of the driver besides an address: the login, from the URL, the environment or the file of passwords.
    fn driver_options(&self) -> Result<PgConnectOptions, SinkError> {
        let (host, socket) = match &self.server.host {
            Host::Socket(dir) => (dir.display().to_string(), Some(dir)),
            Host::Tcp { name, .. } => (name.clone(), None),
        };
        // The driver looks into the file of passwords only when it parses a URL. This one has only parts that it knows.
        let mut lookup = url::Url::parse("postgres:///").map_err(|error| for_operator(OPERATION, error.to_string()))?;
        {
            let mut query = lookup.query_pairs_mut();
            query.append_pair("host", &host).append_pair("port", &self.server.port.to_string());
            query.append_pair("dbname", &self.url.database);
            if let Some(user) = &self.url.user {
                query.append_pair("user", user);
            }
            if let Some(settings) = &self.url.options {
                query.append_pair("options", settings);
            }
        }
        let mut options = PgConnectOptions::from_url(&lookup).map_err(|error| driver_error(OPERATION, &error))?;
        if let Some(dir) = socket {
            options = options.socket(dir);
        }
        if let Some(password) = self.password.or(self.url.password.as_deref()) {
            options = options.password(password);
        }
        let name = self.url.application_name.as_deref().unwrap_or("gatepost");
        // No settings at the start of the session, but for those that the operator names: poolers refuse or drop them.
        Ok(options
            .application_name(name)
            .extra_float_digits(None)
            .ssl_mode(PgSslMode::Disable)
            .statement_cache_capacity(0)
            .disable_statement_logging())
    }
}

/// True if the server recovers, and so accepts no writes.
async fn is_standby(connection: &mut PgConnection) -> Result<bool, SinkError> {
    let fault = |error: sqlx::Error| driver_error("ask whether the server is a standby", &error);
    let mut transaction = connection.begin().await.map_err(fault)?;
    let query = sql::query_scalar("SELECT pg_catalog.pg_is_in_recovery()");
    let is_standby = query.fetch_one(&mut *transaction).await.map_err(fault)?;
    transaction.rollback().await.map_err(fault)?;
    Ok(is_standby)
}

/// The addresses of a server, in the order of the resolver; `None` is its socket.
async fn addresses(server: &Server) -> Result<Vec<Option<SocketAddr>>, SinkError> {
    let Host::Tcp { name, address } = &server.host else { return Ok(vec![None]) };
    if let Some(address) = address.or_else(|| name.parse::<IpAddr>().ok()) {
        return Ok(vec![Some(SocketAddr::new(address, server.port))]);
    }
    // A name that is not there yet comes with the service: it is looked up again at each attempt.
    let failed = |error: String| transient(format!("cannot find its address: {error}"));
    let lookup = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((name.as_str(), server.port))).await;
    let found = lookup.map_err(|_| failed(format!("no reply within {CONNECT_TIMEOUT:?}")))?;
    let found: Vec<_> = found.map_err(|error| failed(error.to_string()))?.map(Some).collect();
    if found.is_empty() { Err(failed("its name has none".to_owned())) } else { Ok(found) }
}

fn transient(message: String) -> SinkError {
    SinkError { operation: OPERATION, class: ErrorClass::Transient, sqlstate: None, message }
}

fn connect_error(error: &sqlx::Error, refusal: Option<&Refusal>) -> SinkError {
    if let Some(reason) = refusal.and_then(Refusal::reason) {
        return for_operator(OPERATION, reason);
    }
    let error_of_driver = driver_error(OPERATION, error);
    match error {
        // For example a way to authenticate that the driver does not know. It does not change by itself.
        sqlx::Error::Protocol(_) => SinkError { class: ErrorClass::Operator, ..error_of_driver },
        _ => error_of_driver,
    }
}

/// The error of one of several servers. I8: its number, since what was taken for its name may be something else.
fn numbered(number: usize, error: SinkError) -> SinkError {
    SinkError { message: format!("server {number}: {}", error.message), ..error }
}

/// The errors of all servers as one.
fn all(mut errors: Vec<SinkError>) -> SinkError {
    if errors.len() <= 1 {
        return errors.pop().unwrap_or_else(|| for_operator(OPERATION, "the URL names no server"));
    }
    // A person hears of what only a person can fix, even if other servers are only down.
    let place = errors.iter().position(|error| error.class == ErrorClass::Operator).unwrap_or(0);
    let mut messages: Vec<_> = errors.iter().map(|error| error.message.clone()).collect();
    messages.dedup();
    SinkError { message: messages.join("; "), ..errors.swap_remove(place) }
}

/// The first line of the file.
fn password(path: &Path, files: FileAccess) -> Result<String, SinkError> {
    let refused = |message: String| for_operator("read postgres.password_file", message);
    let bytes = files.read(path, FileKind::Secret, PASSWORD_BYTES_MAX).map_err(|error| refused(error.to_string()))?;
    // I8: neither error shows what is in the file.
    let text = String::from_utf8(bytes).map_err(|_| refused(format!("{} is not UTF-8", path.display())))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
