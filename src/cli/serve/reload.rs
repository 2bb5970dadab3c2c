//! Reload of the configuration, on SIGHUP and when its file changes.
//!
//! The new configuration is loaded and validated completely before any of it takes effect. If it has faults, they are
//! logged and nothing changes. Reloadable settings take effect together, once their `gateway/config` record has reached
//! the configured level. Changed settings that need a restart are logged.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::audit::record::Digest;
use crate::cli::configuration::environment;
use crate::cli::open_files;
use crate::cli::pipeline::config_text;
use crate::cli::preflight;
use crate::config::{Config, Difference, Loaded, Settings};
use crate::gateway::Handle;
use crate::walls::OwnFiles;

/// Interval between checks of the file. *Chosen*: an edit takes effect while its author waits.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Time that a changed file must stay unchanged before it is read: half of a file may be valid. *Chosen*: editors write
/// faster.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Most sections that one record names. *Chosen*: they fit into recorded arguments of any sensible maximum length.
const SECTIONS_MAX: usize = 64;

/// Attributes that change with the contents of a file; `None` if there is no file.
pub(super) type Stamp = Option<(i64, i64, u64, u64)>;

/// Watches the configuration of a running gateway.
#[derive(Debug)]
pub(super) struct Reloader {
    path: PathBuf,
    gateway: Handle,
    hang_up: Signal,
    stamp: Stamp,
    /// The settings that the gateway started with.
    started: Settings,
    /// The last valid configuration that was read.
    loaded: Loaded,
    /// The gateway's own files, of all configurations that were in force.
    own: OwnFiles,
    /// Digest of the file that the last record names, or of the first file.
    recorded: Option<Digest>,
}

/// The file's current stamp. It is taken before the file is read, so that no change is missed.
pub(super) fn stamp(path: &Path) -> Stamp {
    let stamp = |file: Metadata| (file.ctime(), file.ctime_nsec(), file.len(), file.ino());
    std::fs::metadata(path).ok().map(stamp)
}

impl Reloader {
    /// A reloader for a gateway that was started with `loaded`, read from `path` when that had `stamp`.
    pub(super) fn new(path: PathBuf, stamp: Stamp, loaded: Loaded, gateway: Handle, hang_up: Signal) -> Self {
        let (started, recorded) = (loaded.settings.clone(), gateway.config_digest(loaded.text.as_bytes()));
        let own = OwnFiles::of(&loaded.config, [path.as_path()]);
        Self { path, gateway, hang_up, stamp, started, loaded, own, recorded }
    }

    /// Reloads until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let trigger = tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = self.hang_up.recv() => "SIGHUP",
                _ = ticks.tick() => "file",
            };
            if trigger == "file" {
                let mut seen = stamp(&self.path);
                if seen == self.stamp {
                    continue;
                }
                loop {
                    tokio::time::sleep(SETTLE_TIME).await;
                    let later = stamp(&self.path);
                    if later == seen {
                        break;
                    }
                    seen = later;
                }
            }
            self.reload(trigger).await;
        }
    }

    async fn reload(&mut self, trigger: &'static str) {
        self.stamp = stamp(&self.path);
        let loaded = match Config::load_whole(Some(&self.path), environment()) {
            Ok(loaded) => loaded,
            Err(faults) => return reject(trigger, &faults),
        };
        if let Err(fault) = loaded.check_file(|access| access) {
            return reject(trigger, &[fault]);
        }
        let Difference { reloaded: mut changed, backends, .. } = self.loaded.settings.difference(&loaded.settings);
        let mut faults = preflight::faults_of_trail(&loaded.config);
        let prepared = self.gateway.prepare(&loaded.config, &backends);
        let prepared = prepared.map_err(|found| faults.extend(found.iter().map(ToString::to_string)));
        let prepared = match prepared {
            Ok(prepared) if faults.is_empty() => prepared,
            _ => return reject(trigger, &faults),
        };
        let restart = self.started.difference(&loaded.settings).restart;
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(", "), "changed settings take effect at the next start");
        }
        changed.extend(self.loaded.config.changed_pins(&loaded.config));
        changed.extend_from_slice(prepared.changed_keys());
        changed.sort();
        let changed = sections(&changed);
        if changed.is_empty() {
            tracing::info!(trigger, "configuration reloaded; no reloadable setting changed");
            // A person who sends the signal wants something to be looked at again; a file that was touched does not.
            if trigger == "SIGHUP" {
                self.gateway.forget_caller_tokens();
            }
            self.loaded = loaded;
            return;
        }
        let digest = |text: &str| self.gateway.config_digest(text.as_bytes());
        let file_digest = digest(&loaded.text);
        let details = serde_json::json!({
            "trigger": trigger,
            "file_digest": file_digest,
            "previous_file_digest": self.recorded,
            "config_digest": digest(&config_text(&loaded.config)),
            "previous_config_digest": digest(&config_text(&self.loaded.config)),
            "changed": changed,
            "restart": sections(&restart),
        });
        // What needs a restart is still in use as it was, and so is what a replaced backend has.
        let own = self.own.with(OwnFiles::of(&loaded.config, [self.path.as_path()]));
        match self.gateway.reload(prepared, own.clone(), details).await {
            Ok(()) => {
                self.own = own;
                open_files::raise_limit(&loaded.config);
                tracing::info!(trigger, changed = changed.join(", "), "configuration reloaded");
                (self.loaded, self.recorded) = (loaded, file_digest);
            }
            Err(error) => {
                tracing::error!(%error, "cannot record the new configuration; keeping the old one and retrying");
                self.stamp = None;
            }
        }
    }
}

fn reject(trigger: &str, faults: &[impl std::fmt::Display]) {
    for fault in faults {
        tracing::error!(%fault, "new configuration is invalid");
    }
    tracing::error!(trigger, faults = faults.len(), "configuration not reloaded; keeping the old one");
}

/// The sections of the keys, each once: a role, or a section and its key.
fn sections(keys: &[String]) -> Vec<String> {
    let mut sections: Vec<String> = Vec::new();
    for key in keys {
        // A quoted name of a role may contain dots.
        let end = match key.strip_prefix("roles.\"") {
            Some(name) => name.rfind('"').map(|end| "roles.\"".len() + end + 1),
            None => key.match_indices('.').nth(1).map(|(at, _)| at),
        };
        let section = key.get(..end.unwrap_or(key.len())).unwrap_or(key);
        if sections.last().is_none_or(|last| last != section) {
            sections.push(section.to_owned());
        }
    }
    if sections.len() > SECTIONS_MAX {
        let more = sections.len() - SECTIONS_MAX;
        sections.truncate(SECTIONS_MAX);
        sections.push(format!("and {more} more"));
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_named_once_and_bounded() {
        let keys = ["audit.redact", "roles.\"a.b c\".allow", "roles.\"a.b c\".when[0].tool", "roles.x.allow"];
        assert_eq!(sections(&keys.map(str::to_owned)), ["audit.redact", "roles.\"a.b c\"", "roles.x"]);
        let many: Vec<String> = (0..100).map(|role| format!("roles.r{role}.allow")).collect();
        let named = sections(&many);
        assert_eq!((named.len(), named.last().unwrap().as_str()), (65, "and 36 more"));
    }
}
