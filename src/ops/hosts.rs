//! The hosts for which the operations listener answers, as a defense against DNS rebinding: a page in a browser on the
//! operator's machine sends the name that was rebound.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use nix::ifaddrs::getifaddrs;

use crate::gateway::message::headers::{is_host_allowed, single, without_port};

/// The hosts for which a listener answers, besides loopback.
#[derive(Debug)]
struct Hosts {
    /// The setting, and the address that the listener is bound to.
    names: Vec<String>,
    /// The listener is bound to all addresses of the machine.
    is_bound_to_all: bool,
}

/// Lets `router` answer only requests for `allowed`, for loopback, and for the addresses at which `listener` listens.
pub fn guard(router: Router, allowed: &[String], listener: SocketAddr) -> Router {
    let ip = listener.ip();
    let own = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    let hosts = Hosts { names: [allowed, &[own]].concat(), is_bound_to_all: ip.is_unspecified() };
    router.layer(middleware::from_fn_with_state(Arc::new(hosts), check))
}

async fn check(State(hosts): State<Arc<Hosts>>, request: Request<Body>, next: Next) -> Response {
    if hosts.answer(request.uri(), request.version(), request.headers()) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "this Host is not served; add it to ops.allowed_hosts\n").into_response()
    }
}

impl Hosts {
    fn answer(&self, uri: &Uri, version: Version, headers: &HeaderMap) -> bool {
        if !headers.contains_key(header::HOST) && uri.authority().is_none() {
            // *Spec*: HTTP/1.0, which health checks of load balancers speak and browsers do not, has no Host.
            return version == Version::HTTP_10;
        }
        let Some(host) = single(headers, header::HOST.as_str()) else { return false };
        // *Spec*: RFC 9112 3.2.2. A request line may have a whole URL, which overrides Host; if they differ, neither is
        // served.
        uri.authority().is_none_or(|authority| authority.as_str() == host)
            && (is_host_allowed(host, &self.names) || self.is_bound_to_all && is_own_address(without_port(host)))
    }
}

/// Returns true if `host` is an IP address of this machine: kubelet's probes and Prometheus send the pod's.
fn is_own_address(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let (Ok(ip), Ok(interfaces)) = (host.parse::<IpAddr>(), getifaddrs()) else { return false };
    interfaces.filter_map(|interface| interface.address).any(|address| match ip {
        IpAddr::V4(ip) => address.as_sockaddr_in().is_some_and(|address| address.ip() == ip),
        IpAddr::V6(ip) => address.as_sockaddr_in6().is_some_and(|address| address.ip() == ip),
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use tower_service::Service as _;

    use super::*;

    async fn status(listener: &str, request: axum::http::request::Builder) -> u16 {
        let router = Router::new().route("/metrics", axum::routing::get(async || "ok"));
        let mut router = guard(router, &["ops.example".to_owned()], listener.parse().unwrap());
        router.call(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
    }

    /// The status for one `Host`.
    async fn host(listener: &str, host: &str) -> u16 {
        status(listener, Request::get("/metrics").header("host", host)).await
    }

    #[tokio::test]
    async fn only_own_addresses_and_configured_names_are_served() {
        let loopback = "127.0.0.1:8809";
        for allowed in ["localhost:8809", "127.0.0.1:1", "[::1]", "LOCALHOST", "ops.example", "Ops.Example:443"] {
            assert_eq!(host(loopback, allowed).await, 200, "{allowed}");
        }
        for refused in
            ["evil.example", "evil.example:8809", "10.0.0.7", "localhost.evil.example", "ops.example.", "", "0"]
        {
            assert_eq!(host(loopback, refused).await, 403, "{refused}");
        }
        assert_eq!(host("10.0.0.7:8809", "10.0.0.7:8809").await, 200);
        assert_eq!(host("[fd00::1]:8809", "[fd00::1]:8809").await, 200);
        assert_eq!(host("10.0.0.7:8809", "10.0.0.8:8809").await, 403);
    }

    #[tokio::test]
    async fn a_listener_on_all_addresses_is_served_by_each_of_them() {
        let addresses: Vec<_> = getifaddrs().unwrap().filter_map(|interface| interface.address).collect();
        let mut found = 0;
        for address in addresses {
            let v4 = address.as_sockaddr_in().map(|address| address.ip().to_string());
            let v6 = address.as_sockaddr_in6().map(|address| format!("[{}]", address.ip()));
            for name in v4.into_iter().chain(v6) {
                found += 1;
                for listener in ["0.0.0.0:8809", "[::]:8809"] {
                    assert_eq!(host(listener, &format!("{name}:8809")).await, 200, "{name}");
                }
            }
        }
        assert!(found > 0);
        // Documentation addresses are nobody's.
        for foreign in ["203.0.113.5:8809", "[2001:db8::1]:8809", "evil.example:8809"] {
            assert_eq!(host("0.0.0.0:8809", foreign).await, 403, "{foreign}");
        }
    }

    #[tokio::test]
    async fn a_request_without_one_host_is_served_only_to_http_1_0() {
        let listener = "127.0.0.1:8809";
        assert_eq!(status(listener, Request::get("/metrics")).await, 403);
        assert_eq!(status(listener, Request::get("/metrics").version(Version::HTTP_10)).await, 200);
        let absolute = Request::get("http://evil.example/metrics").header("host", "localhost");
        assert_eq!(status(listener, absolute).await, 403);
        let twice = Request::get("/metrics").header("host", "localhost").header("host", "evil.example");
        assert_eq!(status(listener, twice).await, 403);
        let unreadable = Request::get("/metrics").header("host", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(status(listener, unreadable).await, 403);
    }
}
