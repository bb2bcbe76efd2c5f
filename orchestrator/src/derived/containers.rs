//! Containers by key, host, path, network and Ethernet address.

use std::collections::{BTreeMap, BTreeSet};

use model::{Container, ContainerKey, EndpointId, Mac, NetworkId, NodeId};

use super::groups::{Groups, Values};

/// What containers are looked up by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Containers {
    berths: BTreeMap<EndpointId, Berth>,
    by_key: BTreeMap<ContainerKey, EndpointId>,
    of_node: Groups<NodeId, EndpointId>,
    on_network: Groups<NetworkId, EndpointId>,
    /// By the path of their namespace.
    at: BTreeMap<NodeId, Groups<String, EndpointId>>,
    by_mac: Groups<Mac, EndpointId>,
    /// Those that publish ports of their host.
    publishing: BTreeSet<EndpointId>,
    publishing_on: Groups<NodeId, EndpointId>,
}

/// What the maps know of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Berth {
    key: ContainerKey,
    pub(super) network: NetworkId,
    mac: Mac,
    /// Where it is, once it is somewhere.
    path: Option<String>,
    pub(super) publishes: bool,
}

impl Berth {
    fn of(container: &Container) -> Self {
        Self {
            key: container.key.clone(),
            network: container.network,
            mac: container.mac,
            path: container
                .sandbox
                .as_ref()
                .map(|sandbox| sandbox.path.clone()),
            publishes: !container.traits.publish.is_empty(),
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.key.node
    }

    pub(super) fn is_placed(&self) -> bool {
        self.path.is_some()
    }
}

impl Containers {
    /// Follows a container. Returns what was known of it and what is known now.
    pub(super) fn put(
        &mut self,
        id: EndpointId,
        container: Option<&Container>,
    ) -> (Option<Berth>, Option<Berth>) {
        let berth = container.map(Berth::of);
        let old = match berth.clone() {
            Some(berth) => self.berths.insert(id, berth),
            None => self.berths.remove(&id),
        };
        if old != berth {
            if let Some(old) = &old {
                self.unlink(id, old);
            }
            if let Some(berth) = &berth {
                self.link(id, berth);
            }
        }
        (old, berth)
    }

    fn link(&mut self, id: EndpointId, berth: &Berth) {
        self.by_key.insert(berth.key.clone(), id);
        self.of_node.insert(berth.key.node, id);
        self.on_network.insert(berth.network, id);
        self.by_mac.insert(berth.mac, id);
        if let Some(path) = &berth.path {
            let paths = self.at.entry(berth.key.node).or_default();
            paths.insert(path.clone(), id);
        }
        if berth.publishes {
            self.publishing.insert(id);
            self.publishing_on.insert(berth.key.node, id);
        }
    }

    fn unlink(&mut self, id: EndpointId, berth: &Berth) {
        self.by_key.remove(&berth.key);
        self.of_node.remove(&berth.key.node, &id);
        self.on_network.remove(&berth.network, &id);
        self.by_mac.remove(&berth.mac, &id);
        if let Some(path) = &berth.path
            && let Some(paths) = self.at.get_mut(&berth.key.node)
        {
            paths.remove(path.as_str(), &id);
            if paths.is_empty() {
                self.at.remove(&berth.key.node);
            }
        }
        self.publishing.remove(&id);
        self.publishing_on.remove(&berth.key.node, &id);
    }

    /// The container of this key.
    pub(crate) fn with_key(&self, key: &ContainerKey) -> Option<EndpointId> {
        self.by_key.get(key).copied()
    }

    /// Those of a host, by id.
    pub(crate) fn of_node(&self, node: NodeId) -> Values<'_, EndpointId> {
        self.of_node.of(&node)
    }

    /// Those on a network, by id.
    pub(crate) fn on_network(&self, network: NetworkId) -> Values<'_, EndpointId> {
        self.on_network.of(&network)
    }

    /// Those in a namespace at this path of a host, by id.
    pub(crate) fn at(&self, node: NodeId, path: &str) -> Vec<EndpointId> {
        let paths = self.at.get(&node);
        let found = paths.into_iter().flat_map(|paths| paths.of(path));
        found.copied().collect()
    }

    /// Those with this Ethernet address, by id.
    pub(crate) fn with_mac(&self, mac: Mac) -> Values<'_, EndpointId> {
        self.by_mac.of(&mac)
    }

    /// Those that publish ports of their host, by id.
    pub(crate) fn publishing(&self) -> impl Iterator<Item = &EndpointId> {
        self.publishing.iter()
    }

    /// Those of a host that publish its ports, by id.
    pub(crate) fn publishing_on(&self, node: NodeId) -> Values<'_, EndpointId> {
        self.publishing_on.of(&node)
    }
}
