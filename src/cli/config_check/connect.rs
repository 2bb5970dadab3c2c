//! `gatepost config check --connect`: tries what a start needs and what the configuration alone does not show.
//!
//! All trials run at the same time, each within a limit. Nothing is changed: no schema, registration, record or file is
//! made. A gateway that runs with the same configuration is not disturbed; its address and directory count as usable.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use tokio::net::TcpListener;

use crate::audit::outbox::lock;
use crate::audit::record::GatewayId;
use crate::audit::sink::postgres::gateways::registered_gateways;
use crate::audit::sink::postgres::trial::{self, Found};
use crate::audit::sink::postgres::{self, Options};
use crate::auth::Authenticator;
use crate::cli::serve::ADDRESSES_NAME;
use crate::cli::{database, digest_key};
use crate::config::Config;
use crate::escape::escape_hidden;
use crate::ops::format::plural;
use crate::upstream::{CallError, Items, Upstreams};
use crate::walls::{Launcher, OwnFiles};

/// Longest trial. *Chosen*: `npx` and `uvx` fetch a server before its first start; everything else takes seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// The result of one trial.
#[derive(Debug)]
pub(super) struct Trial {
    /// The setting that it is about.
    pub(super) what: String,
    /// A remark; otherwise the reason of the failure, and what to do.
    pub(super) result: Result<String, String>,
}

impl Trial {
    fn new(what: impl Into<String>, result: Result<String, String>) -> Self {
        Self { what: what.into(), result }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.result.is_ok()
    }
}

/// Tries everything that `config`, from the file at `path`, needs.
pub(super) async fn all(config: &Config, path: &Path) -> Vec<Trial> {
    let holder = if config.audit.enabled { lock::holder(&config.audit.dir).ok().flatten() } else { None };
    let (backends, issuers, postgres, reader, listeners) = tokio::join!(
        backends(config, path),
        issuers(config),
        in_limit("postgres.url", postgres(config)),
        in_limit("postgres.reader_url", reader(config)),
        listeners(config, holder.as_deref()),
    );
    let outbox = if config.audit.enabled { outbox(config, holder.as_deref()) } else { Vec::new() };
    outbox.into_iter().chain(listeners).chain(postgres).chain(reader).chain(issuers).chain(backends).collect()
}

/// The trial `what` within [`LIMIT`]; `None` if there is nothing to try.
async fn in_limit(what: &str, trial: Option<impl Future<Output = Result<String, String>>>) -> Option<Trial> {
    let late = || Err(format!("no result within {LIMIT:?}: is the server overloaded, or a firewall in between?"));
    let result = tokio::time::timeout(LIMIT, trial?).await.unwrap_or_else(|_| late());
    Some(Trial::new(what, result))
}

async fn backends(config: &Config, path: &Path) -> Vec<Trial> {
    let launcher = Launcher::with_walls(OwnFiles::of(config, [path]));
    let tried = match Upstreams::try_out(&config.backends, &launcher, LIMIT).await {
        Ok(tried) => tried,
        Err(faults) => {
            return faults.iter().map(|fault| Trial::new(fault.key(), Err(fault.message().to_owned()))).collect();
        }
    };
    let trial = |(alias, found): (String, _)| {
        let result = backend(config, &alias, found);
        Trial::new(format!("backends.{alias}"), result)
    };
    tried.into_iter().map(trial).collect()
}

/// The result of a backend, with those of its settings that name tools it does not have.
fn backend(config: &Config, alias: &str, found: Result<Option<Items>, CallError>) -> Result<String, String> {
    let Some(backend) = config.backends.get(alias) else { return Err("it is not configured".to_owned()) };
    let found = found.map_err(|error| {
        let remedy = match (&backend.url, backend.command.first()) {
            (Some(_), _) => "check url, its headers, and that the server runs".to_owned(),
            (None, program) => {
                let program = program.map_or("its program", String::as_str);
                format!("run {program} by hand with the arguments in command, and see what it says")
            }
        };
        format!("{error}; {remedy}")
    })?;
    let Some(Items { items, is_whole }) = found else { return Ok("it answers, and offers no tools".to_owned()) };
    let mut remarks = vec![plural(items.len() as u64, "tool")];
    let has = |name: &str| items.iter().any(|item| item.name == name);
    let unknown: Vec<_> = backend.rename.keys().filter(|own| is_whole && !has(own)).map(String::as_str).collect();
    if !unknown.is_empty() {
        remarks.push(format!("rename names tools that it does not have: {}", unknown.join(", ")));
    }
    let replaced: Vec<_> =
        backend.rename.values().filter(|name| !backend.rename.contains_key(*name) && has(name)).cloned().collect();
    if !replaced.is_empty() {
        remarks.push(format!("rename leaves out tools whose own name it gives to others: {}", replaced.join(", ")));
    }
    Ok(remarks.join("; "))
}

