//! Which hosts have part in which network, and how far those that answer have come.

use std::collections::BTreeMap;

use model::{NetworkId, Node, NodeId, NodeStatus};

use super::groups::{Bag, Groups, Values};

/// Parts of hosts in networks, and the log indexes that hosts have applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// How many living tasks and placed containers of a host are on a network.
    networks: BTreeMap<NodeId, Bag<NetworkId>>,
    hosts: Groups<NetworkId, NodeId>,
    /// How far each host is that is ready. What others have applied does not count: their lease is
    /// over.
    heard: BTreeMap<NodeId, Heard>,
    everywhere: Bag<u64>,
    by_network: BTreeMap<NetworkId, Bag<u64>>,
    /// What hosts have that are behind with a network, whether they have part in it or only lead
    /// callers there.
    behind: BTreeMap<NetworkId, Bag<u64>>,
}

/// How far a host is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The log index that it has applied.
    applied: u64,
    /// What it has of networks that it is further behind with.
    behind: BTreeMap<NetworkId, u64>,
}

impl Heard {
    /// What a host that is ready has said.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let behind = node.behind.keys();
        let behind = behind.map(|network| (*network, node.applied_of(*network)));
        (node.status == NodeStatus::Ready).then(|| Self {
            applied: node.applied,
            behind: behind.collect(),
        })
    }

    fn on(&self, network: NetworkId) -> u64 {
        self.behind.get(&network).copied().unwrap_or(self.applied)
    }
}

impl Parts {
    /// A task or container of a host is on a network now.
    pub(super) fn join(&mut self, node: NodeId, network: NetworkId) {
        if !self.networks.entry(node).or_default().add(network) {
            return;
        }
        self.hosts.insert(network, node);
        if let Some(heard) = self.heard.get(&node) {
            let applied = heard.on(network);
            self.by_network.entry(network).or_default().add(applied);
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
        if let Some(applied) = self.heard.get(&node).map(|heard| heard.on(network)) {
            forget(&mut self.by_network, network, applied);
        }
    }

    /// How far a host is that is ready; `None` while it is not.
    pub(super) fn hear(&mut self, node: NodeId, heard: Option<Heard>) {
        if self.heard.get(&node) == heard.as_ref() {
            return;
        }
        let networks: Vec<NetworkId> = self.networks_of(node).copied().collect();
        if let Some(earlier) = self.heard.remove(&node) {
            self.everywhere.take(&earlier.applied);
            for network in &networks {
                forget(&mut self.by_network, *network, earlier.on(*network));
            }
            for (network, applied) in &earlier.behind {
                forget(&mut self.behind, *network, *applied);
            }
        }
        if let Some(heard) = heard {
            self.everywhere.add(heard.applied);
            for network in networks {
                let applied = heard.on(network);
                self.by_network.entry(network).or_default().add(applied);
            }
            for (network, applied) in &heard.behind {
                self.behind.entry(*network).or_default().add(*applied);
            }
            self.heard.insert(node, heard);
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

    /// The least log index that a ready host has applied of a network that all hosts lead callers
    /// to.
    pub(crate) fn least_everywhere(&self, network: NetworkId) -> Option<u64> {
        let behind = self.behind.get(&network).and_then(Bag::least);
        self.everywhere
            .least()
            .into_iter()
            .chain(behind)
            .min()
            .copied()
    }
}

fn forget(indexes: &mut BTreeMap<NetworkId, Bag<u64>>, network: NetworkId, applied: u64) {
    if let Some(found) = indexes.get_mut(&network) {
        found.take(&applied);
        if found.is_empty() {
            indexes.remove(&network);
        }
    }
}
