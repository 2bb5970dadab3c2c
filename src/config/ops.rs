//! `[ops]`: the operations listener, and the sign-in to its console.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::auth::Auth;
use super::deserialize::address_or_off;
use crate::file_access::FileAccess;

/// `[ops]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Ops {
    /// The address of `/healthz`, `/readyz`, `/metrics` and the console; `None` (written `"off"`): they are not served.
    #[serde(deserialize_with = "address_or_off")]
    pub listen: Option<SocketAddr>,
    /// `Host` values accepted by the console besides loopback and the listener's own address.
    pub allowed_hosts: Vec<String>,
    /// The role that a token needs for the console.
    pub console_role: String,
    /// The URL at which browsers reach the operations listener through a proxy.
    pub public_url: Option<String>,
    /// The sign-in at an issuer; `None`: people sign in with a token.
    pub sign_in: Option<SignIn>,
}

/// `[ops.sign_in]`: the console as a client of an `OpenID` provider.
#[derive(Clone, Debug, Deserialize)]
pub struct SignIn {
    /// The owners and permissions that the file may have.
    #[serde(skip)]
    pub files: FileAccess,
    /// The issuer; `None`: the only one of `[[auth.issuers]]`.
    pub issuer: Option<String>,
    /// The console's id there.
    pub client_id: String,
    /// File with the console's secret there, read again when it changes; `None`: a public client.
    pub client_secret_file: Option<PathBuf>,
    /// The scopes that are requested, separated by spaces.
    #[serde(default = "SignIn::default_scope")]
    pub scope: String,
}

impl Ops {
    /// The `Host` values that the operations listener accepts besides its own addresses.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        let public = self.public_url().and_then(|url| url.host_str().map(str::to_owned));
        self.allowed_hosts.iter().cloned().chain(public).collect()
    }

    /// Returns true if browsers reach the operations listener by https.
    #[must_use]
    pub fn is_behind_tls(&self) -> bool {
        self.public_url().is_some_and(|url| url.scheme() == "https")
    }

    /// Scheme, host and port at which browsers reach the operations listener, which is bound to `bound`.
    #[must_use]
    pub fn origin(&self, bound: SocketAddr) -> String {
        self.public_url().map_or_else(|| format!("http://{bound}"), |url| url.origin().ascii_serialization())
    }

    fn public_url(&self) -> Option<Url> {
        self.public_url.as_deref().and_then(|url| Url::parse(url).ok())
    }
}

impl SignIn {
    /// The issuer: the named one, or the only one. `None` if `auth` does not have it.
    #[must_use]
    pub fn issuer<'a>(&self, auth: &'a Auth) -> Option<&'a str> {
        let found = match (&self.issuer, auth.issuers.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(named), all) => all.iter().find(|issuer| issuer.issuer == *named),
        };
        found.map(|issuer| issuer.issuer.as_str())
    }

    fn default_scope() -> String {
        "openid profile email".to_owned()
    }
}

impl Default for Ops {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 8809))),
            allowed_hosts: Vec::new(),
            console_role: "auditor".to_owned(),
            public_url: None,
            sign_in: None,
        }
    }
}
