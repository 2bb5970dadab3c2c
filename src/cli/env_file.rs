//! Files of environment variables, as systemd reads them (`EnvironmentFile=`), for commands beside a gateway that a
//! service manager started.
//!
//! The variables are needed in many places: settings, secrets of keys, libraries. The command therefore starts itself
//! again with them in its environment, before it has threads. Variables that are set already are kept, so the second
//! start has nothing to add and continues.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use super::config_args::ConfigArgs;
use super::exit::usage;
use super::output::print_error;
use crate::file_access::{FileAccess, FileError, FileKind, FileReason};

/// Largest file of variables, in bytes. *Chosen*: that of a backend's `env_file`.
const ENV_FILE_BYTES_MAX: usize = 256 * 1024;

/// This process's own program, also if its file was replaced. *Spec*: proc(5).
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Characters that a backslash makes ordinary within double quotes. *Spec*: `parse_env_file_internal` in systemd.
const ESCAPED_IN_QUOTES: [char; 4] = ['"', '\\', '`', '$'];

/// The file of variables beside the machine's configuration cannot be read by the command's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The service manager reads the file and gives the variables.
    Expected,
    /// A line on standard error says so: without them, the command may look in the wrong place.
    Reported,
}

/// Starts the command again with the variables of its files that are not set, if there are any; otherwise returns.
///
/// # Errors
/// A file that the command line names cannot be read, a file has a line that is not an assignment, or the command
/// cannot be started again.
pub(super) fn enter(args: &ConfigArgs, unreadable: Unreadable) -> anyhow::Result<()> {
    let mut variables = BTreeMap::new();
    for path in &args.env_file {
        let text = read(path).map_err(|error| usage(format!("--env-file: {error}")))?;
        variables.extend(parse_at(path, &text).map_err(usage)?);
    }
    if let Some(path) = args.find().default_env_file().filter(|_| args.env_file.is_empty()) {
        match read(path) {
            Ok(text) => variables.extend(parse_at(path, &text).map_err(usage)?),
            Err(error) if is_absent(&error) || unreadable == Unreadable::Expected => {}
            Err(error) => print_error(&format!("the variables of the gateway are not known: {error}")),
        }
    }
    variables.retain(|name, _| std::env::var_os(name).is_none());
    if variables.is_empty() {
        return Ok(());
    }
    let mut words = std::env::args_os();
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0(words.next().unwrap_or_else(|| "gatepost".into())).args(words).envs(variables);
    // Returns only if it failed.
    let error = command.exec();
    Err(usage(format!("--env-file: cannot start {OWN_PROGRAM} again with the variables: {error}")))
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    FileAccess::default().for_operator().read(path, FileKind::Secret, ENV_FILE_BYTES_MAX)
}

fn is_absent(error: &FileError) -> bool {
    matches!(&*error.reason, FileReason::Unreadable(source) if source.kind() == io::ErrorKind::NotFound)
}

fn parse_at(path: &Path, bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
    let text = str::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8 text", path.display()))?;
    parse(text).map_err(|(line, reason)| format!("{}:{line}: {reason}", path.display()))
}

/// A line that systemd leaves out, and whose author meant it.
const NO_NAME: &str = "the text before = is not the name of a variable, and systemd leaves out such a line: write \
                       NAME=value";

/// The place of the parser in a line. *Spec*: `parse_env_file_internal` in systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before a name.
    Start,
    /// In a name.
    Name,
    /// Before a value, or after a quoted part of one.
    BeforeValue,
    /// In a value without quotes.
    Value,
    /// In single or double quotes.
    Quoted(char),
    /// In a comment.
    Comment,
}

