//! The views of all nodes, kept as the state changes: which records each object has in which
//! section, and what a change of an object touches.
//!
//! Where ports of every host lead to a service, everybody sees what is on their network of it.
//! All else of a network is seen by the nodes with part in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{
    Container, EndpointId, JoinedConfig, Level, NetworkId, NodeConfig, NodeId, ObjectRef, Own,
    PeerConfig, Projector, PublishMode, PublishSpec, Record, Role, SectionId, ServiceId, TaskId,
    Touched, Views, WholeViews,
};
use serde::Serialize;

use crate::{
    containers::{self, Members},
    keys, names, ports, project,
    record::ServiceRecord,
    slots,
    state::State,
};

/// Follows the state for all nodes that are watched.
#[derive(Default)]
pub struct Sections {
    whole: WholeViews,
    /// Whether views are of the shape that shares sections.
    shares: bool,
    emitted: BTreeMap<Source, Vec<Emission>>,
    services: BTreeMap<ServiceId, Shape>,
    /// Services that are being removed and have ports at every host.
    leaving: BTreeSet<ServiceId>,
    /// Living tasks.
    tasks: BTreeMap<TaskId, Place>,
    containers: BTreeMap<EndpointId, Joint>,
    nodes: BTreeMap<NodeId, Seen>,
    /// Where the endpoints of a section are: how many each node has.
    hosts: BTreeMap<SectionId, BTreeMap<NodeId, usize>>,
    encrypted: BTreeMap<NetworkId, BTreeSet<NodeId>>,
    open: BTreeSet<NetworkId>,
}

/// What has records in sections, all of which are projected together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Network(NetworkId),
    Service(ServiceId),
    Slot(ServiceId, u32),
    Container(EndpointId),
}

struct Emission {
    section: SectionId,
    record: Arc<Record>,
    /// Of an endpoint.
    host: Option<NodeId>,
}

/// Of a service what its slots, its containers and its nodes' own parts depend on.
#[derive(Clone, PartialEq, Eq)]
struct Shape {
    name: String,
    stack: Option<String>,
    networks: Vec<NetworkId>,
    ingress: Option<NetworkId>,
    publish: Vec<PublishSpec>,
    removing: bool,
    publish_not_ready: bool,
    wanted: u32,
    /// How many slots there are, and the last one.
    slots: (usize, Option<u32>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    service: ServiceId,
    slot: u32,
    node: Option<NodeId>,
}

#[derive(Clone, PartialEq, Eq)]
struct Joint {
    node: NodeId,
    network: NetworkId,
    service: Option<String>,
}

struct Seen {
    peer: PeerConfig,
    record: Arc<Record>,
    is_down: bool,
}

/// What is to be projected anew.
#[derive(Default)]
struct Dirt {
    sources: BTreeSet<Source>,
    owns: BTreeSet<NodeId>,
    everybody: bool,
}

impl Projector<State> for Sections {
    fn follow(&mut self, state: &State, touched: Option<&Touched>, views: &mut Views) {
        if state.level < Level::SHARED_VIEWS {
            return self.whole.follow(state, touched, views);
        }
        if views.level() != state.level {
            // The views begin with nothing: what they had is to be put anew.
            *self = Self::default();
        }
        views.begin(state.index, state.level);
        let mut dirt = Dirt::default();
        let cluster = ObjectRef::Cluster;
        match touched {
            Some(touched) if self.shares && !touched.objects.contains(&cluster) => {
                for object in &touched.objects {
                    self.touch(state, *object, &mut dirt);
                }
            }
            _ => self.touch_all(state, &mut dirt),
        }
        self.shares = true;
        let leaving = self.leaving.iter().copied().map(Source::Service);
        dirt.sources.extend(leaving);
        for source in std::mem::take(&mut dirt.sources) {
            let had_ports = self.has_ports(source);
            self.emit(state, source, views);
            if self.has_ports(source) != had_ports {
                self.renew_answering(source, &mut dirt);
            }
        }
        self.look_at_encrypted(state, &mut dirt);
        if dirt.everybody {
            views.renew_all(SectionId::Everybody);
        }
        dirt.owns.into_iter().for_each(|node| views.renew(node));
    }

