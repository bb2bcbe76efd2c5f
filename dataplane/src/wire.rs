//! Translates between our types and rtnetlink messages. Pure: opens no socket.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::RawFd,
};

use model::{
    IpvlanMode, Mac, MacvlanMode, Subnet, Vni,
    names::{self, LinkName, Namespace},
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVeth, InfoVlan, InfoVxlan, IpVlanMode,
        LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
    },
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    nsid::{NsidAttribute, NsidMessage},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteScope, RouteType, RouteVia,
    },
    rule::RuleMessage,
};

use super::{
    doubt::LinkRef,
    plan::Pair,
    policy::{HOST_TABLES, PEER_TABLES},
    state::{
        AddressForm, AddressKey, FdbKey, Layer, Link, MAIN_TABLE, NeighbourKey, ObservedKind,
        ObservedLink, Place, Route, RouteKey, Stacked, Vxlan, host_prefix,
    },
};

/// Protocol number of our routes (`ip route` shows `proto 110`), to tell them from routes that
/// programs in a sandbox add.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(110);
const LOOPBACK: &str = "lo";
/// The bits of a table's number on the host that are a VNI.
const VNI: u32 = 0x00ff_ffff;
const MACVLAN_MODES: [(MacvlanMode, MacVlanMode); 4] = [
    (MacvlanMode::Bridge, MacVlanMode::Bridge),
    (MacvlanMode::Private, MacVlanMode::Private),
    (MacvlanMode::Vepa, MacVlanMode::Vepa),
    (MacvlanMode::Passthru, MacVlanMode::Passthrough),
];
const IPVLAN_MODES: [(IpvlanMode, IpVlanMode); 2] = [
    (IpvlanMode::L2, IpVlanMode::L2),
    (IpvlanMode::L3, IpVlanMode::L3),
];

/// The bit of `RTAX_MTU` (linux/rtnetlink.h) in `RTAX_LOCK`.
const MTU_LOCK: u32 = 1 << 2;

/// Numbers of links by name.
pub type Indices = BTreeMap<LinkName, u32>;
/// Names of links by number.
pub type Names = BTreeMap<u32, LinkName>;

/// Gives another namespace, an open file, a number in the socket's own: the lowest that is free.
pub fn number_namespace(namespace: RawFd) -> Message {
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Id(-1), NsidAttribute::Fd(namespace as u32)];
    Message::NewNsId(message)
}

/// Asks for the number of another namespace, an open file.
pub fn get_number(namespace: RawFd) -> Message {
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(namespace as u32)];
    Message::GetNsId(message)
}

/// The number that is told.
pub fn number(message: &Message) -> Option<i32> {
    let Message::NewNsId(message) = message else {
        return None;
    };
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NsidAttribute::Id(number) => Some(*number).filter(|number| *number >= 0),
            _ => None,
        })
}

/// Asks for every link.
pub fn get_links() -> Message {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    Message::GetLink(message)
}

/// Asks for one link.
pub fn get_link(link: &LinkRef) -> Message {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    match link {
        LinkRef::Number(number) => message.header.index = *number,
        LinkRef::Name(name) => {
            let name = LinkAttribute::IfName(name.to_string());
            message.attributes.push(name);
        }
    }
    Message::GetLink(message)
}

/// Asks for the addresses of the link of this number, or for all.
pub fn get_addresses(of: Option<u32>) -> Message {
    let mut message = AddressMessage::default();
    message.header.index = of.unwrap_or_default();
    Message::GetAddress(message)
}

/// Asks for the neighbours of a family, those on the link of this number or all.
pub fn get_neighbours(family: AddressFamily, of: Option<u32>) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message
        .attributes
        .extend(of.map(NeighbourAttribute::IfIndex));
    Message::GetNeighbour(message)
}

/// Asks for the forwarding database of the link of this number, or for all.
pub fn get_forwarding(of: Option<u32>) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = of.unwrap_or_default();
    Message::GetNeighbour(message)
}

/// Asks for the routes of a family, those out of the link of this number or all.
pub fn get_routes(family: AddressFamily, of: Option<u32>) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.attributes.extend(of.map(RouteAttribute::Oif));
    Message::GetRoute(message)
}

/// Asks for every policy rule of a family.
pub fn get_policies(family: AddressFamily) -> Message {
    let mut message = RuleMessage::default();
    message.header.family = family;
    Message::GetRule(message)
}

