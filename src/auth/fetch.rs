//! Fetching of an issuer's documents over HTTPS: each of limited size, and from the host of its URL only.

use std::pin::Pin;

use url::Url;

use crate::auth::jwks;
use crate::config::is_loopback;
use crate::outbound;

/// Most redirects that are followed. *Chosen*: a document that moved within its host takes one or two.
const REDIRECTS_MAX: usize = 3;

/// The reason why a fetch failed. No message contains the URL, whose query may be a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum FetchError {
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    #[error("the issuer responded with HTTP status {0}")]
    Status(u16),
    #[error("the document is larger than {} bytes", jwks::BYTES_MAX)]
    TooLarge,
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        Self::Request(error.without_url()) // I8: no secret enters a log line.
    }
}

/// Fetches documents; tests replace the network with it.
pub(super) trait Fetch: Send + Sync {
    /// Fetches the document at `url`, of at most [`jwks::BYTES_MAX`]. The caller limits the time.
    fn fetch<'a>(&'a self, url: &'a Url) -> FetchFuture<'a>;
}

/// The future of a fetch.
pub(super) type FetchFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, FetchError>> + Send + 'a>>;

/// Fetches over the network.
pub(super) struct HttpFetch(reqwest::Client);

impl HttpFetch {
    /// Builds a client for `url`, and for those that a document there names.
    pub(super) fn new(url: &Url) -> Result<Self, reqwest::Error> {
        let same_origin = reqwest::redirect::Policy::custom(move |attempt| {
            // A redirect to another host, or away from TLS, would let a third party choose the keys.
            let is_home = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
            if !is_home || attempt.previous().len() > REDIRECTS_MAX { attempt.stop() } else { attempt.follow() }
        });
        let client = outbound::client_builder(url.as_str())
            .redirect(same_origin)
            .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")))
            .https_only(!is_loopback(url));
        Ok(Self(client.build()?))
    }
}

impl Fetch for HttpFetch {
    fn fetch<'a>(&'a self, url: &'a Url) -> FetchFuture<'a> {
        Box::pin(async move {
            let accept = (reqwest::header::ACCEPT, "application/jwk-set+json, application/json");
            let response = self.0.get(url.clone()).header(accept.0, accept.1).send().await?;
            if response.status() != reqwest::StatusCode::OK {
                return Err(FetchError::Status(response.status().as_u16()));
            }
            // I6: the document is bounded.
            outbound::body(response, jwks::BYTES_MAX).await?.ok_or(FetchError::TooLarge)
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::http::header::LOCATION;
    use axum::routing::get;

    use super::*;

    /// Starts a server on this machine and returns its URL.
    async fn serve() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let elsewhere = format!("http://localhost:{}/jwks", address.port());
        let router = Router::new()
            .route("/jwks", get(|| async { "{}" }))
            .route("/moved", get(|| async { (StatusCode::FOUND, [(LOCATION, "/jwks")]) }))
            .route("/circle", get(|| async { (StatusCode::FOUND, [(LOCATION, "/circle")]) }))
            .route("/elsewhere", get(async || (StatusCode::FOUND, [(LOCATION, elsewhere)])))
            .route("/limit", get(|| async { " ".repeat(jwks::BYTES_MAX) }))
            .route("/large", get(|| async { " ".repeat(jwks::BYTES_MAX + 1) }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    async fn fetch(url: &str) -> Result<usize, FetchError> {
        let url = Url::parse(url).unwrap();
        HttpFetch::new(&url).unwrap().fetch(&url).await.map(|document| document.len())
    }

    #[tokio::test]
    async fn a_document_is_fetched_up_to_its_limit_and_from_its_host_only() {
        let server = serve().await;
        let status = |result: Result<usize, FetchError>| match result {
            Err(FetchError::Status(status)) => status,
            other => panic!("{other:?}"),
        };
        assert_eq!(fetch(&format!("{server}/jwks")).await.unwrap(), 2);
        assert_eq!(fetch(&format!("{server}/moved")).await.unwrap(), 2);
        assert_eq!(fetch(&format!("{server}/limit")).await.unwrap(), jwks::BYTES_MAX);
        // I6: a document is read up to its limit.
        assert!(matches!(fetch(&format!("{server}/large")).await, Err(FetchError::TooLarge)));
        assert_eq!(status(fetch(&format!("{server}/missing")).await), 404);
        assert_eq!(status(fetch(&format!("{server}/elsewhere")).await), 302, "another host is not followed");
        assert_eq!(status(fetch(&format!("{server}/circle")).await), 302);
    }

    #[tokio::test]
    async fn a_fetch_from_another_machine_requires_tls() {
        let error = fetch("http://issuer.example/jwks").await.unwrap_err();
        assert!(matches!(&error, FetchError::Request(cause) if cause.is_builder()), "{error:?}");
    }

    #[tokio::test]
    async fn i8_no_error_shows_the_url() {
        let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for url in [format!("http://{unused}/jwks?key=hunter2"), "http://issuer.example/hunter2".to_owned()] {
            let error = anyhow::Error::new(fetch(&url).await.unwrap_err());
            assert!(!format!("{error:#} {error:?}").contains("hunter2"), "{error:#} {error:?}");
        }
    }
}
