//! What may have changed in a namespace since it was read, as notices of rtnetlink(7) and our own
//! changes name it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use model::names::LinkName;
use nix::libc;

use super::{
    plan::Change,
    state::{Route, Sysctl},
};

/// Links that are read again one by one; of more, all are read.
pub(crate) const MOST_LINKS: usize = 16;
/// Links that are looked at one by one where nothing that is on them is in doubt.
const MOST_DEVICES: usize = 128;

/// `RTM_NEWNETCONF`, `RTM_DELNETCONF` and `NETCONFA_IFINDEX` of linux/rtnetlink.h and
/// linux/netconf.h.
const NEW_NETCONF: u16 = 80;
const DELETE_NETCONF: u16 = 81;
const NETCONF_LINK: u16 = 1;
/// Bytes of a message's header, of those of routes and of netconf, and of an attribute's.
const HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;
const NETCONF_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
/// The number of `lo` in every namespace. What has no link is said to be on it.
const LOOPBACK: u32 = 1;

/// What of a link may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parts(u8);

impl Parts {
    /// The device itself.
    pub const DEVICE: Self = Self(1);
    /// Its addresses.
    pub const ADDRESSES: Self = Self(1 << 1);
    /// Its neighbours.
    pub const NEIGHBOURS: Self = Self(1 << 2);
    /// Its forwarding database.
    pub const FORWARDING: Self = Self(1 << 3);
    /// The routes out of it.
    pub const ROUTES: Self = Self(1 << 4);
    /// The limit of what leaves by it.
    pub const SHAPE: Self = Self(1 << 5);
    /// All of these.
    pub const ALL: Self = Self((1 << 6) - 1);

    /// Whether these are among them.
    pub fn hold(self, parts: Self) -> bool {
        self.0 & parts.0 == parts.0
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A link as it is known to whoever names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LinkRef {
    /// By its number.
    Number(u32),
    /// By its name.
    Name(LinkName),
}

/// What may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// All may have.
    pub whole: bool,
    /// These parts of these links.
    pub links: BTreeMap<LinkRef, Parts>,
    /// The values below /proc/sys of these links; `None`: those of no link.
    pub sysctls: BTreeSet<Option<LinkRef>>,
}

impl Doubt {
    /// All.
    pub(crate) fn whole() -> Self {
        Self {
            whole: true,
            ..Self::default()
        }
    }

    /// One link, with all that is on it.
    pub(crate) fn link(link: LinkRef) -> Self {
        Self::parts(link, Parts::ALL)
    }

    fn parts(link: LinkRef, parts: Parts) -> Self {
        Self {
            links: BTreeMap::from([(link, parts)]),
            ..Self::default()
        }
    }

    /// Parts of the link of this number, unless it stands for the whole namespace.
    fn number(number: Option<u32>, parts: Parts) -> Self {
        match number {
            Some(number) if number > LOOPBACK => Self::parts(LinkRef::Number(number), parts),
            _ => Self::whole(),
        }
    }

    fn sysctls(of: Option<LinkRef>) -> Self {
        Self {
            sysctls: BTreeSet::from([of]),
            ..Self::default()
        }
    }

    /// Whether nothing may have changed.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is to be read as a whole.
    pub(crate) fn is_whole(&self) -> bool {
        let laden = |parts: &&Parts| **parts != Parts::DEVICE;
        self.whole
            || self.links.len() > MOST_DEVICES
            || self.links.values().filter(laden).count() > MOST_LINKS
    }

    /// Adds another.
    pub(crate) fn add(&mut self, other: Self) {
        self.whole |= other.whole;
        for (link, parts) in other.links {
            let known = self.links.entry(link).or_insert(parts);
            *known = known.and(parts);
        }
        self.sysctls.extend(other.sysctls);
    }

    /// What a change of ours leaves to be read.
    pub(crate) fn of_change(change: &Change) -> Self {
        match change {
            Change::SetSysctl(Sysctl { link, .. }, _) => {
                Self::sysctls(link.clone().map(LinkRef::Name))
            }
            // Routes of any link go with their source address, and the kernel tells nobody.
            Change::DeleteAddress(..)
            | Change::SetRoute(_, Route::Unreachable | Route::Other)
            | Change::DeleteRoute(_, Route::Unreachable | Route::Other)
            | Change::Policy(_)
            | Change::CreateNamespace
            | Change::DeleteNamespace => Self::whole(),
            change => change.link().map_or_else(Self::whole, |link| {
                Self::parts(LinkRef::Name(link.clone()), parts_of(change))
            }),
        }
    }

