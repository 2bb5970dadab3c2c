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
        "File with the key that signs checkpoints, as `gatepost evidence keygen` makes it. Required with `origin`.",
    ),
    setting(
        "evidence.second_key_file",
        ValueType::Path,
        Unset,
        "File with a key that signs too: the next key, or the last one, while those who check learn the new one.",
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
        "The age of the last confirmation of Postgres or a witness at which `evidence_unanchored` is raised.",
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
];
