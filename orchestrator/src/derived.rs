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
