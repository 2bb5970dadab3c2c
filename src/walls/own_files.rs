//! The files of a gateway that are closed to its backends.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::postgres_url::PostgresUrl;

/// The outbox directory, and the files with secrets: the configuration, keys, tokens and credentials. All paths are
/// absolute; the files need not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnFiles {
    /// The outbox directory.
    pub dir: PathBuf,
    /// The files.
    pub files: Vec<PathBuf>,
}

impl OwnFiles {
    /// The files that `config` names, and `others`: the configuration itself, for example.
    #[must_use]
    pub fn of<'a>(config: &'a Config, others: impl IntoIterator<Item = &'a Path>) -> Self {
        let auth = &config.auth;
        let keys = auth.keys.iter().filter_map(|key| key.secret_file.as_deref());
        let credentials = config.backends.values().flat_map(|backend| backend.header_file.values());
        let clients = config.backends.values().filter_map(|backend| backend.oauth.as_ref());
        let variables = config.backends.values().filter_map(|backend| backend.env_file.as_deref());
        // Not secret, but a backend must not accept its own tools.
        let pins = config.backends.values().filter_map(|backend| backend.pins_file.as_deref());
        let files = others
            .into_iter()
            .chain(auth.tokens_file.as_deref())
            .chain(config.audit.digest_key_file.as_deref())
            .chain(config.server.state_key_file.as_deref())
            .chain(config.evidence.key_file.as_deref())
            .chain(config.evidence.second_key_file.as_deref())
            .chain(config.evidence.buckets.iter().map(|bucket| bucket.secret_key_file.as_path()))
            .chain(config.postgres.password_file.as_deref())
            .chain(keys)
            .chain(config.server.tls.as_ref().map(|tls| tls.key_file.as_path()))
            .chain(credentials.map(PathBuf::as_path))
            .chain(clients.map(|client| client.client_secret_file.as_path()))
            .chain(config.ops.sign_in.as_ref().and_then(|sign_in| sign_in.client_secret_file.as_deref()))
            .chain(variables)
            .chain(pins)
            .map(absolute)
            .chain(postgres_files(config));
        Self { dir: absolute(&config.audit.dir), files: files.collect() }
    }

    /// These and `newer` ones: the outbox directory stays, and that of `newer` is closed too.
    #[must_use]
    pub fn with(&self, newer: Self) -> Self {
        let mut files = self.files.clone();
        for file in newer.files.into_iter().chain([newer.dir]) {
            if !files.contains(&file) && file != self.dir {
                files.push(file);
            }
        }
        Self { dir: self.dir.clone(), files }
    }
}

/// The client key and the password file with which the gateway connects to Postgres, if they exist. *Spec*: libpq,
/// "Connection Strings", "Environment Variables" and "The Password File".
#[must_use]
pub fn postgres_files(config: &Config) -> Vec<PathBuf> {
    let urls = [&config.postgres.url, &config.postgres.reader_url].into_iter().flatten();
    let urls: Vec<_> = urls.filter_map(|url| PostgresUrl::parse(url).ok()).collect();
    if urls.is_empty() {
        return Vec::new();
    }
    let named = urls.iter().filter_map(|url| url.ssl_client.as_ref());
    let mut keys: Vec<_> = named.map(|(_, key)| key.clone()).collect();
    if keys.len() < urls.len() {
        keys.extend(variable("PGSSLKEY"));
    }
    let passwords = variable("PGPASSFILE").or_else(|| Some(variable("HOME")?.join(".pgpass")));
    // A file that does not exist would only cost HOME its right to new entries.
    keys.into_iter().chain(passwords).filter(|path| path.exists()).map(|path| absolute(&path)).collect()
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The path from the root; unchanged if the working directory cannot be read.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;
    use crate::config::ValueType;

    /// Files that everyone may read: certificates, revocation lists and published keys.
    const PUBLIC: [&str; 8] = [
        "auth.keys[].public_key_file",
        "auth.issuers[].jwks_file",
        "server.tls.cert_file",
        "server.tls.client_ca_file",
        "server.tls.client_crl_file",
        "backends.*.ca_file",
        "evidence.time_stamps[].root_file",
        "backends.*.cwd",
    ];

    #[test]
    fn every_file_in_the_settings_is_closed_to_backends_or_public() {
        let text = r#"
            audit.dir = "/own/audit.dir"
            audit.digest_key_file = "/own/audit.digest_key_file"
            auth.tokens_file = "/own/auth.tokens_file"
            server.state_key_file = "/own/server.state_key_file"
            postgres.password_file = "/own/postgres.password_file"
            evidence = { origin = "o", key_file = "/own/evidence.key_file", second_key_file = "/own/evidence.second_key_file", buckets = [{ name = "b", url = "https://b", region = "r", access_key_id = "i", secret_key_file = "/own/evidence.buckets[].secret_key_file" }] }
            ops.sign_in = { client_id = "c", client_secret_file = "/own/ops.sign_in.client_secret_file" }
            server.tls = { cert_file = "/c", key_file = "/own/server.tls.key_file" }
            backends.b = { url = "https://b", header_file = { a = "/own/backends.*.header_file" }, pins_file = "/own/backends.*.pins_file" }
            backends.d = { url = "https://d", oauth = { token_url = "https://t", client_id = "g", client_secret_file = "/own/backends.*.oauth.client_secret_file" } }
            backends.c = { command = ["c"], env_file = "/own/backends.*.env_file" }
            [[auth.keys]]
            algorithm = "HS256"
            issuer = "i"
            secret_file = "/own/auth.keys[].secret_file"
            [[auth.issuers]]
            issuer = "https://login.example.com"
        "#;
        let config = Config::parse(text, None, []).unwrap();
        let own = OwnFiles::of(&config, [Path::new("/own/configuration")]);
        let closed: Vec<String> =
            own.files.iter().chain([&own.dir]).map(|path| path.display().to_string().replace("/own/", "")).collect();
        let paths = SETTINGS.iter().filter(|spec| spec.value_type == ValueType::Path || spec.path.ends_with("_file"));
        for spec in paths.filter(|spec| !PUBLIC.contains(&spec.path)) {
            assert!(closed.iter().any(|path| path == spec.path), "{} is neither closed nor public", spec.path);
        }
        assert!(closed.contains(&"configuration".to_owned()));
        assert_eq!(OwnFiles::of(&Config::default(), []).dir, std::env::current_dir().unwrap().join("gatepost-data"));
    }
}