/// Asks how packets get from here to there.
pub fn get_route(from: IpAddr, to: IpAddr) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = host_prefix(to);
    message.header.source_prefix_length = host_prefix(from);
    message.attributes = vec![
        RouteAttribute::Destination(to.into()),
        RouteAttribute::Source(from.into()),
    ];
    Message::GetRoute(message)
}

/// What fits through a route: its own MTU, or that of the link that it leads out of.
pub fn path_mtu(message: &RouteMessage, links: &BTreeMap<u32, u32>) -> Option<u32> {
    let link = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => links.get(index).copied(),
            _ => None,
        });
    metrics_mtu(message).or(link)
}

fn metrics_mtu(message: &RouteMessage) -> Option<u32> {
    let metrics = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => Some(metrics),
            _ => None,
        });
    let mtu = |metric: &RouteMetric| {
        if let RouteMetric::Mtu(mtu) = metric {
            Some(*mtu)
        } else {
            None
        }
    };
    metrics.flatten().find_map(mtu)
}

/// A link's number and name.
pub fn link_name(message: &LinkMessage) -> Option<(u32, LinkName)> {
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
pub fn is_ours(place: Place, link: &LinkName) -> bool {
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
pub fn link(message: &LinkMessage, place: Place, host: &Names) -> ObservedLink {
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
pub fn layer(message: &LinkMessage) -> Option<Layer> {
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

/// The address that a message is about, with the number of its link.
pub fn address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let of = |local: bool| {
        message
            .attributes
            .iter()
            .find_map(move |attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
    };
    // `Address` is the far end of a point-to-point link; `Local`, where there is one, is this end.
    Some((message.header.index, of(true).or_else(|| of(false))?))
}

/// Whether an address means the same beyond its link.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// How the address of a message is set.
pub fn address_form(message: &AddressMessage) -> AddressForm {
    let flags = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(*flags),
            _ => None,
        });
    let prefix_route = !flags.is_some_and(|flags| flags.contains(AddressFlags::Noprefixroute));
    AddressForm {
        prefix: message.header.prefix_len,
        prefix_route,
    }
}

/// The prefix that an address puts on its link, if it is more than the address.
pub fn on_link(address: IpAddr, form: AddressForm) -> Option<Subnet> {
    let alone = if address.is_ipv6() { 128 } else { 32 };
    Subnet::around(address, form.prefix).filter(|_| form.prefix < alone)
}

/// A permanent neighbour.
pub fn neighbour(message: &NeighbourMessage, names: &Names) -> Option<(NeighbourKey, Mac)> {
    let (link, mac) = permanent(message, names)?;
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })?;
    Some((NeighbourKey { link, address }, mac))
}

/// A permanent entry of a VXLAN device's forwarding database.
pub fn fdb(message: &NeighbourMessage, names: &Names) -> Option<(FdbKey, IpAddr)> {
    let (link, mac) = permanent(message, names)?;
    let vtep = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => bytes_address(bytes),
            _ => None,
        })?;
    Some((FdbKey { link, mac }, vtep))
}

fn permanent(message: &NeighbourMessage, names: &Names) -> Option<(LinkName, Mac)> {
    let lasting = u16::from(message.header.state) & u16::from(NeighbourState::Permanent) != 0;
    let link = names.get(&message.header.ifindex).filter(|_| lasting)?;
    let mac = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
            _ => None,
        })?;
    Some((link.clone(), mac))
}

