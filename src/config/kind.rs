//! The kinds of value that a knob takes: how each is written, its range, and what is said of a value outside it.

mod rule;

use std::net::SocketAddr;
use std::time::Duration;

use toml::Value;

use rule::{directory, one_pointer, pattern, pointer, resource, scalar};

/// Longest text setting, in bytes. *Chosen*: file names and URLs end far below it.
const TEXT_BYTES_MAX: usize = 4096;

/// Headers that no operator sets for a backend. *Spec*: RFC 9110, and MCP's transport.
const RESERVED_HEADERS: [&str; 7] =
    ["host", "content-length", "content-type", "accept", "connection", "transfer-encoding", "last-event-id"];

/// What a knob takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `HOST:PORT` with a numeric host; port 0 takes a free one.
    Address,
    /// The same, or `off`.
    AddressOrOff,
    /// Text that is not empty.
    Text,
    /// One word: text without white space.
    Word,
    /// A file or directory.
    Path,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number of what the unit says.
    Count {
        /// What is counted.
        unit: &'static str,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// A time span, as `250ms`, `30s`, `5m`.
    Duration {
        /// Least.
        min: Duration,
        /// Most.
        max: Duration,
    },
    /// A UUID.
    Uuid,
    /// A Postgres URL.
    PostgresUrl,
    /// A tracing filter.
    Filter,
    /// A list of texts.
    Texts,
    /// A list of web origins, as `https://app.example`.
    Origins,
    /// One `backend/tool` pattern.
    Pattern,
    /// A list of `backend/tool` patterns.
    Patterns,
    /// A list of `backend/URI` patterns.
    Resources,
    /// One JSON pointer, without `*`.
    Pointer,
    /// A list of JSON pointers.
    Pointers,
    /// A text, a whole number or a flag.
    Scalar,
    /// A list of these, at least one.
    Scalars,
    /// A regular expression.
    Expression,
    /// An absolute path of slashes, without `..`.
    Directory,
    /// A list of at least one of these words.
    Choices(&'static [&'static str]),
    /// An `https://` URL, or `http://` of a loopback host.
    WebUrl,
    /// A table of lists of texts.
    Lists,
    /// A program and its arguments.
    Command,
    /// A table of environment variables.
    Variables,
    /// A table of HTTP header names and texts.
    Headers,
    /// An `http` or `https` URL.
    HttpUrl,
}

/// What is wrong with a value; `item` is its place in a list or its name in a table.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) item: Option<String>,
    pub(super) message: String,
}

impl Wrong {
    fn whole(message: impl Into<String>) -> Vec<Self> {
        vec![Self { item: None, message: message.into() }]
    }
}

impl Kind {
    /// Unit and range, for people.
    #[must_use]
    pub fn range(self) -> String {
        match self {
            Self::Address => "address and port".to_owned(),
            Self::AddressOrOff => "address and port, or `off`".to_owned(),
            Self::Text => format!("text, 1 to {TEXT_BYTES_MAX} bytes"),
            Self::Word => format!("text without spaces, 1 to {TEXT_BYTES_MAX} bytes"),
            Self::Path => "path".to_owned(),
            Self::Flag => "`true` or `false`".to_owned(),
            Self::Choice(words) => quoted(words),
            Self::Choices(words) => format!("list of {}", quoted(words)),
            Self::WebUrl => "`https://` URL".to_owned(),
            Self::Lists => "table of lists of texts".to_owned(),
            Self::Count { unit, min, max } => format!("{unit}, {min} to {max}"),
            Self::Duration { min, max } => {
                format!("duration, {} to {}", humantime::format_duration(min), humantime::format_duration(max))
            }
            Self::Uuid => "UUID".to_owned(),
            Self::PostgresUrl => "`postgres://` URL".to_owned(),
            Self::Filter => "tracing filter".to_owned(),
            Self::Texts => "list of texts".to_owned(),
            Self::Origins => "list of `scheme://host[:port]`".to_owned(),
            Self::Pattern => "`backend/tool` pattern".to_owned(),
            Self::Patterns => "list of `backend/tool` patterns".to_owned(),
            Self::Resources => "list of `backend/URI` patterns".to_owned(),
            Self::Pointer => "JSON pointer".to_owned(),
            Self::Pointers => "list of JSON pointers".to_owned(),
            Self::Scalar => "text, whole number, `true` or `false`".to_owned(),
            Self::Scalars => "list of texts, whole numbers, `true`, `false`; at least one".to_owned(),
            Self::Expression => "regular expression".to_owned(),
            Self::Directory => "absolute path".to_owned(),
            Self::Command => "list of texts, at least one".to_owned(),
            Self::Variables | Self::Headers => "table of texts".to_owned(),
            Self::HttpUrl => "http or https URL".to_owned(),
        }
    }

