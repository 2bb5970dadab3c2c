//! What an operator can set: one TOML file, `GATEPOST_*` overrides, validated once.
//!
//! [`Config::load`] reads the file, lays the environment over it, and checks every key against [`KNOBS`] and all of
//! them against each other. It reports every fault it finds, each with its key and line, and never a secret's value.
//! What it returns is valid: no other module checks a setting again.
//!
//! It does not open the files that the configuration names: the modules that use them do.

mod auth;
mod check;
mod expression;
mod fault;
mod kind;
mod knobs;
mod load;
mod path;
mod settings;

pub use auth::{Auth, Issuer, Key, Tls};
pub use expression::anchored;
pub use fault::{Fault, Origin};
pub use kind::{Kind, is_loopback};
pub use knobs::{Fallback, KNOBS, Knob, reference};
pub use settings::{Difference, Loaded, Settings};

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// Everything an operator can set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The MCP listener.
    pub server: Server,
    /// The operations listener.
    pub ops: Ops,
    /// Who is believed.
    pub auth: Auth,
    /// Role name to what it may call. No role, no rule: denied.
    pub roles: BTreeMap<String, Role>,
    /// How much at once, and how often.
    pub limits: Limits,
    /// Backend alias to how it is reached.
    pub backends: BTreeMap<String, Backend>,
    /// The audit pipeline.
    pub audit: Audit,
    /// Where records are delivered; without a `url`, nowhere (store-only).
    pub postgres: Postgres,
    /// Log lines.
    pub log: Log,
    /// Alarms.
    pub alarms: Alarms,
    /// Traces.
    pub telemetry: Telemetry,
}

/// `[telemetry]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    /// The collector's base URL; none: nothing is traced.
    pub otlp_endpoint: Option<String>,
}

/// `[server]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Where MCP clients connect.
    pub listen: SocketAddr,
    /// `Host` values accepted besides the listener's own address and, on loopback, `localhost`.
    pub allowed_hosts: Vec<String>,
    /// `Origin` values accepted besides same-origin loopback ones. A request without `Origin` is no browser's.
    pub allowed_origins: Vec<String>,
    /// Largest request body, bytes.
    pub body_bytes_max: usize,
    /// Most connections at once.
    pub connections_max: usize,
    /// Most legacy sessions at once.
    pub sessions_max: usize,
    /// Most calls open at once.
    pub calls_max: usize,
    /// Methods that the gateway does not know and passes on; a `*` at the end stands for anything.
    pub pass_methods: Vec<String>,
    /// How long a stop waits for open calls.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// TLS on the MCP listener; `None`: plain HTTP.
    pub tls: Option<Tls>,
}

/// `[ops]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Ops {
    /// Where `/healthz`, `/readyz` and `/metrics` are served; `None` (written `"off"`) for nowhere.
    #[serde(deserialize_with = "address_or_off")]
    pub listen: Option<SocketAddr>,
    /// `Host` values at which the console is served besides loopback and the listener's own address.
    pub allowed_hosts: Vec<String>,
    /// The role whose tokens open the console.
    pub console_role: String,
}

/// `[roles.NAME]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Role {
    /// Patterns over `backend/tool`; `*` stands for any run of characters but `/`.
    pub allow: Vec<String>,
    /// The same: what is denied, whatever another role allows.
    pub deny: Vec<String>,
    /// Patterns over `backend/URI`; in the URI `*` stands for any run of characters.
    pub resources: Option<Vec<String>>,
    /// The same: what is denied.
    pub deny_resources: Vec<String>,
    /// Patterns over `backend/prompt`.
    pub prompts: Option<Vec<String>>,
    /// The same: what is denied.
    pub deny_prompts: Vec<String>,
    /// What the arguments of calls must be.
    pub when: Vec<Condition>,
}