/// A route that is ours to look at: of the main table on the host one out of a link of ours, in a
/// network's namespace any, in a sandbox one that bears our mark; and all of tables of ours. Never
/// one that the kernel made by itself.
pub fn route(message: &RouteMessage, place: Place, names: &Names) -> Option<(RouteKey, Route)> {
    let header = &message.header;
    let numbered = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    let table = numbered.unwrap_or(header.table.into());
    let looked_at = match place {
        Place::Host => table == MAIN_TABLE || table & !VNI == HOST_TABLES,
        Place::Inside(Namespace::Network(_)) => table == MAIN_TABLE || table & PEER_TABLES != 0,
        Place::Inside(Namespace::Sandbox(_) | Namespace::Container(_)) => table == MAIN_TABLE,
    };
    if !looked_at || header.protocol == RouteProtocol::Kernel {
        return None;
    }
    let found = route_target(message, names);
    let ours = match place {
        Place::Host => found.link().is_some(),
        Place::Inside(Namespace::Network(_)) => true,
        Place::Inside(Namespace::Sandbox(_) | Namespace::Container(_)) => {
            header.protocol == PROTOCOL
        }
    };
    let mut destination = if header.address_family == AddressFamily::Inet6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = route_address(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let destination = Subnet::around(destination, header.destination_prefix_length)?;
    ours.then_some((
        RouteKey {
            table,
            destination,
            metric,
            nth: 0,
        },
        found,
    ))
}

fn route_target(message: &RouteMessage, names: &Names) -> Route {
    let (mut link, mut via, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = names.get(index).cloned(),
            RouteAttribute::Gateway(address) => via = route_address(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => via = Some(IpAddr::V6(*address)),
            RouteAttribute::Via(RouteVia::Inet(address)) => via = Some(IpAddr::V4(*address)),
            RouteAttribute::PrefSource(address) => source = route_address(address),
            RouteAttribute::MultiPath(_) | RouteAttribute::Encap(_) => return Route::Other,
            _ => {}
        }
    }
    match (message.header.kind, link) {
        (RouteType::Unreachable, _) => Route::Unreachable,
        (RouteType::Local, Some(link)) => Route::Local { link },
        (RouteType::Unicast, Some(link)) => Route::Unicast {
            link,
            via,
            source,
            mtu: metrics_mtu(message),
        },
        _ => Route::Other,
    }
}

/// Makes a VXLAN device in the namespace of `namespace`, sent to the host's, where its socket
/// stays.
pub fn add_vxlan(name: &LinkName, link: &Link, vxlan: &Vxlan, namespace: RawFd) -> Message {
    let mut data = vec![
        InfoVxlan::Id(vxlan.vni.into()),
        InfoVxlan::Port(vxlan.port),
        InfoVxlan::Learning(vxlan.learning),
        InfoVxlan::Ttl(vxlan.ttl),
    ];
    match vxlan.local {
        Some(IpAddr::V4(local)) => data.push(InfoVxlan::Local(local)),
        Some(IpAddr::V6(local)) => data.push(InfoVxlan::Local6(local)),
        None => {}
    }
    if vxlan.zero_checksum6 {
        data.extend([
            InfoVxlan::UDPZeroCsumTX(true),
            InfoVxlan::UDPZeroCsumRX(true),
        ]);
    }
    let info = vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(data)),
    ];
    let mut message = link_message(name, link);
    message.attributes.extend([
        LinkAttribute::NetNsFd(namespace),
        LinkAttribute::LinkInfo(info),
    ]);
    Message::NewLink(message)
}

/// The group of devices of ours in sandboxes: in those of others it tells which are ours. `netd` in
/// ASCII.
pub const GROUP: u32 = 0x6e65_7464;

/// The group of links that are about to be removed.
pub const GOING: u32 = GROUP + 1;

/// Makes a device on top of the host's link of this number, sent to the host's namespace; it is
/// born in `namespace`, or there where none is given.
pub fn add_stacked(
    name: &LinkName,
    link: &Link,
    layer: Layer,
    parent: u32,
    namespace: Option<RawFd>,
) -> Message {
    let code = |mode| {
        MACVLAN_MODES
            .iter()
            .find(|(known, _)| *known == mode)
            .map(|(_, code)| *code)
    };
    let ip_code = |mode| {
        IPVLAN_MODES
            .iter()
            .find(|(known, _)| *known == mode)
            .map(|(_, code)| *code)
    };
    let (kind, data) = match layer {
        Layer::Vlan(vlan) => (InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(vlan)])),
        Layer::Macvlan(mode) => (
            InfoKind::MacVlan,
            InfoData::MacVlan(code(mode).map(InfoMacVlan::Mode).into_iter().collect()),
        ),
        Layer::Ipvlan(mode) => (
            InfoKind::IpVlan,
            InfoData::IpVlan(ip_code(mode).map(InfoIpVlan::Mode).into_iter().collect()),
        ),
    };
    let mut message = link_message(name, link);
    message.attributes.push(LinkAttribute::Link(parent));
    if let Some(namespace) = namespace {
        message.attributes.extend([
            LinkAttribute::NetNsFd(namespace),
            LinkAttribute::Group(GROUP),
        ]);
    }
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(kind),
        LinkInfo::Data(data),
    ]));
    Message::NewLink(message)
}

/// Asks for a device of a kind without saying what it should be on: a kernel that has the kind
/// finds that missing (`EINVAL`), one that has not says so (`EOPNOTSUPP`). Nothing is ever made.
pub fn ask_for_kind(kind: InfoKind) -> Message {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
    Message::NewLink(message)
}

