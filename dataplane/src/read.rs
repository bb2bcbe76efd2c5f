//! Reads one network namespace: all of it, or what may have changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::names::{LinkName, Namespace};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use nix::errno::Errno;

use super::{
    channel::{Channel, KernelError},
    doubt::{Doubt, LinkRef},
    policy::Tables,
    shape,
    state::{AddressKey, ObservedKind, ObservedLink, Place, Route, RouteKey, Space, Sysctl},
    wire,
};

/// Which values below /proc/sys are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// All of the namespace.
    All,
    /// Those of these links; `None`: those of no link.
    Of(BTreeSet<Option<LinkName>>),
}

impl Unread {
    /// Whether this value is.
    pub fn holds(&self, sysctl: &Sysctl) -> bool {
        match self {
            Self::All => true,
            Self::Of(links) => links.contains(&sysctl.link),
        }
    }
}

/// A link that is read by itself.
struct Fresh {
    name: LinkName,
    index: u32,
    forwards: bool,
}

impl Channel {
    /// Reads again what may have changed; `seen` is what there is then. The values below /proc/sys
    /// that it returns are those that were read before, or missing.
    pub fn observe(&mut self, host: &wire::Names) -> Result<Unread, KernelError> {
        let doubt = std::mem::take(&mut self.doubt);
        if let Some(seen) = self.seen.take()
            && self.dumps_parts
            && !doubt.is_whole()
            && let Some((space, unread)) = self.observe_parts(&seen, &doubt, host)?
        {
            self.seen = Some(Arc::new(space));
            return Ok(unread);
        }
        self.seen = Some(Arc::new(self.observe_all(host)?));
        Ok(Unread::All)
    }

    fn observe_all(&mut self, host: &wire::Names) -> Result<Space<ObservedLink>, KernelError> {
        let mut space = Space::default();
        for message in self.dump("links", wire::get_links())? {
            let Message::NewLink(message) = message else {
                continue;
            };
            let Some((_, name)) =
                wire::link_name(&message).filter(|(_, name)| wire::is_ours(self.place, name))
            else {
                continue;
            };
            space
                .links
                .insert(name, wire::link(&message, self.place, host));
        }
        self.indices = space
            .links
            .iter()
            .map(|(name, link)| (name.clone(), link.index))
            .collect();
        let names: wire::Names = self
            .indices
            .iter()
            .map(|(name, &index)| (index, name.clone()))
            .collect();
        self.observe_addresses(None, &names, &mut space)?;
        if self.has_policies {
            self.observe_policies(&mut space)?;
        }
        if self.has_shapes {
            self.observe_shapes(&names, &mut space)?;
            self.has_shapes = !space.shapes.is_empty();
        }
        if self.place != Place::Host || !names.is_empty() {
            self.observe_neighbours(None, &names, &mut space)?;
            if self.has_forwarding() {
                self.observe_forwarding(None, &names, &mut space)?;
            }
            self.observe_routes(None, &names, &mut space)?;
        }
        Ok(space)
    }

