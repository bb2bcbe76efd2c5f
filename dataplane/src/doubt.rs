//! What may have changed in a namespace since it was read, as notices of rtnetlink(7) and our own
//! changes name it. Pure.

use std::collections::BTreeSet;

use model::names::LinkName;
use nix::libc;

use super::{
    plan::Change,
    state::{Route, Sysctl},
};

/// Links that are read again one by one; of more, all are read.
pub const MOST_LINKS: usize = 16;

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

/// A link as it is known to whoever names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkRef {
    /// By its number.
    Number(u32),
    /// By its name.
    Name(LinkName),
}

/// What may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    /// All may have.
    pub whole: bool,
    /// These links, with their addresses, neighbours and routes.
    pub links: BTreeSet<LinkRef>,
    /// The values below /proc/sys of these links; `None`: those of no link.
    pub sysctls: BTreeSet<Option<LinkRef>>,
}

impl Doubt {
    /// All.
    pub fn whole() -> Self {
        Self {
            whole: true,
            ..Self::default()
        }
    }

    /// One link.
    pub fn link(link: LinkRef) -> Self {
        Self {
            links: BTreeSet::from([link]),
            ..Self::default()
        }
    }

    /// The link of this number, unless it stands for the whole namespace.
    fn number(number: Option<u32>) -> Self {
        match number {
            Some(number) if number > LOOPBACK => Self::link(LinkRef::Number(number)),
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
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is to be read as a whole.
    pub fn is_whole(&self) -> bool {
        self.whole || self.links.len() > MOST_LINKS
    }

    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.whole |= other.whole;
        self.links.extend(other.links);
        self.sysctls.extend(other.sysctls);
    }

    /// What a change of ours leaves to be read.
    pub fn of_change(change: &Change) -> Self {
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
            change => change
                .link()
                .map_or_else(Self::whole, |link| Self::link(LinkRef::Name(link.clone()))),
        }
    }

    /// What a notice names. Whatever it does not say for sure, it says of the whole.
    pub fn of_notice(notice: &[u8]) -> Self {
        let Some(kind) = u16_at(notice, 4) else {
            return Self::whole();
        };
        match kind {
            libc::RTM_NEWLINK
            | libc::RTM_DELLINK
            | libc::RTM_NEWADDR
            | libc::RTM_NEWNEIGH
            | libc::RTM_DELNEIGH
            | libc::RTM_NEWQDISC
            | libc::RTM_DELQDISC => Self::number(u32_at(notice, HEADER + 4)),
            // No route has one of these as its source.
            libc::RTM_DELADDR if is_link_local(notice) => Self::number(u32_at(notice, HEADER + 4)),
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

    fn of_route(notice: &[u8]) -> Self {
        let (protocol, kind) = (notice.get(HEADER + 5), notice.get(HEADER + 7));
        match (protocol, kind) {
            // Those that the kernel makes by itself are never looked at.
            (Some(&libc::RTPROT_KERNEL), _) => Self::default(),
            (_, Some(&(libc::RTN_UNICAST | libc::RTN_LOCAL))) => {
                Self::number(attribute(notice, HEADER + ROUTE_HEADER, libc::RTA_OIF))
            }
            _ => Self::whole(),
        }
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
        link::LinkMessage,
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

    fn ninth() -> Doubt {
        Doubt::link(LinkRef::Number(9))
    }

    #[test]
    fn a_notice_names_its_link_or_the_whole_namespace() {
        let mut link = LinkMessage::default();
        link.header.index = 9;
        assert_eq!(doubt(Message::DelLink(link.clone())), ninth());
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
        assert_eq!(doubt(Message::NewRoute(route(unicast, ours))), ninth());
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
        assert_eq!(doubt(Message::NewAddress(address("fd00::1"))), ninth());
        assert_eq!(doubt(Message::DelAddress(address("fe80::1"))), ninth());
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
            many.add(Doubt::number(Some(number + 2)));
        }
        assert!(many.is_whole());
    }
}