/// `[[roles.NAME.when]]`: a call of a tool that `tool` matches is allowed only if the value at `pointer` passes the one
/// test that is set.
#[derive(Clone, Debug, Deserialize)]
pub struct Condition {
    /// A pattern over `backend/tool`.
    pub tool: String,
    /// A JSON pointer into the arguments.
    pub pointer: String,
    /// The value is this.
    pub equals: Option<Scalar>,
    /// The value is one of these.
    pub one_of: Option<Vec<Scalar>>,
    /// The value is a text, and this regular expression matches the whole of it.
    pub matches: Option<String>,
    /// The value is the path of this directory or of something below it.
    pub below: Option<String>,
}

/// A value that an argument may have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `true` or `false`.
    Flag(bool),
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Most calls that one principal has open at once.
    pub calls_per_principal: usize,
    /// Most calls that are open at one backend at once, where it has no `calls_max` of its own.
    pub calls_per_backend: usize,
    /// Calls a second that one principal may keep up; 0 for any number.
    pub rate_per_principal: u32,
    /// Calls that one principal may make at once, above that rate.
    pub burst_per_principal: u32,
    /// Most legacy sessions that one principal has open.
    pub sessions_per_principal: usize,
}

/// `[backends.NAME]`: a stdio MCP server that Gatepost starts, or one that it reaches over HTTP. Its `Debug` shows the
/// names of environment and headers only.
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct Backend {
    /// Program and arguments of a stdio server.
    pub command: Vec<String>,
    /// Its environment, besides `PATH` and `HOME`.
    pub env: BTreeMap<String, String>,
    /// The endpoint of a Streamable HTTP server.
    pub url: Option<String>,
    /// Header to the environment variable that holds its value.
    pub header_env: BTreeMap<String, String>,
    /// Header to the file that holds its value.
    pub header_file: BTreeMap<String, PathBuf>,
    /// PEM file with the certificate authorities that are believed for `url`, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Longest time one call may take.
    #[serde(with = "duration")]
    pub call_timeout: Duration,
    /// Longest time between two messages of a call.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// Most calls that are open there at once.
    pub calls_max: Option<usize>,
}

/// `[audit]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// Whether calls are audited at all.
    pub enabled: bool,
    /// Methods that are audited besides `tools/call`.
    pub methods: Vec<String>,
    /// What a call waits for.
    pub level: Level,
    /// The outbox directory.
    pub dir: PathBuf,
    /// This gateway's id; made with the directory where it is not set.
    pub gateway_id: Option<uuid::Uuid>,
    /// How long `begin` waits for room in the ring.
    #[serde(with = "duration")]
    pub admission_timeout: Duration,
    /// How long a call waits for the outbox to store its intent or record.
    #[serde(with = "duration")]
    pub store_timeout: Duration,
    /// Level `queued`: the age of the oldest undelivered record at which the ring spills.
    #[serde(with = "duration")]
    pub spill_after: Duration,
    /// Most records in the ring.
    pub ring_records_max: usize,
    /// Most bytes in the ring.
    pub ring_bytes_max: usize,
    /// Quota of the outbox's files together, bytes.
    pub outbox_bytes_max: u64,
    /// What happens to a call that cannot be audited.
    pub on_failure: OnFailure,
    /// Patterns over `backend/tool`: which calls go on, where `on_failure` is `continue`.
    pub continue_for: Vec<String>,
    /// Equal refusals in ten seconds that are recorded one by one; more are counted in one record.
    pub refusals_singly_max: u32,
    /// Longest recorded arguments, bytes.
    pub args_bytes_max: usize,
    /// JSON pointers into the arguments whose values are never recorded.
    pub redact: Vec<String>,
}

/// What a call waits for before it is forwarded and before its reply is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The outbox commit.
    Stored,
    /// Room in the ring.
    Queued,
}

/// What happens to a call that cannot be audited, since neither ring nor outbox can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It is refused before it is forwarded.
    Refuse,
    /// It goes on where a pattern of `continue_for` names it, and is counted.
    Continue,
}

/// `[postgres]`. Its `Debug` never shows the URL, which may hold a password.
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct Postgres {
    /// `postgres://user@host/database?sslmode=verify-full`. `None`: store-only.
    pub url: Option<String>,
    /// Whether `serve` applies the migrations at its start.
    pub migrate: bool,
    /// Most rows in one batch.
    pub batch_rows_max: usize,
    /// Most bytes in one batch.
    pub batch_bytes_max: usize,
    /// The statement timeout set on the session.
    #[serde(with = "duration")]
    pub statement_timeout: Duration,
    /// How long a stop goes on delivering.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A tracing filter, as `info` or `gatepost=debug,warn`.
    pub filter: String,
}

