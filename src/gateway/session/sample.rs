//! Samples for tests of sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::auth::Principal;
use crate::auth::credential::Credential;
use crate::config::Role;
use crate::gateway::session::question::{Question, QuestionHandler};
use crate::rbac::Policy;

/// A principal without roles.
pub(crate) fn principal(subject: &str, issuer: &str) -> Principal {
    Principal {
        subject: subject.to_owned(),
        issuer: issuer.to_owned(),
        token_id: None,
        roles: Vec::new(),
        credential: Credential::default(),
        no_role: None,
        identity: Arc::default(),
    }
}

/// A policy by which the role `all` reaches these backends.
pub(crate) fn policy(backends: &[&str]) -> Arc<Policy> {
    let allow = backends.iter().map(|backend| format!("{backend}/*")).collect();
    let role = Role { allow, ..Default::default() };
    Arc::new(Policy::new(&BTreeMap::from([("all".to_owned(), role)])).unwrap())
}

/// Delivers questions unrecorded, and waits for no answer.
#[derive(Debug)]
pub(crate) struct AtOnce;

impl QuestionHandler for AtOnce {
    fn take(&self, question: Question) {
        (question.deliver)();
        std::mem::forget(question.fate);
    }
}
