//! One error in a configuration: where it is, which key is wrong, why, and what to do.

use std::fmt;
use std::path::PathBuf;

/// One error in a configuration. It is shown as `file:line: key: what is wrong`, and never with a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The source of the setting.
    pub origin: Origin,
    /// The key's full path; empty if the error does not concern one key.
    pub key: String,
    /// The problem, the limit, and the remedy.
    pub message: String,
}

/// The source of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file.
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The file as a whole.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// The default of a setting, if there is no file.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, message } = self;
        if key.is_empty() { write!(f, "{origin}: {message}") } else { write!(f, "{origin}: {key}: {message}") }
    }
}

impl std::error::Error for ConfigError {}
