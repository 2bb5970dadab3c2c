//! Reads a Postgres URL: `postgres://user:password@host:port,host:port/database?parameter=value`. *Spec*: libpq,
//! "Connection URIs", but strictly: what is not understood is refused, since it may be a part of a password whose
//! special characters were not escaped.
//!
//! I8: no message shows any part of the URL but the names of known parameters, and names that can only be one.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// The port of a server that names none. *Spec*: libpq.
const DEFAULT_PORT: u16 = 5432;

/// Longest `connect_timeout`. *Chosen*: longer than any server needs; a longer one would only hide that it is down.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_mins(10);

/// Most servers in one URL. *Chosen*: more than a cluster has; each costs a connection attempt while none answers.
const SERVERS_MAX: usize = 16;

/// Longest name of an unknown parameter that is shown. *Derived*: longer than every name that libpq knows.
const NAME_BYTES_MAX: usize = 32;

/// The parameters that are understood.
const PARAMETERS: [&str; 15] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "channel_binding",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
    "connect_timeout",
    "application_name",
    "options",
];

/// The form of a URL, for messages.
const EXAMPLE: &str = "write postgres://user@host:port/database, special characters as %XX";

/// A Postgres URL.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    /// The servers, in the order in which they are tried. At least one.
    pub servers: Vec<Server>,
    /// The user; `None`: libpq's default.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The database.
    pub database: String,
    /// `sslmode`; `None`: see [`Server::default_ssl_mode`].
    pub ssl_mode: Option<SslMode>,
    /// `channel_binding`; `None`: [`ChannelBinding::Prefer`].
    pub channel_binding: Option<ChannelBinding>,
    /// `sslrootcert`: a file of certificates, or `system`.
    pub ssl_root_cert: Option<PathBuf>,
    /// `sslcert` and `sslkey`: the certificate and the key with which the client authenticates.
    pub ssl_client: Option<(PathBuf, PathBuf)>,
    /// `target_session_attrs`; `None`: a server that accepts writes, or else another.
    pub target: Option<Target>,
    /// `connect_timeout`: the longest attempt to connect to one address.
    pub connect_timeout: Option<Duration>,
    /// `application_name`.
    pub application_name: Option<String>,
    /// `options`: settings of the session, which are sent at its start.
    pub options: Option<String>,
}

/// A server of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its place.
    pub host: Host,
    /// Its port.
    pub port: u16,
}

/// The place of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// The directory of its Unix socket.
    Socket(PathBuf),
    /// A name or an address, and the address to use in place of the name's own (`hostaddr`).
    Tcp {
        /// The name, which the server's certificate is verified for.
        name: String,
        /// The address.
        address: Option<IpAddr>,
    },
}

