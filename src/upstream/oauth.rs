//! The gateway as an OAuth client: the tokens of its requests to a backend.
//!
//! | grant | requests |
//! | --- | --- |
//! | client credentials (RFC 6749 4.4) | all, or with `on_behalf` the gateway's own: probes and lists |
//! | token exchange (RFC 8693) | with `on_behalf`, those of a caller, with a token that is issued for the caller's |
//!
//! A caller's token is sent to the token server only, never to a backend, and a request of a caller is never made with
//! the gateway's own token. Tokens are kept until shortly before they expire, exchanged ones at most as long as the
//! caller's token is valid. I8: no error, log line or `Debug` output contains a token.

mod access_token;
mod caller_token;
mod error;
mod exchanged;
mod token_cell;
mod token_server;

use std::sync::Arc;

pub(super) use access_token::AccessToken;
pub use caller_token::CallerToken;
pub use error::{CredentialError, Grant};
use exchanged::ExchangedTokens;
use token_cell::TokenCell;
use token_server::TokenServer;

use crate::config;

/// The OAuth client of the gateway for one backend.
#[derive(Debug)]
pub(super) struct OAuthClient {
    server: TokenServer,
    /// The gateway's own token.
    own: TokenCell,
    /// The tokens on behalf of callers; `None`: all requests are made with the gateway's own.
    exchanged: Option<ExchangedTokens>,
    /// The issuers whose tokens may be exchanged; empty: all.
    subject_issuers: Vec<String>,
    /// A token that names another subject than the caller's is refused.
    same_subject: bool,
}

impl OAuthClient {
    /// The client of a backend with this configuration; `config.files` are the owners that the secret's file may have.
    ///
    /// # Errors
    /// The setting below `oauth` that cannot be used, and the reason.
    pub(super) fn new(oauth: &config::BackendOAuth, backend: &config::Backend) -> Result<Self, (&'static str, String)> {
        let server = TokenServer::new(oauth, backend.files)?;
        let exchanged = oauth.on_behalf.then(ExchangedTokens::default);
        let (subject_issuers, same_subject) = (oauth.subject_issuers.clone(), oauth.same_subject);
        Ok(Self { server, own: TokenCell::default(), exchanged, subject_issuers, same_subject })
    }

    /// Returns true if requests of callers are made on their behalf.
    pub(super) fn is_on_behalf(&self) -> bool {
        self.exchanged.is_some()
    }

    /// The grant by which the token for a request is issued. `caller` is the caller's token; `None`: the request is the
    /// gateway's own, or is not made on behalf of its caller.
    pub(super) fn grant(caller: Option<&Arc<CallerToken>>) -> Grant {
        if caller.is_some() { Grant::Exchange } else { Grant::ClientCredentials }
    }

    /// Checks that the caller's token may be sent to the token server, which could use it here or elsewhere.
    ///
    /// # Errors
    /// [`CredentialError::OtherIssuer`].
    pub(super) fn check_issuer(&self, caller: &CallerToken) -> Result<(), CredentialError> {
        let (known, issuer) = (&self.subject_issuers, caller.issuer());
        if known.is_empty() || known.iter().any(|known| known == issuer) {
            return Ok(());
        }
        Err(CredentialError::OtherIssuer { issuer: issuer.to_owned() })
    }

