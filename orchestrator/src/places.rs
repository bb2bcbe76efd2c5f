//! Where tasks and containers are, derived from their records: which tasks each node has, which
//! nodes have part in which network, and so whose view a change concerns.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Change, Concern, Container, EndpointId, NetworkId, NodeId, ObjectRef, ServiceId, TaskId,
};

use crate::{
    ports,
    record::{ServiceRecord, TaskRecord},
    state::State,
};

/// Follows the state's records; no part of it. It is kept as changes are applied, and made anew
/// from a snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    tasks: BTreeMap<TaskId, Place>,
    /// Living tasks only.
    tasks_of: BTreeMap<NodeId, BTreeSet<TaskId>>,
    containers: BTreeMap<EndpointId, Place>,
    services: BTreeMap<ServiceId, Reach>,
    /// Number of living tasks and of containers of a node on a network.
    parts: BTreeMap<NodeId, BTreeMap<NetworkId, usize>>,
}

/// Where a task or container is.
#[derive(Clone, Debug)]
struct Place {
    node: Option<NodeId>,
    networks: Vec<NetworkId>,
    /// Whether it counts among its node's parts.
    counts: bool,
    /// Whether every host answers at ports of it.
    everywhere: bool,
}

/// Where a service leads.
#[derive(Clone, Debug)]
struct Reach {
    networks: Vec<NetworkId>,
    /// The network of its ports that every host answers at.
    ingress: Option<NetworkId>,
}

/// Two states with the same records have the same places.
impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

impl Places {
    /// The living tasks of a node, by id.
    pub(crate) fn tasks_of(&self, node: NodeId) -> impl Iterator<Item = &TaskId> {
        self.tasks_of.get(&node).into_iter().flatten()
    }

    /// Whether this node's view may show what is of this concern.
    pub(crate) fn concerns(&self, node: NodeId, concern: &Concern) -> bool {
        let has_part = || {
            let parts = self.parts.get(&node);
            parts.is_some_and(|parts| parts.keys().any(|own| concern.networks.contains(own)))
        };
        concern.everybody || concern.nodes.contains(&node) || has_part()
    }

    fn count(&mut self, place: &Place) {
        if let (true, Some(node)) = (place.counts, place.node) {
            let parts = self.parts.entry(node).or_default();
            for network in &place.networks {
                *parts.entry(*network).or_default() += 1;
            }
        }
    }

    fn discount(&mut self, place: &Place) {
        let (true, Some(node)) = (place.counts, place.node) else {
            return;
        };
        let Some(parts) = self.parts.get_mut(&node) else {
            return;
        };
        for network in &place.networks {
            if let Some(number) = parts.get_mut(network) {
                *number -= 1;
                if *number == 0 {
                    parts.remove(network);
                }
            }
        }
    }

    fn put_task(&mut self, id: TaskId, record: Option<&TaskRecord>, concern: &mut Concern) {
        if let Some(old) = self.tasks.remove(&id) {
            self.discount(&old);
            if let Some(tasks) = old.node.and_then(|node| self.tasks_of.get_mut(&node)) {
                tasks.remove(&id);
            }
            self.add_to(concern, &old);
        }
        let Some(record) = record else { return };
        let networks = record.task.attachments.iter();
        let place = Place {
            node: record.task.node,
            networks: networks.map(|attachment| attachment.network).collect(),
            counts: record.is_alive(),
            everywhere: false,
        };
        if let (true, Some(node)) = (place.counts, place.node) {
            self.tasks_of.entry(node).or_default().insert(id);
        }
        self.count(&place);
        self.add_to(concern, &place);
        self.tasks.insert(id, place);
    }

    fn put_container(&mut self, id: EndpointId, record: Option<&Container>, concern: &mut Concern) {
        if let Some(old) = self.containers.remove(&id) {
            self.discount(&old);
            self.add_to(concern, &old);
        }
        let Some(container) = record else { return };
        let place = Place {
            node: Some(container.key.node),
            networks: vec![container.network],
            counts: container.sandbox.is_some(),
            everywhere: !container.traits.publish.is_empty(),
        };
        self.count(&place);
        self.add_to(concern, &place);
        self.containers.insert(id, place);
    }

    fn put_service(&mut self, id: ServiceId, reach: Option<Reach>, concern: &mut Concern) {
        let old = match reach.clone() {
            Some(reach) => self.services.insert(id, reach),
            None => self.services.remove(&id),
        };
        for reach in [old, reach].into_iter().flatten() {
            concern.everybody |= reach.ingress.is_some();
            concern.networks.extend(reach.networks);
        }
    }

    /// Whoever shares a network with it; everybody, where every host leads to that network.
    fn add_to(&self, concern: &mut Concern, place: &Place) {
        let leads = |reach: &Reach| {
            let ingress = reach.ingress.as_ref();
            ingress.is_some_and(|ingress| place.networks.contains(ingress))
        };
        concern.everybody |= place.everywhere || self.services.values().any(leads);
        concern.networks.extend(&place.networks);
        concern.nodes.extend(place.node);
    }
}

impl Reach {
    fn of(state: &State, record: &ServiceRecord) -> Self {
        let networks = record.service.networks.clone();
        let ingress = ports::is_ingress(record)
            .then(|| ports::network(state, &networks))
            .flatten();
        Self { networks, ingress }
    }
}

impl State {
    /// Follows what has been changed, and says whom it concerns.
    pub(crate) fn follow(&mut self, changes: &[Change]) -> Concern {
        let mut places = std::mem::take(&mut self.places);
        let mut concern = Concern::default();
        for change in changes {
            self.follow_one(&mut places, change.object, &mut concern);
        }
        self.places = places;
        concern
    }

    fn follow_one(&self, places: &mut Places, object: ObjectRef, concern: &mut Concern) {
        match object {
            ObjectRef::Cluster | ObjectRef::Keys | ObjectRef::Node(_) => concern.everybody = true,
            ObjectRef::Network(id) => drop(concern.networks.insert(id)),
            ObjectRef::Task(id) => places.put_task(id, self.tasks.get(&id), concern),
            ObjectRef::Container(id) => {
                places.put_container(id, self.containers.get(&id), concern);
            }
            ObjectRef::Service(id) => {
                let record = self.services.get(&id);
                let reach = record.map(|record| Reach::of(self, record));
                places.put_service(id, reach, concern);
                let tasks = record.into_iter().flat_map(ServiceRecord::task_ids);
                let nodes = tasks.filter_map(|task| self.tasks.get(&task)?.task.node);
                concern.nodes.extend(nodes);
            }
        }
    }

    /// The places of all records, for a state that was read.
    pub(crate) fn find_places(&mut self) {
        let mut places = Places::default();
        let mut nobody = Concern::default();
        for (id, record) in &*self.services {
            places.put_service(*id, Some(Reach::of(self, record)), &mut nobody);
        }
        for (id, record) in &*self.tasks {
            places.put_task(*id, Some(record), &mut nobody);
        }
        for (id, container) in &*self.containers {
            places.put_container(*id, Some(container), &mut nobody);
        }
        self.places = places;
    }
}
