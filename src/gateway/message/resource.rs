//! The endpoint of a request as a protected resource: its URL, the URL of its metadata, and the audiences of its
//! tokens.
//! *Spec*: RFC 9728, and RFC 8707 for the audiences.
//!
//! The URLs are those at which clients reach the gateway: below `server.public_url` if that is set, otherwise as the
//! request's `Host` names it. A caller chooses its `Host`, also one at which another service is reached. So the URL is
//! an audience only if the operator or the listener determines it, including its port.

use std::net::IpAddr;
use std::sync::OnceLock;

use axum::http::HeaderMap;

use crate::config::{self, PublicUrl};
use crate::gateway::message::headers;
use crate::gateway::message::scope::Scope;

/// The path below which the metadata is. *Spec*: RFC 9728 3.
pub(crate) const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// The path of the endpoint of all backends.
const ALL: &str = "/mcp";

/// The names by which clients reach the gateway.
#[derive(Debug)]
pub(crate) struct Names {
    /// The configured URL.
    pub(crate) public_url: Option<PublicUrl>,
    /// The `Host` values that are accepted besides loopback.
    pub(crate) allowed_hosts: Vec<String>,
    /// True if the listener's address is a loopback address.
    pub(crate) is_on_loopback: bool,
    /// The port of the listener, once it is open. A gateway on standard input has none.
    pub(crate) port: OnceLock<u16>,
}

/// The endpoint of a request, by its URL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// The gateway's URL as the client reaches it.
    base: String,
    /// The path of the endpoint.
    path: String,
    /// True if tokens may have the URL as their audience.
    is_audience: bool,
}

impl Names {
    /// The names of the configuration. The host of the listener's address is among them.
    pub(crate) fn new(server: &config::Server) -> Self {
        let own_ip = server.listen.ip();
        let own_host = if own_ip.is_ipv6() { format!("[{own_ip}]") } else { own_ip.to_string() };
        let allowed_hosts = server.hosts().into_iter().chain([own_host]).collect();
        let is_on_loopback = own_ip.is_loopback();
        Self { public_url: server.public_url(), allowed_hosts, is_on_loopback, port: OnceLock::new() }
    }

    /// The endpoint `scope` of a request with this `Host`, which is allowed.
    pub(crate) fn resource(&self, host: &str, is_https: bool, scope: &Scope) -> Resource {
        let path = match scope {
            Scope::All => ALL.to_owned(),
            Scope::One(backend) => format!("{ALL}/{}", percent_encoded(backend)),
        };
        match &self.public_url {
            Some(public) => Resource { base: public.to_string(), path, is_audience: true },
            None => Resource { base: base(host, is_https), path, is_audience: self.is_audience(host, is_https) },
        }
    }

    /// Returns true if only this gateway is reached by `Host`: the operator named it with this port, or its port is
    /// that of the listener, or the usual one at a host that the operator named. Another port of the host may be
    /// another service's, whose tokens would be accepted here.
    ///
    /// A loopback name means another machine to each client. It is this gateway with the listener's port if the
    /// listener is on loopback, and otherwise only if the operator named it with its port. An unspecified address is
    /// not a place.
    fn is_audience(&self, host: &str, is_https: bool) -> bool {
        let (name, port) = headers::name_and_port(host);
        let usual = usual_port(is_https);
        let port = port.unwrap_or(usual);
        let is_named = |text: &str| self.allowed_hosts.iter().any(|known| known.eq_ignore_ascii_case(text));
        let is_own_port = self.port.get() == Some(&port);
        if is_unspecified(name) {
            return false;
        }
        if headers::is_loopback(name) {
            return (self.is_on_loopback && is_own_port) || is_named(&format!("{name}:{port}"));
        }
        is_named(host) || (is_named(name) && (port == usual || is_own_port))
    }
}

/// Returns true if `name` is the address 0.0.0.0 or `[::]`, in any notation.
fn is_unspecified(name: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified())
}

