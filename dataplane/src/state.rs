//! State of one network namespace in the kernel's terms. Desired and observed state have the same
//! type, so that the difference is a comparison of maps.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use model::{
    IpvlanMode, Mac, MacvlanMode, SandboxId, Subnet, Vni,
    names::{LinkName, Namespace},
};

use super::{doubt::Parts, policy::Policies};

/// tc counts time in ticks of 64 ns (`PSCHED_SHIFT`); the kernel keeps 32 bits of nanoseconds.
const TICK: u128 = 64;
const MOST_TICKS: u128 = u32::MAX as u128 / TICK;
/// Bytes that may pass at once at least: some frames.
const LEAST_BURST: u64 = 16 << 10;
/// How long a packet waits for its turn before others are dropped, as a part of a second: 25 ms, as
/// the CNI project's.
const LATENCY: u64 = 40;

/// A network namespace that holds objects of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host's own, of which only links named as ours are looked at.
    Host,
    /// One of ours.
    Inside(Namespace),
}

impl Place {
    /// Whether this is the namespace of a container that others run: what is not asked for there is
    /// not ours.
    pub fn is_foreign(self) -> bool {
        matches!(self, Place::Inside(Namespace::Container(_)))
    }

    /// The sandbox that this is the namespace of.
    pub fn sandbox(self) -> Option<SandboxId> {
        match self {
            Place::Inside(Namespace::Sandbox(sandbox) | Namespace::Container(sandbox)) => {
                Some(sandbox)
            }
            Place::Host | Place::Inside(Namespace::Network(_)) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host => out.pad("host"),
            Place::Inside(namespace) => out.pad(&namespace.name()),
        }
    }
}

/// The contents of one namespace; `L` is how a link is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space<L> {
    /// Links by name.
    pub links: BTreeMap<LinkName, L>,
    /// Addresses of those links.
    pub addresses: BTreeMap<AddressKey, AddressForm>,
    /// Permanent neighbours on those links.
    pub neighbours: BTreeMap<NeighbourKey, Mac>,
    /// Permanent entries of the VXLAN forwarding database: MAC to VTEP.
    pub fdb: BTreeMap<FdbKey, IpAddr>,
    /// Routes of the main table, and of tables of ours.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Which table a packet is looked up in.
    pub policies: Policies,
    /// How much may leave by a link.
    pub shapes: BTreeMap<LinkName, Shape>,
    /// Values below /proc/sys.
    pub sysctls: BTreeMap<Sysctl, i64>,
}

impl<L> Default for Space<L> {
    fn default() -> Self {
        Self {
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            fdb: BTreeMap::new(),
            routes: BTreeMap::new(),
            policies: Policies::default(),
            shapes: BTreeMap::new(),
            sysctls: BTreeMap::new(),
        }
    }
}

impl<L> Space<L> {
    /// Drops a link and all that dies with it in the kernel.
    pub fn forget(&mut self, link: &LinkName) {
        self.links.remove(link);
        self.forget_parts(link, Parts::ALL);
        self.sysctls
            .retain(|key, _| key.link.as_ref() != Some(link));
    }

    /// Drops parts of what a link has.
    pub fn forget_parts(&mut self, link: &LinkName, parts: Parts) {
        if parts.hold(Parts::ADDRESSES) {
            self.addresses.retain(|key, _| key.link != *link);
        }
        if parts.hold(Parts::NEIGHBOURS) {
            self.neighbours.retain(|key, _| key.link != *link);
        }
        if parts.hold(Parts::FORWARDING) {
            self.fdb.retain(|key, _| key.link != *link);
        }
        if parts.hold(Parts::ROUTES) {
            self.routes.retain(|_, route| route.link() != Some(link));
        }
        if parts.hold(Parts::SHAPE) {
            self.shapes.remove(link);
        }
    }
}

impl<L> Space<L> {
    /// Adds what another has.
    pub fn add(&mut self, other: Self) {
        let Self {
            links,
            addresses,
            neighbours,
            fdb,
            routes,
            policies,
            shapes,
            sysctls,
        } = other;
        self.links.extend(links);
        self.addresses.extend(addresses);
        self.neighbours.extend(neighbours);
        self.fdb.extend(fdb);
        self.routes.extend(routes);
        self.policies.add(policies);
        self.shapes.extend(shapes);
        self.sysctls.extend(sysctls);
    }
}

/// A token bucket, in the kernel's own words, so that what is read back compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes per second.
    pub(super) rate: u64,
    /// What the bucket holds, in ticks at that rate.
    pub(super) ticks: u32,
    /// Bytes that wait.
    pub(super) limit: u32,
}

impl Shape {
    /// From bits per second, and the bits that may pass at once; `None` where there is no limit.
    pub fn of_bits(rate: u64, burst: u64) -> Option<Self> {
        if rate == 0 {
            return None;
        }
        let (rate, burst) = ((rate / 8).max(1), (burst / 8).max(LEAST_BURST));
        let ticks = (u128::from(burst) * 1_000_000_000 / u128::from(rate) / TICK)
            .clamp(1, MOST_TICKS) as u32;
        let limit = (rate / LATENCY)
            .saturating_add(burst)
            .try_into()
            .unwrap_or(u32::MAX);
        Some(Self { rate, ticks, limit })
    }
}

/// A link as it should be. Every desired link is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it is.
    pub kind: Kind,
    /// Its Ethernet address; `None` is not looked at.
    pub mac: Option<Mac>,
    /// Its MTU in bytes; `None` is not looked at.
    pub mtu: Option<u32>,
}