/// `[alarms]`. Its `Debug` never shows the webhook's URL, which may be a secret.
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct Alarms {
    /// The age of the oldest undelivered record from which an alarm is raised.
    #[serde(with = "duration")]
    pub delivery_behind_after: Duration,
    /// Program and arguments that are run for each notice; none: nothing is run.
    pub command: Vec<String>,
    /// Where each notice is posted.
    pub webhook_url: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Durations are written as `250ms`, `30s`, `5m`.
mod duration {
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer, Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(D::Error::custom)
    }
}

/// An address, or `off` for none.
fn address_or_off<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" { Ok(None) } else { text.parse().map(Some).map_err(serde::de::Error::custom) }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: a backend's environment holds its credentials.
        f.debug_struct("Backend")
            .field("command", &self.command)
            .field("env", &self.env.keys())
            .field("url", &self.url)
            .field("header_env", &self.header_env)
            .field("header_file", &self.header_file)
            .field("ca_file", &self.ca_file)
            .field("call_timeout", &self.call_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("calls_max", &self.calls_max)
            .finish()
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: the URL may hold a password.
        f.debug_struct("Postgres")
            .field("url", &self.url.as_ref().map(|_| "[redacted]"))
            .field("migrate", &self.migrate)
            .field("batch_rows_max", &self.batch_rows_max)
            .field("batch_bytes_max", &self.batch_bytes_max)
            .field("statement_timeout", &self.statement_timeout)
            .field("drain_timeout", &self.drain_timeout)
            .finish()
    }
}

impl fmt::Debug for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: whoever knows a webhook's URL may write there.
        f.debug_struct("Alarms")
            .field("delivery_behind_after", &self.delivery_behind_after)
            .field("command", &self.command)
            .field("webhook_url", &self.webhook_url.as_ref().map(|_| "[redacted]"))
            .finish()
    }
}

impl Default for Alarms {
    fn default() -> Self {
        Self { delivery_behind_after: Duration::from_mins(5), command: Vec::new(), webhook_url: None }
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            env: BTreeMap::new(),
            url: None,
            header_env: BTreeMap::new(),
            header_file: BTreeMap::new(),
            ca_file: None,
            call_timeout: Duration::from_mins(30),
            idle_timeout: Duration::from_mins(5),
            calls_max: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls_per_principal: 64,
            calls_per_backend: 256,
            rate_per_principal: 0,
            burst_per_principal: 20,
            sessions_per_principal: 256,
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8808)),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            body_bytes_max: 4 * 1024 * 1024,
            connections_max: 4096,
            sessions_max: 10_000,
            calls_max: 1024,
            pass_methods: Vec::new(),
            drain_timeout: Duration::from_secs(30),
            tls: None,
        }
    }
}

impl Default for Ops {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 8809))),
            allowed_hosts: Vec::new(),
            console_role: "auditor".to_owned(),
        }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            enabled: true,
            methods: ["resources/read", "prompts/get", "completion/complete"].map(str::to_owned).to_vec(),
            level: Level::Stored,
            dir: PathBuf::from("gatepost-data"),
            gateway_id: None,
            admission_timeout: Duration::from_millis(250),
            store_timeout: Duration::from_secs(10),
            spill_after: Duration::from_millis(200),
            ring_records_max: 16_384,
            ring_bytes_max: 64 * 1024 * 1024,
            outbox_bytes_max: 8 * 1024 * 1024 * 1024,
            on_failure: OnFailure::Refuse,
            continue_for: Vec::new(),
            refusals_singly_max: 10,
            args_bytes_max: 64 * 1024,
            redact: Vec::new(),
        }
    }
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            url: None,
            migrate: true,
            batch_rows_max: 2_000,
            batch_bytes_max: 4_000_000,
            statement_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}
