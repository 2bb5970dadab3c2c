//! HTTP clients for requests to other servers.
//!
//! The proxy of the environment applies (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`), but never to loopback
//! addresses: a proxy would connect to its own machine, and see what crosses no network.

use url::Url;

use crate::config::is_loopback;

/// The builder of a client for requests to `url`, which follows no redirects. A text that is not a URL is refused when
/// a request is made.
pub(crate) fn client_builder(url: &str) -> reqwest::ClientBuilder {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let is_loopback = Url::parse(url).is_ok_and(|url| is_loopback(&url));
    if is_loopback { client.no_proxy() } else { client }
}

/// Longest error code of an authorization server that is shown, in bytes. *Chosen*: those of the specifications have
/// less than 32.
const CODE_BYTES_MAX: usize = 64;

/// Returns true if `code` is an error code of OAuth (RFC 6749 5.2), rather than text that may repeat a secret.
pub(crate) fn is_error_code(code: &str) -> bool {
    !code.is_empty()
        && code.len() <= CODE_BYTES_MAX
        && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// The body of a response. `None`: it is longer than `limit` bytes.
///
/// # Errors
/// The connection broke.
pub(crate) async fn body(mut response: reqwest::Response, limit: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i8_only_an_error_code_is_shown() {
        assert!(is_error_code("invalid_grant"));
        for text in ["", "the token eyJ0 is bad", "EYJ0", &"a".repeat(CODE_BYTES_MAX + 1)] {
            assert!(!is_error_code(text), "{text}");
        }
    }
}