/// Makes a pair, sent to the near end's namespace.
pub fn add_pair(pair: &Pair, far_namespace: RawFd) -> Message {
    let mut far = link_message(&pair.far, &pair.far_link);
    far.attributes.push(LinkAttribute::NetNsFd(far_namespace));
    if pair.place.is_foreign() {
        far.attributes.push(LinkAttribute::Group(GROUP));
    }
    let data = InfoData::Veth(InfoVeth::Peer(far));
    let mut message = link_message(&pair.near, &pair.near_link);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(data),
    ]));
    Message::NewLink(message)
}

fn link_message(name: &LinkName, link: &Link) -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_string()));
    message.attributes.extend(link.mtu.map(LinkAttribute::Mtu));
    message
        .attributes
        .extend(link.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    message
}

/// Removes a link by name.
pub fn delete_link(name: &LinkName) -> Message {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_string()));
    Message::DelLink(message)
}

/// Removes all links of a group.
pub fn delete_group(group: u32) -> Message {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    Message::DelLink(message)
}

/// Changes one attribute of a link.
pub fn set_link(index: u32, attribute: LinkAttribute) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(attribute);
    Message::SetLink(message)
}

/// Takes a link up.
pub fn set_up(index: u32) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Message::SetLink(message)
}

/// Names an address of a link, to add or to delete it.
pub fn address_message(index: u32, key: &AddressKey, form: AddressForm) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = form.prefix;
    message.header.family = family(key.address);
    let link_local = match key.address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    message.header.scope = if link_local {
        AddressScope::Link
    } else {
        AddressScope::Universe
    };
    message.attributes = vec![
        AddressAttribute::Local(key.address),
        AddressAttribute::Address(key.address),
    ];
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Noprefixroute, !form.prefix_route);
    flags.set(AddressFlags::Nodad, key.address.is_ipv6());
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

/// Names a neighbour.
pub fn neighbour_message(index: u32, address: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.family = family(address);
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    message
        .attributes
        .extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}

/// Names an entry of a forwarding database.
pub fn fdb_message(index: u32, mac: Mac, vtep: IpAddr) -> NeighbourMessage {
    let mut message = neighbour_message(index, vtep, Some(mac));
    message.header.family = AddressFamily::Bridge;
    message.header.flags = NeighbourFlags::Own;
    message
}

/// Names a route; `index` is the number of the link it leads out of.
pub fn route_message(key: &RouteKey, route: &Route, index: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    let network = key.destination.network();
    message.header.address_family = family(network);
    message.header.destination_prefix_length = key.destination.prefix();
    // A number that the header has no room for stands in the attribute alone.
    message.header.table = u8::try_from(key.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes = vec![
        RouteAttribute::Destination(network.into()),
        RouteAttribute::Table(key.table),
    ];
    if key.metric != 0 {
        message
            .attributes
            .push(RouteAttribute::Priority(key.metric));
    }
    message.attributes.extend(index.map(RouteAttribute::Oif));
    message.header.kind = match route {
        Route::Unreachable => RouteType::Unreachable,
        Route::Local { .. } => RouteType::Local,
        Route::Unicast { .. } | Route::Other => RouteType::Unicast,
    };
    if let Route::Unicast {
        via, source, mtu, ..
    } = route
    {
        message
            .attributes
            .extend(via.map(|via| next_hop(network, via)));
        message
            .attributes
            .extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
        // IPv6 heeds the MTU of a route for what it forwards only if it is locked.
        let locked =
            |mtu| RouteAttribute::Metrics(vec![RouteMetric::Lock(MTU_LOCK), RouteMetric::Mtu(mtu)]);
        message.attributes.extend(mtu.map(locked));
    }
    message
}

/// The same route, to be added or to take another's place.
pub fn set_route(key: &RouteKey, route: &Route, index: Option<u32>) -> Message {
    let mut message = route_message(key, route, index);
    message.header.protocol = PROTOCOL;
    let on_link = matches!(route, Route::Unicast { via: None, .. });
    message.header.scope = if on_link {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    Message::NewRoute(message)
}

/// The same route, to be deleted.
pub fn delete_route(key: &RouteKey, route: &Route, index: Option<u32>) -> Message {
    let mut message = route_message(key, route, index);
    message.header.scope = RouteScope::NoWhere;
    if *route == Route::Other {
        message.header.kind = RouteType::Unspec;
    }
    Message::DelRoute(message)
}

/// A next hop of the other family goes by `RTA_VIA` (RFC 5549).
fn next_hop(destination: IpAddr, via: IpAddr) -> RouteAttribute {
    match via {
        IpAddr::V6(hop) if destination.is_ipv4() => RouteAttribute::Via(RouteVia::Inet6(hop)),
        _ => RouteAttribute::Gateway(via.into()),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

fn bytes_address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
