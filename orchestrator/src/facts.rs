//! What is told of an object to those who watch: made from its record.

use std::cmp::Ordering;

use model::{
    Change, Container, EndpointId, Facts, Failure, Fate, Millis, Network, NetworkId, Node, NodeId,
    ObjectKind, ObjectRef, ServiceId, TaskFacts, TaskId,
};

use crate::{
    names,
    record::{ServiceRecord, TaskRecord},
    state::State,
};

impl State {
    /// What has become of objects since this was asked last.
    pub(crate) fn take_changes(&mut self, at: Millis) -> Vec<Change> {
        let mut found = Found {
            revision: self.index,
            at,
            changes: Vec::new(),
        };
        for object in std::mem::take(&mut self.changed) {
            let facts = of_cluster(self, object);
            found.push(object, Fate::Changed, Some(facts));
        }
        for (id, note) in self.nodes.take_changes() {
            let record = self.nodes.get(&id).or(note.last.as_ref());
            found.push(ObjectRef::Node(id), note.fate, record.map(of_node));
        }
        for (id, note) in self.networks.take_changes() {
            let record = self.networks.get(&id).or(note.last.as_ref());
            let facts = record.map(of_network);
            found.push(ObjectRef::Network(id), note.fate, facts);
        }
        for (id, note) in self.services.take_changes() {
            let record = self.services.get(&id).or(note.last.as_ref());
            let facts = record.map(of_service);
            found.push(ObjectRef::Service(id), note.fate, facts);
        }
        for (id, note) in self.tasks.take_changes() {
            let record = self.tasks.get(&id).or(note.last.as_ref());
            let facts = record.map(|record| of_task(self, record));
            found.push(ObjectRef::Task(id), note.fate, facts);
        }
        for (id, note) in self.containers.take_changes() {
            let record = self.containers.get(&id).or(note.last.as_ref());
            let facts = record.map(|record| of_container(self, record));
            found.push(ObjectRef::Container(id), note.fate, facts);
        }
        found.changes
    }
}

/// The changes of one command.
struct Found {
    revision: u64,
    at: Millis,
    changes: Vec<Change>,
}

impl Found {
    /// A record that is noted is there or was: there are facts of it.
    fn push(&mut self, object: ObjectRef, fate: Fate, facts: Option<Facts>) {
        let Some(facts) = facts else { return };
        let (revision, at) = (self.revision, self.at);
        self.changes.push(Change {
            revision,
            at,
            object,
            fate,
            facts,
        });
    }
}

/// Of the cluster as a whole.
pub(crate) fn of_cluster(state: &State, object: ObjectRef) -> Facts {
    match object {
        ObjectRef::Keys => Facts::Keys,
        _ => Facts::Cluster { level: state.level },
    }
}

pub(crate) fn of_node(node: &Node) -> Facts {
    Facts::Node {
        hostname: node.hostname.clone(),
        role: node.role,
        status: node.status,
        availability: node.availability,
        failures: node.refused().iter().map(Failure::in_one_line).collect(),
        causes: node.causes.clone(),
    }
}

pub(crate) fn of_network(network: &Network) -> Facts {
    Facts::Network {
        name: network.spec.name.clone(),
        driver: network.spec.driver,
    }
}

pub(crate) fn of_service(record: &ServiceRecord) -> Facts {
    Facts::Service {
        name: record.service.spec.name.clone(),
        replicas: record.service.spec.replicas,
        version: record.version,
        removing: record.service.removing,
        paused: record.paused.clone(),
    }
}

pub(crate) fn of_task(state: &State, record: &TaskRecord) -> Facts {
    let task = &record.task;
    let hostname = task.node.map(|node| state.hostname(node));
    Facts::Task(TaskFacts {
        name: task.name(),
        service: task.service,
        service_name: task.service_name.clone(),
        slot: task.slot,
        node: task.node,
        hostname: hostname.unwrap_or_default(),
        state: task.status.state,
        desired: task.desired,
        withdrawn: record.withdrawal.is_some(),
        message: task.status.text(),
        why: task.status.why.clone(),
        exit_code: task.status.exit_code,
        since: task.status.since,
    })
}

pub(crate) fn of_container(state: &State, container: &Container) -> Facts {
    let network = state.networks.get(&container.network);
    Facts::Container {
        name: container.name(),
        node: container.key.node,
        hostname: state.hostname(container.key.node),
        network: container.network,
        network_name: network.map_or_else(String::new, |network| network.spec.name.clone()),
        addresses: container.addresses.clone(),
        causes: names::unresolved(state, container),
    }
}

/// Objects that are there, in the order of their references, from the one after `after` on and at
/// most `limit`: as changes, as if each had just been made.
pub(crate) fn present(state: &State, after: Option<ObjectRef>, limit: usize) -> Vec<Change> {
    let mut found = Vec::new();
    for object in objects(state, after).take(limit) {
        let Some((at, facts)) = told(state, object) else {
            continue;
        };
        found.push(Change {
            revision: state.index,
            at,
            object,
            fate: Fate::Made,
            facts,
        });
    }
    found
}

/// References come in the order of their kinds, and ids within a kind.
fn objects(state: &State, after: Option<ObjectRef>) -> impl Iterator<Item = ObjectRef> {
    let from = |kind| first_of(kind, after);
    let nodes = state.nodes.range(NodeId(from(ObjectKind::Node))..);
    let networks = state.networks.range(NetworkId(from(ObjectKind::Network))..);
    let services = state.services.range(ServiceId(from(ObjectKind::Service))..);
    let tasks = state.tasks.range(TaskId(from(ObjectKind::Task))..);
    let containers = state
        .containers
        .range(EndpointId(from(ObjectKind::Container))..);
    [ObjectRef::Cluster, ObjectRef::Keys]
        .into_iter()
        .chain(nodes.map(|(id, _)| ObjectRef::Node(*id)))
        .chain(networks.map(|(id, _)| ObjectRef::Network(*id)))
        .chain(services.map(|(id, _)| ObjectRef::Service(*id)))
        .chain(tasks.map(|(id, _)| ObjectRef::Task(*id)))
        .chain(containers.map(|(id, _)| ObjectRef::Container(*id)))
        .filter(move |object| after.is_none_or(|after| *object > after))
}

/// The number of the first object of this kind that may come after another object.
fn first_of(kind: ObjectKind, after: Option<ObjectRef>) -> u64 {
    let Some(after) = after else { return 0 };
    match after.kind().cmp(&kind) {
        Ordering::Less => 0,
        Ordering::Equal => after.number(),
        Ordering::Greater => u64::MAX,
    }
}

/// Since when an object is there, or is as it is, and what it is.
fn told(state: &State, object: ObjectRef) -> Option<(Millis, Facts)> {
    Some(match object {
        ObjectRef::Cluster | ObjectRef::Keys => (0, of_cluster(state, object)),
        ObjectRef::Node(id) => {
            let node = state.nodes.get(&id)?;
            (node.joined, of_node(node))
        }
        ObjectRef::Network(id) => {
            let network = state.networks.get(&id)?;
            (network.created, of_network(network))
        }
        ObjectRef::Service(id) => {
            let record = state.services.get(&id)?;
            (record.service.created, of_service(record))
        }
        ObjectRef::Task(id) => {
            let record = state.tasks.get(&id)?;
            (record.task.status.since, of_task(state, record))
        }
        ObjectRef::Container(id) => {
            let container = state.containers.get(&id)?;
            (container.created, of_container(state, container))
        }
    })
}
