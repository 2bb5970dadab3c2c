//! [`Config`] and the sections of the configuration that are not large enough for a file of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::auth::{Auth, Tls};
use super::backend::Backend;
use super::deserialize::{duration, optional_duration};
use super::evidence::Evidence;
use super::network::Network;
use super::ops::Ops;
use super::public_url::PublicUrl;
use super::role::Role;
use super::secrets::is_secret_name;
use crate::audit::record::{PARAMS_BYTES_MAX_DEFAULT, RESPONSE_BYTES_MAX_DEFAULT};
use crate::file_access::FileAccess;
use crate::mcp::methods::RECORDED_BY_DEFAULT;

/// Everything that an operator can set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The MCP listener.
    pub server: Server,
    /// The operations listener.
    pub ops: Ops,
    /// The authentication of callers.
    pub auth: Auth,
    /// The rules of each role, by its name. A call that no rule allows is denied.
    pub roles: BTreeMap<String, Role>,
    /// Limits on concurrency and rate.
    pub limits: Limits,
    /// The backends, by alias.
    pub backends: BTreeMap<String, Backend>,
    /// The audit pipeline.
    pub audit: Audit,
    /// Delivery to Postgres; without a `url` records stay in the outbox (store-only).
    pub postgres: Postgres,
    /// Signed checkpoints.
    pub evidence: Evidence,
    /// Logging.
    pub log: Log,
    /// Alarms.
    pub alarms: Alarms,
    /// Traces.
    pub telemetry: Telemetry,
}

impl Config {
    /// The owners and permissions that the files of this configuration may have.
    ///
    /// # Errors
    /// `server.secrets_group` is not a group of this system.
    pub(super) fn file_access(&self) -> Result<FileAccess, String> {
        self.server.secrets_group.as_deref().map_or(Ok(FileAccess::default()), FileAccess::with_group)
    }

    /// The names of the environment variables with secrets that are the gateway's, or for its backends.
    pub(crate) fn secret_variables(&self) -> Vec<String> {
        let keys = self.auth.keys.iter().filter_map(|key| key.secret_env.as_ref());
        let headers = self.backends.values().flat_map(|backend| backend.header_env.values());
        let variables = self.backends.values().flat_map(|backend| &backend.env_from);
        let variables = variables.filter(|name| is_secret_name(name));
        let postgres = "PGPASSWORD".to_owned();
        keys.chain(headers).chain(variables).chain([&postgres]).cloned().collect()
    }

    /// Sets the owners and permissions that files may have, in each section with files.
    pub(super) fn set_file_access(&mut self, access: FileAccess) {
        self.auth.files = access;
        (self.audit.files, self.evidence.files) = (access, access);
        self.backends.values_mut().for_each(|backend| backend.files = access);
        self.server.tls.iter_mut().for_each(|tls| tls.files = access);
        self.ops.sign_in.iter_mut().for_each(|sign_in| sign_in.files = access);
    }
}

/// `[telemetry]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    /// The collector's base URL; without one no traces are sent.
    pub otlp_endpoint: Option<String>,
}

/// `[server]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Server {
    /// The address of the MCP listener.
    pub listen: SocketAddr,
    /// `Host` values accepted besides the listener's own address and, on loopback, `localhost`.
    pub allowed_hosts: Vec<String>,
    /// `Origin` values accepted besides loopback ones at a gateway on loopback. A request without `Origin` does not
    /// come from a browser.
    pub allowed_origins: Vec<String>,
    /// The URL at which clients reach the gateway through proxies.
    pub public_url: Option<String>,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    /// Memory for the bodies of all open requests together, in bytes.
    pub request_bytes_max: usize,
    /// Most open connections.
    pub connections_max: usize,
    /// Most open connections of one client address.
    pub connections_per_address_max: usize,
    /// The networks of proxies that may name a client's address.
    pub trusted_proxies: Vec<Network>,
    /// The header in which they name it.
    pub forwarded_header: ForwardedHeader,
    /// Most open legacy sessions.
    pub sessions_max: usize,
    /// Memory for the messages of all streams, in bytes.
    pub replay_bytes_max: usize,
    /// The time after which an unused session, or an unused conversation of a caller without one, ends.
    #[serde(deserialize_with = "duration")]
    pub session_idle_timeout: Duration,
    /// File with the key of `requestState`. `None`: a key of the process.
    pub state_key_file: Option<PathBuf>,
    /// Time for which a `requestState` is valid.
    #[serde(deserialize_with = "duration")]
    pub state_ttl: Duration,
    /// Most open calls.
    pub calls_max: usize,
    /// Methods unknown to the gateway that are forwarded; a `*` at the end matches any suffix.
    pub pass_methods: Vec<String>,
    /// Members of parameters that are forwarded although their method does not have them: method, `/`, member.
    pub pass_params: Vec<String>,
    /// The longest time that a shutdown waits for open calls.
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Duration,
    /// The group that may read files with secrets; `None`: only the gateway's user and root.
    pub secrets_group: Option<String>,
    /// TLS on the MCP listener; `None`: plain HTTP.
    pub tls: Option<Tls>,
}

