//! Valid prefixes of networks: reserved ranges, limits of length, default pools.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::{Family, Subnet, SubnetLease, SubnetSpec};

use crate::{
    IpamError,
    address::{after, before},
    taken::Runs,
};

/// The longest prefixes: room for a gateway and one endpoint (IPv4 beside network and broadcast
/// address, IPv6 beside the subnet-router anycast address of RFC 4291 section 2.6.1).
const LONGEST: (u8, u8) = (30, 126);

/// Prefix, its length, and what it is for. The ranges of RFC 6890 that never reach an ordinary
/// endpoint.
const RESERVED: &[(IpAddr, u8, &str)] = &[
    (IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)), 8, "\"this network\""),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8, "loopback"),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16, "link-local"),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4, "multicast"),
    (IpAddr::V4(Ipv4Addr::new(240, 0, 0, 0)), 4, "reserved"),
    (
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        96,
        "loopback and IPv4-compatible",
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)),
        96,
        "IPv4-mapped",
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)),
        10,
        "link-local",
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)),
        8,
        "multicast",
    ),
];

/// The first and last address that an endpoint may have.
pub(crate) fn usable(subnet: Subnet) -> (IpAddr, IpAddr) {
    let last = if subnet.is_ipv6() {
        subnet.last()
    } else {
        before(subnet.last())
    };
    (after(subnet.network()), last)
}

/// The first and last address that is given out of a subnet, of which `range` may be a part.
pub(crate) fn given(subnet: Subnet, range: Option<Subnet>) -> (IpAddr, IpAddr) {
    let (first, last) = usable(subnet);
    range.map_or((first, last), |range| {
        (first.max(range.network()), last.min(range.last()))
    })
}

/// Validates a subnet and chooses its gateway.
pub(crate) fn admit(spec: &SubnetSpec) -> Result<SubnetLease, IpamError> {
    let subnet = spec.subnet;
    let longest = if subnet.is_ipv6() {
        LONGEST.1
    } else {
        LONGEST.0
    };
    if subnet.prefix() > longest {
        return Err(IpamError::TooSmall { subnet, longest });
    }
    for &(address, prefix, purpose) in RESERVED {
        if Subnet::around(address, prefix).is_some_and(|range| range.overlaps(&subnet)) {
            return Err(IpamError::Reserved { subnet, purpose });
        }
    }
    let (first, last) = usable(subnet);
    let gateway = spec.gateway.unwrap_or(first);
    if !subnet.contains(gateway) || !(first..=last).contains(&gateway) {
        return Err(IpamError::Gateway {
            subnet,
            gateway,
            first,
            last,
        });
    }
    let is_empty = given(subnet, spec.range).0 > given(subnet, spec.range).1;
    match spec.range {
        Some(range) if is_empty || !subnet.covers(&range) => {
            Err(IpamError::Range { subnet, range })
        }
        _ => Ok(SubnetLease { subnet, gateway }),
    }
}

/// Prefix length of the pieces of default pools.
fn piece(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

/// The default pool of a family.
struct DefaultPool {
    address: IpAddr,
    prefix: u8,
    /// Prefix length of the pieces.
    piece: u8,
}

impl DefaultPool {
    /// 10.0.0.0/8 in pieces of /24; the cluster's own /48 of unique local addresses (RFC 4193) in
    /// pieces of /64.
    fn of(family: Family, global_id: [u8; 5]) -> Self {
        if family == Family::V4 {
            return Self {
                address: Ipv4Addr::new(10, 0, 0, 0).into(),
                prefix: 8,
                piece: piece(family),
            };
        }
        let [a, b, c, d, e] = global_id;
        let pair = u16::from_be_bytes;
        let address = Ipv6Addr::new(pair([0xfd, a]), pair([b, c]), pair([d, e]), 0, 0, 0, 0, 0);
        Self {
            address: address.into(),
            prefix: 48,
            piece: piece(family),
        }
    }
}

/// The first and last address of the pieces of default pools that a subnet is in. A small subnet
/// leaves the rest of its piece unused.
pub(crate) fn pieces(subnet: Subnet) -> (IpAddr, IpAddr) {
    let piece = piece(subnet.family());
    let whole = Subnet::around(subnet.network(), piece.min(subnet.prefix())).unwrap_or(subnet);
    (whole.network(), whole.last())
}

/// The lowest subnet of a family's default pool that overlaps neither `taken` pieces nor what is to
/// be avoided.
pub(crate) fn default_subnet(
    family: Family,
    global_id: [u8; 5],
    taken: &Runs,
    avoid: &[Subnet],
) -> Result<Subnet, IpamError> {
    let DefaultPool {
        address,
        prefix,
        piece,
    } = DefaultPool::of(family, global_id);
    Subnet::around(address, prefix)
        .and_then(|pool| lowest_free(pool, piece, taken, avoid))
        .ok_or_else(|| IpamError::PoolsExhausted(format!("{address}/{prefix}")))
}

fn lowest_free(pool: Subnet, prefix: u8, taken: &Runs, avoid: &[Subnet]) -> Option<Subnet> {
    let mut avoided = Runs::default();
    for subnet in avoid.iter().filter(|subnet| subnet.overlaps(&pool)) {
        avoided.insert(pieces(*subnet));
    }
    let mut candidate = Subnet::around(pool.network(), prefix)?;
    let run = |piece: Subnet| {
        let taken = taken.around(piece.network());
        taken.or_else(|| avoided.around(piece.network()))
    };
    while let Some((_, end)) = run(candidate) {
        candidate = Subnet::around(after(end), prefix)
            .filter(|next| pool.covers(next) && *next != candidate)?;
    }
    Some(candidate)
}
