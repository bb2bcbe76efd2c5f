//! Requests for what there is.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::AddressMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourMessage},
    route::{RouteAttribute, RouteMessage},
    rule::RuleMessage,
};

use super::{
    super::{doubt::LinkRef, state::host_prefix},
    family,
};

/// What dumps are of, for people.
pub(crate) const LINKS: &str = "links";
/// The same.
pub(crate) const ADDRESSES: &str = "addresses";

/// Asks for every link.
pub(crate) fn get_links() -> Message {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    Message::GetLink(message)
}

/// Asks for one link.
pub(crate) fn get_link(link: &LinkRef) -> Message {
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
pub(crate) fn get_addresses(of: Option<u32>) -> Message {
    let mut message = AddressMessage::default();
    message.header.index = of.unwrap_or_default();
    Message::GetAddress(message)
}

/// Asks for the neighbours of a family, those on the link of this number or all.
pub(crate) fn get_neighbours(family: AddressFamily, of: Option<u32>) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message
        .attributes
        .extend(of.map(NeighbourAttribute::IfIndex));
    Message::GetNeighbour(message)
}

/// Asks for the forwarding database of the link of this number, or for all.
pub(crate) fn get_forwarding(of: Option<u32>) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = of.unwrap_or_default();
    Message::GetNeighbour(message)
}

/// Asks for the routes of a family, those out of the link of this number or all.
pub(crate) fn get_routes(family: AddressFamily, of: Option<u32>) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.attributes.extend(of.map(RouteAttribute::Oif));
    Message::GetRoute(message)
}

/// Asks for every policy rule of a family.
pub(crate) fn get_policies(family: AddressFamily) -> Message {
    let mut message = RuleMessage::default();
    message.header.family = family;
    Message::GetRule(message)
}

/// Asks how packets get from here to there.
pub(crate) fn get_route(from: IpAddr, to: IpAddr) -> Message {
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
