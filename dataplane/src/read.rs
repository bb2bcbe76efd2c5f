//! Reads one network namespace: all of it, or what may have changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::names::{LinkName, Namespace};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message, link::LinkMessage};
use nix::errno::Errno;

use super::{
    channel::{Channel, KernelError},
    doubt::{Doubt, LinkRef, Parts},
    policy::Tables,
    shape,
    state::{AddressKey, Link, ObservedKind, ObservedLink, Place, Route, RouteKey, Space, Sysctl},
    wire,
};

/// Which values below /proc/sys are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// All of the namespace.
    All,
    /// Those of these links; `None`: those of no link.
    Of(BTreeSet<Option<LinkName>>),
}

impl Unread {
    /// Whether this value is.
    pub(crate) fn holds(&self, sysctl: &Sysctl) -> bool {
        match self {
            Self::All => true,
            Self::Of(links) => links.contains(&sysctl.link),
        }
    }
}

type Seen = Space<ObservedLink>;

/// A kind of what links have on them.
struct Contents {
    part: Parts,
    what: &'static str,
    /// The dumps that it takes, of the link of this number or of all.
    requests: fn(Option<u32>) -> Vec<Message>,
    take: fn(&Message, Place, &wire::Names, &mut Seen),
}

const CONTENTS: [Contents; 5] = [
    Contents {
        part: Parts::ADDRESSES,
        what: wire::ADDRESSES,
        requests: |of| vec![wire::get_addresses(of)],
        take: take_address,
    },
    Contents {
        part: Parts::SHAPE,
        what: "limits",
        requests: |_| vec![shape::get()],
        take: |message, _, names, space| space.shapes.extend(shape::read(message, names)),
    },
    Contents {
        part: Parts::NEIGHBOURS,
        what: "neighbours",
        requests: |of| BOTH.map(|family| wire::get_neighbours(family, of)).to_vec(),
        take: |message, _, names, space| space.neighbours.extend(wire::neighbour(message, names)),
    },
    Contents {
        part: Parts::FORWARDING,
        what: "forwarding entries",
        requests: |of| vec![wire::get_forwarding(of)],
        take: |message, _, names, space| space.fdb.extend(wire::fdb(message, names)),
    },
    Contents {
        part: Parts::ROUTES,
        what: "routes",
        requests: |of| BOTH.map(|family| wire::get_routes(family, of)).to_vec(),
        take: take_route,
    },
];

const BOTH: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

fn take_address(message: &Message, _: Place, names: &wire::Names, space: &mut Seen) {
    let Some((index, address, form)) = wire::address(message) else {
        return;
    };
    let Some(link) = names.get(&index).filter(|_| !address.is_loopback()) else {
        return;
    };
    let key = AddressKey {
        link: link.clone(),
        address,
    };
    space.addresses.insert(key, form);
}

/// Routes of one prefix and metric come in the order in which they take effect.
fn take_route(message: &Message, place: Place, names: &wire::Names, space: &mut Seen) {
    let Some((mut key, route)) = wire::route(message, place, names) else {
        return;
    };
    while space.routes.contains_key(&key) {
        key.nth += 1;
    }
    space.routes.insert(key, route);
}

/// A link of which parts are read by themselves.
struct Fresh {
    name: LinkName,
    index: u32,
    parts: Parts,
}

/// A namespace of which parts are read again.
struct Partial<'a> {
    space: Arc<Seen>,
    unread: BTreeSet<Option<LinkName>>,
    fresh: Vec<Fresh>,
    host: &'a wire::Names,
    asked: Option<&'a Space<Link>>,
}

/// What of single links is in doubt: of those that were seen, by their names, and of others.
type Single = (BTreeMap<LinkName, Parts>, BTreeMap<LinkRef, Parts>);

impl Channel {
    /// Reads again what may have changed; `seen` is what there is then. `asked` says which values
    /// below /proc/sys are looked at; those that it returns are not read yet, unless their links'
    /// messages tell them.
    pub(crate) fn observe(
        &mut self,
        host: &wire::Names,
        asked: Option<&Space<Link>>,
    ) -> Result<Unread, KernelError> {
        let doubt = std::mem::take(&mut self.doubt);
        if let Some(seen) = self.seen.take()
            && self.dumps_parts
            && !doubt.is_whole()
            && let Some((space, unread)) = self.observe_parts(seen, &doubt, host, asked)?
        {
            self.seen = Some(space);
            return Ok(unread);
        }
        self.seen = Some(Arc::new(self.observe_all(host, asked)?));
        Ok(Unread::All)
    }

