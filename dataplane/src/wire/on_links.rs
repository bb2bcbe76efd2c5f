//! What is on links: addresses, neighbours and forwarding databases.

use std::net::IpAddr;

use model::{Mac, Subnet, names::LinkName};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
};

use super::{
    super::state::{AddressForm, AddressKey, FdbKey, NeighbourKey},
    Names, bytes_address, family, mac,
};

/// The address that a message tells, how it is set, and the number of its link before both.
pub(crate) fn address(message: &Message) -> Option<(u32, IpAddr, AddressForm)> {
    let Message::NewAddress(message) = message else {
        return None;
    };
    let mut attributes = message.attributes.iter();
    let this_end = attributes.find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let mut attributes = message.attributes.iter();
    let far_end = attributes.find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    // Where only one end is told, it is this one.
    let address = this_end.or(far_end)?;
    Some((message.header.index, address, address_form(message)))
}

/// Whether an address means the same beyond its link.
pub(crate) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// How the address of a message is set.
fn address_form(message: &AddressMessage) -> AddressForm {
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
pub(crate) fn on_link(address: IpAddr, form: AddressForm) -> Option<Subnet> {
    let alone = if address.is_ipv6() { 128 } else { 32 };
    Subnet::around(address, form.prefix).filter(|_| form.prefix < alone)
}

/// A permanent neighbour.
pub(crate) fn neighbour(message: &Message, names: &Names) -> Option<(NeighbourKey, Mac)> {
    let Message::NewNeighbour(message) = message else {
        return None;
    };
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
pub(crate) fn fdb(message: &Message, names: &Names) -> Option<(FdbKey, IpAddr)> {
    let Message::NewNeighbour(message) = message else {
        return None;
    };
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

/// Names an address of a link, to add or to delete it.
pub(crate) fn address_message(index: u32, key: &AddressKey, form: AddressForm) -> AddressMessage {
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
pub(crate) fn neighbour_message(index: u32, address: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
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
pub(crate) fn fdb_message(index: u32, mac: Mac, vtep: IpAddr) -> NeighbourMessage {
    let mut message = neighbour_message(index, vtep, Some(mac));
    message.header.family = AddressFamily::Bridge;
    message.header.flags = NeighbourFlags::Own;
    message
}
