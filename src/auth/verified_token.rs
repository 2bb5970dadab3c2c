//! The facts about a verified token by which later rules decide whether they would still accept it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use crate::audit::record::Digest;

/// The facts about a verified token. It has neither the token nor its signature (I8).
#[derive(Clone, Default)]
pub struct VerifiedToken {
    /// The `kid` of its header.
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: KeySource,
    pub(super) purpose: Purpose,
    /// All of its claims: later rules may read the roles in another one.
    pub(super) claims: Map<String, Value>,
}

/// The reason why a token is good here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its audience is listed.
    #[default]
    Listed,
    /// It is for the endpoint, whether or not its audience is listed too.
    Endpoint,
    /// It is an ID token, for the console's client. It has no scope.
    SignIn,
}

/// The origin of the key that verified a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeySource {
    /// The key of `[[auth.keys]]` with this digest.
    Configured(KeyDigest),
    /// A key that the issuer publishes at this place.
    Published(Arc<KeysPlace>),
}

/// The digest of the file or variable that a key was read from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyDigest(pub(super) Digest);

/// The place of an issuer's keys, as configured. Without a file and a URL the issuer's metadata names it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct KeysPlace {
    pub(super) file: Option<PathBuf>,
    pub(super) url: Option<String>,
}

/// The reason why rules that a reload put in force do not accept a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Withdrawal {
    /// The token's issuer was removed.
    #[error("its issuer was removed")]
    Issuer,
    /// The issuer has other keys or algorithms.
    #[error("the key that verified it was removed")]
    Key,
    /// The token's audience is not listed any more.
    #[error("its audience was removed")]
    Audience,
    /// The token lacks the scope that is required now.
    #[error("it lacks the required scope")]
    Scope,
    /// The credential is another caller's now.
    #[error("it is another caller's")]
    Caller,
    /// The credential gives other roles.
    #[error("it gives other roles")]
    Roles,
    /// The static token is not listed any more.
    #[error("it is not in the file of static tokens")]
    StaticToken,
}

impl Default for KeySource {
    fn default() -> Self {
        Self::Configured(KeyDigest(Digest([0; 32])))
    }
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: the claims say more about a person than a log may have.
        let Self { kid, algorithm, key, purpose, claims: _ } = self;
        let mut shown = f.debug_struct("VerifiedToken");
        shown.field("kid", kid).field("algorithm", algorithm).field("key", key);
        shown.field("purpose", purpose).finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: the key may be a secret.
        f.write_str("KeyDigest")
    }
}

impl fmt::Debug for KeysPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // I8: the query of the URL may be a secret.
        f.debug_struct("KeysPlace").field("file", &self.file).finish_non_exhaustive()
    }
}
