//! URLs: of backends, issuers, collectors, web origins and Postgres.

use url::{Host, Url};

use crate::postgres_url::PostgresUrl;

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

/// A Postgres URL. I8: no message shows any part of it but names of parameters.
pub(super) fn postgres_url(text: &str) -> Result<(), String> {
    PostgresUrl::parse(text).map(|_| ())
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

/// Returns true if no third party can read or change what is fetched from the URL: it has `https`, or leads to this
/// machine.
#[must_use]
pub fn is_protected(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

/// The URL of an issuer that can have metadata: it is protected, and has neither query nor fragment. *Spec*: RFC 8414
/// 2.
#[must_use]
pub fn issuer_url(issuer: &str) -> Option<Url> {
    let url = Url::parse(issuer).ok().filter(is_protected)?;
    (url.query().is_none() && url.fragment().is_none() && !has_credentials(&url)).then_some(url)
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}