    fn own(&mut self, state: &State, node: NodeId) -> Own {
        if !self.shares {
            return self.whole.own(state, node);
        }
        if !state.nodes.contains_key(&node) {
            return Own::default();
        }
        let config = self.own_config(state, node);
        let networks = state.derived.parts.networks_of(node);
        let networks = networks.copied().map(SectionId::Network);
        let sections: BTreeSet<SectionId> = networks.chain([SectionId::Everybody]).collect();
        let peers = self.peers(state, &config, &sections);
        Own {
            sections,
            records: Record::all_of(&config),
            peers,
        }
    }
}

impl Sections {
    fn touch_all(&mut self, state: &State, dirt: &mut Dirt) {
        dirt.everybody = true;
        let nodes = self.nodes.keys().chain(state.nodes.keys());
        let services = self.services.keys().chain(state.services.keys());
        let tasks = self.tasks.keys().chain(state.tasks.keys());
        let containers = self.containers.keys().chain(state.containers.keys());
        let objects: BTreeSet<ObjectRef> = nodes
            .map(|id| ObjectRef::Node(*id))
            .chain(services.map(|id| ObjectRef::Service(*id)))
            .chain(tasks.map(|id| ObjectRef::Task(*id)))
            .chain(containers.map(|id| ObjectRef::Container(*id)))
            .chain(state.networks.keys().map(|id| ObjectRef::Network(*id)))
            .collect();
        for object in objects {
            self.touch(state, object, dirt);
        }
        for (id, record) in &*state.services {
            let slots = record.slots.keys().map(|number| Source::Slot(*id, *number));
            dirt.sources.extend(slots);
        }
        dirt.sources.extend(self.emitted.keys());
    }

    fn touch(&mut self, state: &State, object: ObjectRef, dirt: &mut Dirt) {
        match object {
            ObjectRef::Cluster => dirt.everybody = true,
            ObjectRef::Keys => dirt.owns.extend(self.encrypted.values().flatten()),
            ObjectRef::Node(id) => self.touch_node(state, id, dirt),
            ObjectRef::Network(id) => {
                dirt.sources.insert(Source::Network(id));
                // Every node has part in an open network, or knows those who call there.
                let is_open = state.derived.networks.is_open(id);
                dirt.everybody |= self.open.contains(&id) != is_open;
                match is_open {
                    true => self.open.insert(id),
                    false => self.open.remove(&id),
                };
            }
            ObjectRef::Service(id) => self.touch_service(state, id, dirt),
            ObjectRef::Task(id) => self.touch_task(state, id, dirt),
            ObjectRef::Container(id) => self.touch_container(state, id, dirt),
        }
    }

    /// A node is seen as a peer, and whether it is down shows in whatever leads to it.
    fn touch_node(&mut self, state: &State, id: NodeId, dirt: &mut Dirt) {
        let peer = state.nodes.get(&id).map(project::peer_config);
        let is_down = state.is_down(id);
        let seen = self.nodes.get(&id);
        if seen.map(|seen| &seen.peer) != peer.as_ref() {
            dirt.everybody = true;
        }
        if seen.is_none_or(|seen| seen.is_down != is_down) {
            let places = self.tasks.values().filter(|place| place.node == Some(id));
            let slots = places.map(|place| Source::Slot(place.service, place.slot));
            dirt.sources.extend(slots);
            let containers = state.containers_of(id);
            let containers = containers.map(|container| Source::Container(container.id));
            dirt.sources.extend(containers);
            dirt.owns.insert(id);
        }
        let seen = peer.map(|peer| Seen {
            record: record("peer", id, &peer),
            peer,
            is_down,
        });
        match seen {
            Some(seen) => drop(self.nodes.insert(id, seen)),
            None => drop(self.nodes.remove(&id)),
        }
    }

    fn touch_task(&mut self, state: &State, id: TaskId, dirt: &mut Dirt) {
        let alive = state.tasks.get(&id).filter(|record| record.is_alive());
        let place = alive.map(|record| Place {
            service: record.task.service,
            slot: record.task.slot,
            node: record.task.node,
        });
        let old = match place {
            Some(place) => self.tasks.insert(id, place),
            None => self.tasks.remove(&id),
        };
        for place in [old, place].into_iter().flatten() {
            let slot = Source::Slot(place.service, place.slot);
            dirt.sources.insert(slot);
            dirt.owns.extend(place.node);
        }
    }

    fn touch_container(&mut self, state: &State, id: EndpointId, dirt: &mut Dirt) {
        dirt.sources.insert(Source::Container(id));
        let joint = state.containers.get(&id).map(Joint::of);
        if let Some(old) = self.containers.remove(&id) {
            dirt.owns.insert(old.node);
        }
        if let Some(joint) = joint {
            dirt.owns.insert(joint.node);
            self.containers.insert(id, joint);
        }
    }

