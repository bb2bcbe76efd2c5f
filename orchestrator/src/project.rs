//! Projects the state to one host's view: what the host has part in, with no choices left.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{
    EndpointConfig, EndpointId, Network, NetworkConfig, NetworkId, Node, NodeConfig, NodeId,
    PeerConfig, PeerKeys, PublishMode, PublishedConfig, Publisher, Role, Task, TaskConfig,
    TaskState, ViewInfo, VirtualServiceConfig,
};
use sha2::{Digest, Sha256};

use crate::{
    containers::{self, Members},
    names, ports,
    record::{ServiceRecord, Slot, TaskRecord},
    state::State,
    validate,
};

/// Weight of a real server that takes new connections, and of one that only keeps existing ones.
pub(crate) const TAKES: u16 = 1;
pub(crate) const KEEPS: u16 = 0;
/// Bytes of a record's digest: enough to tell records apart.
const DIGEST_BYTES: usize = 16;

pub(crate) fn view(state: &State, node: NodeId) -> NodeConfig {
    let mut config = NodeConfig {
        generation: state.index,
        level: state.level,
        ..NodeConfig::empty(node)
    };
    if !state.nodes.contains_key(&node) {
        return config;
    }
    config.tasks = state
        .tasks_on(node)
        .map(|record| (record.task.id, task_config(state, record)))
        .collect();
    let members = Members::of(state);
    let mut networks = containers::networks_on(state, node);
    networks.extend(networks_of(state.tasks_on(node).map(|record| &record.task)));
    let reached = ports::ingress_networks(state);
    config.networks = networks
        .union(&reached)
        .filter_map(|id| Some((*id, network_config(state, state.networks.get(id)?)?)))
        .collect();
    for record in state.services.values() {
        for network in record
            .service
            .networks
            .iter()
            .filter(|network| networks.contains(network))
        {
            add_service(&mut config, state, record, *network, &members);
        }
        add_published(&mut config, state, record, &members);
    }
    containers::project(&mut config, state, &networks);
    config.names = names::of(state, &networks, &members);
    config.keys = keys(state, node);
    config.peers = peers(state, &config);
    config
}

/// A view as others may see it.
pub fn digests(config: &NodeConfig) -> ViewInfo {
    let digest = |value: serde_json::Value| {
        Sha256::digest(value.to_string())
            .iter()
            .take(DIGEST_BYTES)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    let records = config
        .snapshot()
        .set
        .into_iter()
        .map(|(key, value)| (key, digest(value)))
        .collect();
    ViewInfo {
        generation: config.generation,
        records,
    }
}

/// The networks that these tasks attach to.
fn networks_of<'a>(tasks: impl Iterator<Item = &'a Task>) -> impl Iterator<Item = NetworkId> {
    tasks.flat_map(|task| task.attachments.iter().map(|attachment| attachment.network))
}

/// The task that has a slot's addresses. After a lost host has come back there may be two for a
/// while: then it is the newest, the only one that should run. A task on a lost host has them only
/// if no other task does.
pub(crate) fn holder<'a>(state: &'a State, slot: &'a Slot) -> Option<(&'a Task, NodeId)> {
    let placed = state
        .records(&slot.tasks)
        .filter(|record| record.is_alive());
    let placed = placed.filter_map(|record| Some((&record.task, record.task.node?)));
    // Of equals the last is taken, and slots list their newest run last.
    placed.max_by_key(|(_, node)| !state.is_down(*node))
}

/// The task of a slot that takes traffic, until it is withdrawn; also in a slot that is no longer
/// wanted.
pub(crate) fn serving<'a>(
    state: &'a State,
    record: &'a ServiceRecord,
    number: u32,
) -> Option<&'a TaskRecord> {
    let slot = record.slots.get(&number)?;
    state
        .records(&slot.tasks)
        .rfind(|record| record.takes_connections() && is_reachable(state, &record.task))
}

fn is_reachable(state: &State, task: &Task) -> bool {
    task.node.is_some_and(|node| !state.is_down(node))
}

