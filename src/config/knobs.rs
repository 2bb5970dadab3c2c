//! Every key that an operator can set: what it takes, its default, and why it is there.
//!
//! The table drives the search for unknown keys, the checks of type and range, the names of the environment variables
//! and `docs/configuration.md`.

mod alarms;
mod reference;
mod rules;
mod telemetry;

use std::time::Duration;

use super::kind::Kind;
pub use reference::reference;

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knob {
    /// Its path; `*` stands for a name that the operator chooses, `[]` for a place in a list of tables.
    pub path: &'static str,
    /// What it takes, with unit and range.
    pub kind: Kind,
    /// Whether and how it is set where the operator does not set it.
    pub default: Fallback,
    /// What it does, and why the default and the range are what they are.
    pub reason: &'static str,
}

/// What holds for a key that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This value, written as in TOML.
    Value(&'static str),
    /// No value, which means something of its own.
    Unset,
    /// Nothing: it must be set.
    Required,
}

use Fallback::{Required, Unset, Value};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn span(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max }
}

const fn count(unit: &'static str, min: u64, max: u64) -> Kind {
    Kind::Count { unit, min, max }
}

const fn knob(path: &'static str, kind: Kind, default: Fallback, reason: &'static str) -> Knob {
    Knob { path, kind, default, reason }
}

const MINUTES_10: Duration = Duration::from_mins(10);
const HOURS_24: Duration = Duration::from_hours(24);

/// What a published key may verify.
const ALGORITHMS: &[&str] = &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// All keys, in the order of the documentation.
pub const KNOBS: &[Knob] = &joined::<
    { CALLERS.len() + rules::RULES.len() + OTHERS.len() + alarms::ALARMS.len() + telemetry::TELEMETRY.len() },
>();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which refuses a place out of range")]
const fn joined<const N: usize>() -> [Knob; N] {
    let parts = [CALLERS, rules::RULES, OTHERS, alarms::ALARMS, telemetry::TELEMETRY];
    let mut all = [knob("", Kind::Flag, Unset, ""); N];
    let (mut part, mut idx, mut at) = (0, 0, 0);
    while part < parts.len() {
        if idx < parts[part].len() {
            all[at] = parts[part][idx];
            (idx, at) = (idx + 1, at + 1);
        } else {
            (part, idx) = (part + 1, 0);
        }
    }
    all
}

