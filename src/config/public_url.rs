//! The URL at which clients reach a gateway through proxies.

/// The URL at which clients reach a gateway: scheme, host, port, and the prefix of its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    origin: String,
    host: String,
    path: String,
}

impl PublicUrl {
    /// Reads a URL. A query, a fragment and a slash at the end of the path are left out.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let url = url::Url::parse(text).ok()?;
        let path = url.path().trim_end_matches('/').to_owned();
        Some(Self { origin: url.origin().ascii_serialization(), host: url.host_str()?.to_owned(), path })
    }

    /// The host, without its port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The prefix of the paths: empty, or with a slash at its beginning and none at its end.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl std::fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_an_origin_and_a_prefix() {
        for (text, shown, host, path) in [
            ("https://mcp.example.com", "https://mcp.example.com", "mcp.example.com", ""),
            ("https://mcp.example.com:8443/a/b/?q#f", "https://mcp.example.com:8443/a/b", "mcp.example.com", "/a/b"),
            ("http://[::1]:80/", "http://[::1]", "[::1]", ""),
        ] {
            let url = PublicUrl::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.host(), url.path()), (shown, host, path));
        }
        assert_eq!(PublicUrl::parse("nonsense"), None);
    }
}