/// Adds this host's published ports of the service. If ports of other hosts lead to it, its
/// endpoints are added, too, even if the host has no other part in the network.
fn add_published(
    config: &mut NodeConfig,
    state: &State,
    record: &ServiceRecord,
    members: &Members<'_>,
) {
    let (service, node) = (&record.service, config.node);
    let Some(network) = ports::network(state, &service.networks) else {
        return;
    };
    if ports::is_ingress(record) {
        let holders = record.slots.values().filter_map(|slot| holder(state, slot));
        config
            .endpoints
            .extend(holders.flat_map(|(task, node)| endpoints(task, node, network)));
        let placed = members.of_service(service, network);
        config.endpoints.extend(
            placed
                .filter_map(|placed| Some(containers::endpoint(placed, placed.sandbox.as_ref()?))),
        );
    }
    if service.spec.publish.is_empty() {
        return;
    }
    let is_here = state
        .tasks_on(node)
        .any(|record| record.task.service == service.id);
    for (place, spec) in service.spec.publish.iter().enumerate() {
        let everywhere = spec.mode == PublishMode::Ingress;
        if !everywhere && !is_here {
            continue;
        }
        let real_servers = real_servers(state, record, network, members, |at| {
            everywhere || at == node
        });
        if service.removing && real_servers.is_empty() {
            continue;
        }
        let owner = format!("service {}", service.spec.name);
        let (balance, spec) = (service.spec.balance, spec.clone());
        let published = PublishedConfig {
            owner,
            network,
            spec,
            balance,
            real_servers,
        };
        config.published.insert(
            (Publisher::Service(service.id), format!("{place:03}")),
            published,
        );
    }
}

/// Real servers of a service on a network, on the hosts that count, with weights. A withdrawn task
/// has weight 0 and keeps its connections.
fn real_servers(
    state: &State,
    record: &ServiceRecord,
    network: NetworkId,
    members: &Members<'_>,
    counts: impl Fn(NodeId) -> bool,
) -> BTreeMap<IpAddr, u16> {
    let containers = members.real_servers(state, &record.service, network, &counts);
    let serving = record
        .slots
        .keys()
        .filter_map(|&number| serving(state, record, number));
    let holders = record.slots.values().filter_map(|slot| holder(state, slot));
    let keeping = holders
        .map(|(task, _)| task)
        .filter(|task| task.status.state == TaskState::Running);
    let keeping = keeping
        .filter(|task| is_reachable(state, task))
        .map(|task| (task, KEEPS));
    let weighted = keeping.chain(serving.map(|run| (&run.task, TAKES)));
    let weighted = weighted.filter(|(task, _)| task.node.is_some_and(&counts));
    let tasks = weighted.flat_map(|(task, weight)| {
        addresses(task, network)
            .iter()
            .map(move |address| (*address, weight))
    });
    tasks.chain(containers).collect()
}

fn add_service(
    config: &mut NodeConfig,
    state: &State,
    record: &ServiceRecord,
    network: NetworkId,
    members: &Members<'_>,
) {
    let holders = record.slots.values().filter_map(|slot| holder(state, slot));
    config
        .endpoints
        .extend(holders.flat_map(|(task, node)| endpoints(task, node, network)));
    let vips = record
        .service
        .vips
        .get(&network)
        .cloned()
        .unwrap_or_default();
    let real_servers = real_servers(state, record, network, members, |_| true);
    let is_emptied = record.service.removing && real_servers.is_empty();
    if !vips.is_empty() && !is_emptied {
        let (name, balance) = (
            record.service.spec.name.clone(),
            record.service.spec.balance,
        );
        let service = VirtualServiceConfig {
            name,
            vips,
            balance,
            real_servers,
        };
        config
            .services
            .insert((network, record.service.id), service);
    }
}

/// Those of a task on one of its networks.
pub(crate) fn addresses(task: &Task, network: NetworkId) -> &[IpAddr] {
    let attachment = task
        .attachments
        .iter()
        .find(|attachment| attachment.network == network);
    attachment.map_or(&[], |attachment| &attachment.addresses)
}

fn endpoints(
    task: &Task,
    node: NodeId,
    network: NetworkId,
) -> impl Iterator<Item = (EndpointId, EndpointConfig)> {
    task.attachments
        .iter()
        .filter(move |attachment| attachment.network == network)
        .map(move |attachment| {
            let (addresses, mac) = (attachment.addresses.clone(), attachment.mac);
            (
                attachment.endpoint,
                EndpointConfig {
                    network,
                    node,
                    sandbox: task.id.into(),
                    addresses,
                    mac,
                },
            )
        })
}

/// Keys for the hosts with which it shares an encrypted network. Symmetric: either both hosts have
/// keys or neither; it only counts whether tasks or containers may still run there.
fn keys(state: &State, node: NodeId) -> BTreeMap<NodeId, PeerKeys> {
    let shared = members_of_encrypted(state)
        .into_values()
        .filter(|members| members.contains(&node));
    let peers = shared.flatten().filter(|peer| *peer != node).collect();
    state.keys.of(node, &peers)
}

