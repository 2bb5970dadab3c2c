//! The keys of alarms: when, and who is told.

use std::time::Duration;

use super::Fallback::{Unset, Value};
use super::{HOURS_24, Kind, Knob, knob, span};

/// They stand before those of traces.
pub(super) const ALARMS: &[Knob] = &[
    knob(
        "alarms.delivery_behind_after",
        span(Duration::from_secs(1), HOURS_24),
        Value("\"5m\""),
        "The age of the oldest undelivered record from which `delivery_behind` is raised: longer than a restart of Postgres takes.",
    ),
    knob(
        "alarms.command",
        Kind::Command,
        Unset,
        "A program and its arguments, run without a shell when an alarm is raised or cleared, one at a time, for at most 30 s. `ALARM_NAME`, `ALARM_STATE` (`raised`, `cleared`), `ALARM_TEXT` and `ALARM_GATEWAY_ID` say what it is about.",
    ),
    knob(
        "alarms.webhook_url",
        Kind::WebUrl,
        Unset,
        "Where the same is sent by POST as JSON: `alarm`, `state`, `text`, `gateway_id`. Set it by `GATEPOST_ALARMS_WEBHOOK_URL` where it holds a secret.",
    ),
];
