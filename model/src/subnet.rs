//! Prefixes with no host bits set.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An IPv4 or IPv6 prefix in canonical form: no bit is set behind the prefix length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet(IpNetwork);

/// Text that is no subnet.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum SubnetError {
    /// It is not of the form `ADDRESS/LENGTH`.
    #[error("{0:?} is not a subnet such as 10.0.9.0/24 or fd00:9::/64")]
    Malformed(String),
    /// An address inside a subnet was given instead of the subnet.
    #[error("{given} has host bits set: did you mean {meant}?")]
    HostBits {
        /// The text that was given.
        given: String,
        /// The subnet it lies in.
        meant: Subnet,
    },
}

impl Subnet {
    /// The subnet of `prefix` bits that `address` lies in; `None` where the family has no such
    /// length.
    pub fn around(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = IpNetwork::new(address, prefix).ok()?;
        IpNetwork::new(network.network(), prefix).ok().map(Self)
    }

    /// The first address, whose host bits are zero.
    pub fn network(&self) -> IpAddr {
        self.0.network()
    }

    /// The last address; in IPv4 the broadcast address.
    pub fn last(&self) -> IpAddr {
        self.0.broadcast()
    }

    /// Bits of the prefix: 0-32 or 0-128.
    pub fn prefix(&self) -> u8 {
        self.0.prefix()
    }

    /// That of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.network())
    }

    /// Whether this is an IPv6 prefix.
    pub fn is_ipv6(&self) -> bool {
        self.0.is_ipv6()
    }

    /// Whether the address lies inside; never across families.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.0, address) {
            (IpNetwork::V4(net), IpAddr::V4(v4)) => net.contains(v4),
            (IpNetwork::V6(net), IpAddr::V6(v6)) => net.contains(v6),
            _ => false,
        }
    }

    /// Whether any address lies in both.
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// Whether `other` lies wholly inside.
    pub fn covers(&self, other: &Subnet) -> bool {
        self.prefix() <= other.prefix() && self.contains(other.network())
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Subnet({})", self.0)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let malformed = || SubnetError::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        let meant = Self::around(address, prefix).ok_or_else(malformed)?;
        if meant.network() == address {
            Ok(meant)
        } else {
            Err(SubnetError::HostBits {
                given: text.to_owned(),
                meant,
            })
        }
    }
}

impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_refused_with_the_subnet_that_was_meant() {
        let error = "10.0.9.7/24".parse::<Subnet>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.0.9.7/24 has host bits set: did you mean 10.0.9.0/24?"
        );
    }

    #[test]
    fn overlap_is_symmetric_and_never_crosses_families() {
        let parse = |text: &str| text.parse::<Subnet>().unwrap();
        let (wide, narrow, v6) = (parse("10.0.0.0/8"), parse("10.0.9.0/24"), parse("::/0"));
        assert!(wide.overlaps(&narrow) && narrow.overlaps(&wide));
        assert!(!v6.overlaps(&narrow) && !narrow.overlaps(&v6));
        assert!(!parse("10.0.8.0/24").overlaps(&narrow));
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in [
            "",
            "10.0.9.0",
            "10.0.9.0/33",
            "fd00::/129",
            "10.0.9/24",
            "x/24",
        ] {
            assert!(
                matches!(text.parse::<Subnet>(), Err(SubnetError::Malformed(_))),
                "{text}"
            );
        }
    }
}
