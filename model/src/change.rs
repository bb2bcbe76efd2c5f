//! What applying a command changed: which objects, and what became of each.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    Availability, Driver, EndpointId, Failure, Level, Millis, NetworkId, NodeId, NodeStatus,
    Response, Role, ServiceId, TaskId, TaskState,
};

/// An object of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum ObjectRef {
    /// The cluster itself: its authority, its level, its ports.
    Cluster,
    /// The keys of encrypted networks.
    Keys,
    /// A host of the cluster.
    Node(NodeId),
    /// An overlay or a network on a LAN.
    Network(NetworkId),
    /// A service, of any number of tasks or of containers of others.
    Service(ServiceId),
    /// One run of one slot of a service.
    Task(TaskId),
    /// An interface of a container.
    Container(EndpointId),
}

impl ObjectRef {
    /// Of which kind it is.
    pub fn kind(self) -> ObjectKind {
        match self {
            Self::Cluster => ObjectKind::Cluster,
            Self::Keys => ObjectKind::Keys,
            Self::Node(_) => ObjectKind::Node,
            Self::Network(_) => ObjectKind::Network,
            Self::Service(_) => ObjectKind::Service,
            Self::Task(_) => ObjectKind::Task,
            Self::Container(_) => ObjectKind::Container,
        }
    }

    /// Its id as a number; 0 where there is only one of its kind.
    pub fn number(self) -> u64 {
        match self {
            Self::Cluster | Self::Keys => 0,
            Self::Node(id) => id.0,
            Self::Network(id) => id.0,
            Self::Service(id) => id.0,
            Self::Task(id) => id.0,
            Self::Container(id) => id.0,
        }
    }

    /// Its id; none where there is only one of its kind.
    pub fn id(self) -> Option<String> {
        // Ids of all kinds are written alike.
        (!matches!(self, Self::Cluster | Self::Keys)).then(|| NodeId(self.number()).to_string())
    }
}

/// The kinds of objects, in the order of [`ObjectRef`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ObjectKind {
    Cluster,
    Keys,
    Node,
    Network,
    Service,
    Task,
    Container,
}

impl ObjectKind {
    /// All there are, with their names.
    pub const ALL: [(Self, &str); 7] = [
        (Self::Cluster, "cluster"),
        (Self::Keys, "keys"),
        (Self::Node, "node"),
        (Self::Network, "network"),
        (Self::Service, "service"),
        (Self::Task, "task"),
        (Self::Container, "container"),
    ];
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(kind, _)| kind == self);
        out.pad(named.map_or("", |(_, name)| name))
    }
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The command made it.
    Made,
    /// It is not what it was.
    Changed,
    /// The command removed it.
    Removed,
}

impl Fate {
    /// All there are, with their names.
    pub const ALL: [(Self, &str); 3] = [
        (Self::Made, "made"),
        (Self::Changed, "changed"),
        (Self::Removed, "removed"),
    ];
}

impl fmt::Display for Fate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(fate, _)| fate == self);
        out.pad(named.map_or("", |(_, name)| name))
    }
}

/// One object and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The state's revision: a number that grows with each command, and the generation of views
    /// that show the change.
    pub revision: u64,
    /// The leader's clock when it took the command.
    pub at: Millis,
    /// Kind and id of the object.
    pub object: ObjectRef,
    /// What became of it.
    pub fate: Fate,
    /// What it is now or, if it is gone, what it was last.
    pub facts: Facts,
}

/// What is worth telling of an object when it changes. Who needs more asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Facts {
    /// Of the cluster.
    Cluster {
        /// The level that it has reached.
        level: Level,
    },
    /// Of the keys of encrypted networks; none of them is told.
    Keys,
    /// Of a node.
    Node {
        /// Host name of the node when it joined.
        hostname: String,
        /// What it may do.
        role: Role,
        /// Whether the leader hears from it.
        status: NodeStatus,
        /// Whether the scheduler uses it.
        availability: Availability,
        /// What its kernel refuses, one line each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        failures: Vec<String>,
        /// What its kernel refuses; told from [`Level::TYPED_FAILURES`] on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        causes: Vec<Failure>,
    },
    /// Of a network.
    Network {
        /// Name that people gave it, unique among those of its kind.
        name: String,
        /// How its endpoints reach each other.
        driver: Driver,
    },
    /// Of a service.
    Service {
        /// Name that people gave it, unique among those of its kind.
        name: String,
        /// How many replicas are wanted.
        replicas: u32,
        /// Its version: the revision of the last change of its spec.
        version: u64,
        /// Whether it is being removed.
        #[serde(default)]
        removing: bool,
        /// Why its update goes no further.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        paused: Option<String>,
    },
    /// Of a task.
    Task(TaskFacts),
    /// Of an interface of a container.
    Container {
        /// The container's name; the runtime's id if it has none.
        name: String,
        /// Id of the node that it is on.
        node: NodeId,
        /// Host name of its node.
        hostname: String,
        /// Id of the network that it is on.
        network: NetworkId,
        /// Name of that network at that moment.
        network_name: String,
        /// Its IP addresses: at most one per family, IPv4 first.
        addresses: Vec<IpAddr>,
        /// Its names that do not lead to it; told from [`Level::COMPOUNDS`] on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        causes: Vec<Failure>,
    },
}

/// What is worth telling of a task when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFacts {
    /// Its name, `web.1`.
    pub name: String,
    /// Id of the service that it is a run of.
    pub service: ServiceId,
    /// Name of that service, a DNS label.
    pub service_name: String,
    /// Its replica number, from 1.
    pub slot: u32,
    /// Its node, once assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Its node's name; empty before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// How far it has come; it never moves back.
    pub state: TaskState,
    /// The state that managers want.
    pub desired: TaskState,
    /// Nothing new is led to it: it is to stop.
    #[serde(default)]
    pub withdrawn: bool,
    /// Why it is in its state, in one line; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Why it failed, was rejected or has to wait; told from [`Level::TYPED_FAILURES`] on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Failure>,
    /// Once it has ended: its exit code, or 128 + the number of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// When it came to its state.
    pub since: Millis,
}

impl Facts {
    /// What people call the object; empty where there is only one of its kind.
    pub fn name(&self) -> &str {
        match self {
            Self::Cluster { .. } | Self::Keys => "",
            Self::Node { hostname, .. } => hostname,
            Self::Network { name, .. }
            | Self::Service { name, .. }
            | Self::Container { name, .. } => name,
            Self::Task(task) => &task.name,
        }
    }
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
    /// Every node of the cluster.
    pub everybody: bool,
    /// Nodes with part in one of these networks.
    pub networks: BTreeSet<NetworkId>,
    /// These nodes.
    pub nodes: BTreeSet<NodeId>,
}

impl Concern {
    /// Adds the nodes of another concern.
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
