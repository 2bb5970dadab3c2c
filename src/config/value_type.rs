//! The types of values that settings take: how each is written, its range, and the error for a value outside it.

mod role;
mod table;
mod text;
mod url;
mod word;

use std::net::SocketAddr;
use std::time::Duration;

use toml::Value;

use super::expression::anchored;
use super::network::Network;
use crate::mcp::methods;
use role::{directory, one_pointer, pattern, pointer, resource, scalar, shortened, tool_pattern};
use table::{header, list, tool_name, variable};
use text::{TEXT_BYTES_MAX, expected, plain, quoted, without_nul};
use word::{choice, passed_method, passed_param, recorded_method};

pub(super) use text::type_name;
use url::{http_url, origin, postgres_url, web_url};
pub use url::{is_loopback, is_protected, issuer_url};

/// The type of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// `HOST:PORT` with a numeric host; port 0 selects a free one.
    Address,
    /// `HOST:PORT`, or `off`.
    AddressOrOff,
    /// A string that is not empty.
    Text,
    /// A string without white space.
    Word,
    /// A file or directory.
    Path,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An integer.
    Count {
        /// Its unit.
        unit: &'static str,
        /// The smallest value.
        min: u64,
        /// The largest value.
        max: u64,
    },
    /// A duration, for example `250ms`, `30s` or `5m`.
    Duration {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// A UUID.
    Uuid,
    /// A Postgres URL.
    PostgresUrl,
    /// A tracing filter.
    Filter,
    /// A list of strings.
    Texts,
    /// A list of methods that can be recorded.
    RecordedMethods,
    /// A list of methods that the gateway does not know; a `*` at the end matches any suffix.
    PassedMethods,
    /// Members of parameters that are forwarded although their method does not have them.
    PassedParams,
    /// A list of web origins, for example `https://app.example`.
    Origins,
    /// A list of networks, for example `10.0.0.0/8`.
    Networks,
    /// One `backend/tool` pattern.
    Pattern,
    /// A list of `backend/tool` patterns.
    Patterns,
    /// A list of patterns over the tools of one backend.
    ToolPatterns,
    /// A table of names for tools.
    ToolNames,
    /// A list of `backend/URI` patterns.
    Resources,
    /// One JSON pointer, without `*`.
    Pointer,
    /// A list of JSON pointers.
    Pointers,
    /// A list of `backend/tool` patterns, each with a JSON pointer.
    Shortened,
    /// A string, an integer or a boolean.
    Scalar,
    /// A list of scalars, at least one.
    Scalars,
    /// A regular expression.
    Expression,
    /// An absolute path with slashes, without `..`.
    Directory,
    /// A list of these words, at least one.
    Choices(&'static [&'static str]),
    /// An `https://` URL, or `http://` of a loopback host.
    WebUrl,
    /// A table of lists of strings.
    Lists,
    /// A program and its arguments.
    Command,
    /// A table of environment variables.
    Variables,
    /// A table of HTTP headers.
    Headers,
    /// An `http` or `https` URL.
    HttpUrl,
}

/// An error in a value.
#[derive(Debug)]
pub(super) struct ValueError {
    /// The item that is wrong: its index in a list or its key in a table; `None`: the whole value.
    pub(super) item: Option<String>,
    pub(super) message: String,
}

impl ValueError {
    fn whole(message: impl Into<String>) -> Vec<Self> {
        vec![Self { item: None, message: message.into() }]
    }
}

