//! Operations: what each one does, when, to which link, and in words.

use std::{fmt, net::IpAddr};

use model::{Mac, names::LinkName};

use super::super::{
    policy::PolicyChange,
    state::{
        AddressForm, AddressKey, FdbKey, Layer, Link, NeighbourKey, Place, Route, RouteKey, Shape,
        Stacked, Sysctl, Vxlan,
    },
};

/// One change of the kernel, idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The namespace that it happens in.
    pub place: Place,
    /// What happens.
    pub change: Change,
}

/// What an [`Op`] does, in the order in which a plan does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Removes a route.
    DeleteRoute(RouteKey, Route),
    /// Removes an entry of the forwarding database.
    DeleteFdb(FdbKey, IpAddr),
    /// Removes a neighbour.
    DeleteNeighbour(NeighbourKey),
    /// Removes an address.
    DeleteAddress(AddressKey, AddressForm),
    /// Removes a link; of a pair, both ends.
    DeleteLink(LinkName),
    /// Removes the namespace.
    DeleteNamespace,
    /// Makes the namespace.
    CreateNamespace,
    /// Writes a value below /proc/sys.
    SetSysctl(Sysctl, i64),
    /// Makes a VXLAN device here with its socket on the host.
    AddVxlan(LinkName, Link, Vxlan),
    /// Makes a device here on top of a link of the host.
    AddStacked(LinkName, Link, Stacked),
    /// Makes a pair of links, each end in its namespace.
    AddPair(Box<Pair>),
    /// Changes the MTU in place.
    SetMtu(LinkName, u32),
    /// Changes the Ethernet address in place.
    SetMac(LinkName, Mac),
    /// Takes the link up.
    SetUp(LinkName),
    /// Adds an address.
    AddAddress(AddressKey, AddressForm),
    /// Adds or replaces a permanent neighbour.
    SetNeighbour(NeighbourKey, Mac),
    /// Adds or replaces an entry of the forwarding database.
    SetFdb(FdbKey, IpAddr),
    /// Adds or replaces a route.
    SetRoute(RouteKey, Route),
    /// Changes which table is looked up.
    Policy(PolicyChange),
    /// Limits what leaves by a link.
    SetShape(LinkName, Shape),
    /// Limits it no more.
    DeleteShape(LinkName),
}

/// A veth pair: the end in the operation's own namespace and the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The near end's name.
    pub near: LinkName,
    /// The near end.
    pub near_link: Link,
    /// The far end's namespace.
    pub place: Place,
    /// The far end's name.
    pub far: LinkName,
    /// The far end.
    pub far_link: Link,
}

impl Change {
    /// When it happens. A route to an on-link next hop comes before the ones through that next hop.
    pub fn stage(&self) -> u8 {
        match self {
            Change::DeleteRoute(..) | Change::Policy(PolicyChange::Delete(_)) => 0,
            Change::DeleteFdb(..) | Change::DeleteShape(_) => 1,
            Change::DeleteNeighbour(..) => 2,
            Change::DeleteAddress(..) => 3,
            Change::DeleteLink(..) => 4,
            Change::DeleteNamespace => 5,
            Change::CreateNamespace => 6,
            Change::SetSysctl(Sysctl { link: None, .. }, _) => 7,
            Change::AddVxlan(..)
            | Change::AddStacked(
                _,
                _,
                Stacked {
                    layer: Layer::Vlan(_),
                    ..
                },
            ) => 8,
            Change::AddPair(..) | Change::AddStacked(..) => 9,
            Change::SetSysctl(..) => 10,
            Change::SetMtu(..) | Change::SetMac(..) | Change::SetShape(..) => 11,
            Change::SetUp(..) => 12,
            Change::AddAddress(..) => 13,
            Change::SetNeighbour(..) => 14,
            Change::SetFdb(..) => 15,
            Change::SetRoute(_, Route::Unicast { via: None, .. }) => 16,
            Change::SetRoute(..) => 17,
            Change::Policy(PolicyChange::Add(_)) => 18,
            Change::Policy(PolicyChange::RepeatLocal(_)) => 19,
            Change::Policy(PolicyChange::DropLocal(..)) => 20,
        }
    }

