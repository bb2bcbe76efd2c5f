//! What a later view asks for, made from what the earlier one asked for: only the networks and
//! sandboxes that differ are made anew.

use std::{collections::BTreeSet, sync::Arc};

use model::{
    EndpointId, NodeConfig,
    names::{self, Namespace},
};

use super::{
    super::{
        changed::{Changed, added_part, endpoints_of, part},
        state::{Place, Space},
    },
    Desired, Ground,
};

impl Desired {
    /// The same as [`Desired::of`], where this one is what an earlier view asks for.
    pub fn after(
        &self,
        (before, stood): (&NodeConfig, &Ground),
        config: &NodeConfig,
        ground: &Ground,
    ) -> Self {
        self.amended((before, stood), config, ground)
            .unwrap_or_else(|| Self::of(config, ground))
    }

    /// `None` where more than single networks and sandboxes may differ.
    fn amended(
        &self,
        (before, stood): (&NodeConfig, &Ground),
        config: &NodeConfig,
        ground: &Ground,
    ) -> Option<Self> {
        let is_whole =
            self.failures.is_empty() && self.undiverted.is_empty() && self.closed.is_empty();
        if !stood.is_alike(ground) || !is_whole {
            return None;
        }
        let views = [before, config];
        let moved = stood.alive.symmetric_difference(&ground.alive).copied();
        let changed = Changed::between(before, config)?.with(moved, views)?;
        let is_published =
            (config.published.values()).any(|port| changed.networks.contains(&port.network));
        let is_open = (changed.networks.iter())
            .filter_map(|id| config.networks.get(id))
            .any(|network| network.reach.is_open());
        // What goes may have been the last of its kind, and others' answers leave by all.
        let grows = !changed.shrinks && !is_published && !is_open;
        let part = if grows {
            added_part(config, &changed)
        } else {
            part(config, &changed)
        };
        let made = Self::of(&part, ground);
        let networks = || {
            let inside = |network| Place::Inside(Namespace::Network(network));
            changed.networks.iter().copied().map(inside)
        };
        // A network that comes or goes is also the host's matter.
        let stay = networks()
            .all(|place| self.spaces.contains_key(&place) == made.spaces.contains_key(&place));
        let is_plain = made.failures.is_empty()
            && made.questions.is_empty()
            && made.users.is_empty()
            && (self.questions.values())
                .all(|question| !changed.sandboxes.contains(&question.sandbox));
        let is_diverted_alike =
            (changed.networks.iter()).all(|id| self.diverted.get(id) == made.diverted.get(id));
        if !(stay && is_plain && is_diverted_alike) {
            return None;
        }
        let mut next = self.clone();
        let inside = (changed.sandboxes.iter()).flat_map(|&sandbox| {
            [Namespace::Sandbox(sandbox), Namespace::Container(sandbox)].map(Place::Inside)
        });
        let joined = (changed.sandboxes.iter()).flat_map(|it| endpoints_of(before, *it));
        let joined: BTreeSet<EndpointId> = joined.collect();
        for place in networks() {
            if grows {
                next.amend_space(place, &made, &joined);
            } else {
                next.take_space(place, &made);
            }
        }
        for place in inside {
            next.take_space(place, &made);
        }
        for sandbox in &changed.sandboxes {
            match made.sandboxes.get(sandbox) {
                Some(joints) => drop(next.sandboxes.insert(*sandbox, joints.clone())),
                None => drop(next.sandboxes.remove(sandbox)),
            }
        }
        next.handed.retain(|id| !joined.contains(id));
        next.handed.extend(&made.handed);
        next.foreign.retain(|id, _| !joined.contains(id));
        next.foreign.extend(&made.foreign);
        Some(next)
    }

    /// Takes over what there is more of a network's namespace, and what these endpoints are now.
    fn amend_space(&mut self, place: Place, made: &Self, anew: &BTreeSet<EndpointId>) {
        let (Some(old), Some(new)) = (self.spaces.get(&place), made.spaces.get(&place)) else {
            return;
        };
        let mut space = Space::clone(old);
        for endpoint in anew {
            space.forget(&names::endpoint_link(*endpoint));
        }
        space.add(Space::clone(new));
        if **old != space {
            self.spaces.insert(place, Arc::new(space));
        }
    }

    /// Takes a namespace over. One that is as it was stays the same value.
    fn take_space(&mut self, place: Place, made: &Self) {
        match made.spaces.get(&place) {
            Some(space) if self.spaces.get(&place) == Some(space) => {}
            Some(space) => drop(self.spaces.insert(place, Arc::clone(space))),
            None => drop(self.spaces.remove(&place)),
        }
    }
}

impl Ground {
    /// Whether they differ at most in which containers are there.
    fn is_alike(&self, other: &Self) -> bool {
        let Self {
            underlay,
            links,
            addresses,
            on_link,
            free,
            alive: _,
            taken,
            led,
        } = self;
        *underlay == other.underlay
            && *links == other.links
            && *addresses == other.addresses
            && *on_link == other.on_link
            && *free == other.free
            && *taken == other.taken
            && *led == other.led
    }
}
