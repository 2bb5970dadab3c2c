//! The reason why a client on standard input is not served.

use super::token_source::TokenError;

/// The reason why a client is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token is not valid.
    #[error("the token is refused: {0}")]
    Token(String),
    /// The token expired or was withdrawn while the client was served.
    #[error("the token has expired or was withdrawn: start again with a valid one, or give --token-command")]
    Ended,
    /// The command gives no token.
    #[error("--token-command: {0}")]
    Command(#[source] TokenError),
    /// The command gives a token for another caller than before.
    #[error("--token-command: the new token is for another caller, or for other roles: start again to use it")]
    OtherCaller,
    /// The backend does not exist.
    #[error("backend {0:?} is not configured; name a configured backend, or all")]
    Backend(String),
}
