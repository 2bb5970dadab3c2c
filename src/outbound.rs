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