    /// A value from an environment variable: lists are separated by commas. What does not parse stays text, for
    /// [`Kind::check`] to refuse.
    pub(super) fn read(self, text: &str) -> Value {
        match self {
            Self::Flag => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Boolean),
            Self::Count { .. } => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
            Self::Texts
            | Self::Origins
            | Self::Patterns
            | Self::Resources
            | Self::Pointers
            | Self::Command
            | Self::Choices(_) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
            }
            _ => Value::String(text.to_owned()),
        }
    }

    /// Something that deserializes where a value of this kind was refused or is missing.
    pub(super) fn placeholder(self) -> Value {
        match self {
            Self::Command => Value::Array(vec![Value::String(String::new())]),
            _ => Value::String(String::new()),
        }
    }

    /// Checks `value`.
    pub(super) fn check(self, value: &Value) -> Result<(), Vec<Wrong>> {
        match self {
            Self::Flag => match value {
                Value::Boolean(_) => Ok(()),
                other => Err(Wrong::whole(expected("true or false", other))),
            },
            Self::Count { unit, min, max } => match value {
                Value::Integer(number) if u64::try_from(*number).is_ok_and(|n| (min..=max).contains(&n)) => Ok(()),
                Value::Integer(number) => Err(Wrong::whole(format!(
                    "{number} {unit} is out of range, {min} to {max}: set it within the range"
                ))),
                other => Err(Wrong::whole(expected(&format!("a whole number of {unit}, {min} to {max}"), other))),
            },
            Self::Texts
            | Self::Origins
            | Self::Patterns
            | Self::Resources
            | Self::Pointers
            | Self::Command
            | Self::Choices(_) => self.check_list(value),
            Self::Scalar => scalar(value).map_err(Wrong::whole),
            Self::Scalars => match value {
                Value::Array(items) if !items.is_empty() => {
                    all(items.iter().enumerate().map(|(idx, item)| (idx.to_string(), scalar(item))))
                }
                Value::Array(_) => Err(Wrong::whole("is empty and would hold for nothing: write the values it may be")),
                other => Err(Wrong::whole(expected("a list of values", other))),
            },
            Self::Lists => match value {
                Value::Table(table) => all(table.iter().map(|(name, value)| (name.clone(), list(value)))),
                other => Err(Wrong::whole(expected("a table of lists of texts", other))),
            },
            Self::Variables => match value {
                Value::Table(table) => all(table.iter().map(|(name, value)| (name.clone(), variable(name, value)))),
                other => Err(Wrong::whole(expected("a table of texts", other))),
            },
            Self::Headers => match value {
                Value::Table(table) => all(table.iter().map(|(name, value)| (name.clone(), header(name, value)))),
                other => Err(Wrong::whole(expected("a table of texts", other))),
            },
            _ => match value {
                Value::String(text) => self.check_text(text).map_err(Wrong::whole),
                other => Err(Wrong::whole(expected(self.written(), other))),
            },
        }
    }

    fn check_list(self, value: &Value) -> Result<(), Vec<Wrong>> {
        let Value::Array(items) = value else {
            return Err(Wrong::whole(expected(self.written(), value)));
        };
        match self {
            Self::Command if items.is_empty() => {
                return Err(Wrong::whole("is empty: name the program to start, then its arguments"));
            }
            Self::Choices(words) if items.is_empty() => {
                return Err(Wrong::whole(format!("is empty: name at least one of {}", words.join(", "))));
            }
            _ => {}
        }
        all(items.iter().enumerate().map(|(idx, item)| {
            let checked = match item {
                Value::String(text) => self.check_item(text, idx),
                other => Err(expected("a text", other)),
            };
            (idx.to_string(), checked)
        }))
    }

    fn check_item(self, text: &str, idx: usize) -> Result<(), String> {
        match self {
            Self::Patterns => pattern(text),
            Self::Resources => resource(text),
            Self::Pointers => pointer(text),
            Self::Origins => origin(text),
            Self::Choices(words) => Self::Choice(words).check_text(text),
            // An argument may be empty; the program may not.
            Self::Command if idx > 0 => controls(text),
            _ => plain(text),
        }
    }

    fn check_text(self, text: &str) -> Result<(), String> {
        match self {
            Self::AddressOrOff if text == "off" => Ok(()),
            Self::Address | Self::AddressOrOff => text.parse::<SocketAddr>().map(drop).map_err(|_| {
                format!("{text:?} is no address and port: write a numeric address, as in \"127.0.0.1:8808\"")
            }),
            Self::Duration { min, max } => match humantime::parse_duration(text) {
                Ok(span) if (min..=max).contains(&span) => Ok(()),
                Ok(_) => Err(format!(
                    "{text} is out of range, {} to {}: set it within the range",
                    humantime::format_duration(min),
                    humantime::format_duration(max)
                )),
                Err(_) => {
                    Err(format!("{text:?} is no duration: write a number and a unit, as in \"250ms\", \"30s\", \"5m\""))
                }
            },
            Self::Choice(words) if words.contains(&text) => Ok(()),
            Self::Choice(words) => Err(format!("{text:?} is unknown: write one of {}", words.join(", "))),
            Self::Uuid => uuid::Uuid::parse_str(text)
                .map(drop)
                .map_err(|_| format!("{text:?} is no UUID: write 32 hexadecimal digits in the usual five groups")),
            Self::PostgresUrl => postgres_url(text),
            Self::HttpUrl => http_url(text),
            Self::WebUrl => web_url(text),
            Self::Filter => tracing_subscriber::EnvFilter::try_new(text)
                .map(drop)
                .map_err(|_| format!("{text:?} is no filter: write as in \"info\" or \"gatepost=debug,warn\"")),
            Self::Pattern => pattern(text),
            Self::Pointer => one_pointer(text),
            Self::Expression => plain(text).and_then(|()| super::anchored(text).map(drop)),
            Self::Directory => directory(text),
            Self::Word if text.contains(char::is_whitespace) => Err(format!("{text:?} holds a space: write one word")),
            _ => plain(text),
        }
    }

    /// How a value of this kind is written, for a message on one of another type.
    fn written(self) -> &'static str {
        match self {
            Self::Address | Self::AddressOrOff => "an address and port as text, as in \"127.0.0.1:8808\"",
            Self::Duration { .. } => "a duration as text, as in \"250ms\", \"30s\", \"5m\"",
            Self::PostgresUrl => "a URL as text, as in \"postgres://user@host/database\"",
            Self::WebUrl => "a URL as text, as in \"https://login.example.com/jwks.json\"",
            Self::Texts | Self::Origins | Self::Patterns | Self::Resources | Self::Pointers | Self::Choices(_) => {
                "a list of texts"
            }
            Self::Command => "a list of texts, the program and its arguments",
            _ => "a text",
        }
    }
}