    fn touch_service(&mut self, state: &State, id: ServiceId, dirt: &mut Dirt) {
        dirt.sources.insert(Source::Service(id));
        let record = state.services.get(&id);
        let shape = record.map(|record| Shape::of(state, record));
        let old = self.services.get(&id).cloned();
        if old == shape {
            return;
        }
        let all = Source::Slot(id, 0)..=Source::Slot(id, u32::MAX);
        let known = self.emitted.range(all).map(|(source, _)| *source);
        dirt.sources.extend(known);
        if let Some(record) = record {
            let slots = record.slots.keys().map(|number| Source::Slot(id, *number));
            dirt.sources.extend(slots);
            let tasks = record.task_ids().filter_map(|id| state.tasks.get(&id));
            dirt.owns
                .extend(tasks.filter_map(|record| record.task.node));
        }
        for shape in [&old, &shape].into_iter().flatten() {
            dirt.sources.extend(shape.ingress.map(Source::Network));
            for (container, joint) in &self.containers {
                if shape.has(joint) {
                    dirt.sources.insert(Source::Container(*container));
                    dirt.owns.insert(joint.node);
                }
            }
        }
        match shape {
            Some(shape) if shape.removing && shape.ingress.is_some() => {
                self.leaving.insert(id);
                self.services.insert(id, shape);
            }
            Some(shape) => drop(self.services.insert(id, shape)),
            None => {
                self.leaving.remove(&id);
                self.services.remove(&id);
            }
        }
    }

    /// Whoever comes to an encrypted network or leaves it changes the keys of all that are on it.
    fn look_at_encrypted(&mut self, state: &State, dirt: &mut Dirt) {
        let encrypted = keys::members_of_encrypted(state);
        if encrypted == self.encrypted {
            return;
        }
        let nobody = BTreeSet::new();
        for network in encrypted.keys().chain(self.encrypted.keys()) {
            let now = encrypted.get(network).unwrap_or(&nobody);
            let before = self.encrypted.get(network).unwrap_or(&nobody);
            if now != before {
                dirt.owns.extend(now.union(before));
            }
        }
        self.encrypted = encrypted;
    }

    /// Whether this is a service that every host answers for.
    fn has_ports(&self, source: Source) -> bool {
        let Source::Service(_) = source else {
            return false;
        };
        let emitted = self.emitted.get(&source).into_iter().flatten();
        let mut keys = emitted.map(|emission| emission.record.key());
        keys.any(|key| key.starts_with("publish/"))
    }

    /// Nodes where something of the service answers know those who call.
    fn renew_answering(&self, source: Source, dirt: &mut Dirt) {
        let Source::Service(id) = source else { return };
        let tasks = self.tasks.values().filter(|place| place.service == id);
        dirt.owns.extend(tasks.filter_map(|place| place.node));
        if let Some(shape) = self.services.get(&id) {
            let joints = self.containers.values().filter(|joint| shape.has(joint));
            dirt.owns.extend(joints.map(|joint| joint.node));
        }
    }

    /// Brings the records of a source up to the state.
    fn emit(&mut self, state: &State, source: Source, views: &mut Views) {
        let new = self.project(state, source);
        let old = match new.is_empty() {
            true => self.emitted.remove(&source),
            false => self.emitted.insert(source, Vec::new()),
        };
        let old = old.unwrap_or_default();
        for emission in &old {
            let stays = |other: &Emission| {
                other.section == emission.section && other.record.key() == emission.record.key()
            };
            if !new.iter().any(stays) {
                views.remove(emission.section, emission.record.key());
            }
            self.count(emission, views, |count| count.saturating_sub(1));
        }
        for emission in &new {
            let is_known = |other: &Emission| {
                other.section == emission.section && other.record.is(&emission.record)
            };
            if !old.iter().any(is_known) {
                views.put(emission.section, emission.record.clone());
            }
            self.count(emission, views, |count| count + 1);
        }
        if let Some(emitted) = self.emitted.get_mut(&source) {
            *emitted = new;
        }
    }

    /// Counts an endpoint. The nodes that see the section know the nodes with endpoints in it.
    fn count(
        &mut self,
        emission: &Emission,
        views: &mut Views,
        change: impl FnOnce(usize) -> usize,
    ) {
        let Some(node) = emission.host else { return };
        let hosts = self.hosts.entry(emission.section).or_default();
        let before = hosts.get(&node).copied().unwrap_or_default();
        let after = change(before);
        if after == 0 {
            hosts.remove(&node);
        } else {
            hosts.insert(node, after);
        }
        if (before == 0) != (after == 0) {
            views.renew_all(emission.section);
        }
    }

