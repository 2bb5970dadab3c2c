//! The keys of traces: where they go.

use super::Fallback::Unset;
use super::{Kind, Knob, knob};

/// They stand last.
pub(super) const TELEMETRY: &[Knob] = &[knob(
    "telemetry.otlp_endpoint",
    Kind::WebUrl,
    Unset,
    "The base URL of an OpenTelemetry collector (OTLP over HTTP, `/v1/traces` is added): one span a call goes there. Where it is not set, `OTEL_EXPORTER_OTLP_ENDPOINT` is taken.",
)];
