//! `[backends.NAME]`: an MCP server to which calls are forwarded.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::backend_oauth::BackendOAuth;
use super::deserialize::duration;
use super::pins::{Pin, Pins};
use crate::file_access::FileAccess;

/// `[backends.NAME]`: a stdio MCP server that Gatepost starts, or one that it reaches over HTTP. Its `Debug` shows only
/// the names in `env`.
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct Backend {
    /// The owners and permissions that the files may have.
    #[serde(skip)]
    pub files: FileAccess,
    /// Program and arguments of a stdio server.
    pub command: Vec<String>,
    /// Its environment, besides `PATH` and `HOME`.
    pub env: BTreeMap<String, String>,
    /// Variables of the gateway that it gets too.
    pub env_from: Vec<String>,
    /// A file with further variables.
    pub env_file: Option<PathBuf>,
    /// Its working directory, if it is not the gateway's.
    pub cwd: Option<PathBuf>,
    /// The endpoint of a Streamable HTTP server.
    pub url: Option<String>,
    /// Headers, each with the environment variable that contains its value.
    pub header_env: BTreeMap<String, String>,
    /// Headers, each with the file that contains its value.
    pub header_file: BTreeMap<String, PathBuf>,
    /// The OAuth client that gets the tokens for `url`.
    pub oauth: Option<BackendOAuth>,
    /// PEM file with certificate authorities that are trusted for `url`, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Longest duration of a call.
    #[serde(deserialize_with = "duration")]
    pub call_timeout: Duration,
    /// Longest time between two messages of a call.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Duration,
    /// The interval at which the gateway looks at the backend by itself; zero: never.
    #[serde(deserialize_with = "duration")]
    pub probe_interval: Duration,
    /// Most open calls at this backend.
    pub calls_max: Option<usize>,
    /// True if all callers without a session may share one conversation with a server of the older era.
    pub shared: bool,
    /// Most conversations with a server of the older era for callers without a session.
    pub conversations_max: usize,
    /// True if a stdio server is started behind walls.
    pub walls: bool,
    /// The directories and files in which a stdio server may write; `None`: the working directory, `HOME` and the
    /// directory for temporary files.
    pub write: Option<Vec<PathBuf>>,
    /// The user of a stdio server, by name or number; `None`: the gateway's.
    pub user: Option<String>,
    /// Patterns over the tools that no caller sees or calls.
    pub hide: Vec<String>,
    /// The names under which tools are listed, by the backend's own.
    pub rename: BTreeMap<String, String>,
    /// The consequence if the definition of a tool is not the accepted one.
    pub pin: Pin,
    /// The file with the accepted definitions.
    pub pins_file: Option<PathBuf>,
    /// The accepted definitions; what is wrong with the file if they cannot be read.
    #[serde(skip, default = "Backend::no_pins")]
    pub pins: Result<Pins, String>,
}

impl Backend {
    // The type of the field.
    #[expect(clippy::unnecessary_wraps)]
    fn no_pins() -> Result<Pins, String> {
        Ok(Pins::new())
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: a backend's environment contains its credentials.
        f.debug_struct("Backend")
            .field("files", &self.files)
            .field("command", &self.command)
            .field("env", &self.env.keys())
            .field("env_from", &self.env_from)
            .field("env_file", &self.env_file)
            .field("cwd", &self.cwd)
            .field("url", &self.url)
            .field("header_env", &self.header_env)
            .field("header_file", &self.header_file)
            .field("oauth", &self.oauth)
            .field("ca_file", &self.ca_file)
            .field("call_timeout", &self.call_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("probe_interval", &self.probe_interval)
            .field("calls_max", &self.calls_max)
            .field("shared", &self.shared)
            .field("conversations_max", &self.conversations_max)
            .field("walls", &self.walls)
            .field("write", &self.write)
            .field("user", &self.user)
            .field("hide", &self.hide)
            .field("rename", &self.rename)
            .field("pin", &self.pin)
            .field("pins_file", &self.pins_file)
            .field("pins", &self.pins)
            .finish()
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            files: FileAccess::default(),
            command: Vec::new(),
            env: BTreeMap::new(),
            env_from: Vec::new(),
            env_file: None,
            cwd: None,
            url: None,
            header_env: BTreeMap::new(),
            header_file: BTreeMap::new(),
            oauth: None,
            ca_file: None,
            call_timeout: Duration::from_mins(30),
            idle_timeout: Duration::from_mins(5),
            probe_interval: Duration::from_mins(1),
            calls_max: None,
            shared: false,
            conversations_max: 64,
            walls: true,
            write: None,
            user: None,
            hide: Vec::new(),
            rename: BTreeMap::new(),
            pin: Pin::Record,
            pins_file: None,
            pins: Self::no_pins(),
        }
    }
}
