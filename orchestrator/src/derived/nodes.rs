//! Hosts by name and by the Ethernet address of their router.

use std::collections::BTreeMap;

use model::{Availability, Mac, Node, NodeId, NodeStatus};

use super::groups::{Groups, Values};

/// What hosts are looked up by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nodes {
    known: BTreeMap<NodeId, Known>,
    by_name: Groups<String, NodeId>,
    by_router: Groups<Mac, NodeId>,
}

/// What the maps know of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// In lower case.
    name: String,
    standing: (NodeStatus, Availability),
}

impl Nodes {
    /// Follows a host. Whether its status or availability differs.
    pub(super) fn put(&mut self, id: NodeId, node: Option<&Node>) -> bool {
        let known = node.map(|node| Known {
            name: node.hostname.to_ascii_lowercase(),
            standing: (node.status, node.availability),
        });
        let old = match known.clone() {
            Some(known) => self.known.insert(id, known),
            None => self.known.remove(&id),
        };
        if let Some(old) = &old {
            self.by_name.remove(&old.name, &id);
            self.by_router.remove(&Mac::of_router(id), &id);
        }
        if let Some(known) = &known {
            self.by_name.insert(known.name.clone(), id);
            self.by_router.insert(Mac::of_router(id), id);
        }
        old.map(|old| old.standing) != known.map(|known| known.standing)
    }

    /// Whether there is such a host.
    pub(super) fn has(&self, id: NodeId) -> bool {
        self.known.contains_key(&id)
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = NodeId> {
        self.known.keys().copied()
    }

    /// Hosts of this name, which is in lower case.
    pub(crate) fn named<'a>(&'a self, name: &str) -> Values<'a, NodeId> {
        self.by_name.of(name)
    }

    /// Hosts whose router has this Ethernet address on overlays.
    pub(crate) fn with_router(&self, mac: Mac) -> Values<'_, NodeId> {
        self.by_router.of(&mac)
    }
}