impl Resource {
    /// The URL of the endpoint.
    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.base, self.path)
    }

    /// The URL of the endpoint's metadata.
    pub(crate) fn metadata_url(&self) -> String {
        format!("{}{METADATA_PATH}{}", self.base, self.path)
    }

    /// Returns true if tokens with this `aud` are for the endpoint: it is its URL, or that of the endpoint of all
    /// backends.
    pub(crate) fn has_audience(&self, aud: &str) -> bool {
        let path = aud.strip_prefix(&self.base).filter(|_| self.is_audience);
        path.is_some_and(|path| path == self.path || path == ALL)
    }

    /// The message for the caller of a token with another audience.
    pub(crate) fn audience_message(&self) -> String {
        let url = self.url();
        if self.is_audience {
            format!("the token is for another audience: get one for {url}")
        } else {
            format!(
                "the token is for another audience, and {url} is not one: have the operator name this Host with its port \
                 in server.allowed_hosts, or set server.public_url"
            )
        }
    }
}

/// Returns true if the client sent its request over TLS: `is_tls` says whether it reached the listener by TLS, and
/// `is_from_proxy` whether a trusted proxy passed it on, which says in a header how it got it.
pub(crate) fn is_https(headers: &HeaderMap, is_tls: bool, is_from_proxy: bool) -> bool {
    if is_tls || !is_from_proxy {
        return is_tls;
    }
    // Each proxy appends the scheme that it saw: the first is the client's.
    let mut forwarded = headers.get_all("x-forwarded-proto").iter().filter_map(|value| value.to_str().ok());
    let first = forwarded.next().and_then(|list| list.split(',').next()).unwrap_or_default().trim();
    first.eq_ignore_ascii_case("https")
}

/// The URL of the gateway at `host`, as clients write it: in lower case, and without the usual port.
fn base(host: &str, is_https: bool) -> String {
    let scheme = if is_https { "https" } else { "http" };
    let host = match headers::name_and_port(host) {
        (name, Some(port)) if port == usual_port(is_https) => name,
        _ => host,
    };
    format!("{scheme}://{}", host.to_ascii_lowercase())
}

fn usual_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

