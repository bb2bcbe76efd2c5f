//! Links as the kernel tells them.

use std::net::IpAddr;

use model::{
    Vni,
    names::{self, LinkName, Namespace},
};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, Inet6DevConf, InetDevConf, InfoData, InfoIpVlan,
    InfoKind, InfoMacVlan, InfoVlan, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::{
    super::state::{Layer, ObservedKind, ObservedLink, Place, Stacked, Sysctl, Vxlan},
    GOING, GROUP, IPVLAN_MODES, MACVLAN_MODES, Names, mac,
};

const LOOPBACK: &str = "lo";
/// The directories below /proc/sys whose values of a link its message tells.
const V4: &str = "net/ipv4/conf";
const V6: &str = "net/ipv6/conf";

/// Whether a link's message tells this value, where the link has the protocol.
pub(crate) fn is_told(key: &Sysctl) -> bool {
    let told = Told {
        v4: Some(&InetDevConf::default()),
        v6: Some(&Inet6DevConf::default()),
    };
    key.link.is_some() && told.value(key).is_some()
}

/// The values below /proc/sys that a link's message tells.
pub(crate) struct Told<'a> {
    v4: Option<&'a InetDevConf>,
    v6: Option<&'a Inet6DevConf>,
}

impl<'a> Told<'a> {
    /// Those of this message.
    pub(crate) fn of(message: &'a LinkMessage) -> Self {
        let mut told = Self { v4: None, v6: None };
        let of_link = message
            .attributes
            .iter()
            .filter_map(|attribute| match attribute {
                LinkAttribute::AfSpecUnspec(families) => Some(families),
                _ => None,
            });
        for family in of_link.flatten() {
            match family {
                AfSpecUnspec::Inet(found) => {
                    told.v4 = found.iter().find_map(|found| match found {
                        AfSpecInet::DevConf(values) => Some(values),
                        _ => None,
                    });
                }
                AfSpecUnspec::Inet6(found) => {
                    told.v6 = found.iter().find_map(|found| match found {
                        AfSpecInet6::DevConf(values) => Some(values),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        told
    }

    /// This one.
    pub(crate) fn value(&self, key: &Sysctl) -> Option<i64> {
        let value = match (key.table, key.name) {
            (V4, "accept_local") => self.v4?.accept_local,
            (V4, "arp_ignore") => self.v4?.arp_ignore,
            (V4, "forwarding") => self.v4?.forwarding,
            (V4, "proxy_arp") => self.v4?.proxy_arp,
            (V4, "route_localnet") => self.v4?.route_localnet,
            (V4, "rp_filter") => self.v4?.rp_filter,
            (V6, "accept_dad") => self.v6?.accept_dad,
            (V6, "accept_ra") => self.v6?.accept_ra,
            (V6, "addr_gen_mode") => self.v6?.addr_gen_mode,
            (V6, "disable_ipv6") => self.v6?.disable_ipv6,
            (V6, "forwarding") => self.v6?.forwarding,
            _ => return None,
        };
        Some(value.into())
    }
}

/// A link's number and name.
pub(crate) fn link_name(message: &LinkMessage) -> Option<(u32, LinkName)> {
    let name = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => LinkName::parse(name),
            _ => None,
        })?;
    Some((message.header.index, name))
}

/// Whether a link of this name in this namespace is ours to look at.
pub(crate) fn is_ours(place: Place, link: &LinkName) -> bool {
    let name = link.as_str();
    match place {
        Place::Host => names::is_host_link(name),
        Place::Inside(Namespace::Network(_)) => name == LOOPBACK || names::is_network_link(name),
        Place::Inside(Namespace::Sandbox(_)) => name == LOOPBACK || names::is_sandbox_link(name),
        // Which of them are ours is told by what is asked for.
        Place::Inside(Namespace::Container(_)) => name != LOOPBACK,
    }
}

/// A link as it is, in the namespace `place`. `host` are the names of the host's links.
pub(crate) fn link(message: &LinkMessage, place: Place, host: &Names) -> ObservedLink {
    let mut found = ObservedLink {
        index: message.header.index,
        kind: ObservedKind::Other,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        ours: false,
    };
    let (mut peer, mut elsewhere, mut is_going) = (0, false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => found.mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            LinkAttribute::Group(group) => {
                is_going = *group == GOING;
                found.ours = is_going || *group == GROUP;
            }
            LinkAttribute::Link(index) => peer = *index,
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => found.kind = kind(infos),
            _ => {}
        }
    }
    let parent = host
        .get(&peer)
        .filter(|_| elsewhere == (place != Place::Host));
    match &mut found.kind {
        ObservedKind::Vxlan(vxlan) => vxlan.socket_elsewhere = elsewhere,
        ObservedKind::Veth(index) => *index = peer,
        ObservedKind::Other => {
            let stacked = layer(message).zip(parent);
            let stacked = stacked.map(|(layer, parent)| Stacked {
                parent: parent.clone(),
                layer,
            });
            found.kind = stacked.map_or(ObservedKind::Other, ObservedKind::Stacked);
        }
        ObservedKind::Stacked(_) => {}
    }
    // Whoever began to remove it did not come to the end: it is nothing that may stay.
    if is_going {
        found.kind = ObservedKind::Other;
    }
    found
}

/// What a device on top of another is.
pub(crate) fn layer(message: &LinkMessage) -> Option<Layer> {
    let infos = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => data.iter().find_map(|info| match info {
            InfoVlan::Id(vlan) => Some(Layer::Vlan(*vlan)),
            _ => None,
        }),
        LinkInfo::Data(InfoData::MacVlan(data)) => data
            .iter()
            .find_map(|info| match info {
                InfoMacVlan::Mode(mode) => MACVLAN_MODES.iter().find(|(_, code)| code == mode),
                _ => None,
            })
            .map(|(mode, _)| Layer::Macvlan(*mode)),
        LinkInfo::Data(InfoData::IpVlan(data)) => data
            .iter()
            .find_map(|info| match info {
                InfoIpVlan::Mode(mode) => IPVLAN_MODES.iter().find(|(_, code)| code == mode),
                _ => None,
            })
            .map(|(mode, _)| Layer::Ipvlan(*mode)),
        _ => None,
    })
}