    /// `None` where a part does not tell enough: what one link has depends on others, or something
    /// changes meanwhile.
    fn observe_parts(
        &mut self,
        seen: &Space<ObservedLink>,
        doubt: &Doubt,
        host: &wire::Names,
    ) -> Result<Option<(Space<ObservedLink>, Unread)>, KernelError> {
        // The order of routes that only their links tell apart is known by reading all.
        if seen.routes.keys().any(|key| key.nth > 0) {
            return Ok(None);
        }
        let (mut space, mut fresh) = (seen.clone(), Vec::new());
        let mut unread: BTreeSet<Option<LinkName>> = (doubt.sysctls.iter())
            .map(|of| of.as_ref().map(|link| named(&space, link)))
            .filter(|of| *of != Some(None))
            .map(Option::flatten)
            .collect();
        for link in &doubt.links {
            let before = named(&space, link);
            // Most are named twice, by their numbers and by their names.
            if fresh
                .iter()
                .any(|fresh: &Fresh| Some(&fresh.name) == before.as_ref())
            {
                continue;
            }
            let found = self
                .ask_link(link)
                .map_err(|error| KernelError::Dump(self.place, "a link", error))?;
            let found = found.and_then(|message| {
                let (index, name) = wire::link_name(&message)?;
                wire::is_ours(self.place, &name).then_some((index, name, message))
            });
            let kept = found.as_ref().and_then(|(index, name, _)| {
                let is_same = space.links.get(name)?.index == *index;
                is_same.then(|| name.clone())
            });
            if before.is_some() && before != kept {
                before.iter().for_each(|name| space.forget(name));
            }
            let Some((index, name, message)) = found else {
                self.indices.retain(|name, _| Some(name) != before.as_ref());
                continue;
            };
            match kept {
                Some(_) => space.forget_contents(&name),
                None => {
                    space.forget(&name);
                    unread.insert(Some(name.clone()));
                }
            }
            let found = wire::link(&message, self.place, host);
            self.indices.insert(name.clone(), index);
            let forwards = matches!(found.kind, ObservedKind::Vxlan(_));
            space.links.insert(name.clone(), found);
            fresh.push(Fresh {
                name,
                index,
                forwards,
            });
        }
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

    /// What these links have; whether it tells enough.
    fn observe_fresh(
        &mut self,
        fresh: &[Fresh],
        space: &mut Space<ObservedLink>,
    ) -> Result<bool, KernelError> {
        for link in fresh {
            let names = wire::Names::from([(link.index, link.name.clone())]);
            self.observe_addresses(Some(link.index), &names, space)?;
            self.observe_neighbours(Some(link.index), &names, space)?;
            if link.forwards && self.has_forwarding() {
                self.observe_forwarding(Some(link.index), &names, space)?;
            }
            let mut routes = Space::<ObservedLink>::default();
            self.observe_routes(Some(link.index), &names, &mut routes)?;
            let is_plain = |(key, route): (&RouteKey, &Route)| {
                route.link() == Some(&link.name) && !space.routes.contains_key(key)
            };
            if !routes.routes.iter().all(is_plain) {
                return Ok(false);
            }
            space.routes.extend(routes.routes);
        }
        if self.has_shapes && !fresh.is_empty() {
            let names = fresh.iter().map(|link| (link.index, link.name.clone()));
            self.observe_shapes(&names.collect(), space)?;
        }
        Ok(true)
    }

    fn has_forwarding(&self) -> bool {
        matches!(self.place, Place::Inside(Namespace::Network(_)))
    }

    fn observe_addresses(
        &mut self,
        of: Option<u32>,
        names: &wire::Names,
        space: &mut Space<ObservedLink>,
    ) -> Result<(), KernelError> {
        for message in self.dump("addresses", wire::get_addresses(of))? {
            let Message::NewAddress(message) = message else {
                continue;
            };
            let Some((index, address)) = wire::address(&message) else {
                continue;
            };
            let Some(link) = names.get(&index).filter(|_| !address.is_loopback()) else {
                continue;
            };
            let key = AddressKey {
                link: link.clone(),
                address,
            };
            space.addresses.insert(key, wire::address_form(&message));
        }
        Ok(())
    }

    fn observe_neighbours(
        &mut self,
        of: Option<u32>,
        names: &wire::Names,
        space: &mut Space<ObservedLink>,
    ) -> Result<(), KernelError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in self.dump("neighbours", wire::get_neighbours(family, of))? {
                let Message::NewNeighbour(message) = message else {
                    continue;
                };
                space.neighbours.extend(wire::neighbour(&message, names));
            }
        }
        Ok(())
    }

    fn observe_forwarding(
        &mut self,
        of: Option<u32>,
        names: &wire::Names,
        space: &mut Space<ObservedLink>,
    ) -> Result<(), KernelError> {
        for message in self.dump("forwarding entries", wire::get_forwarding(of))? {
            let Message::NewNeighbour(message) = message else {
                continue;
            };
            space.fdb.extend(wire::fdb(&message, names));
        }
        Ok(())
    }

    fn observe_routes(
        &mut self,
        of: Option<u32>,
        names: &wire::Names,
        space: &mut Space<ObservedLink>,
    ) -> Result<(), KernelError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in self.dump("routes", wire::get_routes(family, of))? {
                let Message::NewRoute(message) = message else {
                    continue;
                };
                let Some((key, route)) = wire::route(&message, self.place, names) else {
                    continue;
                };
                insert_route(&mut space.routes, key, route);
            }
        }
        Ok(())
    }

    /// The kernel tells those of all links at once.
    fn observe_shapes(
        &mut self,
        names: &wire::Names,
        space: &mut Space<ObservedLink>,
    ) -> Result<(), KernelError> {
        for message in self.dump("limits", shape::get())? {
            let Message::NewQueueDiscipline(message) = message else {
                continue;
            };
            space.shapes.extend(shape::read(&message, names));
        }
        Ok(())
    }

    /// Read while there are or should be some, and once, for an earlier netd may have left some.
    fn observe_policies(&mut self, space: &mut Space<ObservedLink>) -> Result<(), KernelError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let rules = self.dump("policy rules", wire::get_policies(family))?;
            let rules = rules.into_iter().filter_map(|message| match message {
                Message::NewRule(rule) if rule.header.family == family => Some(rule),
                _ => None,
            });
            let ours = if self.place == Place::Host {
                Tables::Host
            } else {
                Tables::Peers
            };
            space
                .policies
                .read(family, ours, &rules.collect::<Vec<_>>());
        }
        self.has_policies = !space.policies.is_empty();
        Ok(())
    }
}

/// The name that a link was seen under.
fn named(space: &Space<ObservedLink>, link: &LinkRef) -> Option<LinkName> {
    match link {
        LinkRef::Name(name) => space.links.contains_key(name).then(|| name.clone()),
        LinkRef::Number(number) => {
            let mut links = space.links.iter();
            let (name, _) = links.find(|(_, link)| link.index == *number)?;
            Some(name.clone())
        }
    }
}

/// Routes of one prefix and metric come in the order in which they take effect.
fn insert_route(routes: &mut BTreeMap<RouteKey, Route>, mut key: RouteKey, route: Route) {
    while routes.contains_key(&key) {
        key.nth += 1;
    }
    routes.insert(key, route);
}
