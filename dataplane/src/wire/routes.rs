//! Routes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use model::{Subnet, names::Namespace};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteScope, RouteType, RouteVia,
    },
};

use super::{
    super::{
        policy::{HOST_TABLES, PEER_TABLES},
        state::{MAIN_TABLE, Place, Route, RouteKey},
    },
    Names, family,
};

/// Protocol number of our routes (`ip route` shows `proto 110`), to tell them from routes that
/// programs in a sandbox add.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(110);
/// The bits of a table's number on the host that are a VNI.
const VNI: u32 = 0x00ff_ffff;
/// The bit of `RTAX_MTU` (linux/rtnetlink.h) in `RTAX_LOCK`.
const MTU_LOCK: u32 = 1 << 2;

/// What fits through a route: its own MTU, or that of the link that it leads out of.
pub(crate) fn path_mtu(message: &RouteMessage, links: &BTreeMap<u32, u32>) -> Option<u32> {
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

/// A route that is ours to look at: of the main table on the host one out of a link of ours, in a
/// network's namespace any, in a sandbox one that bears our mark; and all of tables of ours. Never
/// one that the kernel made by itself.
pub(crate) fn route(message: &Message, place: Place, names: &Names) -> Option<(RouteKey, Route)> {
    let Message::NewRoute(message) = message else {
        return None;
    };
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

/// Names a route; `index` is the number of the link it leads out of.
pub(crate) fn route_message(key: &RouteKey, route: &Route, index: Option<u32>) -> RouteMessage {
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
pub(crate) fn set_route(key: &RouteKey, route: &Route, index: Option<u32>) -> Message {
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
pub(crate) fn delete_route(key: &RouteKey, route: &Route, index: Option<u32>) -> Message {
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

fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
