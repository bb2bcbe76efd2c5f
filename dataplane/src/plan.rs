//! The plan: the difference of desired and observed state as an ordered list of operations. Pure.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use model::{
    Mac,
    names::{self, LinkName, Namespace},
};

use super::{
    desired::Desired,
    policy::PolicyChange,
    state::{
        AddressForm, AddressKey, FdbKey, Kind, Layer, Link, NeighbourKey, ObservedKind,
        ObservedLink, Place, Route, RouteKey, Shape, Space, Stacked, Sysctl, Vxlan,
    },
};

/// All that the kernel holds of ours. Foreign objects never enter it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By namespace: the host, and every one of ours that exists.
    pub spaces: BTreeMap<Place, Arc<Space<ObservedLink>>>,
}

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

/// Operations from `observed` to `desired`; empty means settled. Deletes come first; devices come
/// before their addresses and routes.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Op> {
    let places = desired.spaces.keys().chain(observed.spaces.keys());
    plan_of(desired, observed, &places.copied().collect())
}

/// The same, where another plan is known, with what it leads from and to: only namespaces that
/// differ, or have operations, are looked at.
pub fn replan(
    (asked, found, ops): (&Desired, &Observed, &[Op]),
    desired: &Desired,
    observed: &Observed,
) -> Vec<Op> {
    let mut places: BTreeSet<Place> = ops.iter().map(|op| op.place).collect();
    places.extend(moved(&asked.spaces, &desired.spaces));
    places.extend(moved(&found.spaces, &observed.spaces));
    places.extend((asked.handed != desired.handed).then_some(Place::Host));
    // A pair is compared from both ends.
    let mut peers = Vec::new();
    for place in &places {
        let links = [asked, desired].map(|it| Some(&it.spaces.get(place)?.links));
        let seen = [found, observed].map(|it| Some(&it.spaces.get(place)?.links));
        for (name, link) in links.iter().flatten().copied().flatten() {
            let is_same = links[0].and_then(|links| links.get(name))
                == links[1].and_then(|links| links.get(name))
                && seen[0].and_then(|links| links.get(name))
                    == seen[1].and_then(|links| links.get(name));
            match &link.kind {
                Kind::Veth { peer_place, .. } if !is_same => peers.push(*peer_place),
                _ => {}
            }
        }
    }
    places.extend(peers);
    plan_of(desired, observed, &places)
}

/// The namespaces that came, went, or were made or read anew.
fn moved<'a, L>(
    before: &'a BTreeMap<Place, Arc<Space<L>>>,
    after: &'a BTreeMap<Place, Arc<Space<L>>>,
) -> impl Iterator<Item = Place> + 'a {
    both(before, after).filter_map(|(place, spaces)| {
        let is_same = matches!(spaces, [Some(old), Some(new)] if Arc::ptr_eq(old, new));
        (!is_same).then_some(*place)
    })
}

/// What is to be done in these namespaces.
fn plan_of(desired: &Desired, observed: &Observed, places: &BTreeSet<Place>) -> Vec<Op> {
    let found = places
        .iter()
        .filter_map(|place| Some((*place, observed.spaces.get(place)?.clone())));
    let mut left = Observed {
        spaces: found.collect(),
    };
    let mut ops = delete_links(desired, observed, &mut left);
    delete_namespaces(desired, &mut left, &mut ops);
    let asked = (places.iter()).filter_map(|place| desired.spaces.get_key_value(place));
    for (&place, space) in asked {
        // A foreign namespace is only looked up; until it exists nothing can be done there.
        if let (Place::Inside(_), None, false) =
            (place, left.spaces.get(&place), place.is_foreign())
        {
            ops.push(Op {
                place,
                change: Change::CreateNamespace,
            });
        }
        add_links(desired, &left, place, &mut ops);
        let found = left.spaces.remove(&place).unwrap_or_default();
        ops.extend(
            contents(place, space, &found)
                .into_iter()
                .map(|change| Op { place, change }),
        );
    }
    let nothing = Space::default();
    for (place, found) in left.spaces {
        ops.extend(
            contents(place, &nothing, &found)
                .into_iter()
                .map(|change| Op { place, change }),
        );
    }
    ops.sort_by_key(|op| (op.change.stage(), op.place));
    ops
}

/// Deletes unwanted links, and links that cannot be changed in place. The kernel removes the links
/// of a deleted namespace by itself, later and together: only tunnels are deleted explicitly.
fn delete_links(desired: &Desired, observed: &Observed, left: &mut Observed) -> Vec<Op> {
    let mut gone = Vec::new();
    for (&place, space) in &left.spaces {
        let goes = is_unwanted(desired, place);
        let born_with = names::loopback_link();
        let wrong = space.links.iter().filter(|(name, link)| {
            let lasts = match place.is_foreign() {
                true => !link.ours,
                false => goes && !matches!(link.kind, ObservedKind::Vxlan(_)),
            };
            **name != born_with
                && !lasts
                && !stays(desired, observed, place, name)
                && !is_handed(desired, place, name)
        });
        gone.extend(wrong.map(|(name, _)| (place, name.clone())));
    }
    for (place, link) in &gone {
        Arc::make_mut(left.spaces.entry(*place).or_default()).forget(link);
    }
    gone.into_iter()
        .map(|(place, link)| Op {
            place,
            change: Change::DeleteLink(link),
        })
        .collect()
}