/// All faults of the items of a list or table.
fn all(checks: impl Iterator<Item = (String, Result<(), String>)>) -> Result<(), Vec<Wrong>> {
    let wrong: Vec<Wrong> =
        checks.filter_map(|(item, checked)| Some(Wrong { item: Some(item), message: checked.err()? })).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// The value itself is not shown: where the type is wrong nobody knows what it is.
fn expected(what: &str, found: &Value) -> String {
    format!("{} stands where {what} belongs", self::found(found))
}

/// The type of a value, with its article.
pub(super) fn found(value: &Value) -> String {
    let article = if matches!(value, Value::Integer(_) | Value::Array(_)) { "an" } else { "a" };
    format!("{article} {}", value.type_str())
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn plain(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty: write a text, or leave the key out".to_owned());
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("is {} bytes, limit {TEXT_BYTES_MAX}: write a shorter text", text.len()));
    }
    controls(text)
}

fn controls(text: &str) -> Result<(), String> {
    if text.contains('\0') { Err("holds a NUL character: leave it out".to_owned()) } else { Ok(()) }
}

fn variable(name: &str, value: &Value) -> Result<(), String> {
    match value {
        _ if name.is_empty() || name.contains(['=', '\0']) => {
            Err("is no name of an environment variable: leave out '=' and NUL".to_owned())
        }
        Value::String(text) => controls(text),
        other => Err(expected("a text", other)),
    }
}

