//! The address of a client behind proxies that the operator trusts.
//!
//! A proxy appends the address from which it received a request to a header. Only a header that such a proxy has
//! completed is believed, and of it only the part that trusted proxies have written: the addresses from the right, as
//! far as they are addresses of trusted proxies, and one more, which is the client's.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use crate::audit::record::ClientAddr;
use crate::config::{ForwardedHeader, Network};

/// The proxies that the operator trusts, and the header in which they name the client.
#[derive(Debug)]
pub(crate) struct TrustedProxies {
    networks: Vec<Network>,
    header: ForwardedHeader,
}

impl TrustedProxies {
    pub(crate) fn new(networks: Vec<Network>, header: ForwardedHeader) -> Self {
        Self { networks, header }
    }

    /// Returns true if `address` is that of a trusted proxy.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// The client's address: that of `peer`, unless it is a trusted proxy and names another. If a trusted proxy names
    /// something that is not an address, such as `unknown`, the address is that of this proxy.
    pub(crate) fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> ClientAddr {
        let mut client = ClientAddr::from(peer);
        if !self.contains(peer.ip()) {
            return client;
        }
        match self.header {
            ForwardedHeader::XForwardedFor => self.first_untrusted(&mut client, x_forwarded_for(headers)),
            ForwardedHeader::Forwarded => self.first_untrusted(&mut client, forwarded(headers)),
        }
        client
    }

    /// Moves `client` along the addresses that are `named`, from the right, as long as trusted proxies have named them.
    fn first_untrusted(&self, client: &mut ClientAddr, named: impl Iterator<Item = Option<ClientAddr>>) {
        for address in named {
            let Some(address) = address else { return };
            *client = address;
            if !self.contains(client.ip()) {
                return;
            }
        }
    }
}

/// The addresses of `X-Forwarded-For`, from the right. `None` in place of one that cannot be read.
fn x_forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = Option<ClientAddr>> {
    let values = headers.get_all("x-forwarded-for").iter().rev();
    let texts = values.map(|value| value.to_str().unwrap_or("unknown"));
    texts.flat_map(|text| text.rsplit(',')).map(|text| address(text.trim()))
}

/// The addresses of `Forwarded` (RFC 7239), from the right. `None` in place of one that cannot be read.
fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Option<ClientAddr>> {
    let values = headers.get_all("forwarded").iter().rev();
    let texts = values.map(|value| value.to_str().unwrap_or("unknown"));
    // From the right, a quote that the client has opened does not hide what the proxies have appended to it.
    texts.flat_map(|text| text.rsplit(outside_quotes(','))).map(|element| {
        let mut found = None;
        for pair in element.split(outside_quotes(';')) {
            let (name, value) = pair.split_once('=')?;
            if name.trim().eq_ignore_ascii_case("for") && found.replace(unquoted(value.trim())?).is_some() {
                return None;
            }
        }
        address(found?)
    })
}

/// Finds `separator` where it is not in a quoted string. A proxy's own part has no escaped quotes.
fn outside_quotes(separator: char) -> impl FnMut(char) -> bool {
    let mut is_quoted = false;
    move |c| {
        is_quoted ^= c == '"';
        c == separator && !is_quoted
    }
}

/// The value of a token or of a quoted string.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        None => Some(value),
        // An address has no character that would have to be escaped.
        Some(rest) => rest.strip_suffix('"').filter(|inner| !inner.contains(['"', '\\'])),
    }
}

/// An address, with or without a port; IPv6 addresses with a port are in brackets.
fn address(text: &str) -> Option<ClientAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(SocketAddr::new(address.ip().to_canonical(), address.port()).into());
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    Some(bare.parse::<IpAddr>().ok()?.to_canonical().into())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(header: ForwardedHeader, peer: &str, values: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "2001:db8:1::/48"].map(|network| network.parse().unwrap());
        let mut headers = HeaderMap::new();
        let name = if header == ForwardedHeader::Forwarded { "forwarded" } else { "x-forwarded-for" };
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        // The other header is never believed.
        let other = if header == ForwardedHeader::Forwarded { "x-forwarded-for" } else { "forwarded" };
        headers.append(other, HeaderValue::from_static("for=6.6.6.6"));
        TrustedProxies::new(networks.to_vec(), header).client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn address_that_trusted_proxies_name_is_the_clients() {
        let of = |peer: &str, values: &[&str]| client(ForwardedHeader::XForwardedFor, peer, values);
        assert_eq!(of("10.0.0.1:80", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(of("10.0.0.1:80", &["1.2.3.4:567"]), "1.2.3.4:567");
        assert_eq!(of("[2001:db8:1::1]:80", &["[2001:db8::2]:9"]), "[2001:db8::2]:9");
        assert_eq!(of("10.0.0.1:80", &["2001:db8::2"]), "2001:db8::2");
        assert_eq!(of("10.0.0.1:80", &["::ffff:1.2.3.4"]), "1.2.3.4");
        // A client may write what it likes to the left of its own address.
        assert_eq!(of("10.0.0.1:80", &["9.9.9.9, 10.0.0.7, 1.2.3.4, 10.0.0.2"]), "1.2.3.4");
        assert_eq!(of("10.0.0.1:80", &["9.9.9.9", "1.2.3.4", "10.0.0.2"]), "1.2.3.4");
        assert_eq!(of("10.0.0.1:80", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(of("10.0.0.1:80", &[]), "10.0.0.1:80");
        // Others are not believed.
        assert_eq!(of("1.1.1.1:80", &["1.2.3.4"]), "1.1.1.1:80");
        for not_an_address in ["unknown", "", "1.2.3", "1.2.3.4 x", "for=1.2.3.4", "1.2.3.4;", "\u{e9}"] {
            assert_eq!(of("10.0.0.1:80", &[not_an_address]), "10.0.0.1:80", "{not_an_address}");
            assert_eq!(of("10.0.0.1:80", &["9.9.9.9", not_an_address, "10.0.0.2"]), "10.0.0.2", "{not_an_address}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        let of = |values: &[&str]| client(ForwardedHeader::Forwarded, "10.0.0.1:80", values);
        assert_eq!(of(&["for=1.2.3.4"]), "1.2.3.4");
        assert_eq!(of(&["For=\"[2001:db8:cafe::17]:4711\";proto=http;by=10.0.0.9"]), "[2001:db8:cafe::17]:4711");
        assert_eq!(of(&["for=9.9.9.9;host=\"a,b;c\", for=1.2.3.4 ; proto=https"]), "1.2.3.4");
        assert_eq!(of(&["for=9.9.9.9", "by=\"x;y\";for=1.2.3.4, for=10.0.0.2"]), "1.2.3.4");
        for not_an_address in
            ["for=unknown", "for=_hidden", "proto=http", "for=1.2.3.4;for=5.6.7.8", "for", "for=\"1.2.3.4", "1.2.3.4"]
        {
            assert_eq!(of(&["for=9.9.9.9", not_an_address]), "10.0.0.1:80", "{not_an_address}");
        }
        // A quote that a client opens does not hide the address that the proxy appends.
        for opened in ["for=\"9.9.9.9", "\"", "for=x;y=\"\\\""] {
            assert_eq!(of(&[&format!("{opened}, for=1.2.3.4")]), "1.2.3.4", "{opened}");
        }
    }
}
