//! The settings of signed checkpoints.

use std::time::Duration;

use super::spec::Fallback::{Required, Unset, Value};
use super::spec::{HOURS_24, SettingSpec, duration, setting};
use crate::config::value_type::ValueType;

/// `[evidence]`.
pub(super) const EVIDENCE: &[SettingSpec] = &[
    setting(
        "evidence.origin",
        ValueType::Word,
        Unset,
        "The beginning of the logs' names, for example `example.com/gatepost`: the log of a gateway is \
         `ORIGIN/GATEWAY-ID` ([evidence.md](evidence.md)). Use a name that is yours, because witnesses know logs by it. \
         Unset: nothing is signed.",
    ),
    setting(
        "evidence.key_file",
        ValueType::Path,
        Unset,
        "File with the key that signs checkpoints; `gatepost evidence keygen` makes one. With `origin`, this or \
         `sign_command` is required.",
    ),
    setting(
        "evidence.second_key_file",
        ValueType::Path,
        Unset,
        "File with a key that signs too: the next key, or the last one, while those who check learn the new one.",
    ),
    setting(
        "evidence.sign_command",
        ValueType::Command,
        Unset,
        "A program and its arguments, run without a shell, in place of `key_file`: it gets the bytes to sign on standard \
         input, and prints the Ed25519 signature in base64, within 20 s. For keys in an HSM, a TPM or a key management \
         service ([evidence.md](evidence.md#a-key-that-gatepost-does-not-have)). It gets none of the gateway's secrets.",
    ),
    setting(
        "evidence.verifier_key",
        ValueType::Word,
        Unset,
        "The public half of the key of `sign_command`, `NAME+ID+KEY`. Each signature is verified with it before it is \
         used. Required with `sign_command`.",
    ),
    setting(
        "evidence.on_failure",
        ValueType::Choice(&["continue", "refuse"]),
        Value("\"continue\""),
        "Calls while no checkpoint can be signed (from the start until the first one, after a contradiction too), or while \
         Postgres or an anchor has not confirmed one for `anchor_max_age`: they continue with an alarm, or are refused and \
         recorded as `audit_unavailable`.",
    ),
    setting(
        "evidence.interval",
        duration(Duration::from_secs(1), HOURS_24),
        Value("\"1m\""),
        "The time after which the last checkpoint is published again although no records came. While records come, there \
         is one every 10 s, or as often as this says.",
    ),
    setting(
        "evidence.anchor_max_age",
        duration(Duration::from_secs(10), Duration::from_hours(24 * 30)),
        Value("\"1h\""),
        "The age of the last confirmation of Postgres or an anchor at which `evidence_unanchored` is raised. The `interval` \
         of an anchor is added to it.",
    ),
    setting(
        "evidence.witnesses[].url",
        ValueType::WebUrl,
        Required,
        "The URL of a witness (C2SP tlog-witness): checkpoints are sent to `URL/add-checkpoint`.",
    ),
    setting(
        "evidence.witnesses[].key",
        ValueType::Word,
        Required,
        "The verifier key of the witness, `NAME+ID+KEY`, which its operator publishes.",
    ),
    setting(
        "evidence.time_stamps[].name",
        ValueType::Word,
        Required,
        "The name of a time-stamp authority in alarms, metrics and `audit_anchor`; each anchor has another one.",
    ),
    setting(
        "evidence.time_stamps[].url",
        ValueType::HttpUrl,
        Required,
        "The URL of a time-stamp authority (RFC 3161), to which the hash of a checkpoint is sent. Of `http://`, the network \
         could send a false token, which only `root_file` or `openssl ts -verify` notices.",
    ),
    setting(
        "evidence.time_stamps[].root_file",
        ValueType::Path,
        Unset,
        "File with the certificate of the authority's root, or several, in PEM. With it the signature of each token is \
         verified. Without it time stamps do not count for `gatepost audit retire`.",
    ),
    setting(
        "evidence.time_stamps[].interval",
        duration(Duration::from_secs(1), Duration::from_hours(24 * 30)),
        Value("\"1h\""),
        "The shortest time between two time stamps: an authority may limit or charge them.",
    ),
    setting(
        "evidence.buckets[].name",
        ValueType::Word,
        Required,
        "The name of a bucket in alarms, metrics and `audit_anchor`; each anchor has another one.",
    ),
    setting(
        "evidence.buckets[].url",
        ValueType::WebUrl,
        Required,
        "The URL of a bucket (S3): `https://BUCKET.s3.REGION.amazonaws.com`, or `https://HOST/BUCKET` of another server. Each \
         checkpoint becomes an object, which is only created and never replaced.",
    ),
    setting("evidence.buckets[].region", ValueType::Word, Required, "The region of the bucket."),
    setting(
        "evidence.buckets[].access_key_id",
        ValueType::Word,
        Required,
        "The id of the access key. Its user needs `s3:PutObject`, `s3:GetObject`, `s3:GetObjectRetention` and \
         `s3:ListBucket`, and nothing else.",
    ),
    setting("evidence.buckets[].secret_key_file", ValueType::Path, Required, "File with the access key, on one line."),
    setting(
        "evidence.buckets[].require_lock",
        ValueType::Flag,
        Value("true"),
        "Whether an object counts only if it is locked (object lock): without a lock, its owner can delete it and make \
         another one.",
    ),
    setting(
        "evidence.buckets[].interval",
        duration(Duration::from_secs(1), Duration::from_hours(24 * 30)),
        Value("\"1m\""),
        "The shortest time between two objects. A locked object cannot be deleted, so that each costs its place.",
    ),
    setting(
        "evidence.commands[].name",
        ValueType::Word,
        Required,
        "The name of a program in alarms, metrics and `audit_anchor`; each anchor has another one.",
    ),
    setting(
        "evidence.commands[].command",
        ValueType::Command,
        Required,
        "A program and its arguments, run without a shell, that gets a checkpoint on standard input. The exit code 0 \
         within 30 s confirms it, and what it prints (at most 64 KiB) is kept as the proof. It gets none of the gateway's \
         secrets.",
    ),
    setting(
        "evidence.commands[].interval",
        duration(Duration::from_secs(1), Duration::from_hours(24 * 30)),
        Value("\"1m\""),
        "The shortest time between two runs.",
    ),
];
