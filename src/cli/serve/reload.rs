//! Reload: on SIGHUP, and when the configuration's file changes.
//!
//! The new configuration is loaded and validated in full before anything of it takes effect; one with faults is logged and
//! changes nothing. What takes effect takes it at once, after its `gateway/config` record reached the level. What takes a
//! restart is named.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::audit::record::Digest;
use crate::cli::environment;
use crate::config::{Config, Loaded, Settings};
use crate::gateway::fault::ReloadError;
use crate::gateway::{Gateway, Handle};

/// How often the file is looked at. *Chosen*: an edit takes effect while one watches for it.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a changed file must stay as it is before it is read: half of a file may be valid. *Chosen*: an editor writes
/// in less.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// Most sections that one record names. *Chosen*: they fit into recorded arguments of any length that can be configured
/// sensibly.
const SECTIONS_MAX: usize = 64;

/// What changes with a file's contents; `None` where there is no file.
pub(super) type Stamp = Option<(i64, i64, u64, u64)>;

/// Watches the configuration of a running gateway.
#[derive(Debug)]
pub(super) struct Reloader {
    path: PathBuf,
    gateway: Handle,
    hang_up: Signal,
    stamp: Stamp,
    /// What the gateway started with.
    started: Settings,
    /// What was read last and found valid.
    loaded: Loaded,
    /// The file that the last record names, or the first one.
    recorded: Digest,
}

/// The digest of a configuration, as records of the gateway bear it.
pub(super) fn config_digest(config: &Config) -> Digest {
    Digest::of(format!("{config:?}").as_bytes())
}

/// The stamp of the file as it is now. Taken before the file is read, so that no change is missed.
pub(super) fn stamp(path: &Path) -> Stamp {
    let stamp = |file: Metadata| (file.ctime(), file.ctime_nsec(), file.len(), file.ino());
    std::fs::metadata(path).ok().map(stamp)
}

impl Reloader {
    /// For a gateway that was started with `loaded`, read from `path` when that had `stamp`.
    pub(super) fn new(path: PathBuf, stamp: Stamp, loaded: Loaded, gateway: Handle, hang_up: Signal) -> Self {
        let (started, recorded) = (loaded.settings.clone(), Digest::of(loaded.text.as_bytes()));
        Self { path, gateway, hang_up, stamp, started, loaded, recorded }
    }

    /// Reloads until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let trigger = tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = self.hang_up.recv() => "SIGHUP",
                _ = ticks.tick() => "file",
            };
            if trigger == "file" {
                let mut found = stamp(&self.path);
                if found == self.stamp {
                    continue;
                }
                loop {
                    tokio::time::sleep(SETTLED_AFTER).await;
                    let later = stamp(&self.path);
                    if later == found {
                        break;
                    }
                    found = later;
                }
            }
            self.reload(trigger).await;
        }
    }

    async fn reload(&mut self, trigger: &'static str) {
        self.stamp = stamp(&self.path);
        let loaded = match Config::load_whole(Some(&self.path), environment()) {
            Ok(loaded) => loaded,
            Err(faults) => return keeps_the_old(trigger, &faults),
        };
        let faults = Gateway::check(&loaded.config);
        if !faults.is_empty() {
            return keeps_the_old(trigger, &faults);
        }
        let restart = self.started.difference(&loaded.settings).restart;
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(", "), "these settings take effect at the next start");
        }
        let changed = sections(&self.loaded.settings.difference(&loaded.settings).reloaded);
        if changed.is_empty() {
            tracing::info!(trigger, "reloaded: nothing that takes effect without a restart has changed");
            self.loaded = loaded;
            return;
        }
        let file_digest = Digest::of(loaded.text.as_bytes());
        let details = serde_json::json!({
            "trigger": trigger,
            "file_digest": file_digest,
            "previous_file_digest": self.recorded,
            "config_digest": config_digest(&loaded.config),
            "previous_config_digest": config_digest(&self.loaded.config),
            "changed": changed,
            "restart": sections(&restart),
        });
        match self.gateway.reload(&loaded.config, &details).await {
            Ok(()) => {
                tracing::info!(trigger, changed = changed.join(", "), "reloaded");
                (self.loaded, self.recorded) = (loaded, file_digest);
            }
            Err(ReloadError::Faults(faults)) => keeps_the_old(trigger, &faults),
            Err(ReloadError::Unrecorded(error)) => {
                tracing::error!(%error, "not reloaded, since the change cannot be recorded; tried again");
                self.stamp = None;
            }
        }
    }
}

fn keeps_the_old(trigger: &str, faults: &[impl std::fmt::Display]) {
    for fault in faults {
        tracing::error!(%fault, "the new configuration has a fault");
    }
    tracing::error!(trigger, faults = faults.len(), "not reloaded: the old configuration stays in force");
}

/// The sections of keys, each once: a role, or a section and its key.
fn sections(keys: &[String]) -> Vec<String> {
    let mut sections: Vec<String> = Vec::new();
    for key in keys {
        // A role's name may hold dots, quoted.
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
