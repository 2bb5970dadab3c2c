//! The identity of a client on standard input: its token and the caller that it names, renewed before the token ends if
//! there is a command for that.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use parking_lot::RwLock;
use tokio_util::task::AbortOnDropHandle;

use super::error::Error;
use super::token_source::TokenSource;
use crate::auth::Principal;
use crate::gateway::call::core::Core;
use crate::gateway::message::scope::Scope;

/// The part of a token's time, from its end, in which a new one is fetched, as a divisor. *Chosen*: a quarter leaves
/// time for several attempts.
const RENEWAL_PART: u32 = 4;

/// Time between an attempt that failed and the next, and the longest time between two looks at the clock, which also
/// runs while a laptop sleeps. *Chosen*: a server that is down is not asked often.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Least time between two runs of the command. *Chosen*: one that always prints the same token does not run all the
/// time.
const RUN_INTERVAL: Duration = Duration::from_secs(1);

/// The time before a token's end from which the log warns. *Chosen*: a person has a day to get a new one.
const WARNING: Duration = Duration::from_hours(24);

/// The `Host` of each message.
pub(super) const HOST: &str = "localhost";

/// A verified token.
pub(super) struct Identity {
    /// The token as a header. I8: it is marked as sensitive.
    pub(super) authorization: HeaderValue,
    pub(super) principal: Principal,
}

/// The identity of a client, and where it comes from.
pub(super) struct Identities {
    core: Arc<Core>,
    scope: Scope,
    source: TokenSource,
    current: RwLock<Arc<Identity>>,
    /// Held while a new token is fetched.
    renewing: tokio::sync::Mutex<()>,
}

impl Identities {
    /// The identity of a client of `scope`.
    ///
    /// # Errors
    /// [`Error`]: there is no valid token.
    pub(super) async fn new(core: &Arc<Core>, scope: Scope, source: TokenSource) -> Result<Self, Error> {
        let identity = identify(core, &scope, &source).await?;
        let (core, current) = (Arc::clone(core), RwLock::new(Arc::new(identity)));
        Ok(Self { core, scope, source, current, renewing: tokio::sync::Mutex::default() })
    }

    /// The newest identity.
    pub(super) fn current(&self) -> Arc<Identity> {
        Arc::clone(&self.current.read())
    }

    /// The newest identity, which is renewed first if its token has ended: a laptop may have slept.
    pub(super) async fn for_message(&self) -> Arc<Identity> {
        let current = self.current();
        if self.source.renews()
            && !self.core.rules().auth.accepts(&current.principal)
            && let Err(error) = self.renew(&current).await
        {
            tracing::warn!(%error, "the token has ended, and there is no new one");
        }
        self.current()
    }

    /// Renews the identity as long as that succeeds. Returns when the token has ended, with the reason why there is no
    /// other.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn ended(&self) -> Error {
        if !self.source.renews() {
            return self.ended_without_renewal().await;
        }
        let mut retry = None;
        loop {
            let current = self.current();
            let due = async {
                match retry {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => until_due(&current.principal).await,
                }
            };
            let has_ended = tokio::select! {
                () = self.core.credential_ended(&current.principal) => true,
                () = due => false,
            };
            retry = match self.renew(&current).await {
                Ok(()) => None,
                Err(error) if has_ended => return error,
                Err(error) => {
                    tracing::warn!(%error, retry_in = ?RETRY_INTERVAL, "cannot renew the token; trying again");
                    Some(RETRY_INTERVAL)
                }
            };
        }
    }

    /// Waits until the token has ended, and warns before.
    async fn ended_without_renewal(&self) -> Error {
        let current = self.current();
        // A task of its own: a log that fails does not end the client.
        let _warning = AbortOnDropHandle::new(tokio::spawn(warn_of_end(current.principal.clone())));
        self.core.credential_ended(&current.principal).await;
        Error::Ended
    }

    /// Fetches a new identity, unless `old` was replaced in the meantime.
    async fn renew(&self, old: &Arc<Identity>) -> Result<(), Error> {
        let _renewing = self.renewing.lock().await;
        if !Arc::ptr_eq(old, &self.current()) {
            return Ok(());
        }
        let new = identify(&self.core, &self.scope, &self.source).await?;
        // The session and its streams belong to the caller, with its roles.
        let is_same =
            (&new.principal.subject, &new.principal.issuer) == (&old.principal.subject, &old.principal.issuer);
        if !is_same || !new.principal.has_roles(&old.principal.roles) {
            return Err(Error::OtherCaller);
        }
        tracing::info!(subject = new.principal.subject, "renewed the token");
        *self.current.write() = Arc::new(new);
        Ok(())
    }
}

/// Fetches a token and verifies it.
async fn identify(core: &Core, scope: &Scope, source: &TokenSource) -> Result<Identity, Error> {
    let token = source.token().await.map_err(Error::Command)?;
    let value = format!("Bearer {}", token.trim());
    // Without a listener, only the configured URL can be an audience.
    let resource = core.names.resource(HOST, false, scope);
    let principal =
        core.rules().auth.authenticate(Some(value.as_bytes()), None, &|aud| resource.has_audience(aud)).await;
    let principal = principal.map_err(|error| Error::Token(error.to_string()))?;
    let authorization = HeaderValue::from_str(&value);
    let mut authorization = authorization
        .map_err(|_| Error::Token("it contains characters that an HTTP header may not contain".to_owned()))?;
    // I8: the token is never shown, even if the headers are logged.
    authorization.set_sensitive(true);
    Ok(Identity { authorization, principal })
}

/// Logs a warning when the principal's credential ends within a day.
async fn warn_of_end(principal: Principal) {
    until_left(&principal, WARNING).await;
    let left = principal.credential.left().unwrap_or_default();
    let ends_in = humantime::format_duration(Duration::from_secs(left.as_secs())).to_string();
    tracing::warn!(
        subject = principal.subject,
        ends_in,
        "the token ends within a day, and this server with it: start it with a new one, or give --token-command"
    );
}

/// Waits until a new token should be fetched.
async fn until_due(principal: &Principal) {
    let rest = principal.credential.left().map_or(Duration::ZERO, |left| left / RENEWAL_PART);
    tokio::join!(until_left(principal, rest), tokio::time::sleep(RUN_INTERVAL));
}

/// Waits until at most `rest` of the time of the principal's credential is left. Never returns if it does not end.
async fn until_left(principal: &Principal, rest: Duration) {
    loop {
        match principal.credential.left() {
            None => std::future::pending().await,
            Some(left) if left <= rest => return,
            Some(left) => tokio::time::sleep(left.saturating_sub(rest).min(RETRY_INTERVAL)).await,
        }
    }
}
