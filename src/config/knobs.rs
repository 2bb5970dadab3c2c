//! Every key that an operator can set: what it takes, its default, and why it is there.
//!
//! The table drives the search for unknown keys, the checks of type and range, the names of the environment variables
//! and `docs/configuration.md`.

use std::fmt::Write as _;
use std::time::Duration;

use super::kind::Kind;

/// One key.
#[derive(Clone, Copy, Debug)]
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

/// All keys, in the order of the documentation.
///
/// The ranges are *chosen*: the lower end is the least with which the part still works, the upper end the most that
/// one process on a large machine has a use for; a value outside is a slip of the unit.
pub const KNOBS: &[Knob] = &[
    knob(
        "server.listen",
        Kind::Address,
        Value("\"127.0.0.1:8808\""),
        "Where MCP clients connect. Loopback by default: an address that others can reach demands `auth.keys`.",
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
        "server.drain_timeout",
        span(ms(0), MINUTES_10),
        Value("\"30s\""),
        "How long a stop waits for open calls; then they are recorded as cut off.",
    ),
    knob(
        "ops.listen",
        Kind::AddressOrOff,
        Value("\"127.0.0.1:8809\""),
        "Where `/healthz` and `/readyz` are served, without authentication: keep it off the clients' network.",
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
        "roles.*.allow",
        Kind::Patterns,
        Value("[]"),
        "What the role may call: patterns over `backend/tool`, where `*` stands for any run of characters but `/`. None: nothing.",
    ),
    knob(
        "roles.*.deny",
        Kind::Patterns,
        Value("[]"),
        "What nobody of this role may call, whatever another role allows. One that names all tools of a backend denies its resources and prompts too.",
    ),
    knob(
        "roles.*.resources",
        Kind::Resources,
        Unset,
        "What the role may read: patterns over `backend/URI`, where `*` in the URI stands for any run of characters. Unset, as `prompts` is: all of the backends whose tools it may all call, else nothing.",
    ),
    knob(
        "roles.*.deny_resources",
        Kind::Resources,
        Value("[]"),
        "What nobody of this role may read, whatever another role allows.",
    ),
    knob(
        "roles.*.prompts",
        Kind::Patterns,
        Unset,
        "Which prompts the role may get: patterns over `backend/prompt`. Unset, as `resources` is: all of the backends whose tools it may all call, else nothing.",
    ),
    knob(
        "roles.*.deny_prompts",
        Kind::Patterns,
        Value("[]"),
        "Which prompts nobody of this role may get, whatever another role allows.",
    ),
    knob(
        "roles.*.when[].tool",
        Kind::Pattern,
        Required,
        "The tools whose arguments this condition looks at. Every condition on a tool must hold, for this role's `allow`.",
    ),
    knob(
        "roles.*.when[].pointer",
        Kind::Pointer,
        Required,
        "JSON pointer to the argument. Where it leads nowhere the condition does not hold.",
    ),
    knob(
        "roles.*.when[].equals",
        Kind::Scalar,
        Unset,
        "The argument is this value. Numbers compare as they are written: `1.0` is not `1`.",
    ),
    knob("roles.*.when[].one_of", Kind::Scalars, Unset, "The argument is one of these values."),
    knob(
        "roles.*.when[].matches",
        Kind::Expression,
        Unset,
        "The argument is a text of at most 4096 bytes, all of which this regular expression matches. Its compiled size is bounded, and with it what one call costs.",
    ),
    knob(
        "roles.*.when[].below",
        Kind::Directory,
        Unset,
        "The argument is the absolute path of this directory or of something below it, by its text; `..` may not lead out of it.",
    ),
    knob(
        "backends.*.command",
        Kind::Command,
        Required,
        "The stdio MCP server to start: program and arguments, run without a shell.",
    ),
    knob(
        "backends.*.env",
        Kind::Variables,
        Value("{}"),
        "Its environment besides `PATH` and `HOME`; nothing else of the gateway's environment reaches it.",
    ),
    knob(
        "backends.*.call_timeout",
        span(ms(1), HOURS_24),
        Value("\"5m\""),
        "Longest time one call may take; then the client gets an error and the record says `timeout`.",
    ),
    knob(
        "audit.enabled",
        Kind::Flag,
        Value("true"),
        "Whether calls are audited at all. `false` leaves dispatch unchanged and records nothing.",
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

/// The tables of `docs/configuration.md`, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::new();
    let mut section = "";
    for knob in KNOBS {
        if knob.section() != section {
            section = knob.section();
            let heading = match section.strip_suffix("[]") {
                Some(list) => format!("[[{}]]", list.replace('*', "NAME")),
                None => format!("[{}]", section.replace('*', "NAME")),
            };
            let head = "| key | takes | default | what and why |\n| --- | --- | --- | --- |";
            push(&mut text, format_args!("\n### `{heading}`\n\n{head}"));
        }
        let default = match knob.default {
            Value(value) => format!("`{value}`"),
            Unset => "unset".to_owned(),
            Required => "required".to_owned(),
        };
        let name = knob.path.rsplit('.').next().unwrap_or(knob.path);
        let range = knob.kind.range();
        push(&mut text, format_args!("| `{name}` | {range} | {default} | {} |", knob.reason));
    }
    text
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes all text");
}