    /// The link that it is about.
    pub fn link(&self) -> Option<&LinkName> {
        match self {
            Change::DeleteRoute(_, route) | Change::SetRoute(_, route) => route.link(),
            Change::DeleteFdb(key, _) | Change::SetFdb(key, _) => Some(&key.link),
            Change::DeleteNeighbour(key) | Change::SetNeighbour(key, _) => Some(&key.link),
            Change::DeleteAddress(key, _) | Change::AddAddress(key, _) => Some(&key.link),
            Change::SetSysctl(key, _) => key.link.as_ref(),
            Change::AddPair(pair) => Some(&pair.near),
            Change::DeleteLink(link)
            | Change::AddVxlan(link, ..)
            | Change::AddStacked(link, ..) => Some(link),
            Change::SetMtu(link, _) | Change::SetMac(link, _) | Change::SetUp(link) => Some(link),
            Change::SetShape(link, _) | Change::DeleteShape(link) => Some(link),
            Change::DeleteNamespace | Change::CreateNamespace | Change::Policy(_) => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.change)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::DeleteRoute(key, _) => write!(out, "delete route {}", key.destination),
            Change::DeleteFdb(key, vtep) => {
                write!(out, "delete fdb {} on {} to {vtep}", key.mac, key.link)
            }
            Change::DeleteNeighbour(key) => {
                write!(out, "delete neighbour {} on {}", key.address, key.link)
            }
            Change::DeleteAddress(key, form) => {
                write!(
                    out,
                    "delete address {}/{} on {}",
                    key.address, form.prefix, key.link
                )
            }
            Change::DeleteLink(link) => write!(out, "delete link {link}"),
            Change::DeleteNamespace => write!(out, "delete namespace"),
            Change::CreateNamespace => write!(out, "create namespace"),
            Change::SetSysctl(key, value) => write!(out, "set {} = {value}", key.path()),
            Change::AddVxlan(link, _, vxlan) => {
                write!(out, "add vxlan {link} of VNI {}", vxlan.vni)
            }
            Change::AddStacked(link, _, stacked) => {
                write!(out, "add {} {link} on {}", stacked.layer, stacked.parent)
            }
            Change::AddPair(pair) => {
                write!(out, "add pair {} to {} {}", pair.near, pair.place, pair.far)
            }
            Change::SetMtu(link, mtu) => write!(out, "set mtu {mtu} on {link}"),
            Change::SetMac(link, mac) => write!(out, "set mac {mac} on {link}"),
            Change::SetUp(link) => write!(out, "set {link} up"),
            Change::AddAddress(key, form) => write!(
                out,
                "add address {}/{} on {}",
                key.address, form.prefix, key.link
            ),
            Change::SetNeighbour(key, mac) => write!(
                out,
                "set neighbour {} at {mac} on {}",
                key.address, key.link
            ),
            Change::SetFdb(key, vtep) => {
                write!(out, "set fdb {} on {} to {vtep}", key.mac, key.link)
            }
            Change::SetRoute(
                key,
                Route::Unicast {
                    link,
                    via: Some(via),
                    ..
                },
            ) => {
                write!(out, "set route {} via {via} on {link}", key.destination)
            }
            Change::SetRoute(key, Route::Unicast { link, .. }) => {
                write!(out, "set route {} on {link}", key.destination)
            }
            Change::SetRoute(key, Route::Local { link }) => {
                write!(out, "set route {} to the host on {link}", key.destination)
            }
            Change::Policy(change) => change.fmt(out),
            Change::SetShape(link, _) => write!(out, "limit what leaves by {link}"),
            Change::DeleteShape(link) => write!(out, "do not limit what leaves by {link}"),
            Change::SetRoute(key, _) => write!(out, "set route {} unreachable", key.destination),
        }
    }
}