/// The listeners, and who is believed.
///
/// The ranges are *chosen*: the lower end is the least with which the part still works, the upper end the most that
/// one process on a large machine has a use for; a value outside is a slip of the unit.
const CALLERS: &[Knob] = &[
    knob(
        "server.listen",
        Kind::Address,
        Value("\"127.0.0.1:8808\""),
        "Where MCP clients connect. Loopback by default: an address that others can reach demands somebody to believe (`[auth]`).",
    ),
    knob(
        "server.allowed_hosts",
        Kind::Texts,
        Value("[]"),
        "`Host` values accepted besides the listener's own address and, on loopback, `localhost`; all others are refused, against DNS rebinding.",
    ),
    knob(
        "server.allowed_origins",
        Kind::Origins,
        Value("[]"),
        "`Origin` values accepted besides loopback ones; a request without `Origin` comes from no browser.",
    ),
    knob(
        "server.body_bytes_max",
        count("bytes", 1024, 64 * 1024 * 1024),
        Value("4194304"),
        "Largest request body. Each open call may hold one in memory.",
    ),
    knob(
        "server.connections_max",
        count("connections", 1, 1_000_000),
        Value("4096"),
        "Most connections at once; others wait to be accepted. One that sends no request for 30 s is closed.",
    ),
    knob(
        "server.sessions_max",
        count("sessions", 1, 1_000_000),
        Value("10000"),
        "Most legacy sessions at once; the modern era has none.",
    ),
    knob(
        "server.calls_max",
        count("calls", 1, 65_536),
        Value("1024"),
        "Most calls open at once; one more is refused and recorded as `rate_limited`.",
    ),
    knob(
        "server.pass_methods",
        Kind::Texts,
        Value("[]"),
        "Methods that the gateway does not know and passes on at `/mcp/{backend}`, as `tasks/*`, for roles that may call everything there; each is recorded. All others are refused.",
    ),
    knob(
        "server.drain_timeout",
        span(ms(0), MINUTES_10),
        Value("\"30s\""),
        "How long a stop waits for open calls; then they are recorded as cut off.",
    ),
    knob(
        "server.tls.cert_file",
        Kind::Path,
        Required,
        "PEM file with the listener's certificate, then its chain. With `[server.tls]` the MCP listener speaks TLS 1.2 and 1.3 only; read at the start.",
    ),
    knob("server.tls.key_file", Kind::Path, Required, "PEM file with the certificate's private key."),
    knob(
        "server.tls.client_ca_file",
        Kind::Path,
        Unset,
        "PEM file with the authorities whose client certificates identify callers that send no token. The subject is the first URI name, else DNS name, else CN; the issuer is `mtls`. Unset: certificates are not asked for.",
    ),
    knob(
        "ops.listen",
        Kind::AddressOrOff,
        Value("\"127.0.0.1:8809\""),
        "Where `/healthz`, `/readyz` and `/metrics` are served, without authentication, and `/console` with: keep it off the clients' network.",
    ),
    knob(
        "ops.allowed_hosts",
        Kind::Texts,
        Value("[]"),
        "`Host` values at which the console is served besides the listener's own address and `localhost`, as that of a proxy; all others are refused, against DNS rebinding.",
    ),
    knob(
        "ops.console_role",
        Kind::Text,
        Value("\"auditor\""),
        "The role whose tokens open the console. It needs no section in `[roles]`: without one it may call nothing.",
    ),
    knob(
        "auth.audience",
        Kind::Text,
        Value("\"gatepost\""),
        "The `aud` that every token must bear, so that a token for another service is none here.",
    ),
    knob(
        "auth.role_claim",
        Kind::Text,
        Value("\"role\""),
        "The claim that holds the caller's role (a text) or roles (a list).",
    ),
    knob(
        "auth.required_scope",
        Kind::Word,
        Unset,
        "A scope that every token must bear; one without it gets 403 `insufficient_scope`. Unset: none.",
    ),
    knob(
        "auth.leeway",
        span(ms(0), Duration::from_mins(5)),
        Value("\"30s\""),
        "Clock difference tolerated on `exp` and `nbf`. More than minutes would revive expired tokens.",
    ),
    knob(
        "auth.tokens_file",
        Kind::Path,
        Unset,
        "TOML file with static tokens: `[[tokens]]` with `sha256`, `subject`, `roles`, as `gatepost token hash` prints it; never the tokens. Others may not read it; read again when it changes. The issuer is `static`.",
    ),
    knob(
        "auth.certificates",
        Kind::Lists,
        Value("{}"),
        "Client certificate's subject to its roles, as in `\"spiffe://example/ci\" = [\"dev\"]`. A certificate that is not listed has no role.",
    ),
    knob(
        "auth.keys[].kid",
        Kind::Text,
        Unset,
        "The `kid` of the tokens that this key verifies. Unset: it is tried for tokens without one.",
    ),
    knob(
        "auth.keys[].algorithm",
        Kind::Choice(&["HS256", "RS256", "ES256", "EdDSA"]),
        Required,
        "The one algorithm of this key; a token that names another is refused. HS256 is for development.",
    ),
    knob("auth.keys[].issuer", Kind::Text, Required, "The `iss` that a token verified by this key must bear."),
    knob(
        "auth.keys[].secret_file",
        Kind::Path,
        Unset,
        "HS256: file with the secret, at least 32 bytes; a newline at its end does not count.",
    ),
    knob(
        "auth.keys[].secret_env",
        Kind::Word,
        Unset,
        "HS256: environment variable with the secret, at least 32 bytes.",
    ),
    knob(
        "auth.keys[].public_key_file",
        Kind::Path,
        Unset,
        "RS256, ES256, EdDSA: PEM file with the public key. The private one stays with the issuer.",
    ),
    knob(
        "auth.issuers[].issuer",
        Kind::Text,
        Required,
        "The `iss` of its tokens. Its keys verify no other issuer's tokens, and others' keys none of its.",
    ),
    knob(
        "auth.issuers[].jwks_file",
        Kind::Path,
        Unset,
        "File with its JWKS. Read again when it changes, looked at once a second at most; what cannot be read leaves the keys as they are.",
    ),
    knob(
        "auth.issuers[].jwks_url",
        Kind::WebUrl,
        Unset,
        "Where its JWKS is fetched: at the first token, when it is old, and for an unknown `kid`, once in 10 s at most. While the issuer is down the keys at hand stay in use.",
    ),
    knob(
        "auth.issuers[].jwks_ttl",
        span(ms(1000), HOURS_24),
        Value("\"10m\""),
        "How old a fetched JWKS may be before it is fetched anew, beside the calls: a key that the issuer withdrew verifies for this long.",
    ),
    knob(
        "auth.issuers[].algorithms",
        Kind::Choices(ALGORITHMS),
        Value("[\"RS256\", \"ES256\", \"EdDSA\"]"),
        "The algorithms that its keys may have; a key verifies exactly one. No HMAC: a published key is no secret.",
    ),
    knob("auth.issuers[].audience", Kind::Text, Unset, "The `aud` of its tokens. Unset: `auth.audience`."),
    knob(
        "auth.issuers[].role_claim",
        Kind::Text,
        Unset,
        "The claim with the roles in its tokens. Unset: `auth.role_claim`.",
    ),
];