async fn issuers(config: &Config) -> Vec<Trial> {
    let Ok(authenticator) = Authenticator::from_config(&config.auth) else { return Vec::new() };
    let trial = |(idx, fetched): (usize, Result<usize, String>)| {
        let fetched = fetched.map(|keys| plural(keys as u64, "usable key"));
        let result = fetched.map_err(|reason| {
            format!(
                "{reason}; check jwks_url, and that this machine reaches the issuer: no token of it is accepted now"
            )
        });
        Trial::new(format!("auth.issuers[{idx}].jwks_url"), result)
    };
    authenticator.try_issuers().await.into_iter().map(trial).collect()
}

fn postgres(config: &Config) -> Option<impl Future<Output = Result<String, String>>> {
    let options = database::options(config).filter(|_| config.audit.enabled)?;
    let options = Options { migrate: config.postgres.migrate, ..options };
    let gateway_id = config.audit.gateway_id.map(GatewayId).or_else(|| lock::last_gateway_id(&config.audit.dir));
    Some(async move {
        let found = trial::try_out(&options, gateway_id).await.map_err(|error| error.to_string())?;
        Ok(match found {
            Found::Ready => "connected; the schema is complete, and the gateway is registered or may register itself",
            Found::Unregistered => "connected; the schema is complete, and the start will register the gateway",
            Found::Unmigrated => "connected; the start will make the schema",
        }
        .to_owned())
    })
}

fn reader(config: &Config) -> Option<impl Future<Output = Result<String, String>>> {
    config.postgres.reader_url.as_ref()?;
    let options = database::reader_options(config)?;
    Some(async move {
        let read = async {
            let mut connection = postgres::connect(&options).await?;
            registered_gateways(&mut connection).await
        };
        let gateways = read.await.map_err(|error| {
            format!("{error}; the console and gatepost audit need a login that is a member of gatepost_reader")
        })?;
        Ok(format!("connected; {} registered", plural(gateways.len() as u64, "gateway")))
    })
}

async fn listeners(config: &Config, holder: Option<&str>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let all = [("server.listen", Some(config.server.listen)), ("ops.listen", config.ops.listen)];
    for (key, address) in all {
        let Some(address) = address else { continue };
        let result = match TcpListener::bind(address).await {
            Ok(_) => Ok(format!("{address} is free")),
            Err(error) => taken(config, address, holder).ok_or_else(|| {
                let remedy = match error.kind() {
                    io::ErrorKind::AddrInUse => "stop the program that listens there",
                    io::ErrorKind::AddrNotAvailable => "use an address of this machine",
                    io::ErrorKind::PermissionDenied => {
                        "use a port above 1023, or give the gateway CAP_NET_BIND_SERVICE"
                    }
                    _ => "see the reason",
                };
                format!("cannot listen on {address}: {error}; {remedy}, or change {key}")
            }),
        };
        trials.push(Trial::new(key, result));
    }
    trials
}

/// The remark about an address that is taken by the gateway that runs on the outbox directory.
fn taken(config: &Config, address: SocketAddr, holder: Option<&str>) -> Option<String> {
    let holder = holder?;
    let addresses = std::fs::read_to_string(config.audit.dir.join(ADDRESSES_NAME)).ok()?;
    let addresses: serde_json::Value = serde_json::from_str(&addresses).ok()?;
    let serves = |name: &str| {
        addresses.get(name).and_then(|url| url.as_str()).is_some_and(|url| url.ends_with(&format!("://{address}")))
    };
    (serves("mcp") || serves("ops")).then(|| format!("{address} is that of the running gateway ({holder})"))
}

