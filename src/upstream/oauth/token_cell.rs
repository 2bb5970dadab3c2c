//! The place of one token, which is requested when it is needed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::access_token::AccessToken;
use super::error::CredentialError;

/// The time for which the failure of a request is the answer to further ones. *Chosen*: a token server that is down is
/// asked once a second, and its return is noticed soon.
const FAILURE_KEPT: Duration = Duration::from_secs(1);

/// The age from which a token is replaced if the backend rejects it. *Chosen*: a revoked token is replaced soon, and a
/// tool that always answers 401 costs six token requests a minute, however often it is called.
const REPLACED_AGE_MIN: Duration = Duration::from_secs(10);

/// One token. At most one request for it is open; those who wait share its result.
#[derive(Debug, Default)]
pub(super) struct TokenCell {
    state: Mutex<State>,
    /// Locked while the token is requested.
    requesting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Arc<AccessToken>>,
    /// The last failure, and its time.
    failure: Option<(Instant, CredentialError)>,
}

impl TokenCell {
    /// The token, or the result of `request` if there is none that can be used.
    ///
    /// # Errors
    /// The error of `request`, or of one that ended within [`FAILURE_KEPT`].
    ///
    /// # Cancel safety
    /// The request is dropped, and the next caller begins another.
    pub(super) async fn get(
        &self,
        request: impl Future<Output = Result<AccessToken, CredentialError>>,
    ) -> Result<Arc<AccessToken>, CredentialError> {
        if let Some(token) = self.usable() {
            return Ok(token);
        }
        let begun = Instant::now();
        let _requesting = self.requesting.lock().await;
        if let Some(token) = self.usable() {
            return Ok(token);
        }
        if let Some((at, error)) = &self.state.lock().failure
            && (*at >= begun || at.elapsed() < FAILURE_KEPT)
        {
            return Err(error.clone());
        }
        let result = request.await.map(Arc::new);
        let mut state = self.state.lock();
        state.token = result.as_ref().ok().cloned();
        state.failure = result.as_ref().err().map(|error| (Instant::now(), error.clone()));
        result
    }

    /// Forgets `token`, which the backend rejected, if it is still this one. Returns false if it is kept, because it is
    /// younger than [`REPLACED_AGE_MIN`]: another one would be rejected, too.
    pub(super) fn reject(&self, token: &Arc<AccessToken>) -> bool {
        let mut state = self.state.lock();
        let is_kept = |known: &Arc<AccessToken>| Arc::ptr_eq(known, token) && token.age() < REPLACED_AGE_MIN;
        if state.token.as_ref().is_some_and(is_kept) {
            return false;
        }
        state.token.take_if(|known| Arc::ptr_eq(known, token));
        true
    }

    fn usable(&self) -> Option<Arc<AccessToken>> {
        self.state.lock().token.as_ref().filter(|token| !token.is_stale()).map(Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts requests; each takes a second, and fails or not.
    #[derive(Default)]
    struct Server {
        requests: AtomicUsize,
    }

    impl Server {
        async fn request(&self, succeeds: bool) -> Result<AccessToken, CredentialError> {
            self.requests.fetch_add(1, Ordering::SeqCst);
            tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await.ok();
            let token = AccessToken::new("t", Some(Duration::from_mins(5)));
            token.filter(|_| succeeds).ok_or(CredentialError::NoCallerToken)
        }

        fn count(&self) -> usize {
            self.requests.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_serves_all_who_wait_for_it() {
        let (cell, server) = (TokenCell::default(), Server::default());
        for succeeds in [false, true] {
            let all = (0..9).map(|_| cell.get(server.request(succeeds)));
            let results = futures_util::future::join_all(all).await;
            assert!(results.iter().all(|result| result.is_ok() == succeeds));
            assert_eq!(server.count(), 1 + usize::from(succeeds));
            tokio::time::advance(FAILURE_KEPT).await;
        }
        let token = cell.get(server.request(false)).await.unwrap();
        assert!(cell.reject(&Arc::new(AccessToken::new("other", None).unwrap())), "the known one can be used");
        assert!(Arc::ptr_eq(&token, &cell.get(server.request(false)).await.unwrap()));
        tokio::time::advance(REPLACED_AGE_MIN).await;
        assert!(cell.reject(&token));
        assert!(cell.get(server.request(true)).await.is_ok());
        assert_eq!(server.count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn rejections_replace_a_token_at_most_once_in_its_minimum_age() {
        let (cell, server) = (TokenCell::default(), Server::default());
        let mut token = cell.get(server.request(true)).await.unwrap();
        for replaced in 1..4 {
            tokio::time::advance(REPLACED_AGE_MIN.saturating_sub(Duration::from_millis(1))).await;
            for _ in 0..9 {
                assert!(!cell.reject(&token));
                assert!(Arc::ptr_eq(&token, &cell.get(server.request(true)).await.unwrap()));
            }
            tokio::time::advance(Duration::from_millis(1)).await;
            let before = Arc::clone(&token);
            assert!(cell.reject(&before));
            token = cell.get(server.request(true)).await.unwrap();
            // The other calls that used the old one get the new one.
            assert!(cell.reject(&before));
            assert!(Arc::ptr_eq(&token, &cell.get(server.request(true)).await.unwrap()));
            assert_eq!(server.count(), 1 + replaced);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_is_asked_once_a_second() {
        let (cell, server) = (TokenCell::default(), Server::default());
        assert!(cell.get(server.request(false)).await.is_err());
        tokio::time::advance(FAILURE_KEPT / 2).await;
        assert!(cell.get(server.request(true)).await.is_err());
        assert_eq!(server.count(), 1);
        tokio::time::advance(FAILURE_KEPT / 2).await;
        assert!(cell.get(server.request(true)).await.is_ok());
        assert_eq!(server.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_dropped_is_begun_again() {
        let (cell, server) = (TokenCell::default(), Server::default());
        let dropped = tokio::time::timeout(Duration::from_millis(1), cell.get(server.request(true))).await;
        assert!(dropped.is_err());
        assert!(cell.get(server.request(true)).await.is_ok());
        assert_eq!(server.count(), 2);
    }
}