/// Values of a parameter, with their names.
macro_rules! values {
    ($(#[doc = $doc:literal])+ $type:ident { $(#[doc = $variant_doc:literal] $variant:ident = $name:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $type {
            $(#[doc = $variant_doc] $variant,)+
        }

        impl $type {
            /// The names, as they are written in a URL.
            pub const NAMES: [&str; [$($name),+].len()] = [$($name),+];

            /// The value with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

values! {
    /// The protection of a connection. *Spec*: libpq, "SSL Support".
    SslMode {
        /// Without TLS.
        Disable = "disable",
        /// As `prefer`: there is no reason to try without TLS first.
        Allow = "allow",
        /// With TLS if the server offers it.
        Prefer = "prefer",
        /// With TLS. The certificate is verified only if `sslrootcert` is named.
        Require = "require",
        /// With TLS and a certificate that a known authority signed.
        VerifyCa = "verify-ca",
        /// With TLS and a certificate that a known authority signed for this host.
        VerifyFull = "verify-full",
    }
}

values! {
    /// The binding of a login with SCRAM to its TLS connection. *Spec*: libpq, `channel_binding`.
    ChannelBinding {
        /// It is not.
        Disable = "disable",
        /// It is if the server offers it.
        Prefer = "prefer",
        /// It must be, or there is no connection.
        Require = "require",
    }
}

values! {
    /// The servers that may be used. *Spec*: libpq, `target_session_attrs`.
    Target {
        /// The first one that answers.
        Any = "any",
        /// One that accepts writes.
        ReadWrite = "read-write",
        /// The same: each transaction that writes is begun as one that may, whatever the session's default is.
        Primary = "primary",
        /// A standby.
        Standby = "standby",
        /// A standby, or else another.
        PreferStandby = "prefer-standby",
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: it may contain a password.
        f.debug_struct("PostgresUrl").field("servers", &self.servers.len()).finish_non_exhaustive()
    }
}

impl Server {
    /// The `sslmode` if the URL names none: over a network, the server has to prove who it is.
    #[must_use]
    pub fn default_ssl_mode(&self) -> SslMode {
        if self.is_local() { SslMode::Prefer } else { SslMode::VerifyFull }
    }

    /// True if a connection to it crosses no network.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match &self.host {
            Host::Socket(_) => true,
            Host::Tcp { address: Some(address), .. } => address.is_loopback(),
            Host::Tcp { name, address: None } => {
                name.eq_ignore_ascii_case("localhost")
                    || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl PostgresUrl {
    /// Reads `text`.
    ///
    /// # Errors
    /// It is not such a URL. The message is a predicate, for example `names no host: write ...`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or_else(|| format!("is not a postgres:// URL: {EXAMPLE}"))?;
        check_escapes(rest)?;
        let (before, query) = rest.split_once('?').map_or((rest, ""), |(before, query)| (before, query));
        let (authority, path) = before.split_once('/').unwrap_or((before, ""));
        let (login, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (filled(decode(user)?), filled(decode(password)?)),
            None => (None, None),
        };
        let mut parameters = Parameters::parse(query)?;
        let servers = parameters.servers(hosts)?;
        let path = path.trim_end_matches('/');
        if path.contains('/') {
            return Err(format!("has a / in the name of the database: write it as %2F; {EXAMPLE}"));
        }
        let database = parameters.take("dbname").or(filled(decode(path)?));
        let database = database.ok_or_else(|| format!("names no database: {EXAMPLE}"))?;
        let ssl_client = match (parameters.take("sslcert"), parameters.take("sslkey")) {
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (None, None) => None,
            _ => return Err("has one of sslcert and sslkey without the other: name both".to_owned()),
        };
        Ok(Self {
            servers,
            user: parameters.take("user").or(user),
            password: parameters.take("password").or(password),
            database,
            ssl_mode: parameters.take_word("sslmode", &SslMode::NAMES, SslMode::from_name)?,
            channel_binding: parameters.take_word(
                "channel_binding",
                &ChannelBinding::NAMES,
                ChannelBinding::from_name,
            )?,
            ssl_root_cert: parameters.take("sslrootcert").map(PathBuf::from),
            ssl_client,
            target: parameters.take_word("target_session_attrs", &Target::NAMES, Target::from_name)?,
            connect_timeout: parameters.take_seconds()?,
            application_name: parameters.take("application_name"),
            options: parameters.take_options(),
        })
    }
}

/// The parameters of a URL, decoded.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn parse(query: &str) -> Result<Self, String> {
        let (mut parameters, mut seen) = (Vec::new(), BTreeSet::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or("has a parameter without a value: write & as %26 in a value")?;
            let (name, value) = (decode(name)?, decode(value)?);
            let is_option =
                name.strip_prefix("options[").is_some_and(|key| key.strip_suffix(']').is_some_and(is_setting));
            if !PARAMETERS.contains(&name.as_str()) && !is_option {
                return Err(unknown(&name));
            }
            if !is_option && !seen.insert(name.clone()) {
                return Err(format!("has the parameter {name:?} twice"));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter; `None` if it is missing or empty.
    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(found, _)| found == name)?;
        filled(self.0.swap_remove(at).1)
    }

    fn take_word<T>(
        &mut self,
        name: &str,
        names: &[&str],
        from_name: fn(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let unknown = || format!("has an unknown {name}: use one of {}", names.join(", "));
        from_name(&value).map(Some).ok_or_else(unknown)
    }

    fn take_seconds(&mut self) -> Result<Option<Duration>, String> {
        let Some(value) = self.take("connect_timeout") else { return Ok(None) };
        let timeout = value.parse().map(Duration::from_secs).unwrap_or_default();
        if timeout.is_zero() || timeout > CONNECT_TIMEOUT_MAX {
            let max = CONNECT_TIMEOUT_MAX.as_secs();
            return Err(format!("has a connect_timeout that is not a number of seconds from 1 to {max}"));
        }
        Ok(Some(timeout))
    }

    /// The value of `options`, with what `options[name]=value` adds. *Spec*: PostgreSQL, "postgres": `-c name=value`
    /// with a backslash before each space and backslash.
    fn take_options(&mut self) -> Option<String> {
        let mut all: Vec<String> = self.take("options").into_iter().collect();
        for (name, value) in &self.0 {
            if let Some(key) = name.strip_prefix("options[").and_then(|key| key.strip_suffix(']')) {
                all.push(format!("-c {key}={}", value.replace('\\', r"\\").replace(' ', r"\ ")));
            }
        }
        filled(all.join(" "))
    }

    /// The servers: those before the path, unless parameters name others.
    fn servers(&mut self, hosts: &str) -> Result<Vec<Server>, String> {
        let mut servers = Vec::new();
        for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
            servers.push(host_and_port(host)?);
        }
        if let Some(names) = self.take("host") {
            // The ports before the path are kept: with one each, or one for all.
            let ports: Vec<_> = servers.iter().map(|(_, port)| *port).collect();
            let names: Vec<_> = names.split(',').map(host).collect::<Result<_, _>>()?;
            servers = with_ports(names, &ports)?;
        }
        if let Some(addresses) = self.take("hostaddr") {
            let parsed: Result<Vec<IpAddr>, _> = addresses.split(',').map(str::parse).collect();
            let addresses = parsed.map_err(|_| "has a hostaddr that is not an IP address")?;
            if servers.is_empty() {
                servers = addresses.iter().map(|address| (Some(tcp(address.to_string())), None)).collect();
            }
            if servers.len() != addresses.len() {
                return Err("has not as many addresses in hostaddr as hosts".to_owned());
            }
            for ((host, _), address) in servers.iter_mut().zip(addresses) {
                let name = match host.take() {
                    Some(Host::Tcp { name, .. }) => name,
                    _ => address.to_string(),
                };
                *host = Some(Host::Tcp { name, address: Some(address) });
            }
        }
        if let Some(ports) = self.take("port") {
            let ports: Vec<_> = ports.split(',').map(|text| port(text).map(Some)).collect::<Result<_, _>>()?;
            servers = with_ports(servers.into_iter().map(|(host, _)| host).collect(), &ports)?;
        }
        if servers.is_empty() || servers.iter().any(|(host, _)| host.is_none()) {
            return Err(format!("names no host: {EXAMPLE}"));
        }
        if servers.len() > SERVERS_MAX {
            return Err(format!("names more than {SERVERS_MAX} hosts"));
        }
        let server = |(host, port): (Option<Host>, Option<u16>)| {
            host.map(|host| Server { host, port: port.unwrap_or(DEFAULT_PORT) })
        };
        Ok(servers.into_iter().filter_map(server).collect())
    }
}

/// A host and a port, as far as they are known.
type Place = (Option<Host>, Option<u16>);

/// Gives each host its port, or the one port to all.
fn with_ports(hosts: Vec<Option<Host>>, ports: &[Option<u16>]) -> Result<Vec<Place>, String> {
    match *ports {
        [] => Ok(hosts.into_iter().map(|host| (host, None)).collect()),
        [port] => Ok(hosts.into_iter().map(|host| (host, port)).collect()),
        _ if ports.len() == hosts.len() => Ok(hosts.into_iter().zip(ports.iter().copied()).collect()),
        _ => Err("has neither one port nor one for each host".to_owned()),
    }
}

/// `host:port`, where both may be missing.
fn host_and_port(text: &str) -> Result<Place, String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or("has a [ without a ] in its host")?;
        let address: Ipv6Addr = address.parse().map_err(|_| "has brackets around what is not an IPv6 address")?;
        let port_text = match rest.strip_prefix(':') {
            Some(port_text) => Some(port_text),
            None if rest.is_empty() => None,
            None => return Err("has text between ] and the port: write [::1]:5432".to_owned()),
        };
        return Ok((Some(tcp(address.to_string())), port_text.map(port).transpose()?));
    }
    if text.matches(':').count() > 1 {
        return Err("has an IPv6 address without brackets (write [::1]:5432), or a : in a user name or password \
                    without an @ after it"
            .to_owned());
    }
    match text.split_once(':') {
        Some((name, text)) => Ok((host(&decode(name)?)?, Some(port(text)?))),
        None => Ok((host(&decode(text)?)?, None)),
    }
}

/// A name, an address or a directory, decoded; `None` if it is empty.
fn host(text: &str) -> Result<Option<Host>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with('/') {
        return Ok(Some(Host::Socket(text.into())));
    }
    let is_name = text.chars().all(|c| c.is_alphanumeric() || "-._".contains(c));
    if !is_name && text.parse::<IpAddr>().is_err() {
        return Err(format!("has a character in its host that no host name has: {EXAMPLE}"));
    }
    Ok(Some(tcp(text.to_owned())))
}

fn tcp(name: String) -> Host {
    Host::Tcp { name, address: None }
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
    port.ok_or_else(|| "has a port that is not a number from 1 to 65535".to_owned())
}

/// True for the name of a setting of Postgres, for example `search_path` or `my.setting`.
fn is_setting(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
}

fn unknown(name: &str) -> String {
    let known = PARAMETERS.join(", ");
    // Digits and other characters are not in any name of libpq's: this may be a part of a password.
    if name.len() <= NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_-".contains(&byte)) {
        format!("has the unknown parameter {name:?}: use one of {known}")
    } else {
        format!("has an unknown parameter: use one of {known}")
    }
}

