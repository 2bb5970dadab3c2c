//! The configuration of a command: a file, and environment variables over it.

use std::path::Path;

use super::config_args::CONFIG_VARIABLE;
use super::exit::CommandError;
use crate::config::{Config, ConfigError, Loaded};
use crate::file_access::FileAccess;

/// The environment variable with the caller's token, for `gatepost stdio`.
pub(super) const TOKEN_VARIABLE: &str = "GATEPOST_TOKEN";

/// The endpoint of the OpenTelemetry collector. *Spec*: OTLP exporter configuration.
const OTLP_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Loads a configuration; without a file, from the environment alone.
///
/// # Errors
/// The configuration has faults, or others may change its file or read the secrets in it.
pub(super) fn load(path: Option<&Path>) -> Result<Config, CommandError> {
    load_checked(path, FileAccess::for_operator).map(|loaded| loaded.config)
}

/// The same for a gateway: its file belongs to the gateway's user or root.
///
/// # Errors
/// As for [`load`].
pub(super) fn load_for_gateway(path: &Path) -> Result<Loaded, CommandError> {
    load_checked(Some(path), |access| access)
}

/// The same with the file's text, whose owner and permissions are not checked.
///
/// # Errors
/// All errors of the configuration.
pub(super) fn load_whole(path: Option<&Path>) -> Result<Loaded, Vec<ConfigError>> {
    let mut loaded = Config::load_whole(path, environment())?;
    // The standard's variable may be set for every process of a machine, so it has the lowest priority.
    let standard = || std::env::var(OTLP_VARIABLE).ok().filter(|endpoint| !endpoint.is_empty());
    loaded.config.telemetry.otlp_endpoint = loaded.config.telemetry.otlp_endpoint.take().or_else(standard);
    Ok(loaded)
}

fn load_checked(path: Option<&Path>, access: impl FnOnce(FileAccess) -> FileAccess) -> Result<Loaded, CommandError> {
    let loaded = load_whole(path).map_err(CommandError::Configuration)?;
    loaded.check_file(access).map_err(|fault| CommandError::Configuration(vec![fault]))?;
    Ok(loaded)
}

/// The environment variables that may be settings. A variable that is not UTF-8 names no setting; the caller's token
/// and the path of the configuration are not settings.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    all.filter(|(name, _)| ![TOKEN_VARIABLE, CONFIG_VARIABLE].contains(&name.as_str()))
}