fn header(name: &str, value: &Value) -> Result<(), String> {
    let name: Result<axum::http::HeaderName, _> = name.parse();
    match (name, value) {
        (Err(_), _) => Err("is no name of a header: write it as in Authorization".to_owned()),
        // The transport's own: another value would break it, or let one session pass for another.
        (Ok(name), _) if name.as_str().starts_with("mcp-") || RESERVED_HEADERS.contains(&name.as_str()) => {
            Err("is a header that the gateway sets itself: leave it out".to_owned())
        }
        (Ok(_), Value::String(text)) => plain(text),
        (Ok(_), other) => Err(expected("a text", other)),
    }
}

fn http_url(text: &str) -> Result<(), String> {
    let written = "write it as in \"https://tools.example/mcp\"";
    let url = url::Url::parse(text).map_err(|error| format!("is no URL ({error}): {written}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("is no http or https URL: {written}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or password: set header_env or header_file instead".to_owned());
    }
    Ok(())
}

fn list(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| match item {
            Value::String(text) => plain(text),
            other => Err(expected("a text", other)),
        }),
        other => Err(expected("a list of texts", other)),
    }
}

fn origin(text: &str) -> Result<(), String> {
    let wrong =
        || format!("{text:?} is no origin: write scheme://host[:port] and no path, as in \"https://app.example\"");
    let url = url::Url::parse(text).map_err(|_| wrong())?;
    if url.origin().is_tuple() && url.origin().ascii_serialization() == text { Ok(()) } else { Err(wrong()) }
}

/// Over plain HTTP anybody on the way could put keys of his own in place of the issuer's.
fn web_url(text: &str) -> Result<(), String> {
    let url = url::Url::parse(text)
        .map_err(|source| format!("is no URL ({source}): write as in \"https://login.example.com/jwks.json\""))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or password: leave it out".to_owned()); // I8: nor is it shown.
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(&url) => Ok(()),
        "http" => Err(format!("{text:?} is not encrypted: write https, or a loopback host")),
        other => Err(format!("has the scheme {other:?}: write https")),
    }
}

/// Whether the URL leads to this machine: then nobody is on the way.
#[must_use]
pub fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// I8: no message shows any part of the URL but its scheme and the names of its parameters.
fn postgres_url(text: &str) -> Result<(), String> {
    const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
    let url = url::Url::parse(text).map_err(|source| {
        format!("is no URL ({source}): write postgres://user:password@host:port/database, special characters as %XX")
    })?;
    if !["postgres", "postgresql"].contains(&url.scheme()) {
        return Err(format!("has the scheme {:?}: write postgres://user@host/database", url.scheme()));
    }
    let socket = url.query_pairs().any(|(name, _)| name == "host");
    if url.host_str().is_none_or(str::is_empty) && !socket {
        return Err("names no host: write postgres://user@host/database".to_owned());
    }
    if url.path().trim_matches('/').is_empty() && !url.query_pairs().any(|(name, _)| name == "dbname") {
        return Err("names no database: write postgres://user@host/database".to_owned());
    }
    for (name, value) in url.query_pairs() {
        if ["sslmode", "ssl-mode"].contains(&name.as_ref()) && !MODES.contains(&value.as_ref()) {
            return Err(format!("sslmode is unknown: write one of {}", MODES.join(", ")));
        }
    }
    Ok(())
}