/// What a desired link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `lo`, which every namespace is born with.
    Loopback,
    /// A tunnel whose UDP socket is on the host.
    Vxlan(Vxlan),
    /// One end of a pair.
    Veth {
        /// Where the other end is.
        peer_place: Place,
        /// Its name there.
        peer: LinkName,
    },
    /// One end of a pair whose other end is made on the host, under this name, and taken from there
    /// by others.
    Handed {
        /// The other end's name on the host.
        peer: LinkName,
        /// Its Ethernet address.
        mac: Mac,
    },
    /// A device on top of a link of the host.
    Stacked(Stacked),
}

/// A device on top of a link in the host's namespace. Nothing of it can be changed in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stacked {
    /// The host's link.
    pub parent: LinkName,
    /// What it is.
    pub layer: Layer,
}

/// What a device on top of another is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A VLAN (IEEE 802.1Q).
    Vlan(u16),
    /// A port with an Ethernet address of its own.
    Macvlan(MacvlanMode),
    /// A port that shares its parent's Ethernet address.
    Ipvlan(IpvlanMode),
}

/// The attributes of a VXLAN device that cannot be changed in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Its network identifier.
    pub vni: Vni,
    /// The VTEP that it sends from.
    pub local: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Whether it learns from traffic.
    pub learning: bool,
    /// TTL of the outer header.
    pub ttl: u8,
    /// Whether it sends and takes UDP over IPv6 without checksum.
    pub zero_checksum6: bool,
    /// Whether its socket is in another namespace than the device.
    pub socket_elsewhere: bool,
}

impl fmt::Display for Layer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vlan(vlan) => write!(out, "vlan {vlan}"),
            Self::Macvlan(_) => out.write_str("macvlan"),
            Self::Ipvlan(_) => out.write_str("ipvlan"),
        }
    }
}

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedLink {
    /// Its number in its namespace.
    pub index: u32,
    /// What it is.
    pub kind: ObservedKind,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is marked as made by us, by the group of its device.
    pub ours: bool,
}

/// What an observed link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedKind {
    /// A tunnel.
    Vxlan(Vxlan),
    /// One end of a pair, and the number of the other end in its own namespace.
    Veth(u32),
    /// A device on top of a link of the host.
    Stacked(Stacked),
    /// Anything else.
    Other,
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressKey {
    /// The link.
    pub link: LinkName,
    /// The address.
    pub address: IpAddr,
}

/// How an address is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressForm {
    /// Prefix length.
    pub prefix: u8,
    /// Whether the kernel makes a route for the prefix.
    pub prefix_route: bool,
}

/// A neighbour on a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourKey {
    /// The link.
    pub link: LinkName,
    /// Its IP address.
    pub address: IpAddr,
}

/// An entry of a forwarding database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbKey {
    /// The VXLAN device.
    pub link: LinkName,
    /// The destination.
    pub mac: Mac,
}

/// What the kernel tells routes of one table apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// The table's number.
    pub table: u32,
    /// The prefix.
    pub destination: Subnet,
    /// The metric; lower wins.
    pub metric: u32,
    /// Counts routes with the same prefix and metric; the first is the one in effect. Desired ones
    /// are all first.
    pub nth: usize,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// Out of a link.
    Unicast {
        /// The link.
        link: LinkName,
        /// The next hop, of either family; `None`: the destination is on the link.
        via: Option<IpAddr>,
        /// The source address of packets from here.
        source: Option<IpAddr>,
        /// Where less gets through than through the link, in bytes: larger packets are answered by
        /// ICMP.
        mtu: Option<u32>,
    },
    /// To this host, where it comes in by this link.
    Local {
        /// The link.
        link: LinkName,
    },
    /// Nowhere: answered by ICMP.
    Unreachable,
    /// A shape that we never make.
    Other,
}

/// `RT_TABLE_MAIN`.
pub const MAIN_TABLE: u32 = 254;

impl Route {
    /// The link it leads out of.
    pub fn link(&self) -> Option<&LinkName> {
        match self {
            Route::Unicast { link, .. } | Route::Local { link } => Some(link),
            Route::Unreachable | Route::Other => None,
        }
    }
}

/// A number below /proc/sys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl {
    /// The link that it belongs to and dies with.
    pub link: Option<LinkName>,
    /// The directory, such as `net/ipv4/conf`.
    pub table: &'static str,
    /// What it is called there, or in the link's own directory there.
    pub name: &'static str,
}

impl Sysctl {
    /// A number of the whole namespace.
    pub fn of_namespace(table: &'static str, name: &'static str) -> Self {
        Self {
            link: None,
            table,
            name,
        }
    }

    /// A number of one link: `table` such as `net/ipv4/conf`, `name` such as `proxy_arp`.
    pub fn of_link(table: &'static str, link: &LinkName, name: &'static str) -> Self {
        Self {
            link: Some(link.clone()),
            table,
            name,
        }
    }

    /// Its path below /proc/sys.
    pub fn path(&self) -> String {
        let Self { link, table, name } = self;
        match link {
            Some(link) => format!("{table}/{link}/{name}"),
            None => format!("{table}/{name}"),
        }
    }
}

/// The prefix length that covers exactly one address.
pub fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_may_pass_at_once() {
        assert_eq!(Shape::of_bits(0, 5), None);
        // 1 Mbit/s and 800 kbit at once: 100 kB take 0.8 s.
        let shape = Shape::of_bits(1_000_000, 800_000).unwrap();
        assert_eq!(
            (shape.rate, shape.ticks, shape.limit),
            (125_000, 12_500_000, 103_125)
        );
        assert_eq!(
            Shape::of_bits(1, u64::MAX).unwrap().ticks,
            MOST_TICKS as u32
        );
    }
}
