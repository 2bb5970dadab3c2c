//! The published keys of an issuer: a key set that is read from a file, or fetched and refreshed. Without a configured
//! place it is where the issuer's metadata says (`auth::discovery`), which is fetched again together with the keys.
//!
//! A fetched set is used until a newer one replaces it, however long the issuer is down. It is fetched when the first
//! token arrives, in the background when the set is older than its TTL, and when a token has a `kid` that the set
//! lacks. Only one fetch runs at a time. Fetches begin at least [`FETCH_INTERVAL`] apart, except for a few for unknown
//! `kid`s, so that a key that is used right after a fetch is found; whatever tokens arrive, their rate is bounded. A
//! call that needs the running fetch waits for it.
//!
//! A token with an unknown `kid` is bad once a fetch that began after the token was first seen has not found the key.
//! Until then, and while fetches fail, it may be good: forged tokens that use up the early fetches make no other token
//! bad.

mod unverified;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::auth::claims::ClaimRules;
use crate::auth::discovery::{DiscoveryError, MetadataUrls};
use crate::auth::fetch::{Fetch, FetchError, HttpFetch};
use crate::auth::jwks::{self, KeySet};
use crate::auth::keys::TokenRequirements;
use crate::auth::verified_token::KeysPlace;
use crate::auth::watched::{WatchedFile, read_bounded};
use crate::config;
use crate::file_access::{FileAccess, FileError, FileKind};
use unverified::UnverifiedTokens;

/// Least time between the beginnings of two fetches. *Chosen*: few enough requests for the issuer when tokens are
/// forged, and soon enough for its new key.
pub(super) const FETCH_INTERVAL: Duration = Duration::from_secs(10);

/// Most fetches for an unknown `kid` that begin earlier; each interval in which no fetch begins allows another one.
/// *Chosen*: a rotation causes one, or two if the issuer's servers do not publish the key at once.
const EARLY_FETCHES_MAX: u32 = 4;

/// Time limit of a fetch. A call may wait for two: the one that was running, and the next. *Chosen*: twice this time is
/// shorter than the timeouts of clients.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why an issuer of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// The algorithm is not supported for published keys.
    #[error("algorithm {algorithm:?} is not supported: write RS256, ES256, EdDSA or another asymmetric one")]
    Algorithm {
        /// The algorithm as configured.
        algorithm: String,
    },
    /// There are two sources of keys.
    #[error("set only one of jwks_file and jwks_url")]
    Source,
    /// There is no source of keys, and the issuer has no metadata.
    #[error(
        "its keys cannot be discovered, because the issuer is not a URL with https and without a query: set jwks_url or \
         jwks_file"
    )]
    NoMetadata,
    /// The key set file cannot be read.
    #[error("cannot read {path:?} ({source}): make it a file that the gateway's user may read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The key set file contains no usable keys.
    #[error("{path:?} is not a usable JWKS: {source}")]
    Jwks {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: jwks::JwksError,
    },
    /// The file cannot be read, or others may change it.
    #[error(transparent)]
    File(FileError),
    /// The URL is not valid. It is not shown: its query may be a secret (I8).
    #[error("not a URL ({0}): write for example \"https://login.example.com/jwks.json\"")]
    Url(#[source] url::ParseError),
    /// The HTTPS client cannot be built.
    #[error("cannot set up the HTTPS client ({0}): are there root certificates on this machine?")]
    Client(#[source] reqwest::Error),
}

/// One issuer and its keys.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) claim_rules: ClaimRules,
    /// The values of `aud` that are accepted at every endpoint.
    pub(super) audiences: Vec<String>,
    /// The algorithms that its keys may have.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) place: Arc<KeysPlace>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File(WatchedFile<KeySet>),
    Fetched(Arc<FetchedKeySet>),
}

/// The issuer's keys were never fetched, or it is not known whether it has published another one since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoKeysError {
    /// The time until the next fetch may begin.
    pub(super) retry_in: Duration,
}

