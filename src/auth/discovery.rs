//! Discovery of an issuer's key set by the issuer's metadata. *Spec*: `OpenID` Connect Discovery 1.0 4, and RFC 8414 3.

use serde::Deserialize;
use url::Url;

use crate::auth::fetch::{Fetch, FetchError};
use crate::config::{is_loopback, is_protected, issuer_url};

/// The longest part of a foreign issuer that an error shows, in bytes. *Chosen*: real ones have under 100.
const ISSUER_SHOWN_MAX: usize = 256;

/// The metadata document, as far as it is read.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

/// The reason why an issuer's key set is not found.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoveryError {
    #[error("the issuer's metadata cannot be fetched")]
    Fetch(#[source] FetchError),
    #[error("the issuer's metadata is not a JSON object with issuer and jwks_uri: set jwks_url")]
    Document,
    #[error(
        "the issuer's metadata is that of another issuer, {found:?}: write its issuer exactly so, if it is the right one"
    )]
    OtherIssuer { found: String },
    #[error("jwks_uri in the issuer's metadata is not a URL with https")]
    KeysUrl,
}

/// The two places of an issuer's metadata. The second is for servers that have nothing at the first.
#[derive(Clone, Debug)]
pub(super) struct MetadataUrls {
    pub(super) openid: Url,
    pub(super) oauth: Url,
}

impl MetadataUrls {
    /// The places of an issuer, if it can have metadata.
    pub(super) fn of(issuer: &str) -> Option<Self> {
        let url = issuer_url(issuer)?;
        let path = url.path().trim_end_matches('/');
        let at = |path: &str| {
            let mut at = url.clone();
            at.set_path(path);
            at
        };
        Some(Self {
            openid: at(&format!("{path}/.well-known/openid-configuration")),
            oauth: at(&format!("/.well-known/oauth-authorization-server{path}")),
        })
    }

    /// Fetches the metadata of `issuer`, and returns the URL of its key set. The caller limits the time.
    ///
    /// # Errors
    /// [`DiscoveryError`]: the document is missing, or cannot be trusted for this issuer.
    pub(super) async fn keys_url(&self, issuer: &str, fetch: &dyn Fetch) -> Result<Url, DiscoveryError> {
        let document = match fetch.fetch(&self.openid).await {
            Err(FetchError::Status(_)) => fetch.fetch(&self.oauth).await,
            other => other,
        };
        let document = document.map_err(DiscoveryError::Fetch)?;
        let Document { issuer: found, jwks_uri } =
            serde_json::from_slice(&document).map_err(|_| DiscoveryError::Document)?;
        // *Spec*: OpenID Connect Discovery 4.3, RFC 8414 3.3. Otherwise another issuer's keys would sign for this one.
        if found != issuer {
            let found = found[..found.floor_char_boundary(ISSUER_SHOWN_MAX)].to_owned();
            return Err(DiscoveryError::OtherIssuer { found });
        }
        // An issuer elsewhere must not lead to this machine.
        let is_local = is_loopback(&self.openid);
        let is_allowed = |url: &Url| is_protected(url) && (is_local || !is_loopback(url));
        Url::parse(&jwks_uri).ok().filter(is_allowed).ok_or(DiscoveryError::KeysUrl)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::auth::fetch::FetchFuture;

    /// The documents of a network, by URL.
    struct Documents(BTreeMap<String, String>);

    impl Fetch for Documents {
        fn fetch<'a>(&'a self, url: &'a Url) -> FetchFuture<'a> {
            let found = self.0.get(url.as_str()).map(|text| text.clone().into_bytes());
            Box::pin(async { found.ok_or(FetchError::Status(404)) })
        }
    }

    const ISSUER: &str = "https://id.example/realms/one";

    async fn found(issuer: &str, at: &str, document: &Value) -> Result<String, DiscoveryError> {
        let network = Documents(BTreeMap::from([(at.to_owned(), document.to_string())]));
        MetadataUrls::of(issuer).unwrap().keys_url(issuer, &network).await.map(String::from)
    }

    #[tokio::test]
    async fn metadata_is_found_at_both_places() {
        for (issuer, at) in [
            (ISSUER, "https://id.example/realms/one/.well-known/openid-configuration"),
            (ISSUER, "https://id.example/.well-known/oauth-authorization-server/realms/one"),
            ("https://id.example/", "https://id.example/.well-known/openid-configuration"),
            ("https://id.example", "https://id.example/.well-known/oauth-authorization-server"),
            ("http://127.0.0.1:9", "http://127.0.0.1:9/.well-known/openid-configuration"),
        ] {
            let document = json!({ "issuer": issuer, "jwks_uri": "https://keys.example/jwks", "more": [] });
            assert_eq!(found(issuer, at, &document).await.unwrap(), "https://keys.example/jwks", "{issuer} {at}");
        }
        let elsewhere = found(ISSUER, "https://id.example/jwks", &json!({})).await.unwrap_err();
        assert!(matches!(elsewhere, DiscoveryError::Fetch(FetchError::Status(404))));
    }

    #[tokio::test]
    async fn metadata_that_is_not_the_issuers_own_is_refused() {
        let at = "https://id.example/realms/one/.well-known/openid-configuration";
        let refused = async |document: Value| found(ISSUER, at, &document).await.unwrap_err().to_string();
        let keys = "https://id.example/jwks";
        for other in
            ["https://id.example/realms/two", "https://id.example/realms/one/", "HTTPS://id.example/realms/one", ""]
        {
            let message = refused(json!({ "issuer": other, "jwks_uri": keys })).await;
            assert!(message.contains(&format!("another issuer, {other:?}")), "{message}");
        }
        for keys in
            ["http://id.example/jwks", "http://127.0.0.1/jwks", "https://localhost/jwks", "file:///jwks", "jwks", ""]
        {
            let message = refused(json!({ "issuer": ISSUER, "jwks_uri": keys })).await;
            assert!(message.starts_with("jwks_uri"), "{keys}: {message}");
        }
        for document in [json!([]), json!({ "issuer": ISSUER }), json!({ "issuer": [ISSUER], "jwks_uri": keys })] {
            assert!(refused(document).await.contains("not a JSON object with"));
        }
        let long = refused(json!({ "issuer": "x".repeat(10_000), "jwks_uri": keys })).await;
        assert!(long.len() < 2 * ISSUER_SHOWN_MAX, "I6: {}", long.len());
    }

    #[test]
    fn an_issuer_without_a_protected_url_has_no_metadata() {
        for issuer in
            ["gatepost", "", "http://id.example", "https://id.example?x", "https://id.example#x", "ftp://127.0.0.1"]
        {
            assert!(MetadataUrls::of(issuer).is_none(), "{issuer}");
        }
    }
}