/// A segment of a path, so that no character of it has a meaning in a URL or in a header.
fn percent_encoded(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for digit in [byte >> 4, byte & 15] {
                encoded.extend(char::from_digit(digit.into(), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn names(allowed: &[&str], port: Option<u16>) -> Names {
        let port = port.map_or_else(OnceLock::new, OnceLock::from);
        let allowed_hosts = allowed.iter().map(|host| (*host).to_owned()).collect();
        Names { public_url: None, allowed_hosts, is_on_loopback: false, port }
    }

    fn one(backend: &str) -> Scope {
        Scope::One(backend.to_owned())
    }

    #[test]
    fn a_token_for_one_endpoint_is_good_there_and_one_for_all_is_good_everywhere() {
        let names = names(&["gate.example"], Some(8808));
        let at = |scope: &Scope| names.resource("gate.example", true, scope);
        let (all, a) = ("https://gate.example/mcp", "https://gate.example/mcp/a");
        assert!(at(&Scope::All).has_audience(all) && !at(&Scope::All).has_audience(a));
        assert!(at(&one("a")).has_audience(all) && at(&one("a")).has_audience(a));
        assert!(at(&one("b")).has_audience(all) && !at(&one("b")).has_audience(a));
        for other in ["https://gate.example", "https://gate.example/mcp/", "http://gate.example/mcp", "/mcp", "", "mcp"]
        {
            assert!(!at(&one("a")).has_audience(other), "{other}");
        }
    }

    /// Returns true if a token for the URL at `host` is accepted there.
    fn is_accepted(names: &Names, host: &str) -> bool {
        let resource = names.resource(host, true, &Scope::All);
        let url = resource.url();
        resource.has_audience(&url)
    }

    #[test]
    fn only_a_host_that_the_operator_or_the_listener_determines_is_an_audience() {
        let names = names(&["gate.example", "other.example:8443"], Some(8808));
        for host in ["gate.example", "GATE.example:443", "gate.example:8808", "other.example:8443"] {
            assert!(is_accepted(&names, host), "{host}");
        }
        // Another service may be there, or no port is named.
        for host in [
            "gate.example:9000",
            "gate.example:80",
            "gate.example:99999",
            "gate.example:074344",
            "other.example",
            "other.example:8808",
            "other.example:73979",
        ] {
            assert!(!is_accepted(&names, host), "{host}");
        }
    }

    #[test]
    fn a_loopback_name_is_an_audience_if_the_listener_is_there_or_the_operator_named_it_with_its_port() {
        let at = |listen: &str, allowed: &[&str]| {
            let allowed_hosts = allowed.iter().map(|host| (*host).to_owned()).collect();
            let server = config::Server { listen: listen.parse().unwrap(), allowed_hosts, ..config::Server::default() };
            Names { port: OnceLock::from(8808), ..Names::new(&server) }
        };
        let own = ["localhost:8808", "LOCALHOST:8808", "127.0.0.1:8808", "[::1]:8808"];
        let unspecified = ["0.0.0.0:8808", "[::]:8808", "[0:0::0]:8808", "[::ffff:0.0.0.0]:8808", "0.0.0.0"];
        for (listen, is_on_loopback) in
            [("127.0.0.1:0", true), ("[::1]:0", true), ("0.0.0.0:0", false), ("[::]:0", false), ("10.0.0.5:0", false)]
        {
            let names = at(listen, &["localhost", "0.0.0.0", "[::]"]);
            for host in own {
                assert_eq!(is_accepted(&names, host), is_on_loopback, "{host} at {listen}");
            }
            for host in unspecified.into_iter().chain(["localhost", "127.0.0.1", "[::1]", "localhost:1"]) {
                assert!(!is_accepted(&names, host), "{host} at {listen}");
            }
            let configured = at(listen, &["localhost:9000", "127.0.0.1:443", "0.0.0.0:8808", "[::]:8808"]);
            for host in ["localhost:9000", "127.0.0.1"] {
                assert!(is_accepted(&configured, host), "{host} at {listen}");
            }
            for host in unspecified.into_iter().chain(["localhost:9001", "[::1]:9000", "127.0.0.1:80"]) {
                assert!(!is_accepted(&configured, host), "{host} at {listen}");
            }
        }
        assert!(is_accepted(&at("10.0.0.5:0", &[]), "10.0.0.5:8808"), "its own address");
    }

    #[test]
    fn a_configured_url_is_the_only_audience() {
        let public_url = PublicUrl::parse("https://mcp.example.com/tools");
        let names = Names { public_url, ..names(&["gate.example"], None) };
        let resource = names.resource("gate.example", false, &one("a"));
        assert_eq!(resource.url(), "https://mcp.example.com/tools/mcp/a");
        assert!(resource.has_audience("https://mcp.example.com/tools/mcp"));
        for other in ["http://gate.example/mcp/a", "https://mcp.example.com/mcp/a"] {
            assert!(!resource.has_audience(other), "{other}");
        }
    }

    #[test]
    fn urls_are_as_clients_write_them() {
        let names = names(&[], None);
        let url = |host: &str, is_https: bool, scope: &Scope| names.resource(host, is_https, scope).url();
        assert_eq!(url("Gate.Example:443", true, &Scope::All), "https://gate.example/mcp");
        assert_eq!(url("gate.example:443", false, &Scope::All), "http://gate.example:443/mcp");
        assert_eq!(url("[::1]:80", false, &one("a-b_c")), "http://[::1]/mcp/a-b_c");
        let resource = names.resource("h", false, &one("a\"\r\n/é"));
        assert_eq!(resource.metadata_url(), "http://h/.well-known/oauth-protected-resource/mcp/a%22%0D%0A%2F%C3%A9");
    }

    #[test]
    fn the_scheme_is_the_listeners_or_that_of_a_trusted_proxy() {
        for (value, is_tls, is_from_proxy, expected) in [
            ("https, http", false, true, true),
            ("HTTPS", false, true, true),
            ("http, https", false, true, false),
            ("", false, true, false),
            ("https", false, false, false),
            ("http", true, true, true),
        ] {
            let headers =
                HeaderMap::from_iter([("x-forwarded-proto".parse().unwrap(), HeaderValue::from_static(value))]);
            assert_eq!(is_https(&headers, is_tls, is_from_proxy), expected, "{value} {is_tls} {is_from_proxy}");
        }
    }
}