    fn project(&self, state: &State, source: Source) -> Vec<Emission> {
        match source {
            Source::Network(id) => self.network(state, id),
            Source::Service(id) => {
                let record = state.services.get(&id);
                record.map_or_else(Vec::new, |record| self.service(state, record))
            }
            Source::Slot(id, number) => {
                let record = state.services.get(&id);
                record.map_or_else(Vec::new, |record| self.slot(state, record, number))
            }
            Source::Container(id) => {
                let container = state.containers.get(&id);
                container.map_or_else(Vec::new, |container| self.container(state, container))
            }
        }
    }

    fn network(&self, state: &State, id: NetworkId) -> Vec<Emission> {
        let config = state.networks.get(&id);
        let config = config.and_then(|network| project::network_config(state, network));
        let Some(config) = config else {
            return Vec::new();
        };
        let is_led_to = self.services.values().any(|of| of.ingress == Some(id));
        let section = if is_led_to {
            SectionId::Everybody
        } else {
            SectionId::Network(id)
        };
        vec![
            Emission::of(section, record("network", id, &config)),
            Emission::of(
                SectionId::Network(id),
                record("joined", id, &JoinedConfig {}),
            ),
        ]
    }

    fn service(&self, state: &State, of: &ServiceRecord) -> Vec<Emission> {
        let id = of.service.id;
        let offers = of.service.networks.iter().map(|network| {
            let offer = names::offer(of, *network);
            let key = format!("{network}/{id}");
            Emission::of(self.section_of(id, *network), record("offer", key, &offer))
        });
        let mut emissions: Vec<Emission> = offers.collect();
        let ingress = self.services.get(&id).and_then(|shape| shape.ingress);
        let Some(network) = ingress else {
            return emissions;
        };
        // Only of a service that is being removed it matters whether anything is left.
        let members = if of.service.removing {
            Members::of(state)
        } else {
            Members::default()
        };
        for ((publisher, place), port) in
            project::published_everywhere(state, of, network, &members)
        {
            let record = record("publish", format!("{publisher}/{place}"), &port);
            emissions.push(Emission::of(SectionId::Everybody, record));
        }
        emissions
    }

    fn slot(&self, state: &State, of: &ServiceRecord, number: u32) -> Vec<Emission> {
        let id = of.service.id;
        let mut emissions = Vec::new();
        let holder = of
            .slots
            .get(&number)
            .and_then(|slot| slots::holder(state, slot));
        for network in &of.service.networks {
            let section = self.section_of(id, *network);
            if of.slots.contains_key(&number)
                && let Some(slot) = names::slot(state, of, number, *network)
            {
                let key = format!("{network}/{id}/{number}");
                emissions.push(Emission::of(section, record("slot", key, &slot)));
            }
            let Some((task, node)) = holder else { continue };
            for (endpoint, config) in project::endpoints(task, node, *network) {
                emissions.push(Emission {
                    section,
                    record: record("endpoint", endpoint, &config),
                    host: Some(node),
                });
            }
        }
        emissions
    }

    fn container(&self, state: &State, container: &Container) -> Vec<Emission> {
        let Some(sandbox) = &container.sandbox else {
            return Vec::new();
        };
        let joint = Joint::of(container);
        let mut shapes = self.services.values();
        let is_led_to =
            shapes.any(|shape| shape.ingress == Some(joint.network) && shape.has(&joint));
        let section = if is_led_to {
            SectionId::Everybody
        } else {
            SectionId::Network(joint.network)
        };
        let (id, endpoint) = containers::endpoint(container, sandbox);
        let member = names::member(state, container);
        let key = format!("{}/{id}", container.network);
        vec![
            Emission {
                section,
                record: record("endpoint", id, &endpoint),
                host: Some(joint.node),
            },
            Emission::of(section, record("member", key, &member)),
        ]
    }

    fn section_of(&self, service: ServiceId, network: NetworkId) -> SectionId {
        let ingress = self.services.get(&service).and_then(|shape| shape.ingress);
        if ingress == Some(network) {
            SectionId::Everybody
        } else {
            SectionId::Network(network)
        }
    }

