//! The configuration of a command: a file, and environment variables over it.

use std::path::Path;

use super::exit::CommandError;
use crate::config::{Config, Loaded};

/// The environment variable with the caller's token, for `gatepost stdio`.
pub(super) const TOKEN_VARIABLE: &str = "GATEPOST_TOKEN";

/// The endpoint of the OpenTelemetry collector. *Spec*: OTLP exporter configuration.
const OTLP_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Loads a configuration; without a file, from the environment alone.
///
/// # Errors
/// The configuration has faults.
pub(super) fn load(path: Option<&Path>) -> Result<Config, CommandError> {
    load_with_text(path).map(|loaded| loaded.config)
}

/// The same, with the text of the file.
///
/// # Errors
/// The configuration has faults.
pub(super) fn load_with_text(path: Option<&Path>) -> Result<Loaded, CommandError> {
    let loaded = Config::load_whole(path, environment()).map(|mut loaded| {
        // The standard's variable may be set for every process of a machine, so it has the lowest priority.
        let standard = || std::env::var(OTLP_VARIABLE).ok().filter(|endpoint| !endpoint.is_empty());
        loaded.config.telemetry.otlp_endpoint = loaded.config.telemetry.otlp_endpoint.take().or_else(standard);
        loaded
    });
    loaded.map_err(CommandError::Configuration)
}

/// The environment variables that may be settings. A variable that is not UTF-8 names no setting, and the caller's
/// token is not a setting.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    all.filter(|(name, _)| name != TOKEN_VARIABLE)
}
