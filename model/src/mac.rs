//! Ethernet addresses, and the ones that are derived rather than chosen.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{NodeId, ParseError, Vni};

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The network's side of every link that an overlay shares with a sandbox or its host.
    pub const NETWORK: Self = Self([0x0e, 0x6e, 0x65, 0x74, 0x64, 0x01]);

    /// The router of a host: the address of its VXLAN device in every network. Locally administered
    /// (`06:…`), so it never meets an endpoint's `02:42:…`.
    pub fn of_router(node: NodeId) -> Self {
        let [_, _, _, a, b, c, d, e] = (node.0 ^ (node.0 >> 31)).to_be_bytes();
        Self([0x06, a, b, c, d, e])
    }

    /// The host's own port of a network on a LAN. Locally administered (`0a:…`), so it meets
    /// neither endpoints nor routers.
    pub fn of_shim(node: NodeId, vni: Vni) -> Self {
        let Self([_, a, b, c, d, e]) = Self::of_router(node);
        let [_, x, y, z] = u32::from(vni).to_be_bytes();
        Self([0x0a, a, b, c ^ x, d ^ y, e ^ z])
    }

    /// An endpoint's address, from its first IP address: an address that keeps its owner keeps its
    /// MAC. IPv4 gives `02:42:` and the four bytes, as Docker does; IPv6 gives `02:46:` and the
    /// last four bytes.
    pub fn of_endpoint(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                Self([0x02, 0x42, a, b, c, d])
            }
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.octets();
                Self([0x02, 0x46, a, b, c, d])
            }
        }
    }

    /// The IPv4 address that it has been made from, if it was.
    pub fn ipv4(self) -> Option<Ipv4Addr> {
        let [0x02, 0x42, a, b, c, d] = self.0 else {
            return None;
        };
        Some(Ipv4Addr::new(a, b, c, d))
    }

    /// This one, and those to be taken in its place where somebody has it: they differ in the
    /// second byte.
    pub fn variants(self) -> impl Iterator<Item = Self> {
        let Self([a, b, c, d, e, f]) = self;
        (0..=u8::MAX).map(move |more| Self([a, b.wrapping_add(more), c, d, e, f]))
    }

    /// The IPv6 link-local address of this interface (RFC 4291, appendix A: modified EUI-64).
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        std::net::Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            pair(a ^ 2, b),
            pair(c, 0xff),
            pair(0xfe, d),
            pair(e, f),
        )
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Mac({self})")
    }
}

impl FromStr for Mac {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let form = "six bytes as in 02:42:0a:00:09:05";
        let refuse = || ParseError::not(text, "an Ethernet address", form);
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(refuse)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() {
            Err(refuse())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_address_is_modified_eui_64() {
        let mac: Mac = "06:11:22:33:44:55".parse().unwrap();
        assert_eq!(mac.link_local().to_string(), "fe80::411:22ff:fe33:4455");
    }

    #[test]
    fn malformed_macs_are_refused() {
        for text in [
            "",
            "02:42",
            "02:42:0a:00:09:05:06",
            "2:42:0a:00:09:05",
            "zz:42:0a:00:09:05",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