    fn observe_all(
        &mut self,
        host: &wire::Names,
        asked: Option<&Space<Link>>,
    ) -> Result<Seen, KernelError> {
        let mut space = Space::default();
        for message in self.dump_or_kept(wire::LINKS, wire::get_links())? {
            let Message::NewLink(message) = message else {
                continue;
            };
            let Some((_, name)) =
                wire::link_name(&message).filter(|(_, name)| wire::is_ours(self.place, name))
            else {
                continue;
            };
            take_told(&mut space, &name, &message, asked);
            space
                .links
                .insert(name, wire::link(&message, self.place, host));
        }
        let numbers = space.links.iter();
        self.indices = numbers
            .map(|(name, link)| (name.clone(), link.index))
            .collect();
        let names: wire::Names = self
            .indices
            .iter()
            .map(|(name, &index)| (index, name.clone()))
            .collect();
        if self.has_policies {
            self.observe_policies(&mut space)?;
        }
        let is_empty_host = self.place == Place::Host && names.is_empty();
        for contents in &CONTENTS {
            let is_read = match contents.part {
                Parts::ADDRESSES => true,
                part => self.may_have(part) && !is_empty_host,
            };
            if is_read {
                self.take(contents, None, &names, &mut space)?;
            }
        }
        self.has_shapes &= !space.shapes.is_empty();
        Ok(space)
    }

    /// Reads contents of the link of this number, or of all.
    fn take(
        &mut self,
        contents: &Contents,
        of: Option<u32>,
        names: &wire::Names,
        space: &mut Seen,
    ) -> Result<(), KernelError> {
        for request in (contents.requests)(of) {
            let found = match of {
                Some(_) => self.dump(contents.what, request)?,
                None => self.dump_or_kept(contents.what, request)?,
            };
            for message in &found {
                (contents.take)(message, self.place, names, space);
            }
        }
        Ok(())
    }

    /// Whether links here may have something of this kind.
    fn may_have(&self, part: Parts) -> bool {
        match part {
            Parts::FORWARDING => matches!(self.place, Place::Inside(Namespace::Network(_))),
            Parts::SHAPE => self.has_shapes,
            _ => true,
        }
    }

