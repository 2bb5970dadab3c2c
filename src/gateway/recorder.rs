//! The task that makes records of what has gathered since the last ones: refusals, and changed definitions of tools.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::audit::record::Call;
use crate::config::Pin;
use crate::gateway::call::core::Core;
use crate::gateway::call::rules::Rules;
use crate::upstream::{Backend, DefinitionChanges};

/// The time between two records of one backend. *Spec*: docs/trail.md, "The definitions of tools".
const RECORD_INTERVAL: Duration = Duration::from_mins(1);

/// The interval at which changes are looked for. *Chosen*: short compared with the time between two records.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Most tools that an alarm names. *Chosen*: a message is read on a telephone.
const NAMED_MAX: usize = 5;

/// The interval at which refusal windows that have ended are recorded. *Chosen*: short compared with a window.
const REFUSAL_WINDOW_INTERVAL: Duration = Duration::from_secs(1);

/// Makes these records until the gateway is drained.
pub(super) async fn run(core: Weak<Core>) {
    tokio::join!(record_refusal_windows(Weak::clone(&core)), record_catalog_changes(core));
}

/// Records refusal windows as they end.
async fn record_refusal_windows(core: Weak<Core>) {
    let mut ticks = tokio::time::interval(REFUSAL_WINDOW_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let Some(drained) = core.upgrade().map(|core| core.drained.clone()) else { return };
    while drained.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(core) = core.upgrade() else { return };
        core.refusals.record_ended(&core.audit).await;
    }
}

/// Records changes until the gateway is drained.
async fn record_catalog_changes(core: Weak<Core>) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let Some(drained) = core.upgrade().map(|core| core.drained.clone()) else { return };
    let mut recorder = Recorder::default();
    while drained.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(core) = core.upgrade() else { return };
        recorder.look(&core, false).await;
    }
    if let Some(core) = core.upgrade() {
        recorder.look(&core, true).await;
    }
}

/// For each backend, the time of its last record, and changes that could not be recorded.
#[derive(Debug, Default)]
struct Recorder {
    recorded_at: BTreeMap<String, Instant>,
    unrecorded: BTreeMap<String, DefinitionChanges>,
}

impl Recorder {
    /// Returns `true` if changes of this backend may be recorded: a minute after its last record.
    fn is_due(&self, alias: &str) -> bool {
        self.recorded_at.get(alias).is_none_or(|at| at.elapsed() >= RECORD_INTERVAL)
    }

    /// Records what has changed. `is_last`: also within a minute of the last record.
    async fn look(&mut self, core: &Core, is_last: bool) {
        let rules = core.rules();
        let unpinned: Vec<String> =
            core.upstreams.all().iter().filter_map(|backend| unpinned(&rules, backend)).collect();
        core.catalog.set_unpinned((!unpinned.is_empty()).then(|| unpinned.join("; ")));
        for backend in core.upstreams.all() {
            let alias = backend.alias();
            if !is_last && !self.is_due(alias) {
                continue;
            }
            let changes = match self.unrecorded.remove(alias) {
                Some(changes) => changes,
                None => match backend.take_definition_changes() {
                    Some(changes) => {
                        alarm(core, &rules, alias, &changes);
                        changes
                    }
                    None => continue,
                },
            };
            let event = Call::gateway_event("catalog", &details(alias, rules.pin(alias), &changes));
            if let Err(error) = core.audit.record_event(event.with_target(Some(alias), None)).await {
                tracing::error!(backend = alias, %error, "cannot record changed definitions of tools; retrying");
                self.unrecorded.insert(alias.to_owned(), changes);
                continue;
            }
            self.recorded_at.insert(alias.to_owned(), Instant::now());
        }
    }
}

/// Logs changes, and counts them for the alarm if the backend's `pin` asks for one.
fn alarm(core: &Core, rules: &Rules, alias: &str, changes: &DefinitionChanges) {
    let tools = named(changes.named.iter().map(|change| change.tool.as_str()));
    tracing::warn!(backend = alias, changes = changes.count, tools, "definitions of tools changed");
    if rules.pin(alias) != Pin::Record {
        core.catalog.add_alarmed(changes.count, format!("backend {alias} changed the definitions of tools: {tools}"));
    }
}

/// The tools of `backend` that are not as they were accepted, if it has pins.
fn unpinned(rules: &Rules, backend: &Backend) -> Option<String> {
    let pins = rules.pins(backend.alias())?;
    let listed = backend.definitions();
    let other: Vec<_> = listed.iter().filter(|(tool, digest)| pins.get(*tool) != Some(*digest)).collect();
    let tools = named(other.iter().map(|(tool, _)| tool.as_str()));
    (!other.is_empty()).then(|| format!("backend {} has tools that were not accepted: {tools}", backend.alias()))
}

fn named<'t>(tools: impl ExactSizeIterator<Item = &'t str>) -> String {
    let more = tools.len().saturating_sub(NAMED_MAX);
    let named = tools.take(NAMED_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named}, and {more} more") } else { named }
}

fn details(alias: &str, pin: Pin, changes: &DefinitionChanges) -> Value {
    let tools: Vec<_> = changes
        .named
        .iter()
        .map(|change| {
            let mut tool = json!({ "name": change.tool, "old": change.old, "new": change.new });
            if let (Some(subject), Some(tool)) = (&change.subject, tool.as_object_mut()) {
                tool.insert("subject".to_owned(), subject.as_str().into());
            }
            tool
        })
        .collect();
    json!({ "backend": alias, "pin": pin, "changes": changes.count, "tools": tools })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_backend_has_at_most_one_record_a_minute() {
        let mut recorder = Recorder::default();
        assert!(recorder.is_due("a"));
        recorder.recorded_at.insert("a".to_owned(), Instant::now());
        assert!(!recorder.is_due("a") && recorder.is_due("b"));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(!recorder.is_due("a"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(recorder.is_due("a"));
    }
}
