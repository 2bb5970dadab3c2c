//! The faults that keep a gateway from starting and that can be found before it opens anything: `serve` and `stdio`
//! look for them first, `config check` looks for nothing else.

use std::net::SocketAddr;

use super::database;
use super::digest_key;
use super::gateway_error::GatewayError;
use crate::audit::sink::postgres::PostgresSink;
use crate::auth::openid_client::OpenIdClient;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::ops::admin::socket_path_error;

/// All faults of `config`, each with its setting, for the user that runs this: of keys, certificates, rules, of the
/// credentials and the environment of backends, and of files with secrets. No value of a secret is in them. Only the
/// directory of the outbox is left out, whose faults have an exit code of their own.
pub(super) fn faults(config: &Config) -> Vec<String> {
    let of_gateway = Gateway::check(config);
    // The address does not matter: nothing is sent.
    let of_console = OpenIdClient::from_config(config, SocketAddr::from(([127, 0, 0, 1], 0))).err();
    of_gateway.iter().map(ToString::to_string).chain(of_console).chain(faults_of_trail(config)).collect()
}

/// Those of the audit trail: of all that [`Gateway::check`] does not look at.
pub(super) fn faults_of_trail(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    if config.audit.enabled {
        faults.extend(database::check_files(config).err());
        let sink = database::options(config).map(|options| PostgresSink::new(&options));
        faults.extend(sink.and_then(Result::err).map(|error| format!("postgres.url: {error}")));
        if digest_key::path(config).exists() {
            faults.extend(digest_key::read(config).err().map(|error| format!("audit.digest_key_file: {error}")));
        }
        faults.extend(socket_path_error(&config.audit.dir).map(|reason| format!("audit.dir: {reason}")));
    }
    faults
}

/// # Errors
/// The [`faults`] of `config`, if it has any. For a gateway that starts.
pub(super) fn check(config: &Config) -> Result<(), GatewayError> {
    let faults = faults(config);
    if faults.is_empty() { Ok(()) } else { Err(GatewayError::Config(faults)) }
}
