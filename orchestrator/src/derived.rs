//! What follows from the state's records: what they are looked up by, and whose view a change
//! concerns. No part of the state: it is kept as changes are applied, made anew from a snapshot,
//! and decides nothing that the records would not decide.

mod containers;
mod follow;
pub(crate) mod groups;
mod networks;
mod nodes;
mod parts;
pub(crate) mod rollouts;
mod services;
mod slots;
mod tasks;
mod touched;

use model::{Concern, NetworkId, NodeId, ServiceId};

/// Follows the state's records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Derived {
    pub(crate) nodes: nodes::Nodes,
    pub(crate) networks: networks::Networks,
    pub(crate) services: services::Services,
    pub(crate) tasks: tasks::Tasks,
    pub(crate) containers: containers::Containers,
    pub(crate) parts: parts::Parts,
    pub(crate) rollouts: rollouts::Rollouts,
    pub(crate) touched: touched::Touched,
}

/// Of two states only the records are compared.
impl PartialEq for Derived {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Derived {}

impl Derived {
    /// Whether this node's view may show what is of this concern.
    pub(crate) fn concerns(&self, node: NodeId, concern: &Concern) -> bool {
        let mut own = self.parts.networks_of(node);
        concern.everybody
            || concern.nodes.contains(&node)
            || own.any(|network| concern.networks.contains(network))
    }

    /// Every host has part in a network that has become open, and none for that reason in one that
    /// is so no longer. Whether either is the case.
    fn open(&mut self, network: NetworkId, was_open: bool) -> bool {
        let is_open = self.networks.is_open(network);
        for node in self.nodes.all().filter(|_| is_open != was_open) {
            match is_open {
                true => self.parts.join(node, network),
                false => self.parts.leave(node, network),
            }
        }
        is_open != was_open
    }

    /// A host that has come has part in the open networks, one that has gone no longer.
    fn arrive(&mut self, node: NodeId, was_there: bool) {
        let is_there = self.nodes.has(node);
        for network in self.networks.open().filter(|_| is_there != was_there) {
            match is_there {
                true => self.parts.join(node, *network),
                false => self.parts.leave(node, *network),
            }
        }
    }

    /// Those who have part in these networks; everybody, where every host leads to one of them.
    fn add_networks(&self, concern: &mut Concern, networks: &[NetworkId]) {
        let is_everywhere = |network: &NetworkId| self.services.is_ingress(*network);
        concern.everybody |= networks.iter().any(is_everywhere);
        concern.networks.extend(networks);
    }

    fn add_service(&self, concern: &mut Concern, id: ServiceId) {
        if let Some(reach) = self.services.reach(id) {
            concern.everybody |= reach.ingress.is_some();
            concern.networks.extend(reach.networks);
        }
    }
}
