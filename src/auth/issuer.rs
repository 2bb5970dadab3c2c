//! The keys of one issuer, as it publishes them: from a file, or fetched, kept and refreshed.
//!
//! A fetched set is used until a newer one is there, however long the issuer is down. It is fetched at the first token;
//! beside the calls when it is older than its time; and when a token names a `kid` that it lacks. Fetches begin at least
//! [`FETCH_EVERY`] apart and one at a time, whatever tokens say: who needs one that runs waits for it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::auth::fetch::{Fetch, FetchError, Http};
use crate::auth::jwks::{self, KeySet};
use crate::auth::keys::Rules;
use crate::auth::watched::{Watched, read_bounded};
use crate::config;

/// Least time between the beginnings of two fetches. *Chosen*: bounds what forged tokens cost the issuer, and what its
/// new key waits for.
const FETCH_EVERY: Duration = Duration::from_secs(10);

/// Longest time of one fetch, and so of a call's wait for it. *Chosen*: below the patience of clients.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// What is wrong with an issuer of the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// An algorithm that verifies nothing that is published.
    #[error("algorithm {algorithm:?} is not supported: write RS256, ES256, EdDSA or another that is asymmetric")]
    Algorithm {
        /// As configured.
        algorithm: String,
    },
    /// Not exactly one place of its keys.
    #[error("it needs jwks_file or jwks_url, and one of them only")]
    Source,
    /// A file that cannot be read.
    #[error("cannot read {path:?} ({source}): make it a file that the gateway's user may read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that gives no keys.
    #[error("{path:?} is no JWKS to verify with: {source}")]
    Jwks {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: jwks::Error,
    },
    /// No URL.
    #[error("{url:?} is no URL ({source}): write as in \"https://login.example.com/jwks.json\"")]
    Url {
        /// As configured.
        url: String,
        /// Why.
        #[source]
        source: url::ParseError,
    },
    /// No client to fetch with.
    #[error("the HTTPS client cannot be set up ({0}): are there root certificates on this machine?")]
    Client(#[source] reqwest::Error),
}

/// One issuer and its keys.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) role_path: Vec<String>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File(Watched<KeySet>),
    Url(Remote),
}

/// No key of the issuer was ever fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoKeys;

/// A set that is fetched.
struct Remote {
    shared: Arc<Shared>,
    ttl: Duration,
    /// The fetch that was begun last; it ends with this.
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What the fetching task and the askers share.
struct Shared {
    url: Url,
    rules: Rules,
    allowed: Vec<Algorithm>,
    fetch: Box<dyn Fetch>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Written by the task.
    keys: Option<Arc<KeySet>>,
    /// When `keys` came.
    fetched: Option<Instant>,
    /// When the last fetch was begun, whatever came of it.
    begun: Option<Instant>,
    /// Closed when the fetch that runs has ended.
    running: Option<watch::Receiver<()>>,
}

/// All issuers of the configuration; a fault comes with its place in it.
pub(super) fn load(auth: &config::Auth) -> Result<Vec<Issuer>, Vec<(String, Fault)>> {
    let (mut issuers, mut faults) = (Vec::new(), Vec::new());
    for (idx, issuer) in auth.issuers.iter().enumerate() {
        let key = |name: &str| format!("auth.issuers[{idx}].{name}");
        let rules = Rules {
            issuer: issuer.issuer.clone(),
            audience: issuer.audience.clone().unwrap_or_else(|| auth.audience.clone()),
            leeway: auth.leeway,
        };
        let allowed: Result<Vec<Algorithm>, _> = issuer.algorithms.iter().map(|name| algorithm(name)).collect();
        let source = allowed.map_err(|fault| (key("algorithms"), fault)).and_then(|allowed| {
            match (&issuer.jwks_file, &issuer.jwks_url) {
                (Some(path), None) => file(path.clone(), rules, allowed).map_err(|fault| (key("jwks_file"), fault)),
                (None, Some(url)) => {
                    remote(url, issuer.jwks_ttl, rules, allowed).map_err(|fault| (key("jwks_url"), fault))
                }
                _ => Err((format!("auth.issuers[{idx}]"), Fault::Source)),
            }
        });
        let role_claim = issuer.role_claim.as_ref().unwrap_or(&auth.role_claim);
        match source {
            Ok(source) => {
                issuers.push(Issuer { name: issuer.issuer.clone(), role_path: crate::auth::path(role_claim), source });
            }
            Err((key, fault)) => faults.push((key, fault)),
        }
    }
    if faults.is_empty() { Ok(issuers) } else { Err(faults) }
}

/// I10: an algorithm that is not known to be asymmetric is none.
fn algorithm(name: &str) -> Result<Algorithm, Fault> {
    let unsupported = || Fault::Algorithm { algorithm: name.to_owned() };
    let algorithm: Algorithm = name.parse().map_err(|_| unsupported())?;
    let is_hmac = matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
    if is_hmac { Err(unsupported()) } else { Ok(algorithm) }
}

/// Why a file gives no keys.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Jwks(#[from] jwks::Error),
}

