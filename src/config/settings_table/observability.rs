//! The settings of logs, alarms and traces.

use std::time::Duration;

use super::spec::Fallback::{Unset, Value};
use super::spec::{HOURS_24, SettingSpec, duration, setting};
use crate::config::value_type::ValueType;

/// `[log]`, `[alarms]` and `[telemetry]`.
pub(super) const OBSERVABILITY: &[SettingSpec] = &[
    setting(
        "log.format",
        ValueType::Choice(&["text", "json"]),
        Value("\"text\""),
        "The format of log lines on standard error.",
    ),
    setting(
        "log.filter",
        ValueType::Filter,
        Value("\"info\""),
        "Which log lines are written, in the syntax of tracing's `EnvFilter`.",
    ),
    setting(
        "alarms.delivery_behind_after",
        duration(Duration::from_secs(1), HOURS_24),
        Value("\"5m\""),
        "The age of the oldest undelivered record at which `delivery_behind` is raised. The default is longer than a \
         restart of Postgres takes.",
    ),
    setting(
        "alarms.command",
        ValueType::Command,
        Unset,
        "A program and its arguments, run without a shell when an alarm is raised or cleared, and when an active one \
         names other certificates or gateways, one at a time, for at most 30 s. It finds the alarm in `ALARM_NAME`, `ALARM_STATE` (`raised` or `cleared`), `ALARM_TEXT` and \
         `ALARM_GATEWAY_ID`.",
    ),
    setting(
        "alarms.webhook_url",
        ValueType::WebUrl,
        Unset,
        "The URL to which the same is sent by POST as JSON: `alarm`, `state`, `text`, `gateway_id`. If it contains a \
         secret, set it by `GATEPOST_ALARMS_WEBHOOK_URL`.",
    ),
    setting(
        "telemetry.otlp_endpoint",
        ValueType::WebUrl,
        Unset,
        "The base URL of an OpenTelemetry collector (OTLP over HTTP; `/v1/traces` is appended), which receives one \
         span a call. Unset: `OTEL_EXPORTER_OTLP_ENDPOINT`.",
    ),
];
