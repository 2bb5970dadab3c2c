//! `gatepost serve --quickstart --backend [NAME=]SERVER`: an MCP server on the command line.
//!
//! A command line is split as [`command_line`] says.

use crate::cli::command_line;
use crate::cli::exit::usage;
use crate::cli::program;
use crate::config::{Backend, check_alias};

/// The alias of the built-in example backend.
pub(super) const EXAMPLE: &str = "example";

/// The alias of a server without a name; further ones are numbered.
const UNNAMED: &str = "backend";

/// A server on the command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BackendArg {
    /// Its alias.
    pub(super) alias: String,
    /// The server.
    pub(super) server: Server,
}

/// A command line, or the URL of a server over HTTP.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// The program and its arguments.
    Command(Vec<String>),
    /// An http or https URL.
    Url(String),
}

impl BackendArg {
    /// Reads all values of `--backend`. Programs are looked for, and not started.
    ///
    /// # Errors
    /// A value cannot be used. The message names it by its position: it may contain a secret.
    pub(super) fn read_all(values: &[String]) -> anyhow::Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for (idx, value) in values.iter().enumerate() {
            let nth = if values.len() > 1 { format!("--backend number {}", idx + 1) } else { "--backend".to_owned() };
            let (name, server) = split_name(value);
            let alias = name.map_or_else(|| free_alias(&all), str::to_owned);
            if alias == EXAMPLE || all.iter().any(|earlier| earlier.alias == alias) {
                return Err(usage(format!("{nth}: a backend named {alias} is there already: choose another name")));
            }
            let server = server_of(server).map_err(|message| usage(format!("{nth} {message}")))?;
            all.push(Self { alias, server });
        }
        Ok(all)
    }
}

/// The name before the first `=`, if it is one that a backend may have, and the rest.
fn split_name(value: &str) -> (Option<&str>, &str) {
    match value.split_once('=') {
        Some((name, server)) if check_alias(name).is_ok() => (Some(name), server),
        _ => (None, value),
    }
}

/// The first alias for a server without a name that none of the others has.
fn free_alias(others: &[BackendArg]) -> String {
    let numbered = (2..).map(|number| format!("{UNNAMED}-{number}"));
    let is_free = |alias: &String| others.iter().all(|other| other.alias != *alias);
    std::iter::once(UNNAMED.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

/// # Errors
/// The value is empty, cannot be split into words, or names a program that is not there.
fn server_of(value: &str) -> Result<Server, String> {
    let value = value.trim();
    let is_url = |scheme: &str| value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    if is_url("http://") || is_url("https://") {
        return Ok(Server::Url(value.to_owned()));
    }
    let words = command_line::words(value)?;
    let Some(program) = words.first().filter(|program| !program.is_empty()) else {
        return Err("is empty: write a command line, for example \"npx -y @scope/server\", or a URL".to_owned());
    };
    if let Some((name, _)) = program.split_once('=') {
        let remedy = "a backend's name has lower-case letters, digits and '-'; to set an environment variable, write a \
                      configuration";
        return Err(format!("begins with {name:?} and '=', which names neither a backend nor a program: {remedy}"));
    }
    if !program::is_found(program, &Backend::default()) {
        let place = if program.contains('/') { "is not there, or may not be executed" } else { "is not in PATH" };
        return Err(format!("names the program {program:?}, which {place}: install it, or correct the name"));
    }
    Ok(Server::Command(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_names_or_get_them() {
        let read = |values: &[&str]| {
            let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
            BackendArg::read_all(&values).map_err(|error| error.to_string())
        };
        let found = read(&["sh -c 'exit 1'", "files=sh", "HTTPS://h/mcp?a=b", "b-2=http://h/?x=y"]).unwrap();
        let named: Vec<_> = found.iter().map(|arg| arg.alias.as_str()).collect();
        assert_eq!(named, ["backend", "files", "backend-2", "b-2"]);
        let words = ["sh", "-c", "exit 1"].map(str::to_owned).to_vec();
        assert_eq!(found[0].server, Server::Command(words));
        assert_eq!(found[3].server, Server::Url("http://h/?x=y".to_owned()));
        for (values, part) in [
            (&["  "][..], "--backend is empty"),
            (&["x="], "--backend is empty"),
            (&["''"], "--backend is empty"),
            (&["no-such-program-here a"], "\"no-such-program-here\", which is not in PATH"),
            (&["./no/such"], "is not there, or may not be executed"),
            (&["KEY=hunter2 sh"], "begins with \"KEY\""),
            (&["example=sh"], "a backend named example is there already"),
            (&["a=sh", "a=sh"], "--backend number 2: a backend named a is there already"),
            (&["sh", "sh 'x"], "--backend number 2 has a '"),
        ] {
            let error = read(values).unwrap_err();
            assert!(error.contains(part) && !error.contains("hunter2"), "{values:?}: {error}");
        }
    }
}