    /// What a notice names. Whatever it does not say for sure, it says of the whole.
    pub(crate) fn of_notice(notice: &[u8]) -> Self {
        let Some(kind) = u16_at(notice, 4) else {
            return Self::whole();
        };
        match kind {
            libc::RTM_NEWLINK => Self::of_link(notice),
            libc::RTM_DELLINK => Self::number(u32_at(notice, HEADER + 4), Parts::ALL),
            libc::RTM_NEWADDR => Self::number(u32_at(notice, HEADER + 4), Parts::ADDRESSES),
            // No route has one of these as its source.
            libc::RTM_DELADDR if is_link_local(notice) => {
                Self::number(u32_at(notice, HEADER + 4), Parts::ALL)
            }
            // The kernel makes these for what a link sends to groups; none is ever ours.
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH if is_group(notice) => Self::default(),
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                let is_bridged =
                    notice.get(HEADER).copied().map(i32::from) == Some(libc::AF_BRIDGE);
                let parts = match is_bridged {
                    true => Parts::FORWARDING,
                    false => Parts::NEIGHBOURS,
                };
                Self::number(u32_at(notice, HEADER + 4), parts)
            }
            libc::RTM_NEWQDISC | libc::RTM_DELQDISC => {
                Self::number(u32_at(notice, HEADER + 4), Parts::SHAPE)
            }
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => Self::of_route(notice),
            NEW_NETCONF | DELETE_NETCONF => {
                let link = attribute(notice, HEADER + NETCONF_HEADER, NETCONF_LINK);
                match link.map(u32::cast_signed) {
                    Some(number) if number > 0 => {
                        Self::sysctls(Some(LinkRef::Number(number.cast_unsigned())))
                    }
                    // Of all links, or of those to come.
                    Some(_) => Self::sysctls(None),
                    None => Self::whole(),
                }
            }
            _ => Self::whole(),
        }
    }

    /// A link that goes down loses routes, of which the kernel tells nobody; any other change is
    /// one of the device alone, or is told by itself.
    fn of_link(notice: &[u8]) -> Self {
        let (number, changed) = (u32_at(notice, HEADER + 4), u32_at(notice, HEADER + 12));
        match (number, changed) {
            (Some(number), Some(changed)) if changed & libc::IFF_UP.cast_unsigned() == 0 => {
                Self::parts(LinkRef::Number(number), Parts::DEVICE)
            }
            (number, _) => Self::number(number, Parts::ALL),
        }
    }

    fn of_route(notice: &[u8]) -> Self {
        let (protocol, kind) = (notice.get(HEADER + 5), notice.get(HEADER + 7));
        match (protocol, kind) {
            // Those that the kernel makes by itself are never looked at.
            (Some(&libc::RTPROT_KERNEL), _) => Self::default(),
            (_, Some(&(libc::RTN_UNICAST | libc::RTN_LOCAL))) => {
                let link = attribute(notice, HEADER + ROUTE_HEADER, libc::RTA_OIF);
                Self::number(link, Parts::ROUTES)
            }
            _ => Self::whole(),
        }
    }
}

/// What of its link a change of ours leaves to be read.
fn parts_of(change: &Change) -> Parts {
    match change {
        Change::AddAddress(..) => Parts::ADDRESSES,
        Change::SetNeighbour(..) | Change::DeleteNeighbour(..) => Parts::NEIGHBOURS,
        Change::SetFdb(..) | Change::DeleteFdb(..) => Parts::FORWARDING,
        Change::SetRoute(..) | Change::DeleteRoute(..) => Parts::ROUTES,
        Change::SetShape(..) | Change::DeleteShape(..) => Parts::SHAPE,
        _ => Parts::ALL,
    }
}

/// Whether an address that has gone is an IPv6 one of its link alone.
fn is_link_local(notice: &[u8]) -> bool {
    const ADDRESS_HEADER: usize = 8;
    let family = notice.get(HEADER).copied().map(i32::from);
    let address = attribute_bytes(notice, HEADER + ADDRESS_HEADER, libc::IFA_ADDRESS);
    family == Some(libc::AF_INET6)
        && matches!(address, Some([0xfe, second, ..]) if second & 0xc0 == 0x80)
}

