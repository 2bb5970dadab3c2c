//! An authenticated caller.

use std::sync::Arc;

use crate::audit::record::{Caller, Identity};
use crate::auth::credential::Credential;

/// Most roles of one token; the others are ignored. *Chosen*: far above any real token; bounds the cost of a decision
/// and the size of the record.
pub(super) const ROLES_MAX: usize = 64;

/// An authenticated caller. Two are equal whatever credential they used.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The token's `sub`, or the subject in the tokens file or the certificate.
    pub subject: String,
    /// The token's `iss`; `static` for a static token, and `mtls` for a certificate.
    pub issuer: String,
    /// The token's `jti`, or the id in the tokens file.
    pub token_id: Option<String>,
    /// The roles in the configured claim, the tokens file, or the configuration's list of certificates.
    pub roles: Vec<String>,
    /// The reason why there is no role, for the caller.
    pub no_role: Option<String>,
    /// The other statements of the credential about the caller.
    pub identity: Arc<Identity>,
    /// The credential that the caller was authenticated by.
    pub credential: Credential,
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        let Self { subject, issuer, token_id, roles, no_role: _, identity: _, credential: _ } = self;
        (subject, issuer, token_id, roles) == (&other.subject, &other.issuer, &other.token_id, &other.roles)
    }
}

impl Eq for Principal {}

impl Principal {
    /// Returns true if it has these roles and no other ones, in whatever order.
    pub(crate) fn has_roles(&self, roles: &[String]) -> bool {
        let has_all = |all: &[String], some: &[String]| some.iter().all(|role| all.contains(role));
        has_all(&self.roles, roles) && has_all(roles, &self.roles)
    }

    /// The caller as it is recorded, with all its roles: none of them has decided yet.
    #[must_use]
    pub fn caller_with_all_roles(&self) -> Caller {
        self.caller((!self.roles.is_empty()).then(|| self.roles.join(",")).as_deref())
    }

    /// The roles as the subject of a sentence that says what they may do.
    pub(crate) fn roles_in_words(&self) -> String {
        match &*self.roles {
            [] => match &self.no_role {
                Some(reason) => format!("a caller without a role ({reason})"),
                None => "a caller without a role".to_owned(),
            },
            roles => format!("role {}", roles.join(",")),
        }
    }

    /// The caller of a call that `role` decided.
    #[must_use]
    pub fn caller(&self, role: Option<&str>) -> Caller {
        Caller {
            subject: self.subject.clone(),
            role: role.map(str::to_owned),
            issuer: Some(self.issuer.clone()),
            token_id: self.token_id.clone(),
            identity: Arc::clone(&self.identity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_in_words_that_there_is_no_role() {
        let with = |roles: &[&str]| Principal {
            subject: "ann".to_owned(),
            issuer: "i".to_owned(),
            token_id: None,
            roles: roles.iter().copied().map(str::to_owned).collect(),
            credential: Credential::default(),
            no_role: None,
            identity: std::sync::Arc::default(),
        };
        assert_eq!(with(&[]).roles_in_words(), "a caller without a role");
        assert_eq!(with(&["a", "b"]).roles_in_words(), "role a,b");
    }
}
