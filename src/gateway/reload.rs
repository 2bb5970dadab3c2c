//! A reload: new rules and changed backends take effect together, once they are recorded.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::audit::record::Call;
use crate::config::Config;
use crate::gateway::call::core::Core;
use crate::gateway::call::list_changes;
use crate::gateway::call::rules::Rules;
use crate::gateway::call::session_end;
use crate::gateway::fault::{Fault, ReloadError};
use crate::walls::OwnFiles;

/// Applies the `rules` of `config` and its backends `changed`. `own` are the files that are closed to processes that
/// are started from now on. The change is recorded with `details` first.
///
/// # Errors
/// [`ReloadError`]: what was in force before stays in force.
pub(crate) async fn apply(
    core: &Core,
    config: &Config,
    rules: Rules,
    (changed, own): (&BTreeSet<String>, OwnFiles),
    mut details: serde_json::Value,
) -> Result<(), ReloadError> {
    let replacement = core.upstreams.prepare(&config.backends, changed);
    let replacement = replacement
        .map_err(|faults| ReloadError::Faults(faults.into_iter().map(Fault::Endpoint).collect::<Vec<_>>()))?;
    let rules = Arc::new(rules.reloaded(config, &core.rules()));
    // Recorded before it takes effect, so that the trail shows which rules a call was decided by.
    let (policy, is_changed) = (&rules.policy_text, rules.policy_text != core.rules().policy_text);
    if let Some(details) = details.as_object_mut().filter(|_| is_changed) {
        policy.state_in(details);
    }
    for part in policy.events().filter(|_| is_changed) {
        core.audit.record_event(part).await?;
    }
    let event = Call::gateway_event("config", &details).with_definitions(Some(policy.digest()), None);
    core.audit.record_event(event).await?;
    let old = {
        let mut current = core.rules.write();
        std::mem::replace(&mut *current, Arc::clone(&rules))
    };
    core.upstreams.launcher().set_own(own);
    core.upstreams.replace(replacement, config.server.drain_timeout);
    let configured = core.upstreams.aliases();
    let ended = core.sessions.replace_backends(changed, &configured);
    core.counters.set_backends(configured);
    // Streams look at the policy and at their backends now.
    core.policy.send_replace(Arc::clone(&rules.policy));
    list_changes::tell_policy(&core.sessions, &old.policy, &rules.policy);
    // A caller that is identified in another way may be another person.
    let is_other = rules.has_other_auth(&old);
    core.upstreams.end_unreachable_conversations(|owner, backend| !is_other && rules.keeps(owner, backend));
    session_end::end(core, ended).await;
    session_end::end(core, core.sessions.remove_withdrawn(&rules.auth)).await;
    session_end::end(core, core.sessions.remove_unreachable(&rules.policy)).await;
    Ok(())
}