/// The outbox directory, and the digest key if it is elsewhere.
fn outbox(config: &Config, holder: Option<&str>) -> Vec<Trial> {
    let dir = &config.audit.dir;
    let configured = config.audit.gateway_id.map(GatewayId);
    let other = lock::last_gateway_id(dir).filter(|found| configured.is_some_and(|configured| configured != *found));
    let result = match (writable(dir), holder, other) {
        (Err(reason), ..) => Err(reason),
        (Ok(()), _, Some(found)) => Err(format!(
            "{} belongs to gateway {found}, not to audit.gateway_id: use another directory, or that id",
            dir.display()
        )),
        (Ok(()), Some(holder), None) => Ok(format!("{} is that of the running gateway ({holder})", dir.display())),
        (Ok(()), None, None) => Ok(format!("{} is writable", dir.display())),
    };
    let mut trials = vec![Trial::new("audit.dir", result)];
    let key = digest_key::path(config);
    if config.audit.digest_key_file.is_some() && !key.exists() {
        let result = writable(&key).map(|()| "the start will make it".to_owned());
        trials.push(Trial::new("audit.digest_key_file", result));
    }
    trials
}

/// Checks that a directory, or what does not exist yet, can be written: its nearest ancestor that exists is a directory
/// in which this user may make files.
///
/// # Errors
/// The reason, and what to do.
fn writable(path: &Path) -> Result<(), String> {
    let path = std::path::absolute(path).map_err(|error| format!("cannot find the working directory: {error}"))?;
    let mut at: PathBuf = path.clone();
    while at.symlink_metadata().is_err_and(|error| error.kind() != io::ErrorKind::PermissionDenied) && at.pop() {}
    let shown = at.display();
    if !at.is_dir() && at.symlink_metadata().is_ok() {
        return Err(format!("{shown} is not a directory: use another path"));
    }
    // With the rights that open files: those of the effective user.
    accessat(CWD, &at, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).map_err(|error| {
        format!("cannot write in {shown}: {error}; give the gateway's user the right, or use another path")
    })
}

/// The results as a table: the setting, `OK` or `FAILED`, and the remark or the reason. Hidden characters are escaped.
pub(super) fn table(trials: &[Trial]) -> String {
    let width = trials.iter().map(|trial| trial.what.chars().count()).max().unwrap_or_default();
    let line = |Trial { what, result }: &Trial| {
        let (word, text) = match result {
            Ok(remark) => ("OK", remark),
            Err(reason) => ("FAILED", reason),
        };
        format!("{what:width$}  {word:6}  {}\n", escape_hidden(text))
    };
    trials.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Backend;

    #[tokio::test(start_paused = true)]
    async fn a_trial_without_a_result_fails_at_the_limit() {
        let trial = in_limit("postgres.url", Some(std::future::pending())).await.unwrap();
        assert!(trial.result.unwrap_err().starts_with("no result within 30s"));
    }

    #[tokio::test]
    async fn a_mute_backend_fails_at_the_limit_and_delays_no_other() {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = |address| Backend { url: Some(format!("http://{address}/mcp")), ..Backend::default() };
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let backends =
            BTreeMap::from([("mute".to_owned(), url(mute.local_addr().unwrap())), ("none".to_owned(), url(unused))]);
        let limit = Duration::from_millis(100);
        let tried = Upstreams::try_out(&backends, &Launcher::direct(), limit).await.unwrap();
        let errors: Vec<_> = tried.into_iter().map(|(alias, found)| (alias, found.unwrap_err())).collect();
        assert!(matches!(&errors[0], (alias, CallError::TimedOut { .. }) if alias == "mute"), "{errors:?}");
        assert!(matches!(&errors[1], (alias, CallError::Down { .. }) if alias == "none"), "{errors:?}");
    }

    #[test]
    fn what_does_not_exist_is_writable_if_its_nearest_ancestor_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(writable(&dir.path().join("a/b")), Ok(()));
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(writable(&dir.path().join("file/b")).unwrap_err().contains("file is not a directory"));
    }

    #[test]
    fn the_table_has_a_line_for_each_trial() {
        let trials = [Trial::new("a", Ok("fine".to_owned())), Trial::new("bcd", Err("x\ny".to_owned()))];
        assert_eq!(table(&trials), "a    OK      fine\nbcd  FAILED  x\\ny\n");
    }
}
