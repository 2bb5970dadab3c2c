//! A refused request, and the key by which refusals are aggregated.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::audit::record::{Caller, Digest, Status};

/// A refused request, as far as its window needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedRequest<'a> {
    pub(crate) caller: &'a Caller,
    /// The client's address; a client on standard input has none.
    pub(crate) addr: Option<IpAddr>,
    pub(crate) status: Status,
    /// The backend that the request named, if it is configured.
    pub(crate) backend: Option<&'a str>,
    pub(crate) method: &'a str,
    pub(crate) tool: Option<&'a str>,
    /// The reason, as the client gets it.
    pub(crate) reason: &'a str,
}

/// The kind of a refusal. It contains nothing that the caller can choose freely.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RefusalKey {
    /// Of a caller without a valid token.
    Stranger { network: Option<Network>, status: Status },
    /// Of a principal.
    Principal { identity: PrincipalId, status: Status, backend: Option<String> },
    /// Of all callers that have no window of their own.
    Others { is_stranger: bool, status: Status },
}

/// A principal: a digest of issuer and subject, so that its size is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PrincipalId([u8; 32]);

/// The network of an address: a /24 of IPv4, a /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Network(IpAddr);

impl RefusedRequest<'_> {
    /// Returns `true` if the caller has no valid token.
    pub(crate) fn is_stranger(&self) -> bool {
        self.caller.issuer.is_none()
    }
}

impl RefusalKey {
    /// The key of a refusal.
    pub(crate) fn of(refused: &RefusedRequest<'_>) -> Self {
        let status = refused.status;
        match &refused.caller.issuer {
            None => Self::Stranger { network: refused.addr.map(Network::of), status },
            Some(issuer) => Self::Principal {
                identity: PrincipalId::of(issuer, &refused.caller.subject),
                status,
                backend: refused.backend.map(str::to_owned),
            },
        }
    }

    /// The key for a refusal for whose own key there is no window.
    pub(crate) fn others(&self) -> Self {
        match *self {
            Self::Stranger { status, .. } => Self::Others { is_stranger: true, status },
            Self::Principal { status, .. } => Self::Others { is_stranger: false, status },
            Self::Others { is_stranger, status } => Self::Others { is_stranger, status },
        }
    }

    /// The principal; `None` for callers without a valid token.
    pub(crate) fn principal(&self) -> Option<PrincipalId> {
        match self {
            Self::Principal { identity, .. } => Some(*identity),
            Self::Stranger { .. } | Self::Others { .. } => None,
        }
    }
}

impl PrincipalId {
    fn of(issuer: &str, subject: &str) -> Self {
        // The length separates issuer and subject: both may contain any character.
        Self(Digest::of(format!("{} {issuer}{subject}", issuer.len()).as_bytes()).0)
    }
}

impl Network {
    /// The network of `addr`. An IPv4 address in IPv6 notation is an IPv4 address.
    pub(crate) fn of(addr: IpAddr) -> Self {
        Self(match addr.to_canonical() {
            IpAddr::V4(addr) => Ipv4Addr::from_bits(addr.to_bits() & (u32::MAX << 8)).into(),
            IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, if self.0.is_ipv4() { 24 } else { 64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_a_24_of_ipv4_and_a_64_of_ipv6() {
        for (addr, network) in [
            ("10.1.2.3", "10.1.2.0/24"),
            ("::ffff:10.1.2.255", "10.1.2.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
        ] {
            assert_eq!(Network::of(addr.parse().unwrap()).to_string(), network);
        }
    }

    #[test]
    fn issuers_and_subjects_are_not_confused() {
        assert_ne!(PrincipalId::of("a", "bc"), PrincipalId::of("ab", "c"));
        assert_ne!(PrincipalId::of("", "1 a"), PrincipalId::of("1 a", ""));
    }
}