fn stays(desired: &Desired, observed: &Observed, place: Place, link: &LinkName) -> bool {
    let Some(found) = observed
        .spaces
        .get(&place)
        .and_then(|space| space.links.get(link))
    else {
        return false;
    };
    let Some(asked) = desired
        .spaces
        .get(&place)
        .and_then(|space| space.links.get(link))
    else {
        return false;
    };
    match (&asked.kind, &found.kind) {
        (Kind::Loopback, _) => true,
        (Kind::Vxlan(asked), ObservedKind::Vxlan(found)) => asked == found,
        (Kind::Stacked(asked), ObservedKind::Stacked(found)) => asked == found,
        // Where the other end is, is for others to say.
        (Kind::Handed { .. }, ObservedKind::Veth(_)) => true,
        (Kind::Veth { peer_place, peer }, ObservedKind::Veth(peer_index)) => {
            let other = observed
                .spaces
                .get(peer_place)
                .and_then(|space| space.links.get(peer));
            other.is_some_and(|other| {
                other.index == *peer_index && other.kind == ObservedKind::Veth(found.index)
            })
        }
        _ => false,
    }
}

/// Whether it lies on the host for others to take.
fn is_handed(desired: &Desired, place: Place, link: &LinkName) -> bool {
    let endpoint = names::parse_handed_link(link.as_str()).filter(|_| place == Place::Host);
    endpoint.is_some_and(|endpoint| desired.handed.contains(&endpoint))
}

/// Namespaces that should not be; what is in them goes with them.
fn delete_namespaces(desired: &Desired, left: &mut Observed, ops: &mut Vec<Op>) {
    let gone: Vec<Place> = left
        .spaces
        .keys()
        .copied()
        .filter(|&place| is_unwanted(desired, place))
        .collect();
    for place in gone {
        left.spaces.remove(&place);
        ops.push(Op {
            place,
            change: Change::DeleteNamespace,
        });
    }
}

fn is_unwanted(desired: &Desired, place: Place) -> bool {
    matches!(place, Place::Inside(_)) && !desired.spaces.contains_key(&place)
}

/// Makes the links that are missing. Of a pair, the end in a network's namespace stands for both.
fn add_links(desired: &Desired, left: &Observed, place: Place, ops: &mut Vec<Op>) {
    let Some(space) = desired.spaces.get(&place) else {
        return;
    };
    let missing = |link: &LinkName| {
        !left
            .spaces
            .get(&place)
            .is_some_and(|space| space.links.contains_key(link))
    };
    for (name, link) in space.links.iter().filter(|(name, _)| missing(name)) {
        let change = match &link.kind {
            Kind::Loopback => None,
            Kind::Vxlan(vxlan) => Some(Change::AddVxlan(name.clone(), link.clone(), vxlan.clone())),
            Kind::Stacked(stacked) => Some(Change::AddStacked(
                name.clone(),
                link.clone(),
                stacked.clone(),
            )),
            Kind::Veth { peer_place, peer }
                if matches!(place, Place::Inside(Namespace::Network(_))) =>
            {
                let far = desired
                    .spaces
                    .get(peer_place)
                    .and_then(|space| space.links.get(peer));
                far.map(|far_link| {
                    Change::AddPair(Box::new(Pair {
                        near: name.clone(),
                        near_link: link.clone(),
                        place: *peer_place,
                        far: peer.clone(),
                        far_link: far_link.clone(),
                    }))
                })
            }
            Kind::Veth { .. } => None,
            Kind::Handed { peer, mac } => {
                let kind = Kind::Veth {
                    peer_place: place,
                    peer: name.clone(),
                };
                let far_link = Link {
                    kind,
                    mac: Some(*mac),
                    mtu: link.mtu,
                };
                let (near, near_link) = (name.clone(), link.clone());
                let pair = Pair {
                    near,
                    near_link,
                    place: Place::Host,
                    far: peer.clone(),
                    far_link,
                };
                Some(Change::AddPair(Box::new(pair)))
            }
        };
        ops.extend(change.map(|change| Op { place, change }));
    }
}

