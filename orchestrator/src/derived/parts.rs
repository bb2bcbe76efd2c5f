//! Which hosts have part in which network, and how far those that answer have come.

use std::collections::BTreeMap;

use model::{NetworkId, NodeId};

use super::groups::{Bag, Groups, Values};

/// Parts of hosts in networks, and the log indexes that hosts have applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// How many living tasks and placed containers of a host are on a network.
    networks: BTreeMap<NodeId, Bag<NetworkId>>,
    hosts: Groups<NetworkId, NodeId>,
    /// The log index that each host has applied that is ready. What others have applied does not
    /// count: their lease is over.
    applied: BTreeMap<NodeId, u64>,
    everywhere: Bag<u64>,
    by_network: BTreeMap<NetworkId, Bag<u64>>,
}

impl Parts {
    /// A task or container of a host is on a network now.
    pub(super) fn join(&mut self, node: NodeId, network: NetworkId) {
        if !self.networks.entry(node).or_default().add(network) {
            return;
        }
        self.hosts.insert(network, node);
        if let Some(applied) = self.applied.get(&node) {
            self.by_network.entry(network).or_default().add(*applied);
        }
    }

    /// A task or container of a host is no longer on a network.
    pub(super) fn leave(&mut self, node: NodeId, network: NetworkId) {
        let Some(networks) = self.networks.get_mut(&node) else {
            return;
        };
        if !networks.take(&network) {
            return;
        }
        if networks.is_empty() {
            self.networks.remove(&node);
        }
        self.hosts.remove(&network, &node);
        if let Some(applied) = self.applied.get(&node).copied() {
            self.forget(network, applied);
        }
    }

    /// A host has applied this log index, and is ready; `None` while it is not.
    pub(super) fn hear(&mut self, node: NodeId, applied: Option<u64>) {
        let earlier = self.applied.get(&node).copied();
        if earlier == applied {
            return;
        }
        let networks: Vec<NetworkId> = self.networks_of(node).copied().collect();
        if let Some(earlier) = earlier {
            self.applied.remove(&node);
            self.everywhere.take(&earlier);
            for network in &networks {
                self.forget(*network, earlier);
            }
        }
        if let Some(applied) = applied {
            self.applied.insert(node, applied);
            self.everywhere.add(applied);
            for network in networks {
                self.by_network.entry(network).or_default().add(applied);
            }
        }
    }

    fn forget(&mut self, network: NetworkId, applied: u64) {
        if let Some(indexes) = self.by_network.get_mut(&network) {
            indexes.take(&applied);
            if indexes.is_empty() {
                self.by_network.remove(&network);
            }
        }
    }

    /// Whether a host has part in a network.
    pub(crate) fn has(&self, node: NodeId, network: NetworkId) -> bool {
        let networks = self.networks.get(&node);
        networks.is_some_and(|networks| networks.count(&network) > 0)
    }

    /// The networks that a host has part in.
    pub(crate) fn networks_of(&self, node: NodeId) -> impl Iterator<Item = &NetworkId> {
        self.networks.get(&node).into_iter().flat_map(Bag::keys)
    }

    /// The hosts with part in a network.
    pub(crate) fn hosts_of(&self, network: NetworkId) -> Values<'_, NodeId> {
        self.hosts.of(&network)
    }

    /// The least log index that a ready host with part in a network has applied.
    pub(crate) fn least_on(&self, network: NetworkId) -> Option<u64> {
        self.by_network.get(&network)?.least().copied()
    }

    /// The least log index that a ready host has applied.
    pub(crate) fn least_everywhere(&self) -> Option<u64> {
        self.everywhere.least().copied()
    }
}