    /// The token for a request. `caller` is as for [`OAuthClient::grant`]. Without a token that can be used, one is
    /// requested; at most one request for the same token is open.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub(super) async fn token(&self, caller: Option<&Arc<CallerToken>>) -> Result<Arc<AccessToken>, CredentialError> {
        let Some(caller) = caller else { return self.own.get(self.server.client_credentials()).await };
        // A token that has ended gives no access, however long the exchanged one is valid.
        if caller.has_ended() {
            return Err(CredentialError::CallerTokenEnded);
        }
        let exchanged = self.exchanged.as_ref().ok_or(CredentialError::NoCallerToken)?;
        self.check_issuer(caller)?;
        exchanged.of(caller).get(self.server.exchange(caller, self.same_subject)).await
    }

    /// Forgets a token that the backend rejected. Returns false if it is too young to be replaced: the rejection is the
    /// result of the request.
    pub(super) fn reject(&self, caller: Option<&Arc<CallerToken>>, token: &Arc<AccessToken>) -> bool {
        match (caller, &self.exchanged) {
            (Some(caller), Some(exchanged)) => exchanged.of(caller).reject(token),
            _ => self.own.reject(token),
        }
    }

    /// Forgets the tokens of callers whose own tokens have ended, or of all callers.
    pub(super) fn forget_exchanged(&self, all: bool) {
        if let Some(exchanged) = &self.exchanged {
            exchanged.forget(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::audit::record::Timestamp;
    use crate::auth::validity::Validity;
    use crate::upstream::{CallError, Owner, Upstreams};
    use crate::walls::Launcher;

    /// A backend that is called on behalf of callers, with a token server that does not exist.
    fn backend(dir: &std::path::Path) -> config::Backend {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join("secret");
        std::fs::write(&path, "secret").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let oauth = config::BackendOAuth {
            token_url: "http://127.0.0.1:1/token".to_owned(),
            client_id: "gate".to_owned(),
            client_secret_file: path,
            on_behalf: true,
            ..config::BackendOAuth::default()
        };
        let url = Some("http://127.0.0.1:1/mcp".to_owned());
        config::Backend { url, oauth: Some(oauth), probe_interval: std::time::Duration::ZERO, ..Default::default() }
    }

    #[tokio::test]
    async fn the_token_of_a_caller_that_has_ended_is_not_exchanged() {
        let dir = tempfile::tempdir().unwrap();
        let backend = backend(dir.path());
        let client = OAuthClient::new(backend.oauth.as_ref().unwrap(), &backend).unwrap();
        let until = |seconds: i64| {
            let end = Timestamp::from_micros(Timestamp::now().micros() + seconds * 1_000_000);
            Arc::new(CallerToken::new("i", "ann", "a.b.c", Validity::until(end)))
        };
        assert_eq!(client.token(Some(&until(-1))).await.unwrap_err(), CredentialError::CallerTokenEnded);
        let asked = client.token(Some(&until(60))).await.unwrap_err();
        assert!(matches!(asked, CredentialError::ServerDown { .. }), "{asked}");
    }

    #[tokio::test]
    async fn a_token_of_another_issuer_is_not_sent_to_the_token_server() {
        let dir = tempfile::tempdir().unwrap();
        let mut backend = backend(dir.path());
        let end = Timestamp::from_micros(Timestamp::now().micros() + 60_000_000);
        let asked = async |issuers: &[&str], issuer: &str, backend: &mut config::Backend| {
            backend.oauth.as_mut().unwrap().subject_issuers = issuers.iter().copied().map(str::to_owned).collect();
            let client = OAuthClient::new(backend.oauth.as_ref().unwrap(), backend).unwrap();
            client
                .token(Some(&Arc::new(CallerToken::new(issuer, "ann", "a.b.c", Validity::until(end)))))
                .await
                .unwrap_err()
        };
        for (issuers, issuer, is_asked) in
            [(&[][..], "i", true), (&["i", "j"], "j", true), (&["i"], "j", false), (&["i"], "I", false)]
        {
            let error = asked(issuers, issuer, &mut backend).await;
            let is_refused = matches!(&error, CredentialError::OtherIssuer { issuer: named } if named == issuer);
            assert_eq!(
                (is_refused, matches!(error, CredentialError::ServerDown { .. })),
                (!is_asked, is_asked),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_caller_without_a_token_never_gets_a_connection_of_the_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let backends = BTreeMap::from([("b".to_owned(), backend(dir.path()))]);
        let upstreams = Upstreams::start(&backends, &Launcher::direct()).unwrap();
        let backend = upstreams.get("b").unwrap();
        let owner = || Owner { issuer: "i".to_owned(), subject: "ann".to_owned(), roles: Vec::new() };
        let refused = backend.conversation(owner, None).await.unwrap_err();
        assert!(matches!(refused, CallError::Credential(CredentialError::NoCallerToken)), "{refused}");
    }
}