fn contents(place: Place, desired: &Space<Link>, found: &Space<ObservedLink>) -> Vec<Change> {
    let mut changes = Vec::new();
    let sysctls = Difference::of(&desired.sysctls, &found.sysctls);
    let sysctls = sysctls.set.iter();
    changes.extend(sysctls.map(|(key, value)| Change::SetSysctl((*key).clone(), **value)));
    for (name, link) in &desired.links {
        changes.extend(link_changes(name, link, found.links.get(name)));
    }
    let addresses = Difference::of(&desired.addresses, &found.addresses);
    // An address has no change in place.
    let old = addresses
        .set
        .iter()
        .filter_map(|(key, _)| Some(((*key).clone(), *found.addresses.get(key)?)));
    changes.extend(old.map(|(key, form)| Change::DeleteAddress(key, form)));
    changes.extend(
        addresses
            .delete
            .iter()
            .map(|(key, form)| Change::DeleteAddress((*key).clone(), **form)),
    );
    changes.extend(
        addresses
            .set
            .iter()
            .map(|(key, form)| Change::AddAddress((*key).clone(), **form)),
    );
    let neighbours = Difference::of(&desired.neighbours, &found.neighbours);
    changes.extend(
        neighbours
            .delete
            .iter()
            .map(|(key, _)| Change::DeleteNeighbour((*key).clone())),
    );
    changes.extend(
        neighbours
            .set
            .iter()
            .map(|(key, mac)| Change::SetNeighbour((*key).clone(), **mac)),
    );
    let fdb = Difference::of(&desired.fdb, &found.fdb);
    changes.extend(
        fdb.delete
            .iter()
            .map(|(key, vtep)| Change::DeleteFdb((*key).clone(), **vtep)),
    );
    changes.extend(
        fdb.set
            .iter()
            .map(|(key, vtep)| Change::SetFdb((*key).clone(), **vtep)),
    );
    let routes = Difference::of(&desired.routes, &found.routes);
    changes.extend(
        routes
            .delete
            .iter()
            .map(|(key, route)| Change::DeleteRoute((*key).clone(), (*route).clone())),
    );
    // On the host nothing is replaced, for it might be another's: what is ours goes first.
    let old = routes.set.iter().filter(|_| place == Place::Host);
    let old = old.filter_map(|(key, _)| Some(((*key).clone(), found.routes.get(*key)?.clone())));
    changes.extend(old.map(|(key, route)| Change::DeleteRoute(key, route)));
    changes.extend(
        routes
            .set
            .iter()
            .map(|(key, route)| Change::SetRoute((*key).clone(), (*route).clone())),
    );
    let shapes = Difference::of(&desired.shapes, &found.shapes);
    changes.extend(
        shapes
            .delete
            .iter()
            .map(|(link, _)| Change::DeleteShape((*link).clone())),
    );
    changes.extend(
        shapes
            .set
            .iter()
            .map(|(link, shape)| Change::SetShape((*link).clone(), **shape)),
    );
    changes.extend(
        desired
            .policies
            .changes(&found.policies)
            .into_iter()
            .map(Change::Policy),
    );
    changes
}

/// A link that has just been made has its MTU and MAC already; it only comes up.
fn link_changes(name: &LinkName, asked: &Link, found: Option<&ObservedLink>) -> Vec<Change> {
    let Some(found) = found else {
        return vec![Change::SetUp(name.clone())];
    };
    let mtu = asked
        .mtu
        .filter(|&mtu| mtu != found.mtu)
        .map(|mtu| Change::SetMtu(name.clone(), mtu));
    let mac = asked
        .mac
        .filter(|&mac| Some(mac) != found.mac)
        .map(|mac| Change::SetMac(name.clone(), mac));
    let up = (!found.up).then(|| Change::SetUp(name.clone()));
    [mtu, mac, up].into_iter().flatten().collect()
}

/// The keys of both maps, with what each has there.
fn both<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, [Option<&'a V>; 2])> {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (before.peek(), after.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let old = before.next_if(|_| order != Ordering::Greater);
        let new = after.next_if(|_| order != Ordering::Less);
        let key = old.or(new)?.0;
        Some((key, [old, new].map(|entry| entry.map(|(_, value)| value))))
    })
}

/// How two maps differ: what is to be set, because it is missing or another value, and what is to
/// be deleted.
pub struct Difference<'a, K, V> {
    /// Desired entries.
    pub set: Vec<(&'a K, &'a V)>,
    /// Observed entries.
    pub delete: Vec<(&'a K, &'a V)>,
}

impl<'a, K: Ord, V: PartialEq> Difference<'a, K, V> {
    /// What leads from `observed` to `desired`.
    pub fn of(desired: &'a BTreeMap<K, V>, observed: &'a BTreeMap<K, V>) -> Self {
        let (mut set, mut delete) = (Vec::new(), Vec::new());
        for (key, values) in both(desired, observed) {
            match values {
                [Some(asked), found] if found != Some(asked) => set.push((key, asked)),
                [None, Some(found)] => delete.push((key, found)),
                _ => {}
            }
        }
        Self { set, delete }
    }
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
            Change::Policy(PolicyChange::DropLocal(_)) => 20,
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
