//! URLs: of backends, issuers, collectors, web origins and Postgres.

use url::{Host, Url};

/// The values of `sslmode`. *Spec*: the PostgreSQL manual, "SSL Support".
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// The parameters of a Postgres URL. *Derived*: those that sqlx's parser knows; it logs others with their values.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// The endpoint of a backend.
pub(super) fn http_url(text: &str) -> Result<(), String> {
    let remedy = "use one like \"https://tools.example/mcp\"";
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error}): {remedy}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("is not an http or https URL: {remedy}"));
    }
    if has_credentials(&url) {
        return Err("contains a user name or password: use header_env or header_file instead".to_owned());
    }
    Ok(())
}

/// A URL from which, or to which, nothing may be read or changed on the way: over plain HTTP anyone on the way could
/// replace an issuer's keys.
pub(super) fn web_url(text: &str) -> Result<(), String> {
    let url = Url::parse(text)
        .map_err(|source| format!("is not a URL ({source}): use one like \"https://login.example.com/jwks.json\""))?;
    if has_credentials(&url) {
        return Err("contains a user name or password: remove it".to_owned()); // I8: it is not shown either.
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(&url) => Ok(()),
        "http" => Err("is not encrypted: use https, or a loopback host".to_owned()), // I8: a query may be a secret.
        other => Err(format!("has the scheme {other:?}: use https")),
    }
}

/// A web origin, as browsers send it.
pub(super) fn origin(text: &str) -> Result<(), String> {
    // I8: it is not shown, because it may be a URL with a secret.
    let error = || {
        "is not an origin: write scheme://host[:port] without a path, for example \"https://app.example\"".to_owned()
    };
    let url = Url::parse(text).map_err(|_| error())?;
    if url.origin().is_tuple() && url.origin().ascii_serialization() == text { Ok(()) } else { Err(error()) }
}

/// A Postgres URL. Refused is also what the driver would ignore or misread: a parameter that it does not know (it would
/// log the value), and the signs of a special character that was not escaped in a password.
///
/// I8: no message shows any part of the URL but its scheme and the names of its parameters.
pub(super) fn postgres_url(text: &str) -> Result<(), String> {
    has_escaped_characters(text)?;
    let url = Url::parse(text).map_err(|source| {
        format!("is not a URL ({source}): write postgres://user:password@host:port/database, special characters as %XX")
    })?;
    if !["postgres", "postgresql"].contains(&url.scheme()) {
        return Err(format!("has the scheme {:?}: write postgres://user@host/database", url.scheme()));
    }
    let has_socket = url.query_pairs().any(|(name, _)| name == "host");
    if url.host_str().is_none_or(str::is_empty) && !has_socket {
        return Err("names no host: write postgres://user@host/database".to_owned());
    }
    let database = url.path().trim_matches('/');
    if database.is_empty() && !url.query_pairs().any(|(name, _)| name == "dbname") {
        return Err("names no database: write postgres://user@host/database".to_owned());
    }
    if database.contains('/') {
        return Err("has a / in the name of the database: write postgres://user@host/database, a / as %2F".to_owned());
    }
    url.query_pairs().try_for_each(|(name, value)| postgres_parameter(&name, &value))
}

/// Refuses a URL of which a part may be the rest of a password whose special characters are not escaped. The parser
/// would take that part for a host, a database or a parameter, which are shown and logged.
fn has_escaped_characters(text: &str) -> Result<(), String> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    if after.contains('@') || authority.matches('@').count() > 1 {
        return Err("has an @ that is not before the host: in the password, write @ as %40, / as %2F, ? as %3F, \
                    # as %23, \\ as %5C; elsewhere, @ as %40"
            .to_owned());
    }
    if after.contains('#') {
        return Err("has a #, after which everything is ignored: write it as %23".to_owned());
    }
    let is_escape = |after: &str| after.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if text.split('%').skip(1).any(|after| !is_escape(after)) {
        return Err("has a % that begins no escape: write it as %25".to_owned());
    }
    Ok(())
}

/// Checks one parameter of a Postgres URL.
fn postgres_parameter(name: &str, value: &str) -> Result<(), String> {
    let is_valid = match name {
        "sslmode" | "ssl-mode" => SSL_MODES.contains(&value),
        "port" => value.parse::<u16>().is_ok(),
        "hostaddr" => value.parse::<std::net::IpAddr>().is_ok(),
        "statement-cache-capacity" => value.parse::<usize>().is_ok(),
        name => return is_postgres_parameter(name),
    };
    match (is_valid, name) {
        (true, _) => Ok(()),
        (false, "sslmode" | "ssl-mode") => Err(format!("has an unknown sslmode: use one of {}", SSL_MODES.join(", "))),
        (false, "hostaddr") => Err("has a hostaddr that is not an IP address".to_owned()),
        (false, _) => Err(format!("has a {name} that is not a number in its range")),
    }
}

fn is_postgres_parameter(name: &str) -> Result<(), String> {
    if PARAMETERS.contains(&name) || name.strip_prefix("options[").is_some_and(|key| key.ends_with(']')) {
        return Ok(());
    }
    // The characters were checked before: the name is one, and not the rest of a password.
    Err(format!("has the unknown parameter {name:?}: use one of {}", PARAMETERS.join(", ")))
}

/// Returns true if the URL leads to this machine, so that its requests cross no network.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}
