//! What the host has that is not ours, and the way from its VTEP to others.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

use model::names::{self, LinkName};
use netlink_packet_route::RouteNetlinkMessage as Message;

use super::{
    super::{
        channel::KernelError,
        desired::{Ground, HostLink},
        doubt::Doubt,
        state::{ObservedKind, Place},
        wire,
    },
    Kernel,
};

/// Whom the way is to lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The VTEP of this host.
    pub own: Option<IpAddr>,
    /// Those of others that it talks to.
    pub peers: BTreeSet<IpAddr>,
}

impl Kernel {
    /// The ground as it is now. One that is as it was stays the same value.
    pub(crate) fn ground(&mut self, asked: &Arc<Asked>) -> Result<Arc<Ground>, KernelError> {
        self.hear();
        self.take_turn();
        if self.asked.as_ref() != Some(asked) {
            let start = Instant::now();
            let found = self.read_ground(asked)?;
            if *self.ground != found {
                self.ground = Arc::new(found);
            }
            self.asked = Some(asked.clone());
            if self.turns.now.contains(&Place::Host) {
                self.turns.spent += start.elapsed();
            }
        }
        Ok(self.ground.clone())
    }

    fn read_ground(&mut self, asked: &Asked) -> Result<Ground, KernelError> {
        let mut ground = Ground::default();
        let Some(host) = self.channels.get_mut(&Place::Host) else {
            return Ok(ground);
        };
        let dumps = host.dumps;
        let messages = host.dump(wire::LINKS, wire::get_links())?;
        let links = messages.iter().filter_map(|message| match message {
            Message::NewLink(link) => Some(link),
            _ => None,
        });
        let numbers = links.clone().filter_map(wire::link_name).collect();
        let renumbered = std::mem::replace(&mut self.host, numbers) != self.host;
        for message in links {
            let Some((_, name)) = wire::link_name(message) else {
                continue;
            };
            // What is ours alone carries nothing else, and comes and goes with endpoints.
            if names::parse_handed_link(name.as_str()).is_some() {
                continue;
            }
            let found = wire::link(message, Place::Host, &self.host);
            let stacked = match found.kind {
                ObservedKind::Stacked(stacked) => Some(stacked),
                _ => None,
            };
            let link = HostLink {
                mac: found.mac,
                mtu: found.mtu,
                stacked,
            };
            ground.links.insert(name, link);
        }
        host.keep(wire::LINKS, messages);
        let messages = host.dump(wire::ADDRESSES, wire::get_addresses(None))?;
        for (index, address, form) in messages.iter().filter_map(wire::address) {
            let Some(name) = self.host.get(&index) else {
                continue;
            };
            if asked.own == Some(address) {
                ground.underlay.link = ground.links.get(name).map(|link| link.mtu);
            }
            if wire::is_global(address) && !names::is_host_link(name.as_str()) {
                ground.addresses.insert((name.clone(), address));
                ground.on_link.extend(wire::on_link(address, form));
            }
        }
        host.keep(wire::ADDRESSES, messages);
        if let Some(own) = asked.own {
            let mtu =
                |(index, name): (&u32, &LinkName)| Some((*index, ground.links.get(name)?.mtu));
            let mtus = self.host.iter().filter_map(mtu).collect();
            ground.underlay.paths = host.paths(own, &asked.peers, &mtus)?;
        }
        if !self.turns.now.contains(&Place::Host) {
            self.dumps += host.dumps - dumps;
        }
        if renumbered {
            // Devices of sandboxes name their parents on the host by number.
            let above = self.channels.iter();
            let above = above.filter(|(_, channel)| channel.has_parents());
            let above: Vec<Place> = above.map(|(place, _)| *place).collect();
            above
                .into_iter()
                .filter(|place| *place != Place::Host)
                .for_each(|place| self.doubt(place, Doubt::whole()));
        }
        Ok(ground)
    }
}
