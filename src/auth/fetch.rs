//! Fetching a JWKS over HTTPS: one small document, within limits, from the host that was configured.

use std::pin::Pin;

use url::Url;

use crate::auth::jwks;
use crate::config::is_loopback;

/// Most redirects that are followed. *Chosen*: moves within a host are one or two.
const REDIRECTS_MAX: usize = 3;

/// Why there is no document. None holds more than the URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum FetchError {
    #[error("the request failed")]
    Request(#[from] reqwest::Error),
    #[error("the issuer answered with HTTP {0}")]
    Status(u16),
    #[error("the document is larger than {} bytes", jwks::BYTES_MAX)]
    TooLarge,
}

/// The seam between an issuer's keys and the network.
pub(super) trait Fetch: Send + Sync {
    /// The document at `url`, at most [`jwks::BYTES_MAX`]. The caller sets the time limit.
    fn fetch<'a>(&'a self, url: &'a Url) -> Fetching<'a>;
}

/// A fetch under way.
pub(super) type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, FetchError>> + Send + 'a>>;

/// The network.
pub(super) struct Http(reqwest::Client);

impl Http {
    /// A client for this URL.
    pub(super) fn new(url: &Url) -> Result<Self, reqwest::Error> {
        let home = url.origin();
        let same_origin = reqwest::redirect::Policy::custom(move |attempt| {
            // Another host, or no TLS: whoever sends us there would choose our keys.
            if attempt.url().origin() != home || attempt.previous().len() > REDIRECTS_MAX {
                attempt.stop()
            } else {
                attempt.follow()
            }
        });
        let client = reqwest::Client::builder()
            .redirect(same_origin)
            .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")));
        // A proxy, as the environment names it, does not lead to this machine.
        let client = if is_loopback(url) { client.no_proxy() } else { client.https_only(true) };
        Ok(Self(client.build()?))
    }
}

impl Fetch for Http {
    fn fetch<'a>(&'a self, url: &'a Url) -> Fetching<'a> {
        Box::pin(async move {
            let accept = (reqwest::header::ACCEPT, "application/jwk-set+json, application/json");
            let mut response = self.0.get(url.clone()).header(accept.0, accept.1).send().await?;
            if response.status() != reqwest::StatusCode::OK {
                return Err(FetchError::Status(response.status().as_u16()));
            }
            let mut document = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                if document.len() + chunk.len() > jwks::BYTES_MAX {
                    return Err(FetchError::TooLarge); // I6: the document is bounded.
                }
                document.extend_from_slice(&chunk);
            }
            Ok(document)
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

    /// A server on this machine, and its address.
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
        Http::new(&url).unwrap().fetch(&url).await.map(|document| document.len())
    }

    #[tokio::test]
    async fn a_document_is_fetched_within_its_limit_and_from_its_host() {
        let server = serve().await;
        let status = |result: Result<usize, FetchError>| match result {
            Err(FetchError::Status(status)) => status,
            other => panic!("{other:?}"),
        };
        assert_eq!(fetch(&format!("{server}/jwks")).await.unwrap(), 2);
        assert_eq!(fetch(&format!("{server}/moved")).await.unwrap(), 2);
        assert_eq!(fetch(&format!("{server}/limit")).await.unwrap(), jwks::BYTES_MAX);
        // I6: a document is read to its limit and no further.
        assert!(matches!(fetch(&format!("{server}/large")).await, Err(FetchError::TooLarge)));
        assert_eq!(status(fetch(&format!("{server}/missing")).await), 404);
        assert_eq!(status(fetch(&format!("{server}/elsewhere")).await), 302, "another host is not followed");
        assert_eq!(status(fetch(&format!("{server}/circle")).await), 302);
    }

    #[tokio::test]
    async fn nothing_is_fetched_without_tls_from_another_machine() {
        let error = fetch("http://issuer.example/jwks").await.unwrap_err();
        assert!(matches!(&error, FetchError::Request(cause) if cause.is_builder()), "{error:?}");
    }
}
