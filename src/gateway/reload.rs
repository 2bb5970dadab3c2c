//! A reload: new rules and changed backends take effect together, once they are recorded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::UnavailableError;
use crate::audit::record::Call;
use crate::config::Config;
use crate::gateway::call::core::Core;
use crate::gateway::call::list_changes;
use crate::gateway::call::rules::Rules;
use crate::gateway::call::session_end;
use crate::gateway::fault::Fault;
use crate::upstream::Replacement;
use crate::walls::OwnFiles;

/// A valid configuration, ready to take the place of the one in force. No file is read again: the keys that are used
/// are those that were compared.
#[derive(Debug)]
pub struct Prepared {
    rules: Rules,
    /// Callers are identified in another way, or by other keys.
    has_other_auth: bool,
    /// All tokens that were accepted are accepted by the same keys.
    accepts_as_before: bool,
    changed_keys: Vec<String>,
    changed: BTreeSet<String>,
    replacement: Replacement,
    drain_timeout: Duration,
}

impl Prepared {
    /// The compiled `rules` of `config`, and its backends `changed`: added, removed or made anew.
    ///
    /// # Errors
    /// Every fault of the backends.
    pub(super) fn new(
        core: &Core,
        config: &Config,
        rules: Rules,
        changed: &BTreeSet<String>,
    ) -> Result<Self, Vec<Fault>> {
        let replacement = core.upstreams.prepare(&config.backends, changed);
        let replacement = replacement.map_err(|faults| faults.into_iter().map(Fault::Endpoint).collect::<Vec<_>>())?;
        let old = core.rules();
        let changed_keys = old.auth.changed_keys(&rules.auth);
        let rules = rules.reloaded(config, &old);
        Ok(Self {
            has_other_auth: !changed_keys.is_empty() || rules.states_other_auth(&old),
            accepts_as_before: rules.auth.accepts_all_of(&old.auth),
            rules,
            changed_keys,
            changed: changed.clone(),
            replacement,
            drain_timeout: config.server.drain_timeout,
        })
    }

    /// The settings of keys whose files or variables have other contents than those in force.
    #[must_use]
    pub fn changed_keys(&self) -> &[String] {
        &self.changed_keys
    }
}

/// Applies what was `prepared`. `own` are the files that are closed to processes that are started from now on. The
/// change is recorded with `details` first.
///
/// # Errors
/// [`UnavailableError`]: what was in force before stays in force.
pub(super) async fn apply(
    core: &Core,
    prepared: Prepared,
    own: OwnFiles,
    mut details: serde_json::Value,
) -> Result<(), UnavailableError> {
    let Prepared { rules, has_other_auth, accepts_as_before, changed, replacement, drain_timeout, .. } = prepared;
    let rules = Arc::new(rules);
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
    // I10: first of all, and before anything is waited for.
    let mut ended = core.sessions.remove_lost(&rules);
    core.upstreams.launcher().set_own(own);
    core.upstreams.replace(replacement, drain_timeout);
    let configured = core.upstreams.aliases();
    ended.extend(core.sessions.replace_backends(&changed, &configured));
    // Streams look at the policy and at their backends now.
    core.policy.send_replace(Arc::clone(&rules.policy));
    let recorded = session_end::end(core, ended);
    // A caller whose key or token was taken may have been another person.
    core.upstreams.end_unreachable_conversations(|owner, backend| accepts_as_before && rules.keeps(owner, backend));
    if has_other_auth {
        core.sessions.forget_callers();
    }
    core.counters.set_backends(configured);
    list_changes::tell_policy(&core.sessions, &old.policy, &rules.policy);
    recorded.await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Audit;
    use crate::auth::{Claims, mint};
    use crate::config;
    use crate::gateway::Gateway;
    use crate::walls::Launcher;

    #[tokio::test]
    async fn the_keys_that_a_reload_compares_are_those_that_it_uses() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |secret: &str| std::fs::write(file.path(), secret).unwrap();
        let mut config = Config::default();
        config.auth.audiences = vec!["a".to_owned()];
        config.auth.keys = vec![config::Key {
            kid: None,
            algorithm: "HS256".to_owned(),
            issuer: "i".to_owned(),
            secret_file: Some(file.path().to_owned()),
            secret_env: None,
            public_key_file: None,
        }];
        let [old, new, newest] = ["0", "1", "2"].map(|digit| digit.repeat(32));
        let token = |secret: &str| {
            let claims = Claims {
                subject: "ann".to_owned(),
                issuer: "i".to_owned(),
                audience: "a".to_owned(),
                role_claim: "role".to_owned(),
                roles: Vec::new(),
                scope: None,
                kid: None,
                valid_for: Duration::from_mins(1),
            };
            format!("Bearer {}", mint(secret.as_bytes(), &claims).unwrap())
        };
        write(&old);
        let gateway = Gateway::build(&config, Audit::disabled(), &Launcher::direct()).unwrap().handle();
        let prepare = || gateway.prepare(&config, &BTreeSet::new()).unwrap();
        assert!(prepare().changed_keys().is_empty());
        write(&new);
        let prepared = prepare();
        assert_eq!(prepared.changed_keys(), ["auth.keys[0]"]);
        write(&newest);
        gateway.reload(prepared, OwnFiles::default(), serde_json::json!({})).await.unwrap();
        for (secret, is_accepted) in [(&old, false), (&new, true), (&newest, false)] {
            let found = gateway.authenticate_header(token(secret).as_bytes()).await;
            assert_eq!(found.is_ok(), is_accepted, "{secret}");
        }
        assert_eq!(prepare().changed_keys(), ["auth.keys[0]"], "the newest one is for the next reload");
    }
}