/// Refuses a URL of which a part may be the rest of a password whose special characters are not escaped. That part
/// would be taken for a host, a database or a parameter.
fn check_escapes(rest: &str) -> Result<(), String> {
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    if after.contains('@') || authority.matches('@').count() > 1 {
        return Err("has an @ that is not before the host: in the password, write @ as %40, / as %2F, ? as %3F, \
                    # as %23, \\ as %5C; elsewhere, @ as %40"
            .to_owned());
    }
    if after.contains('#') {
        return Err("has a #: write it as %23".to_owned());
    }
    if rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has a space or a control character: write it as %XX".to_owned());
    }
    let is_escape = |after: &str| after.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if rest.split('%').skip(1).any(|after| !is_escape(after)) {
        return Err("has a % that begins no escape: write it as %25".to_owned());
    }
    Ok(())
}

/// Replaces the escapes, which [`check_escapes`] has checked.
fn decode(text: &str) -> Result<String, String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| "has a % that begins no escape: write it as %25")?);
        bytes.extend(rest.as_bytes());
    }
    let text = String::from_utf8(bytes).map_err(|_| "has escapes that are not UTF-8")?;
    if text.contains('\0') { Err("has the escape %00".to_owned()) } else { Ok(text) }
}

fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> PostgresUrl {
        PostgresUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The servers of a URL in short: a socket's directory, or name and address.
    fn servers(text: &str) -> Vec<String> {
        let short = |server: &Server| match &server.host {
            Host::Socket(dir) => format!("{}:{}", dir.display(), server.port),
            Host::Tcp { name, address: None } => format!("{name} {}", server.port),
            Host::Tcp { name, address: Some(address) } => format!("{name}={address} {}", server.port),
        };
        parse(text).servers.iter().map(short).collect()
    }

    #[test]
    fn hosts_are_read_as_libpq_reads_them() {
        for (text, expected) in [
            ("postgres://h/d", &["h 5432"][..]),
            ("postgresql://u@h:1/d", &["h 1"]),
            ("postgres://[::1]/d", &["::1 5432"]),
            ("postgres://u:p@[2001:db8::1]:5433/d", &["2001:db8::1 5433"]),
            ("postgres://a,b:2,[::1]:3/d", &["a 5432", "b 2", "::1 3"]),
            ("postgres:///d?host=a,b&port=1,2", &["a 1", "b 2"]),
            ("postgres:///d?host=a,b&port=7", &["a 7", "b 7"]),
            ("postgres://a,b/d?port=7", &["a 7", "b 7"]),
            ("postgres://u@localhost:5433/d?host=/run/postgresql", &["/run/postgresql:5433"]),
            ("postgres://u@%2Frun%2Fpostgresql/d", &["/run/postgresql:5432"]),
            ("postgres:///d?host=::1", &["::1 5432"]),
            ("postgres://db/d?hostaddr=10.0.0.1", &["db=10.0.0.1 5432"]),
            ("postgres:///d?hostaddr=::1&port=9", &["::1=::1 9"]),
            ("postgres://a,b/d?hostaddr=10.0.0.1,10.0.0.2", &["a=10.0.0.1 5432", "b=10.0.0.2 5432"]),
        ] {
            assert_eq!(servers(text), expected, "{text}");
        }
    }

    #[test]
    fn logins_databases_and_parameters_are_decoded() {
        let url = parse("postgres://u%40x:%2F7%3F%25d!$&'()*+,;=@h/d%2Fe?sslmode=verify-ca&connect_timeout=3");
        assert_eq!(url.user.as_deref(), Some("u@x"));
        assert_eq!(url.password.as_deref(), Some("/7?%d!$&'()*+,;="));
        assert_eq!((url.database.as_str(), url.ssl_mode), ("d/e", Some(SslMode::VerifyCa)));
        assert_eq!(url.connect_timeout, Some(Duration::from_secs(3)));
        let url = parse("postgres:///?host=h&dbname=d&user=u&password=a%2Bb+c&options=-c%20a=b&options[x.y]=1%202");
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("u"), Some("a+b+c")));
        assert_eq!(url.options.as_deref(), Some(r"-c a=b -c x.y=1\ 2"));
        assert_eq!(parse("postgres://h/d?target_session_attrs=read-write").target, Some(Target::ReadWrite));
        assert_eq!(parse("postgres://h/d?channel_binding=require").channel_binding, Some(ChannelBinding::Require));
        assert!(!format!("{:?}", parse("postgres://u:hunter2@h/d")).contains("hunter2"));
    }

    #[test]
    fn what_is_not_understood_is_refused_without_its_value() {
        for (text, reason) in [
            ("hunter2", "is not a postgres:// URL"),
            ("mysql://u:hunter2@h/d", "is not a postgres:// URL"),
            ("postgres://u:hunter2@/d", "names no host"),
            ("postgres:///d?host=hunter2,", "names no host"),
            ("postgres://u:hunter2@h", "names no database"),
            ("postgres://u:hunter2@h/d/e", "/ in the name"),
            ("postgres://u:hunter2@h:99999/d", "port"),
            ("postgres://u:p@h:0/d", "port"),
            ("postgres://u:p@h:+1/d", "port"),
            ("postgres://u:hunter2/d", "port"),
            ("postgres://::1/d", "without brackets"),
            ("postgres://[hunter2]/d", "not an IPv6 address"),
            ("postgres://[::1/d", "without a ]"),
            ("postgres://[::1]5432/d", "between ]"),
            ("postgres://u:p@h;hunter2/d", "no host name has"),
            ("postgres://u:1/hunter2@h/d", "has an @"),
            ("postgres://u:1?hunter2@h/d", "has an @"),
            ("postgres://u:hunter2@x@h/d", "has an @"),
            ("postgres://u@h/d#hunter2", "has a #"),
            ("postgres://u:hunter 2@h/d", "space"),
            ("postgres://u:hunter2%zz@h/d", "begins no escape"),
            ("postgres://u:hunter2%\u{20ac}@h/d", "begins no escape"),
            ("postgres://u:hunter2%ff@h/d", "not UTF-8"),
            ("postgres://u:hunter2%00@h/d", "%00"),
            ("postgres://h/d?pasword=hunter2", "unknown parameter \"pasword\""),
            ("postgres://h/d?hunter2=x", "has an unknown parameter:"),
            ("postgres://h/d?password=a&hunter2", "without a value"),
            ("postgres://h/d?channel_binding=hunter2", "unknown channel_binding"),
            ("postgres://h/d?sslcrldir=hunter2", "unknown parameter \"sslcrldir\""),
            ("postgres://h/d?options[hunter2;]=x", "has an unknown parameter:"),
            ("postgres://h/d?user=a&user=hunter2", "\"user\" twice"),
            ("postgres://h/d?sslmode=hunter2", "unknown sslmode"),
            ("postgres://h/d?target_session_attrs=hunter2", "unknown target_session_attrs"),
            ("postgres://h/d?connect_timeout=hunter2", "connect_timeout"),
            ("postgres://h/d?connect_timeout=0", "connect_timeout"),
            ("postgres://h/d?port=hunter2", "port"),
            ("postgres://h/d?hostaddr=hunter2", "hostaddr"),
            ("postgres://a,b/d?hostaddr=::1", "as many addresses"),
            ("postgres:///d?host=a,b,c&port=1,2", "one port"),
            ("postgres://h/d?sslkey=hunter2", "without the other"),
            ("postgres://a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a/d", "more than 16"),
        ] {
            let error = PostgresUrl::parse(text).unwrap_err();
            assert!(error.contains(reason) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn a_server_over_a_network_has_to_prove_who_it_is() {
        let mode = |text: &str| parse(text).servers[0].default_ssl_mode();
        for local in ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]", "%2Frun%2Fpostgresql"] {
            assert_eq!(mode(&format!("postgres://{local}/d")), SslMode::Prefer, "{local}");
        }
        for remote in ["db", "10.0.0.1", "[2001:db8::1]", "localhost.example", "0.0.0.0"] {
            assert_eq!(mode(&format!("postgres://{remote}/d")), SslMode::VerifyFull, "{remote}");
        }
        assert_eq!(mode("postgres://localhost/d?hostaddr=10.0.0.1"), SslMode::VerifyFull);
        assert_eq!(mode("postgres://db/d?hostaddr=127.0.0.1"), SslMode::Prefer);
    }
}