/// A header in which proxies name the address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` of RFC 7239.
    Forwarded,
}

impl Server {
    /// The `Host` values that are accepted besides the listener's own address.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        let public = self.public_url().map(|url| url.host().to_owned());
        self.allowed_hosts.iter().cloned().chain(public).collect()
    }

    /// The URL at which clients reach the gateway.
    #[must_use]
    pub fn public_url(&self) -> Option<PublicUrl> {
        self.public_url.as_deref().and_then(PublicUrl::parse)
    }
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Most open calls of one principal.
    pub calls_per_principal: usize,
    /// Most open calls at one backend, unless it sets a `calls_max` of its own.
    pub calls_per_backend: usize,
    /// Sustained requests a second of one principal; 0: unlimited.
    pub rate_per_principal: u32,
    /// Requests of one principal allowed at once above that rate.
    pub burst_per_principal: u32,
    /// Most open legacy sessions of one principal.
    pub sessions_per_principal: usize,
    /// Most open streams of one principal.
    pub streams_per_principal: usize,
}

/// `[audit]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// True if calls are audited at all.
    pub enabled: bool,
    /// Methods that are recorded besides `tools/call` and `initialize`.
    pub methods: Vec<String>,
    /// The durability that a call waits for.
    pub level: Level,
    /// The owners and permissions that the outbox directory may have.
    #[serde(skip)]
    pub files: FileAccess,
    /// The outbox directory.
    pub dir: PathBuf,
    /// This gateway's id; generated with the directory unless it is set.
    pub gateway_id: Option<uuid::Uuid>,
    /// The file with the key of the digests in records, if it is not in the outbox directory.
    pub digest_key_file: Option<PathBuf>,
    /// The longest time that `begin` waits for room in the ring.
    #[serde(deserialize_with = "duration")]
    pub admission_timeout: Duration,
    /// The longest time that a call waits until the outbox has stored its intent or record.
    #[serde(deserialize_with = "duration")]
    pub store_timeout: Duration,
    /// Level `queued`: the age of the oldest undelivered record at which the ring spills.
    #[serde(deserialize_with = "duration")]
    pub spill_after: Duration,
    /// Most records in the ring.
    pub ring_records_max: usize,
    /// Most bytes in the ring.
    pub ring_bytes_max: usize,
    /// Quota of all outbox files together, in bytes.
    pub outbox_bytes_max: u64,
    /// The time for which the outbox keeps delivered records; by default a day at level `stored`, none at `queued`.
    #[serde(deserialize_with = "optional_duration")]
    pub keep_delivered: Option<Duration>,
    /// Most bytes of kept records; by default a quarter of the quota.
    pub keep_bytes_max: Option<u64>,
    /// The treatment of a call that cannot be audited.
    pub on_failure: OnFailure,
    /// Patterns over `backend/tool`: the calls that continue if `on_failure` is `continue`.
    pub continue_for: Vec<String>,
    /// Refusals of one kind within a minute that get a record of their own; further ones are counted in one record.
    pub refusals_singly_max: u32,
    /// The form in which answers to questions of backends are recorded.
    pub record_answers: RecordAnswers,
    /// Longest arguments and other parameters of a request together, as recorded, in bytes.
    pub params_bytes_max: usize,
    /// Values that are shortened: `backend/tool:/path`.
    pub shorten: Vec<String>,
    /// Patterns over `backend/tool`: the calls whose answers are recorded.
    pub record_responses: Vec<String>,
    /// Longest recorded answer, in bytes.
    pub response_bytes_max: usize,
    /// JSON pointers into the arguments to values that are never recorded.
    pub redact: Vec<String>,
}

/// The durability that a call waits for before it is forwarded and before its reply is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The outbox commit.
    Stored,
    /// Room in the ring.
    Queued,
}

/// The form in which answers to questions of backends are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordAnswers {
    /// The whole answer, after redaction.
    Full,
    /// Its length and its keyed digest.
    Digest,
}