/// The hosts whose view has keys.
pub(crate) fn key_holders(state: &State) -> BTreeSet<NodeId> {
    members_of_encrypted(state)
        .into_values()
        .filter(|members| members.len() > 1)
        .flatten()
        .collect()
}

/// The hosts of each encrypted network.
fn members_of_encrypted(state: &State) -> BTreeMap<NetworkId, BTreeSet<NodeId>> {
    let encrypted = state
        .networks
        .values()
        .filter(|network| network.spec.encrypted);
    let mut members: BTreeMap<NetworkId, BTreeSet<NodeId>> = encrypted
        .map(|network| (network.id, BTreeSet::new()))
        .collect();
    if members.is_empty() {
        return members;
    }
    for network in ports::ingress_networks(state) {
        if let Some(members) = members.get_mut(&network) {
            members.extend(state.nodes.keys());
        }
    }
    for record in state.tasks.values().filter(|record| record.is_alive()) {
        for attachment in &record.task.attachments {
            if let Some(members) = members.get_mut(&attachment.network) {
                members.extend(record.task.node);
            }
        }
    }
    for (container, _) in state.placed() {
        if let Some(members) = members.get_mut(&container.network) {
            members.insert(container.key.node);
        }
    }
    members
}

fn peers(state: &State, config: &NodeConfig) -> BTreeMap<NodeId, PeerConfig> {
    let endpoints = config.endpoints.values().map(|endpoint| endpoint.node);
    let sharing: BTreeSet<NodeId> = endpoints.chain(config.keys.keys().copied()).collect();
    let answers_all = answers_callers_of_all_hosts(config);
    let is_peer = |node: &&Node| {
        answers_all
            || node.id == config.node
            || node.role == Role::Manager
            || sharing.contains(&node.id)
    };
    state
        .nodes
        .values()
        .filter(is_peer)
        .map(|node| (node.id, peer_config(node)))
        .collect()
}

/// Whether tasks or containers here answer those who call at any host.
fn answers_callers_of_all_hosts(config: &NodeConfig) -> bool {
    let ingress = || {
        config
            .published
            .iter()
            .filter(|(_, port)| port.spec.mode == PublishMode::Ingress)
    };
    let services: BTreeSet<_> = ingress().map(|((owner, _), _)| *owner).collect();
    let serves = |endpoint: &EndpointConfig| {
        let mut ports = ingress()
            .map(|(_, port)| port)
            .filter(|port| port.network == endpoint.network);
        ports.any(|port| {
            endpoint
                .addresses
                .iter()
                .any(|address| port.real_servers.contains_key(address))
        })
    };
    config
        .tasks
        .values()
        .any(|task| services.contains(&Publisher::Service(task.service)))
        || config
            .endpoints
            .values()
            .any(|endpoint| endpoint.node == config.node && serves(endpoint))
}

fn peer_config(node: &Node) -> PeerConfig {
    let Node {
        role,
        address,
        vtep,
        balancer,
        ..
    } = *node;
    PeerConfig {
        hostname: node.hostname.clone(),
        role,
        address,
        vtep,
        balancer,
    }
}

/// Always there: what a network may be was looked at when it was made.
fn network_config(state: &State, network: &Network) -> Option<NetworkConfig> {
    Some(NetworkConfig {
        name: network.spec.name.clone(),
        vni: network.vni,
        driver: validate::driver(&network.spec, state.data_path_port).ok()?,
        subnets: network.subnets.clone(),
        internal: network.spec.internal,
        mtu: validate::mtu(&network.spec).unwrap_or_default(),
    })
}

fn task_config(state: &State, record: &TaskRecord) -> TaskConfig {
    let task = &record.task;
    let service = state.services.get(&task.service);
    TaskConfig {
        stack: service.and_then(|record| record.service.spec.stack.clone()),
        service: task.service,
        service_name: task.service_name.clone(),
        slot: task.slot,
        spec: task.spec.clone(),
        desired: task.desired,
        state: task.status.state,
        draining: record
            .withdrawal
            .as_ref()
            .is_some_and(|withdrawal| withdrawal.draining.is_some()),
        endpoints: task
            .attachments
            .iter()
            .map(|attachment| attachment.endpoint)
            .collect(),
    }
}
