//! Translates between our types and rtnetlink messages. Pure: opens no socket.

mod ask;
mod links;
mod make;
mod on_links;
mod routes;

use std::{collections::BTreeMap, net::IpAddr, os::fd::RawFd};

use model::{IpvlanMode, Mac, MacvlanMode, names::LinkName};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    link::{IpVlanMode, MacVlanMode},
    nsid::{NsidAttribute, NsidMessage},
};

pub(crate) use ask::*;
pub(crate) use links::*;
pub(crate) use make::*;
pub(crate) use on_links::*;
pub(crate) use routes::*;

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

/// The group of devices of ours in sandboxes: in those of others it tells which are ours. `netd` in
/// ASCII.
pub(crate) const GROUP: u32 = 0x6e65_7464;

/// The group of links that are about to be removed.
pub(crate) const GOING: u32 = GROUP + 1;

/// Numbers of links by name.
pub(crate) type Indices = BTreeMap<LinkName, u32>;
/// Names of links by number.
pub(crate) type Names = BTreeMap<u32, LinkName>;

/// Gives another namespace, an open file, a number in the socket's own: the lowest that is free.
pub(crate) fn number_namespace(namespace: RawFd) -> Message {
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Id(-1), NsidAttribute::Fd(namespace as u32)];
    Message::NewNsId(message)
}

/// Asks for the number of another namespace, an open file.
pub(crate) fn get_number(namespace: RawFd) -> Message {
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(namespace as u32)];
    Message::GetNsId(message)
}

/// The number that is told.
pub(crate) fn number(message: &Message) -> Option<i32> {
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