/// Whether a neighbour's address is one of a group.
fn is_group(notice: &[u8]) -> bool {
    const NEIGHBOUR_HEADER: usize = 12;
    match attribute_bytes(notice, HEADER + NEIGHBOUR_HEADER, libc::NDA_DST) {
        Some([first, _, _, _]) => first & 0xf0 == 0xe0,
        Some([first, ..]) => *first == 0xff,
        _ => false,
    }
}

/// The number that an attribute of a message holds; its attributes begin at `start`.
fn attribute(message: &[u8], start: usize, wanted: u16) -> Option<u32> {
    u32_at(attribute_bytes(message, start, wanted)?, 0)
}

fn attribute_bytes(message: &[u8], start: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(start..)?;
    loop {
        let (length, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkMessage;
    use netlink_packet_route::{
        AddressFamily, RouteNetlinkMessage as Message,
        address::{AddressAttribute, AddressMessage},
        link::{LinkFlags, LinkMessage},
        route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType},
        rule::RuleMessage,
    };

    use super::*;

    fn doubt(message: Message) -> Doubt {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Doubt::of_notice(&bytes)
    }

    fn route(kind: RouteType, protocol: RouteProtocol) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        (message.header.kind, message.header.protocol) = (kind, protocol);
        message.attributes = vec![
            RouteAttribute::Table(254),
            RouteAttribute::Priority(7),
            RouteAttribute::Oif(9),
        ];
        message
    }

    fn address(address: &str) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.index = 9;
        message.attributes = vec![AddressAttribute::Address(address.parse().unwrap())];
        message
    }

    fn ninth(parts: Parts) -> Doubt {
        Doubt::parts(LinkRef::Number(9), parts)
    }

    #[test]
    fn a_notice_names_its_link_or_the_whole_namespace() {
        let mut link = LinkMessage::default();
        link.header.index = 9;
        assert_eq!(doubt(Message::DelLink(link.clone())), ninth(Parts::ALL));
        assert_eq!(doubt(Message::NewLink(link.clone())), ninth(Parts::DEVICE));
        link.header.change_mask = LinkFlags::Up;
        assert_eq!(doubt(Message::NewLink(link.clone())), ninth(Parts::ALL));
        link.header.index = 1;
        assert_eq!(doubt(Message::NewLink(link)), Doubt::whole());
        assert_eq!(
            doubt(Message::NewRule(RuleMessage::default())),
            Doubt::whole()
        );
        assert_eq!(Doubt::of_notice(&[]), Doubt::whole());
    }

    #[test]
    fn a_route_names_its_link_unless_it_has_none_or_is_the_kernels() {
        let (unicast, ours) = (RouteType::Unicast, RouteProtocol::Other(110));
        assert_eq!(
            doubt(Message::NewRoute(route(unicast, ours))),
            ninth(Parts::ROUTES)
        );
        let kernels = route(unicast, RouteProtocol::Kernel);
        assert_eq!(doubt(Message::NewRoute(kernels)), Doubt::default());
        let nowhere = route(RouteType::Unreachable, ours);
        assert_eq!(doubt(Message::DelRoute(nowhere)), Doubt::whole());
        let mut unlinked = route(unicast, ours);
        unlinked.attributes.pop();
        assert_eq!(doubt(Message::DelRoute(unlinked)), Doubt::whole());
    }

    #[test]
    fn an_address_that_goes_may_take_routes_of_any_link_with_it() {
        assert_eq!(
            doubt(Message::NewAddress(address("fd00::1"))),
            ninth(Parts::ADDRESSES)
        );
        assert_eq!(
            doubt(Message::DelAddress(address("fe80::1"))),
            ninth(Parts::ALL)
        );
        assert_eq!(
            doubt(Message::DelAddress(address("fd00::1"))),
            Doubt::whole()
        );
    }

    #[test]
    fn many_links_are_read_as_a_whole() {
        let mut many = Doubt::default();
        assert!(many.is_none());
        for number in 0..=MOST_LINKS as u32 {
            assert!(!many.is_whole());
            many.add(Doubt::number(Some(number + 2), Parts::DEVICE));
        }
        for number in 0..=MOST_LINKS as u32 {
            assert!(!many.is_whole());
            many.add(Doubt::number(Some(number + 2), Parts::ROUTES));
        }
        assert!(many.is_whole());
    }
}