/// The same, behind the rules of roles.
const OTHERS: &[Knob] = &[
    knob(
        "backends.*.command",
        Kind::Command,
        Unset,
        "A stdio MCP server to start: program and arguments, run without a shell. Each legacy session has a child of its own, all others share one.",
    ),
    knob(
        "backends.*.env",
        Kind::Variables,
        Value("{}"),
        "Its environment besides `PATH` and `HOME`; nothing else of the gateway's environment reaches it.",
    ),
    knob(
        "backends.*.url",
        Kind::HttpUrl,
        Unset,
        "The endpoint of a Streamable HTTP server, instead of `command`. The client's token never goes there.",
    ),
    knob(
        "backends.*.header_env",
        Kind::Headers,
        Value("{}"),
        "Headers for `url`, as `Authorization`, each with the environment variable that holds its value.",
    ),
    knob(
        "backends.*.header_file",
        Kind::Headers,
        Value("{}"),
        "Headers for `url`, each with the file that holds its value; white space around it is cut off.",
    ),
    knob(
        "backends.*.ca_file",
        Kind::Path,
        Unset,
        "PEM file with certificate authorities that are believed for `url` besides the system's.",
    ),
    knob(
        "backends.*.call_timeout",
        span(ms(1), HOURS_24),
        Value("\"30m\""),
        "Longest time one call may take, whatever it reports; then the client gets an error and the record says `timeout`.",
    ),
    knob(
        "backends.*.idle_timeout",
        span(ms(1), HOURS_24),
        Value("\"5m\""),
        "Longest time a call may be silent: progress and other messages of it begin the time again.",
    ),
    knob(
        "backends.*.calls_max",
        count("calls", 1, 65_536),
        Unset,
        "Most calls that are open at this backend at once. Unset: `limits.calls_per_backend`.",
    ),
    knob(
        "audit.enabled",
        Kind::Flag,
        Value("true"),
        "Whether calls are audited at all. `false` leaves dispatch unchanged and records nothing.",
    ),
    knob(
        "audit.methods",
        Kind::Texts,
        Value("[\"resources/read\", \"prompts/get\", \"completion/complete\"]"),
        "Methods that are recorded besides `tools/call`, `initialize` and closed sessions, which always are.",
    ),
    knob(
        "audit.level",
        Kind::Choice(&["stored", "queued"]),
        Value("\"stored\""),
        "What a call waits for: `stored`, the outbox's commit on disk; `queued`, room in the ring, which a crash loses.",
    ),
    knob(
        "audit.dir",
        Kind::Path,
        Value("\"gatepost-data\""),
        "The outbox directory, relative to the working directory. One process a directory.",
    ),
    knob(
        "audit.gateway_id",
        Kind::Uuid,
        Unset,
        "This gateway's id in the trail. Unset: made once, with the directory.",
    ),
    knob(
        "audit.admission_timeout",
        span(ms(0), Duration::from_mins(1)),
        Value("\"250ms\""),
        "How long a call waits for room in the ring before it is refused: longer hides a fault from clients, shorter refuses bursts.",
    ),
    knob(
        "audit.store_timeout",
        span(ms(10), MINUTES_10),
        Value("\"10s\""),
        "How long a call waits for the outbox to store its intent or record; a healthy disk takes milliseconds.",
    ),
    knob(
        "audit.spill_after",
        span(ms(1), MINUTES_10),
        Value("\"200ms\""),
        "Level `queued`: the age of the oldest undelivered record at which the ring spills to the outbox.",
    ),
    knob(
        "audit.ring_records_max",
        count("records", 16, 4_194_304),
        Value("16384"),
        "Most records in the ring: a burst this long is taken without waiting for the disk.",
    ),
    knob(
        "audit.ring_bytes_max",
        count("bytes", 64 * 1024, 16 * 1024 * 1024 * 1024),
        Value("67108864"),
        "Most bytes in the ring; at least four times `audit.args_bytes_max`.",
    ),
    knob(
        "audit.outbox_bytes_max",
        count("bytes", 64 * 1024 * 1024, 1024 * 1024 * 1024 * 1024),
        Value("8589934592"),
        "Quota of the outbox's files together. Alarms at 75 % and 90 %; at 100 % no call begins until records are delivered.",
    ),
    knob(
        "audit.on_failure",
        Kind::Choice(&["refuse", "continue"]),
        Value("\"refuse\""),
        "What happens to a call that cannot be audited: `refuse` it before it is forwarded, or `continue` where `audit.continue_for` names it.",
    ),
    knob(
        "audit.continue_for",
        Kind::Patterns,
        Value("[]"),
        "Which calls go on unaudited where `audit.on_failure` is `continue`. Each is counted, logged, and told of in a `gateway/gap` record.",
    ),
    knob(
        "audit.refusals_singly_max",
        count("records", 1, 1_000_000),
        Value("10"),
        "Equal refusals of one caller in ten seconds that are recorded one by one; more are counted, and one record says how many.",
    ),
    knob(
        "audit.args_bytes_max",
        count("bytes", 64, 1024 * 1024),
        Value("65536"),
        "Longest recorded arguments; longer ones are recorded as a marker with their length and digest. An outbox segment is about 1 MiB, hence the end of the range.",
    ),
    knob(
        "audit.redact",
        Kind::Pointers,
        Value("[]"),
        "JSON pointers into the arguments whose values are never recorded; `*` stands for every member or element.",
    ),
    knob(
        "postgres.url",
        Kind::PostgresUrl,
        Unset,
        "Where records are delivered, with `sslmode=verify-full` over a network. Unset: they stay in the outbox. Set it by `GATEPOST_POSTGRES_URL` where it holds a password.",
    ),
    knob(
        "postgres.migrate",
        Kind::Flag,
        Value("true"),
        "Whether `serve` applies the migrations at its start; `false` where another role runs `gatepost migrate`.",
    ),
    knob(
        "postgres.batch_rows_max",
        count("rows", 1, 5000),
        Value("2000"),
        "Most rows in one statement. Beyond a few thousand nothing is gained and a retry costs more.",
    ),
    knob(
        "postgres.batch_bytes_max",
        count("bytes", 64 * 1024, 64 * 1024 * 1024),
        Value("4000000"),
        "Most bytes in one statement; two are in memory at a time.",
    ),
    knob(
        "postgres.statement_timeout",
        span(ms(100), MINUTES_10),
        Value("\"30s\""),
        "After which Postgres gives a batch up, to be delivered again: a hung server must not hold the trail for ever.",
    ),
    knob(
        "postgres.drain_timeout",
        span(ms(0), MINUTES_10),
        Value("\"10s\""),
        "How long a stop goes on delivering. What is left is safe in the outbox.",
    ),
    knob("log.format", Kind::Choice(&["text", "json"]), Value("\"text\""), "How log lines look on standard error."),
    knob(
        "log.filter",
        Kind::Filter,
        Value("\"info\""),
        "Which log lines are written, as tracing's `EnvFilter` reads it.",
    ),
];

impl Knob {
    /// The environment variable that overrides this key; `None` for a key below a chosen name or in a list.
    #[must_use]
    pub fn variable(&self) -> Option<String> {
        let fixed = !self.path.contains(['*', '[']);
        fixed.then(|| format!("GATEPOST_{}", self.path.replace('.', "_").to_uppercase()))
    }

    fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }
}