/// The assignments of a text. As in systemd, a line without `=` is left out, a `#` or `;` begins a comment only at the
/// beginning of a line, a backslash continues a line, and quotes may contain line ends.
///
/// # Errors
/// The number of a line, and what is wrong with it; never a value.
fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, &'static str)> {
    let (mut found, mut place) = (Vec::new(), Place::Start);
    let (mut name, mut value, mut kept) = (String::new(), String::new(), 0);
    // The end of the text ends the last line, and one that is continued there.
    let mut chars = text.char_indices().chain([(text.len(), '\n'); 2]);
    while let Some((at, c)) = chars.next() {
        let fault = |reason| (text.get(..at).unwrap_or_default().matches('\n').count() + 1, reason);
        let is_end = matches!(c, '\n' | '\r');
        place = match (place, c) {
            (Place::Start, '#' | ';') => Place::Comment,
            (Place::Start, c) if c.is_whitespace() => Place::Start,
            (Place::Start, '=') => return Err(fault(NO_NAME)),
            (Place::Start, c) => {
                name = c.to_string();
                (value, kept) = (String::new(), 0);
                Place::Name
            }
            (Place::Comment | Place::Name, _) if is_end => Place::Start,
            (Place::Comment, _) => Place::Comment,
            (Place::Name, '=') => Place::BeforeValue,
            (Place::Name, c) => {
                name.push(c);
                Place::Name
            }
            (Place::BeforeValue | Place::Value, _) if is_end => {
                value.truncate(kept);
                found.push(assignment(&name, &value).map_err(fault)?);
                Place::Start
            }
            (Place::BeforeValue, '\'' | '"') => Place::Quoted(c),
            (Place::BeforeValue, c) if c.is_whitespace() => Place::BeforeValue,
            (Place::BeforeValue | Place::Value, '\\') => {
                value.extend(chars.next().map(|(_, c)| c).filter(|c| *c != '\n'));
                kept = value.len();
                Place::Value
            }
            (Place::BeforeValue | Place::Value, c) => {
                value.push(c);
                // White space at the end of a value is left out.
                kept = if c.is_whitespace() { kept } else { value.len() };
                Place::Value
            }
            (Place::Quoted(quote), c) if c == quote => Place::BeforeValue,
            (Place::Quoted('"'), '\\') => {
                match chars.next() {
                    Some((_, '\n')) | None => {}
                    Some((_, c)) if ESCAPED_IN_QUOTES.contains(&c) => value.push(c),
                    Some((_, c)) => value.extend(['\\', c]),
                }
                kept = value.len();
                Place::Quoted('"')
            }
            (Place::Quoted(quote), c) if at < text.len() => {
                value.push(c);
                kept = value.len();
                Place::Quoted(quote)
            }
            (Place::Quoted(_), _) => return Err(fault("a quote is not closed")),
        };
    }
    Ok(found)
}

/// A variable, if the name is one.
fn assignment(name: &str, value: &str) -> Result<(String, String), &'static str> {
    let name = name.trim_end();
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name || name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(NO_NAME);
    }
    if value.contains('\0') { Err("the value has a NUL") } else { Ok((name.to_owned(), value.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        parse(text).unwrap().into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// The cases of systemd's own test, `test-env-file`.
    #[test]
    fn files_are_read_as_systemd_reads_them() {
        let text = "a=a\na=b\na=b\na=a\nb=b\\\nc\nd= d\\\ne  \\\nf  \ng=g\\ \nh= \u{105}\\ \u{107} \ni=i\\";
        let want = ["a=a", "a=b", "a=b", "a=a", "b=bc", "d=de  f", "g=g ", "h=\u{105} \u{107}", "i=i"];
        assert_eq!(parsed(text), want);
        assert_eq!(parsed("a=a\\\n"), ["a=a"]);
        let text = "# Generated\n\nMODULES=\"coretemp f71882fg\"\n\n# For compatibility\n\nMODULE_0=coretemp";
        assert_eq!(parsed(text), ["MODULES=coretemp f71882fg", "MODULE_0=coretemp"]);
        assert_eq!(parsed("a=\nb="), ["a=", "b="]);
        let text = "a=\\ \\n \\t \\x \\y \\' \nb= \\$' \nc= ' \\n\\t\\$\\`\\\\\n' \nd= \" \\n\\t\\$\\`\\\\\n\" \n";
        assert_eq!(parsed(text), ["a= n t x y '", "b=$'", "c= \\n\\t\\$\\`\\\\\n", "d= \\n\\t$`\\\n"]);
    }

    #[test]
    fn quotes_comments_and_lines_without_a_value_are_told_apart() {
        let url = "postgres://g:p%23w@db/audit?sslmode=verify-full&x=a;b#c";
        assert_eq!(parsed(&format!("GATEPOST_POSTGRES_URL={url}\n")), [format!("GATEPOST_POSTGRES_URL={url}")]);
        assert_eq!(parsed("; c\r\nA=\"x\" 'y'\r\nno value\n  B = z  \n"), ["A=xy", "B=z"]);
        assert_eq!(parsed("A='x\ny'\n# A=z\n"), ["A=x\ny"]);
    }

    #[test]
    fn a_fault_has_its_line_and_shows_no_value() {
        assert_eq!(parse("A=1\nexport B=secret\n").unwrap_err().0, 2);
        assert_eq!(parse("A=\"secret\nB=x\n").unwrap_err().1, "a quote is not closed");
        assert!(parse("A=b\0c\n").is_err());
    }
}
