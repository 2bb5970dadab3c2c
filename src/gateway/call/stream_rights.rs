//! The rights under which a client reads a stream, and their end while the stream is open.

use std::sync::Arc;

use crate::auth::Principal;
use crate::auth::verified_token::Withdrawal;
use crate::gateway::call::core::Core;
use crate::gateway::call::rules::Rules;
use crate::gateway::message::scope::Scope;
use crate::rbac::Policy;

/// The rights under which a client reads a stream.
#[derive(Debug)]
pub(crate) struct StreamRights {
    core: Arc<Core>,
    principal: Principal,
    scope: Scope,
    /// `true` if a reload ends the stream when its principal is not accepted or may not use the endpoint any more. The
    /// stream of a call continues: a call is decided by the rules that were in force when it arrived, to its end.
    follows_rules: bool,
}

/// The reason why the rights under which a stream is read have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndOfRights {
    /// The token or certificate expired or was withdrawn.
    #[error("the token or certificate has expired or was withdrawn: send the request again with a valid one")]
    Credential,
    /// A reload does not accept the credential of the principal any more.
    #[error("the token or certificate is not accepted any more ({0}): send the request again with another one")]
    Withdrawn(Withdrawal),
    /// A reload took the right to use the endpoint from the principal's roles.
    #[error("the roles of the token may not use this endpoint any more")]
    Policy,
}

impl StreamRights {
    /// The rights to a stream that belongs to no call.
    pub(crate) fn new(core: Arc<Core>, principal: Principal, scope: Scope) -> Self {
        Self { core, principal, scope, follows_rules: true }
    }

    /// The rights to the stream of a call.
    pub(crate) fn of_call(core: Arc<Core>, principal: Principal, scope: Scope) -> Self {
        Self { follows_rules: false, ..Self::new(core, principal, scope) }
    }

    /// The principal's subject, for the log.
    pub(crate) fn subject(&self) -> &str {
        &self.principal.subject
    }