fn kind(infos: &[LinkInfo]) -> ObservedKind {
    let mut kind = ObservedKind::Other;
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Veth) => kind = ObservedKind::Veth(0),
            LinkInfo::Data(InfoData::Vxlan(data)) => {
                kind = vxlan(data).map_or(ObservedKind::Other, ObservedKind::Vxlan)
            }
            _ => {}
        }
    }
    kind
}

fn vxlan(data: &[InfoVxlan]) -> Option<Vxlan> {
    let vni = data.iter().find_map(|info| {
        if let InfoVxlan::Id(id) = info {
            Vni::try_from(*id).ok()
        } else {
            None
        }
    })?;
    let mut found = Vxlan {
        vni,
        local: None,
        port: 0,
        learning: false,
        ttl: 0,
        zero_checksum6: false,
        socket_elsewhere: false,
    };
    let (mut tx, mut rx) = (false, false);
    for info in data {
        match info {
            InfoVxlan::Local(address) => found.local = Some(IpAddr::V4(*address)),
            InfoVxlan::Local6(address) => found.local = Some(IpAddr::V6(*address)),
            InfoVxlan::Port(port) => found.port = *port,
            InfoVxlan::Learning(learning) => found.learning = *learning,
            InfoVxlan::Ttl(ttl) => found.ttl = *ttl,
            InfoVxlan::UDPZeroCsumTX(zero) => tx = *zero,
            InfoVxlan::UDPZeroCsumRX(zero) => rx = *zero,
            _ => {}
        }
    }
    found.zero_checksum6 = tx && rx;
    Some(found)
}
