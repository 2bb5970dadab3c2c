//! Discovery of an issuer's key set and of its sign-in by the issuer's metadata. *Spec*: `OpenID` Connect Discovery 1.0
//! 4, and RFC 8414 3.

use serde::Deserialize;
use serde_json::Value;
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
    // Members of another type do not make the keys unusable.
    #[serde(default)]
    authorization_endpoint: Value,
    #[serde(default)]
    token_endpoint: Value,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Value,
    #[serde(default)]
    authorization_response_iss_parameter_supported: Value,
}

/// The metadata of an issuer, in its own name.
pub(super) struct Metadata {
    document: Document,
    /// True if the issuer is on this machine.
    is_local: bool,
}

/// The endpoints at which people sign in.
#[derive(Clone, Debug)]
pub(super) struct SignInEndpoints {
    /// The page to which a browser is sent.
    pub(super) authorization: Url,
    /// The endpoint that exchanges a code for tokens.
    pub(super) token: Url,
    /// True if a client's secret is sent in the body, because the header is not supported.
    pub(super) is_secret_in_body: bool,
    /// True if each response to the browser names the issuer (RFC 9207).
    pub(super) names_issuer: bool,
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
    #[error("{0} in the issuer's metadata is missing or not a URL with https")]
    Url(&'static str),
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

    /// Fetches the metadata of `issuer`. The caller limits the time.
    ///
    /// # Errors
    /// [`DiscoveryError`]: the document is missing, or is not that of this issuer.
    pub(super) async fn fetch(&self, issuer: &str, fetch: &dyn Fetch) -> Result<Metadata, DiscoveryError> {
        let document = match fetch.fetch(&self.openid).await {
            Err(FetchError::Status(_)) => fetch.fetch(&self.oauth).await,
            other => other,
        };
        let document = document.map_err(DiscoveryError::Fetch)?;
        let document: Document = serde_json::from_slice(&document).map_err(|_| DiscoveryError::Document)?;
        // *Spec*: OpenID Connect Discovery 4.3, RFC 8414 3.3. Otherwise another issuer's keys would sign for this one.
        if document.issuer != issuer {
            let found = document.issuer;
            let found = found[..found.floor_char_boundary(ISSUER_SHOWN_MAX)].to_owned();
            return Err(DiscoveryError::OtherIssuer { found });
        }
        Ok(Metadata { document, is_local: is_loopback(&self.openid) })
    }
}

impl Metadata {
    /// The URL of the key set.
    ///
    /// # Errors
    /// [`DiscoveryError::Url`]: it cannot be trusted.
    pub(super) fn keys_url(&self) -> Result<Url, DiscoveryError> {
        self.url("jwks_uri", Some(&self.document.jwks_uri))
    }

    /// The endpoints at which people sign in.
    ///
    /// # Errors
    /// [`DiscoveryError::Url`]: one of them is missing or cannot be trusted.
    pub(super) fn sign_in(&self) -> Result<SignInEndpoints, DiscoveryError> {
        let document = &self.document;
        // *Spec*: OpenID Connect Discovery 1.0 3: client_secret_basic if the list is omitted.
        let methods = document.token_endpoint_auth_methods_supported.as_array();
        let has = |method: &str| methods.is_some_and(|methods| methods.iter().any(|known| known == method));
        Ok(SignInEndpoints {
            authorization: self.url("authorization_endpoint", document.authorization_endpoint.as_str())?,
            token: self.url("token_endpoint", document.token_endpoint.as_str())?,
            is_secret_in_body: has("client_secret_post") && !has("client_secret_basic"),
            names_issuer: document.authorization_response_iss_parameter_supported == Value::Bool(true),
        })
    }

    fn url(&self, name: &'static str, text: Option<&str>) -> Result<Url, DiscoveryError> {
        // An issuer elsewhere must not lead to this machine.
        let is_allowed = |url: &Url| is_protected(url) && (self.is_local || !is_loopback(url));
        text.and_then(|text| Url::parse(text).ok()).filter(is_allowed).ok_or(DiscoveryError::Url(name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

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
        let metadata = MetadataUrls::of(issuer).unwrap().fetch(issuer, &network).await?;
        metadata.keys_url().map(String::from)
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

    #[tokio::test]
    async fn endpoints_of_the_sign_in_are_protected_and_not_on_this_machine() {
        let at = "https://id.example/realms/one/.well-known/openid-configuration";
        let endpoints = async |change: Value| {
            let mut document = json!({
                "issuer": ISSUER,
                "jwks_uri": "https://id.example/jwks",
                "authorization_endpoint": "https://id.example/authorize?tenant=1",
                "token_endpoint": "https://id.example/token",
            });
            for (key, value) in change.as_object().unwrap() {
                document[key] = value.clone();
            }
            let network = Documents(BTreeMap::from([(at.to_owned(), document.to_string())]));
            MetadataUrls::of(ISSUER).unwrap().fetch(ISSUER, &network).await.unwrap().sign_in()
        };
        let found = endpoints(json!({})).await.unwrap();
        assert_eq!(found.authorization.as_str(), "https://id.example/authorize?tenant=1");
        assert_eq!((found.token.as_str(), found.names_issuer), ("https://id.example/token", false));
        assert!(!found.is_secret_in_body);
        for (methods, in_body) in [
            (json!(["client_secret_post"]), true),
            (json!(["client_secret_post", "client_secret_basic"]), false),
            (json!(["none"]), false),
            (json!("client_secret_post"), false),
        ] {
            let found = endpoints(json!({ "token_endpoint_auth_methods_supported": methods })).await.unwrap();
            assert_eq!(found.is_secret_in_body, in_body);
        }
        assert!(
            endpoints(json!({ "authorization_response_iss_parameter_supported": true })).await.unwrap().names_issuer
        );
        for name in ["authorization_endpoint", "token_endpoint"] {
            for url in [json!("http://id.example/x"), json!("https://127.0.0.1/x"), json!("javascript:x"), json!(null)]
            {
                let error = endpoints(json!({ name: url })).await.unwrap_err().to_string();
                assert!(error.starts_with(name), "{url}: {error}");
            }
        }
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