/// The treatment of a call that cannot be audited because neither ring nor outbox can take its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It is refused before it is forwarded.
    Refuse,
    /// It continues if a pattern of `continue_for` matches it, and is counted.
    Continue,
}

/// `[postgres]`. Its `Debug` never shows the URL, which may contain a password.
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct Postgres {
    /// `postgres://user@host/database?sslmode=verify-full`. `None`: store-only.
    pub url: Option<String>,
    /// The file with the password of `url`.
    pub password_file: Option<PathBuf>,
    /// The same database with a login that may read. `None`: `url` is used.
    pub reader_url: Option<String>,
    /// True if `serve` applies missing migrations at its start.
    pub migrate: bool,
    /// Most rows in one batch.
    pub batch_rows_max: usize,
    /// Most bytes in one batch.
    pub batch_bytes_max: usize,
    /// The statement timeout set on the session.
    #[serde(deserialize_with = "duration")]
    pub statement_timeout: Duration,
    /// The longest time that a shutdown continues delivery.
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Duration,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Log {
    /// The format of log lines.
    pub format: LogFormat,
    /// A tracing filter, for example `info` or `gatepost=debug,warn`.
    pub filter: String,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Plain text.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[alarms]`. Its `Debug` never shows the webhook's URL, which may be a secret.
#[derive(Clone, Deserialize)]
#[serde(default)]
pub struct Alarms {
    /// The age of the oldest undelivered record from which `delivery_behind` is raised.
    #[serde(deserialize_with = "duration")]
    pub delivery_behind_after: Duration,
    /// The program that is run for each notice, and its arguments; empty: none.
    pub command: Vec<String>,
    /// The URL to which each notice is posted.
    pub webhook_url: Option<String>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: the URL may contain a password.
        f.debug_struct("Postgres")
            .field("url", &self.url.as_ref().map(|_| "[redacted]"))
            .field("password_file", &self.password_file)
            .field("reader_url", &self.reader_url.as_ref().map(|_| "[redacted]"))
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
        // I8: anyone who knows a webhook's URL can post to it.
        f.debug_struct("Alarms")
            .field("delivery_behind_after", &self.delivery_behind_after)
            .field("command", &self.command)
            .field("webhook_url", &self.webhook_url.as_ref().map(|_| "[redacted]"))
            .finish()
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8808)),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            public_url: None,
            body_bytes_max: 4 * 1024 * 1024,
            request_bytes_max: 1024 * 1024 * 1024,
            connections_max: 4096,
            connections_per_address_max: 1024,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::XForwardedFor,
            sessions_max: 10_000,
            replay_bytes_max: 64 * 1024 * 1024,
            session_idle_timeout: Duration::from_hours(1),
            state_key_file: None,
            state_ttl: Duration::from_hours(24),
            calls_max: 1024,
            pass_methods: Vec::new(),
            pass_params: Vec::new(),
            drain_timeout: Duration::from_secs(30),
            secrets_group: None,
            tls: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls_per_principal: 64,
            calls_per_backend: 256,
            rate_per_principal: 100,
            burst_per_principal: 400,
            sessions_per_principal: 16,
            streams_per_principal: 64,
        }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            enabled: true,
            methods: RECORDED_BY_DEFAULT.iter().map(|method| (*method).to_owned()).collect(),
            level: Level::Stored,
            files: FileAccess::default(),
            dir: PathBuf::from("gatepost-data"),
            gateway_id: None,
            digest_key_file: None,
            admission_timeout: Duration::from_millis(250),
            store_timeout: Duration::from_secs(10),
            spill_after: Duration::from_millis(200),
            ring_records_max: 16_384,
            ring_bytes_max: 64 * 1024 * 1024,
            outbox_bytes_max: 8 * 1024 * 1024 * 1024,
            keep_delivered: None,
            keep_bytes_max: None,
            on_failure: OnFailure::Refuse,
            continue_for: Vec::new(),
            refusals_singly_max: 20,
            record_answers: RecordAnswers::Full,
            params_bytes_max: PARAMS_BYTES_MAX_DEFAULT,
            shorten: Vec::new(),
            record_responses: Vec::new(),
            response_bytes_max: RESPONSE_BYTES_MAX_DEFAULT,
            redact: Vec::new(),
        }
    }
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            reader_url: None,
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

impl Default for Alarms {
    fn default() -> Self {
        Self { delivery_behind_after: Duration::from_mins(5), command: Vec::new(), webhook_url: None }
    }
}
