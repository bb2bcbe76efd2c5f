//! What applying a command changed: which objects, and what became of each.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{EndpointId, NetworkId, NodeId, Response, ServiceId, TaskId};

/// An object of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum ObjectRef {
    /// The cluster itself: its authority, its level, its ports.
    Cluster,
    /// The keys of encrypted networks.
    Keys,
    /// A node.
    Node(NodeId),
    /// A network.
    Network(NetworkId),
    /// A service.
    Service(ServiceId),
    /// A task.
    Task(TaskId),
    /// An interface of a container.
    Container(EndpointId),
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is new.
    Made,
    /// It is not what it was.
    Changed,
    /// It is gone.
    Removed,
}

/// One object and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The state's revision: a number that grows with each command, and the generation of views
    /// that show the change.
    pub revision: u64,
    /// The object.
    pub object: ObjectRef,
    /// What became of it.
    pub fate: Fate,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The answer for who issued it.
    pub response: Response,
    /// All that it changed, by object; empty where it was refused.
    pub changes: Vec<Change>,
    /// Whose view shows it.
    pub concern: Concern,
}

/// The nodes whose view may show a change: those of any of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concern {
    /// Every node.
    pub everybody: bool,
    /// Nodes with part in one of these networks.
    pub networks: BTreeSet<NetworkId>,
    /// These nodes.
    pub nodes: BTreeSet<NodeId>,
}

impl Concern {
    /// Adds another.
    pub fn merge(&mut self, other: &Self) {
        self.everybody |= other.everybody;
        self.networks.extend(&other.networks);
        self.nodes.extend(&other.nodes);
    }

    /// Whether no view shows it.
    pub fn is_nobodys(&self) -> bool {
        !self.everybody && self.networks.is_empty() && self.nodes.is_empty()
    }
}
