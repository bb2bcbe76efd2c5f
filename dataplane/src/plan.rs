//! The plan: the difference of desired and observed state as an ordered list of operations. Pure.

mod op;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::names::{self, LinkName, Namespace};

use super::{
    desired::Desired,
    state::{Kind, Link, ObservedKind, ObservedLink, Place, Space},
};

pub use op::{Change, Op, Pair};

/// All that the kernel holds of ours. Foreign objects never enter it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By namespace: the host, and every one of ours that exists.
    pub spaces: BTreeMap<Place, Arc<Space<ObservedLink>>>,
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
