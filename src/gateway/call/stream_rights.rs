//! The rights under which a client reads a stream, and their end while the stream is open.

use std::sync::Arc;

use crate::auth::Principal;
use crate::gateway::call::core::Core;
use crate::gateway::message::scope::Scope;
use crate::rbac::Policy;

/// The rights under which a client reads a stream.
#[derive(Debug)]
pub(crate) struct StreamRights {
    core: Arc<Core>,
    principal: Principal,
    scope: Scope,
    /// `true` if the stream also ends when the principal may not use the endpoint any more. The stream of a call does
    /// not: a call is decided by the rules that were in force when it arrived, to its end.
    follows_policy: bool,
}

/// The reason why the rights under which a stream is read have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndOfRights {
    /// The token or certificate expired or was withdrawn.
    #[error("the token or certificate has expired or was withdrawn: send the request again with a valid one")]
    Credential,
    /// A reload took the right to use the endpoint from the principal's roles.
    #[error("the roles of the token may not use this endpoint any more")]
    Policy,
}

impl StreamRights {
    /// The rights to a stream that belongs to no call.
    pub(crate) fn new(core: Arc<Core>, principal: Principal, scope: Scope) -> Self {
        Self { core, principal, scope, follows_policy: true }
    }

    /// The rights to the stream of a call.
    pub(crate) fn of_call(core: Arc<Core>, principal: Principal, scope: Scope) -> Self {
        Self { follows_policy: false, ..Self::new(core, principal, scope) }
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
        tokio::select! {
            biased;
            () = self.core.auth.ended(&self.principal) => EndOfRights::Credential,
            () = self.lost_by_policy(), if self.follows_policy => EndOfRights::Policy,
        }
    }

    async fn lost_by_policy(&self) {
        let mut policy = self.core.policy.subscribe();
        // The sender lives as long as the core.
        policy.wait_for(|policy| !self.may_use_endpoint(policy)).await.ok();
    }

    fn may_use_endpoint(&self, policy: &Policy) -> bool {
        let reaches = |backend: &str| policy.reaches(&self.principal.roles, backend);
        match &self.scope {
            Scope::One(backend) => self.core.upstreams.contains(backend) && reaches(backend),
            Scope::All => self.core.upstreams.aliases().iter().any(|backend| reaches(backend)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use crate::audit::Audit;
    use crate::audit::record::Timestamp;
    use crate::auth::credential::Credential;
    use crate::auth::validity::Validity;
    use crate::config::{Backend, Config, Role};
    use crate::gateway::Gateway;

    use super::*;

    fn core() -> Arc<Core> {
        let role = Role { allow: vec!["a/*".to_owned()], ..Role::default() };
        let backend = || Backend { url: Some("http://127.0.0.1:9/mcp".to_owned()), ..Backend::default() };
        let config = Config {
            roles: BTreeMap::from([("all".to_owned(), role)]),
            backends: ["a", "b"].map(|alias| (alias.to_owned(), backend())).into(),
            ..Config::default()
        };
        Gateway::build(&config, Audit::disabled(), &crate::walls::Launcher::direct()).unwrap().core
    }

    fn ann(credential: Credential) -> Principal {
        let (subject, issuer, roles) = ("ann".to_owned(), "i".to_owned(), vec!["all".to_owned()]);
        Principal {
            subject,
            issuer,
            token_id: None,
            roles,
            no_role: None,
            identity: std::sync::Arc::default(),
            credential,
        }
    }

    async fn is_open(rights: &StreamRights) -> bool {
        tokio::time::timeout(Duration::from_mins(1), rights.ended()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn rights_end_with_the_token() {
        let core = core();
        for of_stream in [StreamRights::new, StreamRights::of_call] {
            let in_an_hour = Timestamp::from_micros(Timestamp::now().micros() + 3_600_000_000);
            let token = Credential::Token(Validity::until(in_an_hour));
            let rights = of_stream(Arc::clone(&core), ann(token), Scope::All);
            assert!(is_open(&rights).await);
            assert_eq!(rights.ended().await, EndOfRights::Credential);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rights_end_with_a_reload_that_takes_the_endpoint() {
        let core = core();
        let rights = |scope: &str| {
            let scope = if scope.is_empty() { Scope::All } else { Scope::One(scope.to_owned()) };
            StreamRights::new(Arc::clone(&core), ann(Credential::default()), scope)
        };
        let call = StreamRights::of_call(Arc::clone(&core), ann(Credential::default()), Scope::One("a".to_owned()));
        assert!(is_open(&rights("a")).await && is_open(&rights("")).await);
        assert_eq!(rights("b").ended().await, EndOfRights::Policy);
        core.policy.send_replace(Arc::new(Policy::new(&BTreeMap::new()).unwrap()));
        assert_eq!(rights("a").ended().await, EndOfRights::Policy);
        assert_eq!(rights("").ended().await, EndOfRights::Policy);
        assert!(is_open(&call).await, "a call is decided by the rules that were in force when it arrived");
    }
}
