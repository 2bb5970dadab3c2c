//! `[auth]` and `[server.tls]`: how callers are authenticated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::deserialize::duration;
use crate::file_access::FileAccess;

/// `[auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// The owners and permissions that the files may have.
    #[serde(skip)]
    pub files: FileAccess,
    /// The values of `aud` that are accepted at every endpoint, besides the URLs of the endpoints.
    pub audiences: Vec<String>,
    /// The claim that contains the caller's role (a string) or roles (a list).
    pub role_claim: String,
    /// The roles that a value of the role claim stands for. Empty: each value is a role.
    pub role_map: BTreeMap<String, Vec<String>>,
    /// A scope that every token must have, if any; a token without it gets 403 `insufficient_scope`.
    pub required_scope: Option<String>,
    /// Clock difference tolerated on `exp` and `nbf`.
    #[serde(deserialize_with = "duration")]
    pub leeway: Duration,
    /// File with the hashes of static tokens, their subjects and roles.
    pub tokens_file: Option<PathBuf>,
    /// The roles of each client certificate, by its subject.
    pub certificates: BTreeMap<String, Vec<String>>,
    /// The keys that verify tokens.
    pub keys: Vec<Key>,
    /// The issuers whose keys come as a JWKS. Without a key, issuer, static token or certificate every caller is
    /// refused.
    pub issuers: Vec<Issuer>,
}

/// `[[auth.keys]]`: one key and the one algorithm it verifies.
#[derive(Clone, Debug, Deserialize)]
pub struct Key {
    /// The `kid` of the tokens that this key verifies; a key without one is tried for tokens without `kid`.
    pub kid: Option<String>,
    /// `HS256`, `RS256`, `ES256` or `EdDSA`.
    pub algorithm: String,
    /// The `iss` that a token verified by this key must have.
    pub issuer: String,
    /// File with the HS256 secret, at least 32 bytes.
    pub secret_file: Option<PathBuf>,
    /// Environment variable with the HS256 secret.
    pub secret_env: Option<String>,
    /// PEM file with the public key.
    pub public_key_file: Option<PathBuf>,
}

/// `[[auth.issuers]]`: an issuer that publishes its keys.
#[derive(Clone, Debug, Deserialize)]
pub struct Issuer {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// File with its JWKS, read again when it changes.
    pub jwks_file: Option<PathBuf>,
    /// The URL from which its JWKS is fetched.
    pub jwks_url: Option<String>,
    /// The age at which a fetched JWKS is fetched again.
    #[serde(default = "Issuer::default_jwks_ttl", deserialize_with = "duration")]
    pub jwks_ttl: Duration,
    /// The algorithms that its keys may have. HMAC is excluded: a published key is not a secret.
    #[serde(default = "Issuer::default_algorithms")]
    pub algorithms: Vec<String>,
    /// The values of `aud` of its tokens, in place of `auth.audiences`.
    pub audiences: Option<Vec<String>>,
    /// The claim with the roles, if it differs from `auth.role_claim`.
    pub role_claim: Option<String>,
    /// The claim with a name of the subject that people can read.
    pub name_claim: Option<String>,
    /// The roles that its tokens may have, if they are limited.
    pub roles: Option<Vec<String>>,
    /// The text that is put before each role of its tokens.
    pub role_prefix: Option<String>,
}

/// `[server.tls]`
#[derive(Clone, Debug, Deserialize)]
pub struct Tls {
    /// The owners and permissions that the files may have.
    #[serde(skip)]
    pub files: FileAccess,
    /// PEM file with the certificate and its chain, without the root.
    pub cert_file: PathBuf,
    /// PEM file with the certificate's private key.
    pub key_file: PathBuf,
    /// PEM file with the authorities whose client certificates identify callers that send no token.
    pub client_ca_file: Option<PathBuf>,
    /// PEM file with the revocation lists of these authorities.
    pub client_crl_file: Option<PathBuf>,
}

impl Auth {
    /// Returns true if any token can be verified.
    #[must_use]
    pub fn accepts_tokens(&self) -> bool {
        !self.keys.is_empty() || !self.issuers.is_empty() || self.tokens_file.is_some()
    }
}

impl Issuer {
    fn default_jwks_ttl() -> Duration {
        Duration::from_mins(10)
    }

    fn default_algorithms() -> Vec<String> {
        ["RS256", "ES256", "EdDSA"].map(str::to_owned).to_vec()
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            files: FileAccess::default(),
            audiences: vec!["gatepost".to_owned()],
            role_claim: "role".to_owned(),
            role_map: BTreeMap::new(),
            required_scope: None,
            leeway: Duration::from_secs(30),
            tokens_file: None,
            certificates: BTreeMap::new(),
            keys: Vec::new(),
            issuers: Vec::new(),
        }
    }
}
