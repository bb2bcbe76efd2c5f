//! Projects the state to one host's view: what the host has part in, with no choices left.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{
    EndpointConfig, EndpointId, JoinedConfig, Level, Network, NetworkConfig, NetworkId, Node,
    NodeConfig, NodeId, PeerConfig, PublishMode, PublishSpec, PublishedConfig, Publisher, Records,
    Role, Task, TaskConfig, ViewInfo, hex,
};
use sha2::{Digest, Sha256};

use crate::{
    containers::{self, Members},
    keys, names, ports,
    record::{ServiceRecord, TaskRecord},
    slots,
    state::State,
    validate,
};

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
    networks.extend(state.derived.networks.open());
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
            add_service(&mut config, state, record, *network);
        }
        add_published(&mut config, state, record, &members);
    }
    containers::project(&mut config, state, &networks);
    config.joined = networks
        .into_iter()
        .map(|network| (network, JoinedConfig {}))
        .collect();
    config.derive();
    if state.level < Level::SHARED_VIEWS {
        (config.joined, config.offers) = (Records::default(), Records::default());
        (config.slots, config.members) = (Records::default(), Records::default());
    }
    config.keys = keys::of_node(state, node).into_iter().collect();
    config.peers = peers(state, &config);
    config
}

/// A view as others may see it.
pub fn digests(config: &NodeConfig) -> ViewInfo {
    let digest =
        |value: serde_json::Value| hex::encode(&Sha256::digest(value.to_string())[..DIGEST_BYTES]);
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

/// Adds this host's published ports of the service. If ports of other hosts lead to it, what leads
/// there is added, too, even if the host has no other part in the network.
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
        add_service(config, state, record, network);
        for container in members.of_service(service, network) {
            if let Some(sandbox) = &container.sandbox {
                let (id, endpoint) = containers::endpoint(container, sandbox);
                config.endpoints.insert(id, endpoint);
            }
            let member = names::member(state, container);
            config.members.insert((network, container.id), member);
        }
        for (key, port) in published_everywhere(state, record, network, members) {
            config.published.insert(key, port);
        }
    }
    let is_on_host = |port: &PublishSpec| port.mode == PublishMode::Host;
    if service.spec.publish.iter().any(is_on_host) {
        let here = state.placed_on(node).map(|(container, _)| container);
        let here = Members::among(here);
        let here = published_on(state, record, network, (node, &here));
        config.published.extend(here);
    }
}

type Published = ((Publisher, String), PublishedConfig);

/// Ports of a service that every host answers at, without what their reader derives.
pub(crate) fn published_everywhere(
    state: &State,
    record: &ServiceRecord,
    network: NetworkId,
    members: &Members<'_>,
) -> Vec<Published> {
    let is_led_to = |number: &u32| names::weights(state, record, *number).next().is_some();
    let has_members = || {
        let mut members = members.of_service(&record.service, network);
        members.any(|member| containers::is_reachable(state, member))
    };
    if record.service.removing && !record.slots.keys().any(is_led_to) && !has_members() {
        return Vec::new();
    }
    published(record, network, PublishMode::Ingress, &BTreeMap::new())
}

/// Ports of a service that a host answers at, because it runs some of it. `members` are the
/// containers on the host.
pub(crate) fn published_on(
    state: &State,
    record: &ServiceRecord,
    network: NetworkId,
    (node, members): (NodeId, &Members<'_>),
) -> Vec<Published> {
    let own = state.tasks_on(node);
    let slots: BTreeSet<u32> = own
        .filter(|run| run.task.service == record.service.id)
        .map(|run| run.task.slot)
        .collect();
    if slots.is_empty() {
        return Vec::new();
    }
    let mut real_servers = BTreeMap::new();
    for number in slots {
        let here =
            names::weights(state, record, number).filter(|(run, _)| run.task.node == Some(node));
        for (run, weight) in here {
            let addresses = slots::addresses(&run.task, network).iter();
            real_servers.extend(addresses.map(|address| (*address, weight)));
        }
    }
    real_servers.extend(members.real_servers(state, &record.service, network));
    if record.service.removing && real_servers.is_empty() {
        return Vec::new();
    }
    published(record, network, PublishMode::Host, &real_servers)
}

fn published(
    record: &ServiceRecord,
    network: NetworkId,
    mode: PublishMode,
    real_servers: &BTreeMap<IpAddr, u16>,
) -> Vec<Published> {
    let service = &record.service;
    let ports = service.spec.publish.iter().enumerate();
    let meant = ports.filter(|(_, spec)| spec.mode == mode);
    let named = meant.map(|(place, spec)| {
        let port = PublishedConfig {
            owner: format!("service {}", service.spec.name),
            network,
            spec: spec.clone(),
            balance: service.spec.balance,
            real_servers: real_servers.clone(),
        };
        (
            (Publisher::Service(service.id), format!("{place:03}")),
            port,
        )
    });
    named.collect()
}

/// Adds a service on a network: the endpoints of its tasks, and what names and balancers are
/// derived from.
fn add_service(config: &mut NodeConfig, state: &State, record: &ServiceRecord, network: NetworkId) {
    let service = record.service.id;
    let holders = record
        .slots
        .values()
        .filter_map(|slot| slots::holder(state, slot));
    config
        .endpoints
        .extend(holders.flat_map(|(task, node)| endpoints(task, node, network)));
    let offer = names::offer(record, network);
    config.offers.insert((network, service), offer);
    for &number in record.slots.keys() {
        if let Some(slot) = names::slot(state, record, number, network) {
            config.slots.insert((network, (service, number)), slot);
        }
    }
}

pub(crate) fn endpoints(
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

fn peers(state: &State, config: &NodeConfig) -> Records<NodeId, PeerConfig> {
    let endpoints = config.endpoints.values().map(|endpoint| endpoint.node);
    let sharing: BTreeSet<NodeId> = endpoints.chain(config.keys.keys().copied()).collect();
    let answers_all =
        answers_callers_of_all_hosts(config) || is_called_by_all_hosts(state, config.node);
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

/// Whether tasks or containers here are on a network that every host may call.
pub(crate) fn is_called_by_all_hosts(state: &State, node: NodeId) -> bool {
    let is_open = |network| state.derived.networks.is_open(network);
    let mut tasks = state.tasks_on(node);
    let mut containers = state.placed_on(node);
    let attachments = |record: &TaskRecord| {
        let mut attachments = record.task.attachments.iter();
        attachments.any(|attachment| is_open(attachment.network))
    };
    tasks.any(attachments) || containers.any(|(container, _)| is_open(container.network))
}

pub(crate) fn peer_config(node: &Node) -> PeerConfig {
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
pub(crate) fn network_config(state: &State, network: &Network) -> Option<NetworkConfig> {
    Some(NetworkConfig {
        name: network.spec.name.clone(),
        vni: network.vni,
        driver: validate::driver(&network.spec, state.data_path_port).ok()?,
        subnets: network.subnets.clone(),
        internal: network.spec.internal,
        mtu: validate::mtu(&network.spec).unwrap_or_default(),
        reach: network.reach.clone(),
    })
}

pub(crate) fn task_config(state: &State, record: &TaskRecord) -> TaskConfig {
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