    /// `None` where a part does not tell enough: what one link has depends on others, or something
    /// changes meanwhile.
    fn observe_parts(
        &mut self,
        space: Arc<Seen>,
        doubt: &Doubt,
        host: &wire::Names,
        asked: Option<&Space<Link>>,
    ) -> Result<Option<(Arc<Seen>, Unread)>, KernelError> {
        // The order of routes that only their links tell apart is known by reading all.
        if space.routes.keys().any(|key| key.nth > 0) {
            return Ok(None);
        }
        let unread: BTreeSet<Option<LinkName>> = (doubt.sysctls.iter())
            .map(|of| of.as_ref().map(|link| named(&space, link)))
            .filter(|of| *of != Some(None))
            .map(Option::flatten)
            .collect();
        let (seen, others) = single(&space, doubt);
        let mut partial = Partial {
            space,
            unread,
            fresh: Vec::new(),
            host,
            asked,
        };
        for (name, parts) in seen {
            let index = partial.space.links.get(&name).map_or(0, |link| link.index);
            if parts.hold(Parts::DEVICE) {
                self.look_at(&LinkRef::Number(index), Some(name), parts, &mut partial)?;
            } else {
                partial.fresh.push(Fresh { name, index, parts });
            }
        }
        for (link, parts) in others {
            self.look_at(&link, None, parts, &mut partial)?;
        }
        let Partial {
            mut space,
            unread,
            mut fresh,
            ..
        } = partial;
        fresh.retain(|fresh| fresh.parts != Parts::DEVICE);
        match self.observe_fresh(&fresh, &mut space) {
            Ok(true) => Ok(Some((space, Unread::Of(unread)))),
            Ok(false) => Ok(None),
            // Gone meanwhile.
            Err(KernelError::Dump(_, _, error))
                if error.raw_os_error() == Some(Errno::ENODEV as i32) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// One link itself, which was seen as `before` if it was seen. One that is another now has all
    /// its parts read.
    fn look_at(
        &mut self,
        link: &LinkRef,
        before: Option<LinkName>,
        parts: Parts,
        partial: &mut Partial<'_>,
    ) -> Result<(), KernelError> {
        let found = self
            .ask_link(link)
            .map_err(|error| KernelError::Dump(self.place, "a link", error))?;
        let found = found.and_then(|message| {
            let (index, name) = wire::link_name(&message)?;
            wire::is_ours(self.place, &name).then_some((index, name, message))
        });
        let now = found.as_ref().map(|(_, name, _)| name);
        if let Some(before) = before.filter(|before| now != Some(before)) {
            Arc::make_mut(&mut partial.space).forget(&before);
            self.indices.remove(&before);
        }
        let Some((index, name, message)) = found else {
            return Ok(());
        };
        // Others name the same link by its name, or by a number that was not seen.
        if partial.fresh.iter().any(|fresh| fresh.name == name) {
            return Ok(());
        }
        let link = wire::link(&message, self.place, partial.host);
        let known = partial.space.links.get(&name);
        let is_kept = known.is_some_and(|known| known.index == index);
        let is_same = known == Some(&link);
        if !is_kept {
            Arc::make_mut(&mut partial.space).forget(&name);
            partial.unread.insert(Some(name.clone()));
        }
        if !is_same {
            let links = &mut Arc::make_mut(&mut partial.space).links;
            links.insert(name.clone(), link);
        }
        if tells_other(&partial.space, &name, &message, partial.asked) {
            let space = Arc::make_mut(&mut partial.space);
            take_told(space, &name, &message, partial.asked);
        }
        self.indices.insert(name.clone(), index);
        let parts = if is_same { parts } else { Parts::ALL };
        partial.fresh.push(Fresh { name, index, parts });
        Ok(())
    }

    /// What these links have; whether it tells enough.
    fn observe_fresh(
        &mut self,
        fresh: &[Fresh],
        space: &mut Arc<Seen>,
    ) -> Result<bool, KernelError> {
        if fresh.is_empty() {
            return Ok(true);
        }
        let space = Arc::make_mut(space);
        for link in fresh {
            space.forget_parts(&link.name, link.parts);
            let names = wire::Names::from([(link.index, link.name.clone())]);
            let mut found = Space::default();
            let device = space.links.get(&link.name);
            let forwards = device.is_some_and(|it| matches!(it.kind, ObservedKind::Vxlan(_)));
            for contents in &CONTENTS {
                let is_read = match contents.part {
                    // The kernel tells those of all links at once.
                    Parts::SHAPE => false,
                    Parts::FORWARDING => forwards,
                    _ => true,
                };
                if is_read && link.parts.hold(contents.part) && self.may_have(contents.part) {
                    self.take(contents, Some(link.index), &names, &mut found)?;
                }
            }
            let is_plain = |(key, route): (&RouteKey, &Route)| {
                route.link() == Some(&link.name) && !space.routes.contains_key(key)
            };
            if !found.routes.iter().all(is_plain) {
                return Ok(false);
            }
            space.add(found);
        }
        let names: wire::Names = fresh
            .iter()
            .filter(|link| link.parts.hold(Parts::SHAPE))
            .map(|link| (link.index, link.name.clone()))
            .collect();
        if self.has_shapes && !names.is_empty() {
            for contents in CONTENTS.iter().filter(|it| it.part == Parts::SHAPE) {
                self.take(contents, None, &names, space)?;
            }
        }
        Ok(true)
    }

    /// Read while there are or should be some, and once, for an earlier netd may have left some.
    fn observe_policies(&mut self, space: &mut Seen) -> Result<(), KernelError> {
        for family in BOTH {
            let rules = self.dump("policy rules", wire::get_policies(family))?;
            let rules = rules.into_iter().filter_map(|message| match message {
                Message::NewRule(rule) if rule.header.family == family => Some(rule),
                _ => None,
            });
            let ours = match self.place {
                Place::Host => Tables::Host,
                Place::Inside(_) => Tables::Peers,
            };
            space
                .policies
                .read(family, ours, &rules.collect::<Vec<_>>());
        }
        self.has_policies = !space.policies.is_empty();
        Ok(())
    }
}

/// Which links are in doubt. Most are named twice, by their numbers and by their names.
fn single(space: &Seen, doubt: &Doubt) -> Single {
    let (mut seen, mut others) = Single::default();
    // Their messages tell values below /proc/sys.
    let of_sysctls = doubt.sysctls.iter().flatten();
    let of_sysctls = of_sysctls.map(|link| (link, Parts::DEVICE));
    let links = doubt.links.iter().map(|(link, parts)| (link, *parts));
    for (link, parts) in links.chain(of_sysctls) {
        let known = match named(space, link) {
            Some(name) => seen.entry(name).or_insert(parts),
            None => others.entry(link.clone()).or_insert(parts),
        };
        *known = known.and(parts);
    }
    (seen, others)
}

/// The name that a link was seen under.
fn named(space: &Seen, link: &LinkRef) -> Option<LinkName> {
    match link {
        LinkRef::Name(name) => space.links.contains_key(name).then(|| name.clone()),
        LinkRef::Number(number) => {
            let mut links = space.links.iter();
            let (name, _) = links.find(|(_, link)| link.index == *number)?;
            Some(name.clone())
        }
    }
}

/// The values below /proc/sys that are looked at and a link's message may tell, with what it says.
fn told<'a>(
    name: &'a LinkName,
    message: &'a LinkMessage,
    asked: Option<&'a Space<Link>>,
) -> impl Iterator<Item = (&'a Sysctl, Option<i64>)> {
    let told = wire::Told::of(message);
    let first = Sysctl::of_link("", name, "");
    let keys = asked
        .into_iter()
        .flat_map(move |asked| asked.sysctls.range(first.clone()..));
    let keys = keys.map(|(key, _)| key);
    let keys = keys.take_while(|key| key.link.as_ref() == Some(name));
    keys.filter(|key| wire::is_told(key))
        .map(move |key| (key, told.value(key)))
}

/// Whether it says anything new of them.
fn tells_other(
    space: &Seen,
    name: &LinkName,
    message: &LinkMessage,
    asked: Option<&Space<Link>>,
) -> bool {
    told(name, message, asked).any(|(key, value)| space.sysctls.get(key) != value.as_ref())
}

/// Takes them over.
fn take_told(
    space: &mut Seen,
    name: &LinkName,
    message: &LinkMessage,
    asked: Option<&Space<Link>>,
) {
    for (key, value) in told(name, message, asked) {
        match value {
            Some(value) => drop(space.sysctls.insert(key.clone(), value)),
            None => drop(space.sysctls.remove(key)),
        }
    }
}
