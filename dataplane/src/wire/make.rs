//! Requests that make, change and remove links.

use std::{net::IpAddr, os::fd::RawFd};

use model::names::LinkName;
use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    link::{
        InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVeth, InfoVlan, InfoVxlan, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage,
    },
};

use super::{
    super::{
        plan::Pair,
        state::{Layer, Link, Vxlan},
    },
    GROUP, IPVLAN_MODES, MACVLAN_MODES,
};

/// Makes a VXLAN device in the namespace of `namespace`, sent to the host's, where its socket
/// stays.
pub(crate) fn add_vxlan(name: &LinkName, link: &Link, vxlan: &Vxlan, namespace: RawFd) -> Message {
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

/// Makes a device on top of the host's link of this number, sent to the host's namespace; it is
/// born in `namespace`, or there where none is given.
pub(crate) fn add_stacked(
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
pub(crate) fn ask_for_kind(kind: InfoKind) -> Message {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
    Message::NewLink(message)
}

/// Makes a pair, sent to the near end's namespace.
pub(crate) fn add_pair(pair: &Pair, far_namespace: RawFd) -> Message {
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
pub(crate) fn delete_link(name: &LinkName) -> Message {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_string()));
    Message::DelLink(message)
}

/// Removes all links of a group.
pub(crate) fn delete_group(group: u32) -> Message {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    Message::DelLink(message)
}

/// Changes one attribute of a link.
pub(crate) fn set_link(index: u32, attribute: LinkAttribute) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(attribute);
    Message::SetLink(message)
}

/// Takes a link up.
pub(crate) fn set_up(index: u32) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Message::SetLink(message)
}