impl ValueType {
    /// The type, unit and range, for the documentation.
    #[must_use]
    pub fn range(self) -> String {
        match self {
            Self::Address => "address and port".to_owned(),
            Self::AddressOrOff => "address and port, or `off`".to_owned(),
            Self::Text => format!("string, 1 to {TEXT_BYTES_MAX} bytes"),
            Self::Word => format!("string without white space, 1 to {TEXT_BYTES_MAX} bytes"),
            Self::Path => "path".to_owned(),
            Self::Flag => "`true` or `false`".to_owned(),
            Self::Choice(words) => quoted(words.iter().copied()),
            Self::Choices(words) => format!("list of {}", quoted(words.iter().copied())),
            Self::RecordedMethods => format!("list of {}", quoted(methods::recordable())),
            Self::PassedMethods => "list of methods".to_owned(),
            Self::PassedParams => "list of members".to_owned(),
            Self::WebUrl => "`https://` URL".to_owned(),
            Self::Lists => "table of lists of strings".to_owned(),
            Self::Count { unit, min, max } => format!("{unit}, {min} to {max}"),
            Self::Duration { min, max } => {
                format!("duration, {} to {}", humantime::format_duration(min), humantime::format_duration(max))
            }
            Self::Uuid => "UUID".to_owned(),
            Self::PostgresUrl => "`postgres://` URL".to_owned(),
            Self::Filter => "tracing filter".to_owned(),
            Self::Texts => "list of strings".to_owned(),
            Self::Origins => "list of `scheme://host[:port]`".to_owned(),
            Self::Networks => "list of addresses or networks".to_owned(),
            Self::Pattern => "`backend/tool` pattern".to_owned(),
            Self::Patterns => "list of `backend/tool` patterns".to_owned(),
            Self::ToolPatterns => "list of patterns over tools".to_owned(),
            Self::Resources => "list of `backend/URI` patterns".to_owned(),
            Self::Pointer => "JSON pointer".to_owned(),
            Self::Pointers => "list of JSON pointers".to_owned(),
            Self::Shortened => "list of `backend/tool:/path`".to_owned(),
            Self::Scalar => "string, integer, `true` or `false`".to_owned(),
            Self::Scalars => "list of strings, integers, `true`, `false`; at least one".to_owned(),
            Self::Expression => "regular expression".to_owned(),
            Self::Directory => "absolute path".to_owned(),
            Self::Command => "list of strings, at least one".to_owned(),
            Self::Variables | Self::Headers | Self::ToolNames => "table of strings".to_owned(),
            Self::HttpUrl => "http or https URL".to_owned(),
        }
    }

