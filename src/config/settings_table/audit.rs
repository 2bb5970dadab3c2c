//! The settings of the audit pipeline.

use std::time::Duration;

use super::spec::Fallback::{Unset, Value, Words};
use super::spec::{MINUTES_10, SettingSpec, count, duration, ms, setting};
use crate::audit::record::{PARAMS_BYTES_MAX, RESPONSE_BYTES_MAX};
use crate::config::value_type::ValueType;
use crate::mcp::methods::RECORDED_BY_DEFAULT;

/// `[audit]`.
pub(super) const AUDIT: &[SettingSpec] = &[
    setting(
        "audit.enabled",
        ValueType::Flag,
        Value("true"),
        "Whether calls are audited at all. `false` records nothing and changes nothing else.",
    ),
    setting(
        "audit.methods",
        ValueType::RecordedMethods,
        Words(RECORDED_BY_DEFAULT),
        "Methods whose requests are recorded. `tools/call`, `initialize` and the end of a session always are.",
    ),
    setting(
        "audit.level",
        ValueType::Choice(&["stored", "queued"]),
        Value("\"stored\""),
        "The durability that a call waits for: `stored`, the outbox's commit on disk; `queued`, room in the ring, \
         whose records a crash loses.",
    ),
    setting(
        "audit.dir",
        ValueType::Path,
        Value("\"gatepost-data\""),
        "The outbox directory, relative to the working directory. One `gatepost serve` can use a directory; `gatepost stdio` \
         makes numbered slots below it, one for each process.",
    ),
    setting(
        "audit.gateway_id",
        ValueType::Uuid,
        Unset,
        "This gateway's id in the trail. Unset: generated once, with the directory or slot. If it is set, `gatepost stdio` \
         has one slot, and a second process is refused.",
    ),
    setting(
        "audit.digest_key_file",
        ValueType::Path,
        Unset,
        "File with the key of the digests in records, 64 hexadecimal digits; made at the first start if it is missing. \
         Unset: `digest.key` in `audit.dir`. Back it up: `gatepost audit match` needs it.",
    ),
    setting(
        "audit.admission_timeout",
        duration(ms(0), Duration::from_mins(1)),
        Value("\"250ms\""),
        "How long a call waits for room in the ring before it is refused. A longer time hides a failure from clients; \
         a shorter one refuses bursts.",
    ),
    setting(
        "audit.store_timeout",
        duration(ms(10), MINUTES_10),
        Value("\"10s\""),
        "How long a call waits for the outbox to store its intent or record; a healthy disk takes milliseconds. At \
         most 1m with `evidence.on_failure = \"refuse\"`.",
    ),
    setting(
        "audit.spill_after",
        duration(ms(1), MINUTES_10),
        Value("\"200ms\""),
        "Level `queued`: the age of the oldest undelivered record at which the ring spills to the outbox.",
    ),
    setting(
        "audit.ring_records_max",
        count("records", 16, 4_194_304),
        Value("16384"),
        "Most records in the ring: a burst of this length is accepted without waiting for the disk.",
    ),
    setting(
        "audit.ring_bytes_max",
        count("bytes", 64 * 1024, 16 * 1024 * 1024 * 1024),
        Value("67108864"),
        "Most bytes in the ring; at least four times `audit.params_bytes_max` and `audit.response_bytes_max` together.",
    ),
    setting(
        "audit.outbox_bytes_max",
        count("bytes", 64 * 1024 * 1024, 1024 * 1024 * 1024 * 1024),
        Value("8589934592"),
        "Quota of all files of an outbox or slot together. Alarms are raised at 75 % and 90 %; at 100 % calls are refused until \
         records are delivered.",
    ),
    setting(
        "audit.keep_delivered",
        duration(ms(0), Duration::from_hours(24 * 366)),
        Unset,
        "How long delivered records stay in the outbox, to be delivered again if the database is restored to an earlier \
         state; `0s` keeps nothing. Unset: `24h` at level `stored`, nothing at `queued`, where keeping costs one commit a \
         second.",
    ),
    setting(
        "audit.keep_bytes_max",
        count("bytes", 1024 * 1024, 1024 * 1024 * 1024 * 1024),
        Unset,
        "Most bytes of kept records. They count in no warning, and the oldest go when undelivered records need the room. \
         Unset: a quarter of `audit.outbox_bytes_max`.",
    ),
    setting(
        "audit.on_failure",
        ValueType::Choice(&["refuse", "continue"]),
        Value("\"refuse\""),
        "What happens to a call that cannot be audited: `refuse` refuses it before it is forwarded; `continue` \
         forwards it if `audit.continue_for` names it.",
    ),
    setting(
        "audit.continue_for",
        ValueType::Patterns,
        Value("[]"),
        "The calls that continue without a record if `audit.on_failure` is `continue`. Each is counted, logged, and \
         included in a `gateway/gap` record.",
    ),
    setting(
        "audit.refusals_singly_max",
        count("records", 1, 1_000_000),
        Value("20"),
        "Refusals within a minute that get a record of their own: of one principal, with the same status at the same \
         backend, and three times as many of that principal in all. The same number applies to one network of callers \
         without a valid token (a /24 of IPv4, a /64 of IPv6) with the same status, and three times as many to all \
         of them together. Further refusals are counted, and a `gateway/refusals` record states their number.",
    ),
    setting(
        "audit.params_bytes_max",
        count("bytes", 1024, PARAMS_BYTES_MAX as u64),
        Value("1048576"),
        "Longest `request_args` and `request_extra` of a record together, after redaction and shortening. A request with \
         more is refused, so that no caller can keep its arguments out of the trail.",
    ),
    setting(
        "audit.shorten",
        ValueType::Shortened,
        Value("[]"),
        "Values that are recorded with their first and last KiB only: `backend/tool:/path`, for example \
         `files/write_file:/content`, with patterns like those of roles and paths like those of `audit.redact`. Length \
         and digest are recorded in `context`.",
    ),
    setting(
        "audit.record_responses",
        ValueType::Patterns,
        Value("[]"),
        "Tools and prompts whose answers are recorded in `response`, after redaction.",
    ),
    setting(
        "audit.response_bytes_max",
        count("bytes", 1024, RESPONSE_BYTES_MAX as u64),
        Value("65536"),
        "Longest recorded answer; of a longer one the beginning is recorded, as a string. Each open call whose answer is \
         recorded reserves as much of the ring.",
    ),
    setting(
        "audit.record_answers",
        ValueType::Choice(&["full", "digest"]),
        Value("\"full\""),
        "How the answers of clients to questions of backends (elicitation, sampling, roots) are recorded: `full`, after \
         redaction; `digest`, only their length and digest.",
    ),
    setting(
        "audit.redact",
        ValueType::Pointers,
        Value("[]"),
        "JSON pointers into the arguments to values that are never recorded. `*` matches every member or element, `**` \
         any number of them: `/**/password` is redacted at every depth. Names match in every spelling that a decoder \
         may confuse: case, `_` and `-` do not matter. See [trail.md](trail.md#redaction).",
    ),
];
