//! `gatepost serve --quickstart --backend [NAME=]SERVER`: an MCP server on the command line.
//!
//! A command line is split into words by the rules of a POSIX shell for blanks, quotes and backslashes. No shell runs:
//! what only a shell could do, such as replacing `$HOME`, is an error and does not reach the program as it is written.

use crate::cli::exit::usage;
use crate::cli::program;
use crate::config::{Backend, check_alias};

/// The alias of the built-in example backend.
pub(super) const EXAMPLE: &str = "example";

/// The alias of a server without a name; further ones are numbered.
const UNNAMED: &str = "backend";

/// Characters that have another meaning to a shell, unless they are quoted. *Spec*: POSIX.1-2024, Shell Command
/// Language, 2.2 "Quoting", without those of patterns and comments, which are often meant as they are written.
const OPERATORS: [char; 7] = ['|', '&', ';', '<', '>', '(', ')'];

/// The same inside double quotes too.
const EXPANSIONS: [char; 2] = ['$', '`'];

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
    let words = words(value)?;
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

/// The words of a command line.
///
/// # Errors
/// A quote is not closed, the line ends with a backslash, or a part is for a shell.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let is_start = word.is_none();
        let word = word.get_or_insert_default();
        match c {
            '\'' => loop {
                match chars.next() {
                    Some('\'') => break,
                    Some(c) => word.push(c),
                    None => return Err("has a ' that is not closed: close it, or write \\'".to_owned()),
                }
            },
            '"' => double_quoted(&mut chars, word)?,
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.push(c),
                None => return Err("ends with a backslash: write \\\\ for one".to_owned()),
            },
            '~' if is_start => return Err("has a ~ for a home directory: write its whole path".to_owned()),
            c if OPERATORS.contains(&c) || EXPANSIONS.contains(&c) => return Err(for_a_shell(c)),
            c => word.push(c),
        }
    }
    words.extend(word);
    if words.iter().any(|word| word.contains('\0')) {
        return Err("contains a NUL character: remove it".to_owned());
    }
    Ok(words)
}

/// Adds the rest of a text in double quotes to the word.
fn double_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    let unclosed = || "has a \" that is not closed: close it, or write \\\"".to_owned();
    loop {
        match chars.next().ok_or_else(unclosed)? {
            '"' => return Ok(()),
            '\\' => match chars.next().ok_or_else(unclosed)? {
                '\n' => {}
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c if EXPANSIONS.contains(&c) => return Err(for_a_shell(c)),
            c => word.push(c),
        }
    }
}

fn for_a_shell(c: char) -> String {
    format!("has a {c}, which only a shell understands, and none runs: write \\{c} for the character itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_split_as_a_shell_splits_words() {
        for line in [
            "a",
            "  a   b\tc\n",
            "a 'b c' \"d e\"",
            "a'b'\"c\"d",
            "a '' \"\" b",
            r#"a b\ c \' \" \\"#,
            r#"a "b\"c" "d\\e" "f\g" "\$x" "\`""#,
            r"a 'b\c' '$x' '`' '|&;<>()'",
            r"a \$x \| \&",
            "a --opt=b=c @scope/pkg http://h/?x=1 a~b *.txt #no",
            "a b\\\nc",
            "a caf\u{e9} '\u{65e5}'",
        ] {
            // A shell is the judge. Patterns and comments, which it would replace and drop, are quoted for it.
            let quoted = line.replace("*.txt", "'*.txt'").replace("#no", "'#no'");
            let script = format!("printf '%s\\0' {}", quoted.trim());
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let words = String::from_utf8(output.stdout).unwrap();
            let words: Vec<_> = words.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
            assert_eq!(super::words(line).unwrap(), words, "{line:?}");
        }
        assert_eq!(super::words("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_only_a_shell_understands_is_an_error() {
        for (line, part) in [
            ("a 'b", "' that is not closed"),
            ("a \"b", "\" that is not closed"),
            ("a \"b\\", "\" that is not closed"),
            ("a b\\", "ends with a backslash"),
            ("a $HOME", "a $,"),
            ("a \"$HOME\"", "a $,"),
            ("a `id`", "a `,"),
            ("a | b", "a |,"),
            ("a; b", "a ;,"),
            ("a && b", "a &,"),
            ("a > b", "a >,"),
            ("(a)", "a (,"),
            ("a ~/b", "write its whole path"),
            ("a \0", "NUL"),
        ] {
            let error = super::words(line).unwrap_err();
            assert!(error.contains(part), "{line:?}: {error}");
        }
    }

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
