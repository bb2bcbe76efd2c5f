//! IPAM pools as the engine names them. Pure. The engine requests a pool before its network and
//! does not name the network: the link between both is the pool's id and the gateway, which the
//! engine repeats when it creates the network.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use model::{Family, NetworkId, Subnet};

/// Between a pool and the part of it that is given.
const NARROWED: char = ',';

/// A pool as the engine names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Whatever the network will have of a family, matched by a gateway that nobody else is given.
    Any(IpAddr),
    /// This prefix of the network that will be made of it, or has it.
    Subnet(Subnet),
    /// This prefix of this network.
    Of(NetworkId, Subnet),
}

impl Pool {
    /// One of whatever prefix, by chance: its gateway is of a range that no host uses.
    pub(crate) fn any(family: Family, chance: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = chance.to_be_bytes();
        let pair = |high, low| u16::from_be_bytes([high, low]);
        Self::Any(match family {
            Family::V4 => Ipv4Addr::new(240 | a & 0x07, b, c, d).into(),
            Family::V6 => Ipv6Addr::new(
                0xfd6e,
                0x6574,
                0x64ff,
                0,
                pair(a, b),
                pair(c, d),
                pair(e, f),
                pair(g, h),
            )
            .into(),
        })
    }

    /// The pool that the engine tells of when it makes a network.
    pub(crate) fn told(pool: &str, gateway: &str) -> Option<Self> {
        match pool {
            "0.0.0.0/0" | "::/0" => Some(Self::Any(gateway.split('/').next()?.parse().ok()?)),
            subnet => Some(Self::Subnet(subnet.parse().ok()?)),
        }
    }

    /// The prefix that the engine is told.
    pub(crate) fn prefix(self) -> String {
        match self {
            Self::Any(IpAddr::V4(_)) => "0.0.0.0/0".to_owned(),
            Self::Any(IpAddr::V6(_)) => "::/0".to_owned(),
            Self::Subnet(subnet) | Self::Of(_, subnet) => subnet.to_string(),
        }
    }

    /// That of its addresses.
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Any(token) => Family::of(token),
            Self::Subnet(subnet) | Self::Of(_, subnet) => subnet.family(),
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(token) => write!(out, "any/{token}"),
            Self::Subnet(subnet) => write!(out, "subnet/{subnet}"),
            Self::Of(network, subnet) => write!(out, "network/{network}/{subnet}"),
        }
    }
}

impl FromStr for Pool {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parsed = match text.split_once('/') {
            Some(("any", token)) => token.parse().ok().map(Self::Any),
            Some(("subnet", subnet)) => subnet.parse().ok().map(Self::Subnet),
            Some(("network", rest)) => rest.split_once('/').and_then(|(network, subnet)| {
                Some(Self::Of(network.parse().ok()?, subnet.parse().ok()?))
            }),
            _ => None,
        };
        parsed.ok_or(())
    }
}

/// Id of a pool with `--ip-range`. The id contains the range, because address requests carry only
/// the pool's id.
pub(crate) fn narrowed(pool: Pool, range: Option<Subnet>) -> String {
    range.map_or_else(
        || pool.to_string(),
        |range| format!("{pool}{NARROWED}{range}"),
    )
}

/// The name of a pool, and which of its addresses are meant; `None` for all of them. Ids are made
/// by [`narrowed`] only: another text behind the mark is none of ours.
pub(crate) fn wide(id: &str) -> (&str, Option<Subnet>) {
    match id.split_once(NARROWED) {
        Some((pool, range)) => (pool, range.parse().ok()),
        None => (id, None),
    }
}

/// The first host address of a prefix: where networks have their gateway unless told otherwise.
pub(crate) fn first(subnet: Subnet) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) | 1).into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) | 1).into(),
    }
}

/// An address as the one of its prefix that the engine is to believe in: of all others it has
/// routes.
pub(crate) fn alone(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv6() { 128 } else { 32 })
}

/// The address before a prefix's length, or all there is.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_known_again_by_its_name() {
        for pool in [
            Pool::any(Family::V4, u64::MAX),
            Pool::any(Family::V6, 1 << 60),
            Pool::Subnet("10.0.9.0/24".parse().unwrap()),
            Pool::Of(NetworkId(9), "fd00:9::/64".parse().unwrap()),
        ] {
            assert_eq!(pool.to_string().parse(), Ok(pool));
            for range in [None, Some("10.0.9.128/25".parse().unwrap())] {
                assert_eq!(
                    wide(&narrowed(pool, range)),
                    (pool.to_string().as_str(), range)
                );
            }
        }
        let any = Pool::any(Family::V4, 42);
        let Pool::Any(token) = any else {
            panic!("{any:?}")
        };
        assert_eq!(Pool::told(&any.prefix(), &alone(token)), Some(any));
        assert_eq!(
            Pool::told("10.0.9.0/24", "10.0.9.1/24"),
            "subnet/10.0.9.0/24".parse().ok()
        );
    }

    #[test]
    fn malformed_pools_are_refused() {
        for text in [
            "",
            "any",
            "any/x",
            "subnet/10.0.9.1/24",
            "network/1/10.0.9.0/24",
            "LocalDefault/10.0.0.0/8",
        ] {
            assert_eq!(text.parse::<Pool>(), Err(()), "{text}");
        }
        assert_eq!(Pool::told("x", "y"), None);
    }
}