    /// What no other node sees, but for the node's peers.
    fn own_config(&self, state: &State, node: NodeId) -> NodeConfig {
        let mut config = NodeConfig {
            level: state.level,
            ..NodeConfig::empty(node)
        };
        let mut services = BTreeSet::new();
        for record in state.tasks_on(node) {
            services.insert(record.task.service);
            let task = project::task_config(state, record);
            config.tasks.insert(record.task.id, task);
        }
        let here: Vec<_> = state.placed_on(node).collect();
        config.containers = containers::containers(node, &here);
        for (container, _) in &here {
            config.published.extend(containers::published(container));
        }
        let members = Members::among(here.iter().map(|(container, _)| *container));
        for record in services.iter().filter_map(|id| state.services.get(id)) {
            let has_port = |mode| {
                record
                    .service
                    .spec
                    .publish
                    .iter()
                    .any(|port| port.mode == mode)
            };
            let network = ports::network(state, &record.service.networks);
            if let Some(network) = network.filter(|_| has_port(PublishMode::Host)) {
                let here = project::published_on(state, record, network, (node, &members));
                config.published.extend(here);
            }
        }
        config.keys = keys::of_node(state, node).into_iter().collect();
        config
    }

    /// The managers, the nodes with endpoints in its sections or keys of it, and itself; all, where
    /// something here answers those who call at any host.
    fn peers(
        &self,
        state: &State,
        config: &NodeConfig,
        sections: &BTreeSet<SectionId>,
    ) -> Vec<(NodeId, Arc<Record>)> {
        let peer = |(node, seen): (&NodeId, &Seen)| (*node, seen.record.clone());
        if self.answers_callers_of_all_hosts(state, config)
            || project::is_called_by_all_hosts(state, config.node)
        {
            return self.nodes.iter().map(peer).collect();
        }
        let mut known: BTreeSet<NodeId> = config.keys.keys().copied().collect();
        for hosts in sections.iter().filter_map(|id| self.hosts.get(id)) {
            known.extend(hosts.keys());
        }
        let is_peer = |(node, seen): &(&NodeId, &Seen)| {
            **node == config.node || seen.peer.role == Role::Manager || known.contains(node)
        };
        self.nodes.iter().filter(is_peer).map(peer).collect()
    }

    fn answers_callers_of_all_hosts(&self, state: &State, config: &NodeConfig) -> bool {
        let has_ports = |service: &ServiceId| self.has_ports(Source::Service(*service));
        if config.tasks.values().any(|task| has_ports(&task.service)) {
            return true;
        }
        let is_everywhere = |port: &PublishSpec| port.mode == PublishMode::Ingress;
        let mut ports = config.published.values();
        if ports.any(|port| is_everywhere(&port.spec)) {
            return true;
        }
        let mut here = state.placed_on(config.node);
        here.any(|(container, _)| {
            let joint = Joint::of(container);
            let mut shapes = self.services.iter();
            containers::is_reachable(state, container)
                && shapes.any(|(id, shape)| {
                    shape.ingress == Some(joint.network) && shape.has(&joint) && has_ports(id)
                })
        })
    }
}

impl Shape {
    fn of(state: &State, record: &ServiceRecord) -> Self {
        let service = &record.service;
        let ingress = ports::is_ingress(record)
            .then(|| ports::network(state, &service.networks))
            .flatten();
        let last = record.slots.keys().next_back().copied();
        Self {
            name: service.spec.name.to_ascii_lowercase(),
            stack: service.spec.stack.clone(),
            networks: service.networks.clone(),
            ingress,
            publish: service.spec.publish.clone(),
            removing: service.removing,
            publish_not_ready: service.spec.publish_not_ready,
            wanted: service.spec.replicas.saturating_add(record.surge),
            slots: (record.slots.len(), last),
        }
    }

    /// Whether this container serves it, if it is ready.
    fn has(&self, joint: &Joint) -> bool {
        joint.service.as_ref() == Some(&self.name) && self.networks.contains(&joint.network)
    }
}

impl Joint {
    fn of(container: &Container) -> Self {
        let service = container.traits.service.as_ref();
        Self {
            node: container.key.node,
            network: container.network,
            service: service.map(|name| name.to_ascii_lowercase()),
        }
    }
}

impl Emission {
    fn of(section: SectionId, record: Arc<Record>) -> Self {
        Self {
            section,
            record,
            host: None,
        }
    }
}

fn record(section: &str, id: impl std::fmt::Display, value: &impl Serialize) -> Arc<Record> {
    // Records are plain data with string keys: they always have a JSON form.
    let value = serde_json::to_value(value).unwrap_or_default();
    Record::new(format!("{section}/{id}"), &value)
}
