//! Watching what changes: what is asked for, and what comes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    Change, Facts, Fate, Millis, NetworkId, NodeId, ObjectKind, ObjectRef, ServiceId, ServiceInfo,
};

/// A request to be told of changes, in their order, until the caller has enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The changes that the watch is told of.
    #[serde(default)]
    pub filter: Filter,
    /// The place in the sequence of changes where it begins.
    #[serde(default)]
    pub begin: Begin,
    /// Ends where this moment is reached instead of waiting for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// Tells how far this service is, too, by name or id: [`Watched::Status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_of: Option<String>,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Begin {
    /// With what is there: [`Watched::Present`], then the changes after it.
    #[default]
    Snapshot,
    /// With the next change.
    Now,
    /// With the change after this revision.
    After(u64),
    /// With the first change at this moment or later, by the leader's clock.
    At(Millis),
}

/// Which changes a watch is told of: those that are of any of these in each set that is not empty.
/// Names may be whole ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Only this object: its changes are found by index, however long ago they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// Kinds of objects that it is told of; empty: all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kinds: BTreeSet<ObjectKind>,
    /// What became of them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub fates: BTreeSet<Fate>,
    /// Services: they and their tasks.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub services: BTreeSet<String>,
    /// Nodes: they, their tasks and their containers.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub nodes: BTreeSet<String>,
    /// Networks: they and their containers.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub networks: BTreeSet<String>,
}

impl Filter {
    /// Whether a change is one of those.
    pub fn takes(&self, change: &Change) -> bool {
        let (object, facts) = (change.object, &change.facts);
        self.object.is_none_or(|wanted| wanted == object)
            && has(&self.kinds, &object.kind())
            && has(&self.fates, &change.fate)
            && names(&self.services, service_of(object, facts))
            && names(&self.nodes, node_of(object, facts))
            && names(&self.networks, network_of(object, facts))
    }
}

fn has<T: Ord>(wanted: &BTreeSet<T>, value: &T) -> bool {
    wanted.is_empty() || wanted.contains(value)
}

/// Whether an object of this name and id is wanted. Objects that are gone can still be named, so
/// names are compared with the facts of each change and never looked up.
fn names(wanted: &BTreeSet<String>, object: Option<(String, &str)>) -> bool {
    if wanted.is_empty() {
        return true;
    }
    let Some((id, name)) = object else {
        return false;
    };
    wanted.contains(name) || wanted.contains(&id)
}

fn service_of(object: ObjectRef, facts: &Facts) -> Option<(String, &str)> {
    let named = |id: ServiceId, name| Some((id.to_string(), name));
    match (object, facts) {
        (ObjectRef::Service(id), Facts::Service { name, .. }) => named(id, name.as_str()),
        (_, Facts::Task(task)) => named(task.service, task.service_name.as_str()),
        _ => None,
    }
}

fn node_of(object: ObjectRef, facts: &Facts) -> Option<(String, &str)> {
    let named = |id: NodeId, name| Some((id.to_string(), name));
    match (object, facts) {
        (ObjectRef::Node(id), Facts::Node { hostname, .. }) => named(id, hostname.as_str()),
        (_, Facts::Task(task)) => named(task.node?, task.hostname.as_str()),
        (_, Facts::Container { node, hostname, .. }) => named(*node, hostname.as_str()),
        _ => None,
    }
}

fn network_of(object: ObjectRef, facts: &Facts) -> Option<(String, &str)> {
    let named = |id: NetworkId, name| Some((id.to_string(), name));
    match (object, facts) {
        (ObjectRef::Network(id), Facts::Network { name, .. }) => named(id, name.as_str()),
        (
            _,
            Facts::Container {
                network,
                network_name,
                ..
            },
        ) => named(*network, network_name.as_str()),
        _ => None,
    }
}

/// What a watch is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Watched {
    /// Some of the objects that are there, as if each had just been made.
    Present(Vec<Change>),
    /// All that is there has been told, or nothing of it was asked for: changes follow.
    Begins {
        /// The revision before the first of them.
        revision: u64,
    },
    /// Changes, oldest first, at least up to this revision: a watch that begins after it misses
    /// nothing.
    Changes {
        /// All changes up to this revision have been told.
        revision: u64,
        /// Those that the filter takes; may be none.
        changes: Vec<Change>,
    },
    /// Changes after a revision that the leader does not have any more, of a watch that began at a
    /// moment. What follows comes after them.
    Lost {
        /// They come after this revision.
        after: u64,
        /// The last of them.
        through: u64,
    },
    /// Nothing follows: the moment is reached up to which changes were asked for.
    Ends,
    /// How far a service is, whenever that differs from what was told last.
    Status(Box<Progress>),
}

/// How far a service is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Spec and status of the service.
    pub service: ServiceInfo,
    /// The newest task that waits for something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
}

/// A task that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Name of the task, `web.1`.
    pub task: String,
    /// What it waits for.
    pub message: String,
    /// Milliseconds since the Unix epoch from which on it waits.
    pub since: Millis,
}
