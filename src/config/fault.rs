//! One thing that is wrong with a configuration: where, which key, what, and what to do.

use std::fmt;
use std::path::PathBuf;

/// One fault. Shown as `file:line: key: what is wrong`; never with a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was written.
    pub origin: Origin,
    /// The key's full path; empty where the text is no TOML.
    pub key: String,
    /// What, the limit, and what to do.
    pub message: String,
}

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On a line of the file, from 1.
    Line {
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
    },
    /// In the file as a whole.
    File(PathBuf),
    /// In this environment variable.
    Variable(String),
    /// Nowhere: there is no file, and the default does not do.
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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, message } = self;
        if key.is_empty() { write!(f, "{origin}: {message}") } else { write!(f, "{origin}: {key}: {message}") }
    }
}

impl std::error::Error for Fault {}