    /// Waits until the rights have ended.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn ended(&self) -> EndOfRights {
        let mut policy = self.core.policy.subscribe();
        loop {
            let rules = self.core.rules();
            if let Some(end) = self.lost_by(&rules).filter(|_| self.follows_rules) {
                return end;
            }
            tokio::select! {
                biased;
                () = rules.auth.ended(&self.principal) => return EndOfRights::Credential,
                // The rules are replaced before the policy is sent. The sender lives as long as the core.
                Ok(()) = policy.changed(), if self.follows_rules => {}
            }
        }
    }

    /// The reason why these rules give no right to the stream.
    fn lost_by(&self, rules: &Rules) -> Option<EndOfRights> {
        let withdrawn = rules.auth.check(&self.principal).err().map(EndOfRights::Withdrawn);
        withdrawn.or_else(|| (!self.may_use_endpoint(&rules.policy)).then_some(EndOfRights::Policy))
    }

    fn may_use_endpoint(&self, policy: &Policy) -> bool {
        let reaches = |backend: &str| policy.reaches(&self.principal.roles, backend);
        match &self.scope {
            // A reload that removes the backend ends its sessions and subscriptions by itself.
            Scope::One(backend) => reaches(backend),
            Scope::All => self.core.upstreams.aliases().iter().any(|backend| reaches(backend)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use crate::audit::Audit;
    use crate::config::{self, Backend, Config, Role};
    use crate::gateway::Gateway;

    use super::*;

    fn config(backends: &[&str]) -> Config {
        let role = Role { allow: vec!["a/*".to_owned()], ..Role::default() };
        let backend = || Backend { url: Some("http://127.0.0.1:9/mcp".to_owned()), ..Backend::default() };
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/es256_public.pem");
        let key = config::Key {
            kid: None,
            algorithm: "ES256".to_owned(),
            issuer: "i".to_owned(),
            secret_file: None,
            secret_env: None,
            public_key_file: Some(fixture.into()),
        };
        Config {
            roles: BTreeMap::from([("all".to_owned(), role)]),
            backends: backends.iter().map(|alias| ((*alias).to_owned(), backend())).collect(),
            auth: config::Auth { keys: vec![key], ..config::Auth::default() },
            ..Config::default()
        }
    }

    fn core() -> Arc<Core> {
        Gateway::build(&config(&["a", "b"]), Audit::disabled(), &crate::walls::Launcher::direct()).unwrap().core
    }

    /// The rules of `config` are in force from now on.
    fn reload(core: &Core, config: &Config) {
        let rules = Arc::new(Rules::new(config).unwrap());
        let policy = Arc::clone(&rules.policy);
        *core.rules.write() = rules;
        core.policy.send_replace(policy);
    }

    /// A caller with a token that is valid for an hour.
    async fn ann(core: &Core) -> Principal {
        let key = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/es256_private.pem")).unwrap();
        let key = jsonwebtoken::EncodingKey::from_ec_pem(&key).unwrap();
        let exp = jsonwebtoken::get_current_timestamp() + 3600;
        let claims = serde_json::json!({
            "sub": "ann", "iss": "i", "aud": "gatepost", "role": "all", "scope": "mcp", "exp": exp,
        });
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256), &claims, &key);
        let value = format!("Bearer {}", token.unwrap());
        core.rules().auth.authenticate_header(value.as_bytes(), &|_| false).await.unwrap()
    }

    async fn is_open(rights: &StreamRights) -> bool {
        tokio::time::timeout(Duration::from_mins(1), rights.ended()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn rights_end_with_the_token() {
        let core = core();
        for of_stream in [StreamRights::new, StreamRights::of_call] {
            let rights = of_stream(Arc::clone(&core), ann(&core).await, Scope::All);
            assert!(is_open(&rights).await);
            assert_eq!(rights.ended().await, EndOfRights::Credential);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rights_end_with_a_reload_that_takes_the_endpoint() {
        let core = core();
        let ann = ann(&core).await;
        let rights = |scope: &str| {
            let scope = if scope.is_empty() { Scope::All } else { Scope::One(scope.to_owned()) };
            StreamRights::new(Arc::clone(&core), ann.clone(), scope)
        };
        let call = StreamRights::of_call(Arc::clone(&core), ann.clone(), Scope::One("a".to_owned()));
        assert!(is_open(&rights("a")).await && is_open(&rights("")).await);
        assert_eq!(rights("b").ended().await, EndOfRights::Policy);
        let (of_a, of_all) = (rights("a"), rights(""));
        let without_roles = Config { roles: BTreeMap::new(), ..config(&["a", "b"]) };
        let reload = async { reload(&core, &without_roles) };
        let (of_a, of_all, ()) = tokio::join!(of_a.ended(), of_all.ended(), reload);
        assert_eq!([of_a, of_all], [EndOfRights::Policy, EndOfRights::Policy]);
        assert!(is_open(&call).await, "a call is decided by the rules that were in force when it arrived");
    }

    #[tokio::test(start_paused = true)]
    async fn rights_end_with_a_reload_that_does_not_accept_the_token() {
        type Change = fn(&mut config::Auth);
        let changes: [(Change, Option<Withdrawal>); 9] = [
            (|auth| auth.keys.clear(), Some(Withdrawal::Issuer)),
            (|auth| auth.keys[0].kid = Some("k".to_owned()), Some(Withdrawal::Key)),
            (|auth| auth.keys[0].issuer = "j".to_owned(), Some(Withdrawal::Issuer)),
            (|auth| auth.audiences = vec!["other".to_owned()], Some(Withdrawal::Audience)),
            (|auth| auth.required_scope = Some("admin".to_owned()), Some(Withdrawal::Scope)),
            (|auth| auth.required_scope = Some("mcp".to_owned()), None),
            (|auth| auth.role_claim = "roles".to_owned(), Some(Withdrawal::Roles)),
            (
                |auth| auth.role_map = BTreeMap::from([("all".to_owned(), vec!["x".to_owned()])]),
                Some(Withdrawal::Roles),
            ),
            (|auth| auth.audiences.push("other".to_owned()), None),
        ];
        for (idx, (change, withdrawal)) in changes.into_iter().enumerate() {
            let core = core();
            let ann = ann(&core).await;
            let stream = StreamRights::new(Arc::clone(&core), ann.clone(), Scope::All);
            let call = StreamRights::of_call(Arc::clone(&core), ann.clone(), Scope::All);
            let mut new = config(&["a", "b"]);
            change(&mut new.auth);
            assert!(is_open(&stream).await);
            let ended = async { tokio::time::timeout(Duration::from_mins(1), stream.ended()).await.ok() };
            let (end, ()) = tokio::join!(ended, async { reload(&core, &new) });
            assert_eq!(end, withdrawal.map(EndOfRights::Withdrawn), "{idx}");
            assert_eq!(core.rules().auth.accepts(&ann), withdrawal.is_none(), "{idx}");
            assert!(is_open(&call).await, "{idx}");
        }
    }
}
