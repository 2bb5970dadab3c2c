//! Networks of addresses, for example `10.0.0.0/8` or `2001:db8::/32`.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};

/// A network: the addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Returns true if `address` is in the network. An IPv4 address that is written as an IPv6 address counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                same_bits(network.to_bits().into(), address.to_bits().into(), 32 - u32::from(self.prefix))
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                same_bits(network.to_bits(), address.to_bits(), 128 - u32::from(self.prefix))
            }
            _ => false,
        }
    }

    /// The network of 64 bits of an IPv6 address, which is the least that a customer of a provider has; an IPv4 address
    /// as it is.
    #[must_use]
    pub fn of_customer(address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        }
    }
}

/// Returns true if `a` and `b` differ at most in the last `ignored` bits.
fn same_bits(a: u128, b: u128, ignored: u32) -> bool {
    a.checked_shr(ignored) == b.checked_shr(ignored)
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error =
            || format!("{text:?} is not a network: write an address, or one with its bits, for example \"10.0.0.0/8\"");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok().filter(|prefix| *prefix <= bits));
        let network = Self { address, prefix: prefix.ok_or_else(error)? };
        if address.to_canonical() != address {
            return Err(format!("{text:?} is an IPv4 address in IPv6: write it as IPv4"));
        }
        let value = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        // A network whose last bits are set was probably meant to be another one.
        if value.trailing_zeros() < u32::from(bits - network.prefix) {
            return Err(format!("{text:?} has bits after its prefix: write the first address of the network"));
        }
        Ok(network)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_contains_the_addresses_that_begin_with_its_bits() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.0.0.1", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("::/0", "ff::", "1.2.3.4"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?} {outside}");
        }
    }

    #[test]
    fn text_that_is_not_a_network_is_refused() {
        for text in
            ["", "x", "10.0.0.0/33", "10.0.0.1/8", "::/129", "::1/64", "10.0.0.0/", "1.2.3.4/-1", "::ffff:1.2.3.4"]
        {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        assert!("10.0.0.0/8".parse::<Network>().is_ok() && "2001:db8::/64".parse::<Network>().is_ok());
    }
}
