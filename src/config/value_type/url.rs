//! URLs: of backends, issuers, collectors, web origins and Postgres.

use url::{Host, Url};

/// The values of `sslmode`. *Spec*: the PostgreSQL manual, "SSL Support".
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

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
        "http" => Err(format!("{text:?} is not encrypted: use https, or a loopback host")),
        other => Err(format!("has the scheme {other:?}: use https")),
    }
}

/// A web origin, as browsers send it.
pub(super) fn origin(text: &str) -> Result<(), String> {
    let error = || {
        format!(
            "{text:?} is not an origin: write scheme://host[:port] without a path, for example \"https://app.example\""
        )
    };
    let url = Url::parse(text).map_err(|_| error())?;
    if url.origin().is_tuple() && url.origin().ascii_serialization() == text { Ok(()) } else { Err(error()) }
}

/// I8: no message shows any part of the URL but its scheme and the names of its parameters.
pub(super) fn postgres_url(text: &str) -> Result<(), String> {
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
    if url.path().trim_matches('/').is_empty() && !url.query_pairs().any(|(name, _)| name == "dbname") {
        return Err("names no database: write postgres://user@host/database".to_owned());
    }
    for (name, value) in url.query_pairs() {
        if ["sslmode", "ssl-mode"].contains(&name.as_ref()) && !SSL_MODES.contains(&value.as_ref()) {
            return Err(format!("has an unknown sslmode: use one of {}", SSL_MODES.join(", ")));
        }
    }
    Ok(())
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
