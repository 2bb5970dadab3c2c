//! `[backends.NAME.oauth]`: the gateway's OAuth client for a backend.

use std::path::PathBuf;

use serde::Deserialize;

/// `[backends.NAME.oauth]`: the client that gets the tokens of the gateway's requests to an HTTP backend.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct BackendOAuth {
    /// The URL of the token endpoint.
    pub token_url: String,
    /// The gateway's id at the token server.
    pub client_id: String,
    /// File with the gateway's secret there, read again when it changes.
    pub client_secret_file: PathBuf,
    /// The way in which id and secret are sent.
    pub client_auth: ClientAuth,
    /// The logical name of the backend, for the token server.
    pub audience: Option<String>,
    /// The URI of the backend, for the token server (RFC 8707).
    pub resource: Option<String>,
    /// The scopes of the tokens, separated by spaces.
    pub scope: Option<String>,
    /// True if the requests of callers are made with tokens that are issued for the callers'.
    pub on_behalf: bool,
    /// The issuers whose tokens may be sent to the token server for this. Empty: the only issuer that there is.
    pub subject_issuers: Vec<String>,
    /// True if such a token must name the caller's subject.
    pub same_subject: bool,
}

/// The way in which a client authenticates at a token server. *Spec*: RFC 6749 2.3.1.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// In the header `Authorization`.
    #[default]
    Basic,
    /// In the body.
    Post,
}

impl Default for BackendOAuth {
    fn default() -> Self {
        Self {
            token_url: String::new(),
            client_id: String::new(),
            client_secret_file: PathBuf::new(),
            client_auth: ClientAuth::Basic,
            audience: None,
            resource: None,
            scope: None,
            on_behalf: false,
            subject_issuers: Vec::new(),
            same_subject: true,
        }
    }
}