fn file(path: PathBuf, rules: Rules, allowed: Vec<Algorithm>) -> Result<Source, Fault> {
    let watched = Watched::open(&path, move |file| -> Result<KeySet, FileError> {
        let document = read_bounded(file, jwks::BYTES_MAX)?.ok_or(jwks::Error::TooLarge)?;
        Ok(KeySet::parse(&document, &rules, &allowed)?)
    });
    watched.map(Source::File).map_err(|error| match error {
        FileError::Io(source) => Fault::Unreadable { path, source },
        FileError::Jwks(source) => Fault::Jwks { path, source },
    })
}

fn remote(url: &str, ttl: Duration, rules: Rules, allowed: Vec<Algorithm>) -> Result<Source, Fault> {
    let url = Url::parse(url).map_err(|source| Fault::Url { url: url.to_owned(), source })?;
    let fetch = Http::new(&url).map_err(Fault::Client)?;
    Ok(Source::Url(Remote::new(url, ttl, rules, allowed, Box::new(fetch))))
}

impl Issuer {
    /// The set in which a token's `kid` is to be looked for; it may still lack it.
    ///
    /// # Errors
    /// [`NoKeys`], while the issuer could never be reached.
    pub(super) async fn keys(&self, kid: Option<&str>) -> Result<Arc<KeySet>, NoKeys> {
        match &self.source {
            Source::File(watched) => Ok(watched.get()),
            Source::Url(remote) => remote.keys(kid).await,
        }
    }
}

impl Remote {
    fn new(url: Url, ttl: Duration, rules: Rules, allowed: Vec<Algorithm>, fetch: Box<dyn Fetch>) -> Self {
        let shared = Arc::new(Shared { url, rules, allowed, fetch, state: Mutex::default() });
        Self { shared, ttl, task: Mutex::default() }
    }

    async fn keys(&self, kid: Option<&str>) -> Result<Arc<KeySet>, NoKeys> {
        let running = {
            let mut state = self.shared.state();
            let known = state.keys.clone();
            let has = known.as_ref().is_some_and(|keys| !keys.named(kid).is_empty());
            let is_old = state.fetched.is_none_or(|fetched| fetched.elapsed() >= self.ttl);
            if !has || is_old {
                self.begin(&mut state);
            }
            match known {
                Some(keys) if has => return Ok(keys),
                _ => state.running.clone(),
            }
        };
        if let Some(mut running) = running {
            // An error is what is waited for: the task has dropped its end. It has a time limit.
            running.changed().await.ok();
        }
        self.shared.state().keys.clone().ok_or(NoKeys)
    }

    /// Begins a fetch, unless one runs or the last is too fresh.
    fn begin(&self, state: &mut State) {
        // A task that is gone without a word has dropped its end.
        let runs = state.running.as_ref().is_some_and(|running| running.has_changed().is_ok());
        if runs || state.begun.is_some_and(|begun| begun.elapsed() < FETCH_EVERY) {
            return;
        }
        let (done, running) = watch::channel(());
        state.begun = Some(Instant::now());
        state.running = Some(running);
        let shared = Arc::clone(&self.shared);
        let task = tokio::spawn(async move {
            shared.refresh().await;
            drop(done);
        });
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(task));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn refresh(&self) {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.fetch.fetch(&self.url)).await;
        let keys = match fetched {
            Ok(Ok(document)) => KeySet::parse(&document, &self.rules, &self.allowed).map_err(RefreshError::Jwks),
            Ok(Err(error)) => Err(RefreshError::Fetch(error)),
            Err(_) => Err(RefreshError::Slow),
        };
        let mut state = self.state();
        state.running = None;
        match keys {
            Ok(keys) => {
                tracing::debug!(issuer = self.rules.issuer, url = %self.url, "the issuer's keys were fetched");
                (state.keys, state.fetched) = (Some(Arc::new(keys)), Some(Instant::now()));
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                let age_secs = state.fetched.map(|fetched| fetched.elapsed().as_secs());
                tracing::warn!(
                    issuer = self.rules.issuer, url = %self.url, age_secs, error = format!("{error:#}"),
                    "the issuer's keys cannot be fetched: those at hand stay in use"
                );
            }
        }
    }
}

/// Why keys were not refreshed.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Fetch(FetchError),
    #[error("the document is no JWKS to verify with: {0}")]
    Jwks(jwks::Error),
    #[error("no answer within {} s", FETCH_TIMEOUT.as_secs())]
    Slow,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("url", &self.shared.url.as_str()).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