/// A key set at a URL.
struct FetchedKeySet {
    fetcher: Arc<Fetcher>,
    ttl: Duration,
    /// The task of the last fetch; dropping it aborts the fetch.
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// Fetches a key set, and keeps the last one. Shared by the fetching task and the callers.
struct Fetcher {
    first: FirstUrl,
    requirements: TokenRequirements,
    allowed: Vec<Algorithm>,
    fetch: Box<dyn Fetch>,
    state: Mutex<FetchState>,
}

/// The URLs that are fetched first.
enum FirstUrl {
    /// That of the key set.
    Keys(Url),
    /// Those of the issuer's metadata, which names that of the key set.
    Metadata(MetadataUrls),
}

#[derive(Default)]
struct FetchState {
    /// The last key set; set by the task.
    keys: Option<Arc<KeySet>>,
    /// The document of `keys`.
    document: Vec<u8>,
    /// The time when `keys` was fetched.
    fetched: Option<Instant>,
    /// The number of the fetch of `keys`; the first fetch is number 1.
    keys_number: u64,
    /// The number of fetches that have begun.
    begun_count: u64,
    /// The tokens that the keys did not verify.
    unverified: UnverifiedTokens,
    /// The time when the last fetch began, whether or not it succeeded.
    begun: Option<Instant>,
    /// The number of fetches that began early, less those that intervals without a fetch have allowed again.
    early_count: u32,
    /// True if the last fetch failed.
    has_failed: bool,
    /// Closed when the running fetch ends.
    running: Option<watch::Receiver<()>>,
}

/// Loads all issuers of the configuration. Errors are returned with their settings.
pub(super) fn load(auth: &config::Auth) -> Result<Vec<Issuer>, Vec<(String, IssuerError)>> {
    let (mut issuers, mut errors) = (Vec::new(), Vec::new());
    for (idx, issuer) in auth.issuers.iter().enumerate() {
        let key = |name: &str| format!("auth.issuers[{idx}].{name}");
        let requirements = TokenRequirements { issuer: issuer.issuer.clone(), leeway: auth.leeway };
        let allowed: Result<Vec<Algorithm>, _> = issuer.algorithms.iter().map(|name| algorithm(name)).collect();
        let source = allowed.map_err(|error| (key("algorithms"), error)).and_then(|algorithms| {
            let allowed = algorithms.clone();
            let source = match (&issuer.jwks_file, &issuer.jwks_url) {
                (Some(path), None) => file_source(path.clone(), auth.files, requirements, allowed)
                    .map_err(|error| (key("jwks_file"), error)),
                (None, Some(url)) => Url::parse(url)
                    .map_err(IssuerError::Url)
                    .and_then(|url| fetched_source(FirstUrl::Keys(url), issuer.jwks_ttl, requirements, allowed))
                    .map_err(|error| (key("jwks_url"), error)),
                (None, None) => MetadataUrls::of(&issuer.issuer)
                    .ok_or(IssuerError::NoMetadata)
                    .and_then(|urls| fetched_source(FirstUrl::Metadata(urls), issuer.jwks_ttl, requirements, allowed))
                    .map_err(|error| (key("issuer"), error)),
                (Some(_), Some(_)) => Err((format!("auth.issuers[{idx}]"), IssuerError::Source)),
            };
            Ok((source?, algorithms))
        });
        match source {
            Ok((source, algorithms)) => {
                let place = KeysPlace { file: issuer.jwks_file.clone(), url: issuer.jwks_url.clone() };
                issuers.push(Issuer {
                    name: issuer.issuer.clone(),
                    claim_rules: ClaimRules::of_issuer(auth, issuer),
                    audiences: issuer.audiences.as_ref().unwrap_or(&auth.audiences).clone(),
                    algorithms,
                    place: Arc::new(place),
                    source,
                });
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(issuers) } else { Err(errors) }
}

/// Parses the name of an asymmetric algorithm.
fn algorithm(name: &str) -> Result<Algorithm, IssuerError> {
    let unsupported = || IssuerError::Algorithm { algorithm: name.to_owned() };
    let algorithm: Algorithm = name.parse().map_err(|_| unsupported())?;
    // I10: an algorithm that is not asymmetric is refused.
    let is_hmac = matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
    if is_hmac { Err(unsupported()) } else { Ok(algorithm) }
}

/// The reason why a key set file cannot be used.
#[derive(Debug, thiserror::Error)]
enum JwksFileError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{}", .0.reason)]
    File(#[from] FileError),
    #[error(transparent)]
    Jwks(#[from] jwks::JwksError),
}

fn file_source(
    path: PathBuf,
    files: FileAccess,
    requirements: TokenRequirements,
    allowed: Vec<Algorithm>,
) -> Result<Source, IssuerError> {
    let watched = WatchedFile::open(&path, files, FileKind::Trusted, move |file| -> Result<KeySet, JwksFileError> {
        let document = read_bounded(file, jwks::BYTES_MAX)?.ok_or(jwks::JwksError::TooLarge)?;
        Ok(KeySet::parse(&document, &requirements, &allowed)?)
    });
    watched.map(Source::File).map_err(|error| match error {
        JwksFileError::Io(source) => IssuerError::Unreadable { path, source },
        JwksFileError::File(error) => IssuerError::File(error),
        JwksFileError::Jwks(source) => IssuerError::Jwks { path, source },
    })
}

fn fetched_source(
    first: FirstUrl,
    ttl: Duration,
    requirements: TokenRequirements,
    allowed: Vec<Algorithm>,
) -> Result<Source, IssuerError> {
    let fetch = HttpFetch::new(first.url()).map_err(IssuerError::Client)?;
    Ok(Source::Fetched(Arc::new(FetchedKeySet::new(first, ttl, requirements, allowed, Box::new(fetch)))))
}

impl FirstUrl {
    /// The URL that is fetched first.
    fn url(&self) -> &Url {
        match self {
            Self::Keys(url) => url,
            Self::Metadata(urls) => &urls.openid,
        }
    }
}

impl Issuer {
    /// The current key set, for `token` with this `kid`. If the set lacks `kid`, it was fetched after the token was
    /// first seen.
    ///
    /// # Errors
    /// [`NoKeysError`]: the keys were never fetched, or they lack `kid` and cannot be fetched now.
    pub(super) async fn keys(&self, kid: Option<&str>, token: &str) -> Result<Arc<KeySet>, NoKeysError> {
        match &self.source {
            Source::File(file) => Ok(file.get()),
            Source::Fetched(fetched) => fetched.keys(kid, token).await,
        }
    }

    /// Continues with the keys that `old` has fetched, if they come from the same place.
    pub(super) fn continue_with(&mut self, old: &Self) {
        if self.place != old.place {
            return;
        }
        self.place = Arc::clone(&old.place);
        if let (Source::Fetched(own), Source::Fetched(known)) = (&mut self.source, &old.source) {
            if own.is_like(known) {
                *own = Arc::clone(known);
            } else {
                own.fetcher.take_over(&known.fetcher);
            }
        }
    }

    /// Fetches the key set once, if it is not in a file, and returns the number of its usable keys. I8: an error does
    /// not show the URL.
    pub(super) async fn try_fetch(&self) -> Option<Result<usize, String>> {
        let Source::Fetched(set) = &self.source else { return None };
        let fetcher = &set.fetcher;
        let count = fetcher.fetched().await.map(|(keys, _)| keys.count());
        Some(count.map_err(|error| format!("{}: {:#}", fetcher.origin(), anyhow::Error::new(error))))
    }
}

impl FetchedKeySet {
    fn new(
        first: FirstUrl,
        ttl: Duration,
        requirements: TokenRequirements,
        allowed: Vec<Algorithm>,
        fetch: Box<dyn Fetch>,
    ) -> Self {
        let fetcher = Arc::new(Fetcher { first, requirements, allowed, fetch, state: Mutex::default() });
        Self { fetcher, ttl, task: Mutex::default() }
    }

    /// True if `other` reads the same place in the same way.
    fn is_like(&self, other: &Self) -> bool {
        let settings = |set: &Self| (set.ttl, set.fetcher.requirements.clone(), set.fetcher.allowed.clone());
        settings(self) == settings(other)
    }

    async fn keys(&self, kid: Option<&str>, token: &str) -> Result<Arc<KeySet>, NoKeysError> {
        let has_kid = |keys: &Arc<KeySet>| !keys.named(kid).is_empty();
        let mut first_seen = None;
        // A fetch that was running already may have missed the newest key. The next one does not.
        for _ in 0..2 {
            let (mut running, is_own) = {
                let mut state = self.fetcher.state.lock();
                let known = state.keys.clone().filter(has_kid);
                let is_old = state.fetched.is_none_or(|fetched| fetched.elapsed() >= self.ttl);
                if known.is_none() {
                    let begun = state.begun_count;
                    first_seen.get_or_insert(state.unverified.first_seen(token, begun));
                }
                let is_own = (known.is_none() || is_old) && self.begin_fetch(&mut state, known.is_none());
                if let Some(known) = known {
                    return Ok(known);
                }
                let Some(running) = state.running.clone() else { break };
                (running, is_own)
            };
            // The task never sends, and drops its end within the time limit: this waits for the error.
            running.changed().await.ok();
            if is_own {
                break;
            }
        }
        let state = self.fetcher.state.lock();
        let is_missing = !state.has_failed && first_seen.is_some_and(|seen| state.keys_number > seen);
        let keys = state.keys.clone().filter(|keys| has_kid(keys) || is_missing);
        keys.ok_or_else(|| NoKeysError {
            retry_in: FETCH_INTERVAL.saturating_sub(state.begun.map_or(FETCH_INTERVAL, |begun| begun.elapsed())),
        })
    }

    /// Begins a fetch, unless one is running or the last one began less than [`FETCH_INTERVAL`] ago. If the last one
    /// succeeded, one for an unknown `kid` may begin earlier. Returns whether it began.
    fn begin_fetch(&self, state: &mut FetchState, is_for_kid: bool) -> bool {
        // A task that was aborted or panicked has dropped its end too.
        let runs = state.running.as_ref().is_some_and(|running| running.has_changed().is_ok());
        let intervals = state.begun.map_or(1, |begun| begun.elapsed().as_secs() / FETCH_INTERVAL.as_secs());
        let may_be_early =
            is_for_kid && state.keys.is_some() && !state.has_failed && state.early_count < EARLY_FETCHES_MAX;
        if runs || intervals == 0 && !may_be_early {
            return false;
        }
        // I6: forged tokens cause few fetches.
        state.early_count = match u32::try_from(intervals).unwrap_or(u32::MAX) {
            0 => state.early_count + 1,
            passed => state.early_count.saturating_sub(passed - 1),
        };
        let (done, running) = watch::channel(());
        state.begun = Some(Instant::now());
        state.begun_count += 1;
        state.running = Some(running);
        let fetcher = Arc::clone(&self.fetcher);
        let task = tokio::spawn(async move {
            fetcher.refresh().await;
            drop(done);
        });
        *self.task.lock() = Some(AbortOnDropHandle::new(task));
        true
    }
}

impl Fetcher {
    /// Scheme, host and port of the URL. I8: its path or query may be a secret.
    fn origin(&self) -> String {
        self.first.url().origin().ascii_serialization()
    }

    /// Takes over what `old` has fetched from the same place, read by the own settings.
    fn take_over(&self, old: &Self) {
        let known = old.state.lock();
        let (document, fetched, begun) = (known.document.clone(), known.fetched, known.begun);
        let (early_count, has_failed) = (known.early_count, known.has_failed);
        drop(known);
        // Without usable keys, they are fetched for the next token.
        if let Ok(keys) = KeySet::parse(&document, &self.requirements, &self.allowed) {
            let keys = Some(Arc::new(keys));
            let state = FetchState { keys, document, fetched, begun, early_count, has_failed, ..FetchState::default() };
            *self.state.lock() = state;
        }
    }

    /// Fetches the key set once, and keeps nothing. The document is returned too.
    async fn fetched(&self) -> Result<(KeySet, Vec<u8>), RefreshError> {
        let document =
            tokio::time::timeout(FETCH_TIMEOUT, self.document()).await.map_err(|_| RefreshError::Timeout)??;
        let keys = KeySet::parse(&document, &self.requirements, &self.allowed).map_err(RefreshError::Jwks)?;
        Ok((keys, document))
    }

    /// Fetches the document with the keys.
    async fn document(&self) -> Result<Vec<u8>, RefreshError> {
        let discovered;
        let url = match &self.first {
            FirstUrl::Keys(url) => url,
            FirstUrl::Metadata(urls) => {
                let fetch = self.fetch.as_ref();
                let metadata = urls.fetch(&self.requirements.issuer, fetch).await;
                discovered = metadata.and_then(|metadata| metadata.keys_url()).map_err(RefreshError::Discovery)?;
                &discovered
            }
        };
        self.fetch.fetch(url).await.map_err(RefreshError::Fetch)
    }

    /// Fetches the key set once.
    async fn refresh(&self) {
        let keys = self.fetched().await;
        let mut state = self.state.lock();
        state.running = None;
        state.has_failed = keys.is_err();
        match keys {
            Ok((keys, document)) => {
                tracing::debug!(issuer = self.requirements.issuer, from = self.origin(), "fetched the issuer's keys");
                (state.keys, state.fetched) = (Some(Arc::new(keys)), Some(Instant::now()));
                (state.document, state.keys_number) = (document, state.begun_count);
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                let age_secs = state.fetched.map(|fetched| fetched.elapsed().as_secs());
                tracing::warn!(
                    issuer = self.requirements.issuer,
                    from = self.origin(),
                    age_secs,
                    error = format!("{error:#}"),
                    "cannot fetch the issuer's keys; keeping the previous ones"
                );
            }
        }
    }
}

/// The reason why the keys were not refreshed.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Fetch(FetchError),
    #[error(transparent)]
    Discovery(DiscoveryError),
    #[error("the document is not a usable JWKS: {0}")]
    Jwks(jwks::JwksError),
    #[error("no response within {} s", FETCH_TIMEOUT.as_secs())]
    Timeout,
}

impl std::fmt::Debug for FetchedKeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchedKeySet")
            .field("from", &self.fetcher.origin())
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