    /// Parses the value of an environment variable; lists are separated by commas. Text that does not parse stays a
    /// string, which [`ValueType::check`] refuses.
    pub(super) fn parse_variable(self, text: &str) -> Value {
        match self {
            Self::Flag => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Boolean),
            Self::Count { .. } => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
            _ if self.is_list() => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
            }
            _ => Value::String(text.to_owned()),
        }
    }

    /// A value that deserializes, in place of one that was refused or is missing.
    pub(super) fn placeholder(self) -> Value {
        match self {
            Self::Command => Value::Array(vec![Value::String(String::new())]),
            _ => Value::String(String::new()),
        }
    }

    /// Returns true if it is a list of strings.
    fn is_list(self) -> bool {
        matches!(
            self,
            Self::Texts
                | Self::RecordedMethods
                | Self::PassedMethods
                | Self::PassedParams
                | Self::Origins
                | Self::Networks
                | Self::Patterns
                | Self::ToolPatterns
                | Self::Resources
                | Self::Pointers
                | Self::Shortened
                | Self::Command
                | Self::Choices(_)
        )
    }

    /// Checks the type, range and form of `value`.
    pub(super) fn check(self, value: &Value) -> Result<(), Vec<ValueError>> {
        match self {
            Self::Flag => match value {
                Value::Boolean(_) => Ok(()),
                other => Err(ValueError::whole(expected("true or false", other))),
            },
            Self::Count { unit, min, max } => match value {
                Value::Integer(number) if u64::try_from(*number).is_ok_and(|n| (min..=max).contains(&n)) => Ok(()),
                Value::Integer(number) => {
                    Err(ValueError::whole(format!("{number} is out of range: use {min} to {max} {unit}")))
                }
                other => Err(ValueError::whole(expected(&format!("an integer ({unit}, {min} to {max})"), other))),
            },
            _ if self.is_list() => self.check_list(value),
            Self::Scalar => scalar(value).map_err(ValueError::whole),
            Self::Scalars => match value {
                Value::Array(items) if !items.is_empty() => {
                    all(items.iter().enumerate().map(|(idx, item)| (idx.to_string(), scalar(item))))
                }
                Value::Array(_) => {
                    Err(ValueError::whole("is empty and would match nothing: write the values to match"))
                }
                other => Err(ValueError::whole(expected("a list of values", other))),
            },
            Self::Lists => match value {
                Value::Table(table) => all(table.iter().map(|(name, value)| (name.clone(), list(value)))),
                other => Err(ValueError::whole(expected("a table of lists of strings", other))),
            },
            Self::Variables => match value {
                Value::Table(table) => all(table.iter().map(|(name, value)| (name.clone(), variable(name, value)))),
                other => Err(ValueError::whole(expected("a table of strings", other))),
            },
            Self::ToolNames => match value {
                Value::Table(table) => all(table.iter().map(|(name, value)| (name.clone(), tool_name(name, value)))),
                other => Err(ValueError::whole(expected("a table of strings", other))),
            },
            Self::Headers => match value {
                Value::Table(table) => all(table.iter().map(|(name, value)| (name.clone(), header(name, value)))),
                other => Err(ValueError::whole(expected("a table of strings", other))),
            },
            _ => match value {
                Value::String(text) => self.check_text(text).map_err(ValueError::whole),
                other => Err(ValueError::whole(expected(self.form(), other))),
            },
        }
    }

    fn check_list(self, value: &Value) -> Result<(), Vec<ValueError>> {
        let Value::Array(items) = value else {
            return Err(ValueError::whole(expected(self.form(), value)));
        };
        match self {
            Self::Command if items.is_empty() => {
                return Err(ValueError::whole("is empty: write the program to start, then its arguments"));
            }
            Self::Choices(words) if items.is_empty() => {
                return Err(ValueError::whole(format!("is empty: use at least one of {}", words.join(", "))));
            }
            _ => {}
        }
        all(items.iter().enumerate().map(|(idx, item)| {
            let checked = match item {
                Value::String(text) => self.check_item(text, idx),
                other => Err(expected("a string", other)),
            };
            (idx.to_string(), checked)
        }))
    }

    fn check_item(self, text: &str, idx: usize) -> Result<(), String> {
        match self {
            Self::Patterns => pattern(text),
            Self::ToolPatterns => tool_pattern(text),
            Self::Resources => resource(text),
            Self::Pointers => pointer(text),
            Self::Shortened => shortened(text),
            Self::Origins => origin(text),
            Self::Networks => text.parse::<Network>().map(drop),
            Self::Choices(words) => choice(words, text),
            Self::RecordedMethods => recorded_method(text),
            Self::PassedMethods => passed_method(text),
            Self::PassedParams => passed_param(text),
            // An argument may be empty; the program must not be.
            Self::Command if idx > 0 => without_nul(text),
            _ => plain(text),
        }
    }

    fn check_text(self, text: &str) -> Result<(), String> {
        match self {
            Self::AddressOrOff if text == "off" => Ok(()),
            Self::Address | Self::AddressOrOff => text.parse::<SocketAddr>().map(drop).map_err(|_| {
                format!("{text:?} is not an address and port: write a numeric address, for example \"127.0.0.1:8808\"")
            }),
            Self::Duration { min, max } => match humantime::parse_duration(text) {
                Ok(duration) if (min..=max).contains(&duration) => Ok(()),
                Ok(_) => Err(format!(
                    "{text} is out of range: use {} to {}",
                    humantime::format_duration(min),
                    humantime::format_duration(max)
                )),
                Err(_) => Err(format!(
                    "{text:?} is not a duration: write a number and a unit, for example \"250ms\", \"30s\" or \"5m\""
                )),
            },
            Self::Choice(words) => choice(words, text),
            Self::Uuid => uuid::Uuid::parse_str(text)
                .map(drop)
                .map_err(|_| format!("{text:?} is not a UUID: write 8-4-4-4-12 hexadecimal digits")),
            Self::PostgresUrl => postgres_url(text),
            Self::HttpUrl => http_url(text),
            Self::WebUrl => web_url(text),
            Self::Filter => tracing_subscriber::EnvFilter::try_new(text).map(drop).map_err(|_| {
                format!("{text:?} is not a tracing filter: use one like \"info\" or \"gatepost=debug,warn\"")
            }),
            Self::Pattern => pattern(text),
            Self::Pointer => one_pointer(text),
            Self::Expression => plain(text).and_then(|()| anchored(text).map(drop)),
            Self::Directory => directory(text),
            Self::Word if text.contains(char::is_whitespace) => {
                Err(format!("{text:?} contains white space: write one word"))
            }
            _ => plain(text),
        }
    }

    /// The form of the value, for the message about a value of another type.
    fn form(self) -> &'static str {
        match self {
            Self::Address | Self::AddressOrOff => "an address and port as a string, for example \"127.0.0.1:8808\"",
            Self::Duration { .. } => "a duration as a string, for example \"30s\"",
            Self::PostgresUrl => "a URL as a string, for example \"postgres://user@host/database\"",
            Self::WebUrl => "a URL as a string, for example \"https://login.example.com/jwks.json\"",
            Self::Command => "a list of strings: the program and its arguments",
            _ if self.is_list() => "a list of strings",
            _ => "a string",
        }
    }
}

/// All errors of the items of a list or table.
fn all(checks: impl Iterator<Item = (String, Result<(), String>)>) -> Result<(), Vec<ValueError>> {
    let errors: Vec<ValueError> =
        checks.filter_map(|(item, checked)| Some(ValueError { item: Some(item), message: checked.err()? })).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
