//! Ethernet addresses, unique on a segment. An overlay is a segment, and so are all macvlan
//! networks on one link of the hosts.

use std::net::IpAddr;

use ipam::Owner;
use model::{Driver, Kind, Mac, Network, NetworkId, NodeId, Refusal};

use crate::state::State;

/// Refuses an Ethernet address that another station of the segment has.
pub(crate) fn refuse_taken(
    state: &State,
    network: &Network,
    owner: Owner,
    mac: Mac,
) -> Result<(), Refusal> {
    let name = &network.spec.name;
    if network.spec.driver == Driver::Ipvlan {
        let cause = format!(
            "ports of network {name:?} have the Ethernet address of their host, not {mac}: it is \
             of ipvlan"
        );
        return Err(Refusal::new(
            Kind::Invalid,
            cause,
            "ask for none, or attach to a network of another driver",
        ));
    }
    match Segment::of(state, network).holder(mac, owner) {
        Some((at, whose)) => {
            let cause = format!(
                "the Ethernet address {mac} on network {:?} is that of {whose}",
                at.spec.name
            );
            Err(Refusal::new(
                Kind::Conflict,
                cause,
                "ask for another Ethernet address, or for none: one is made then",
            ))
        }
        None => Ok(()),
    }
}

/// Generates an Ethernet address from an owner's first address on a network, unique on the segment.
pub(crate) fn made(state: &State, network: NetworkId, owner: Owner, first: IpAddr) -> Mac {
    let mac = Mac::of_endpoint(first);
    let Some(network) = state.networks.get(&network) else {
        return mac;
    };
    let segment = Segment::of(state, network);
    mac.variants()
        .find(|variant| segment.holder(*variant, owner).is_none())
        .unwrap_or(mac)
}

/// Networks whose endpoints hear each other's frames.
struct Segment<'a> {
    state: &'a State,
    networks: Vec<&'a Network>,
}

impl<'a> Segment<'a> {
    fn of(state: &'a State, network: &'a Network) -> Self {
        if network.spec.driver != Driver::Macvlan {
            let networks = vec![network];
            return Self { state, networks };
        }
        let parent = |network: &Network| network.spec.options.get("parent").cloned();
        let is_beside = |other: &&Network| {
            other.spec.driver == Driver::Macvlan && parent(other) == parent(network)
        };
        let lans = state.derived.networks.lans();
        let lans = lans.filter_map(|id| state.networks.get(id));
        let networks = lans.filter(is_beside).collect();
        Self { state, networks }
    }

    /// Who but this owner has an Ethernet address, and on which of the networks.
    fn holder(&self, mac: Mac, but: Owner) -> Option<(&'a Network, String)> {
        let of_tasks = || match mac.ipv4() {
            Some(address) => self.slot(address.into(), but),
            None => self.task(mac, but),
        };
        let endpoint = self.container(mac, but).or_else(of_tasks);
        endpoint
            .map(|(network, owner)| (network, self.state.describe(owner)))
            .or_else(|| self.own(mac))
    }

    fn network(&self, id: NetworkId) -> Option<&'a Network> {
        self.networks
            .iter()
            .copied()
            .find(|network| network.id == id)
    }

    fn container(&self, mac: Mac, but: Owner) -> Option<(&'a Network, Owner)> {
        let ids = self.state.derived.containers.with_mac(mac);
        let having = ids.filter_map(|id| self.state.containers.get(id));
        let mut others = having
            .map(|found| (found, Owner::Container(found.id)))
            .filter(|(_, owner)| *owner != but);
        others.find_map(|(found, owner)| Some((self.network(found.network)?, owner)))
    }

    /// Whose tasks have this one, which is not made of an IPv4 address.
    fn task(&self, mac: Mac, but: Owner) -> Option<(&'a Network, Owner)> {
        let ids = self.state.derived.tasks.with_mac(mac);
        let alive = ids.filter_map(|id| Some(&self.state.tasks.get(id)?.task));
        let others = alive
            .map(|task| (task, Owner::Slot(task.service, task.slot)))
            .filter(|(_, slot)| *slot != but);
        let mut joints =
            others.flat_map(|(task, slot)| task.attachments.iter().map(move |joint| (joint, slot)));
        joints.find_map(|(joint, slot)| {
            Some((
                self.network(joint.network).filter(|_| joint.mac == mac)?,
                slot,
            ))
        })
    }

    /// Whose tasks have what is made of this address, whether or not one runs now.
    fn slot(&self, address: IpAddr, but: Owner) -> Option<(&'a Network, Owner)> {
        let ledger = &self.state.ledger;
        if self
            .networks
            .iter()
            .any(|network| ledger.addresses(network.id, but).contains(&address))
        {
            return None;
        }
        let holders = self
            .networks
            .iter()
            .map(|network| (*network, ledger.holder(network.id, address)));
        let mut slots = holders.filter_map(|(network, holder)| Some((network, holder?)));
        slots.find(|(_, holder)| matches!(holder, Owner::Slot(..)))
    }

    /// Those of hosts, and of the network's side of a link.
    fn own(&self, mac: Mac) -> Option<(&'a Network, String)> {
        let of_node = |network: &Network| match network.spec.driver {
            Driver::Overlay => self.state.derived.nodes.with_router(mac).next().copied(),
            _ => {
                let mut nodes = self.state.nodes.keys();
                let is_shim = |node: &&NodeId| Mac::of_shim(**node, network.vni) == mac;
                nodes.find(is_shim).copied()
            }
        };
        let is_overlay = |network: &&&Network| network.spec.driver == Driver::Overlay;
        let found = self.networks.iter().find_map(|network| {
            let node = of_node(network)?;
            Some((*network, self.state.describe(Owner::Node(node))))
        });
        let network = self
            .networks
            .iter()
            .find(is_overlay)
            .filter(|_| mac == Mac::NETWORK);
        found.or_else(|| Some((*network?, "the network itself".to_owned())))
    }
}
