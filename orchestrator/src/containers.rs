//! Containers that others run: which are placed, which services and names lead to them, and their
//! part of a view.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipam::Owner;
use model::{
    Balance, Container, ContainerConfig, ContainerEndpoint, ContainerKey, EndpointConfig,
    EndpointId, KEEPS, NetworkId, NodeConfig, NodeId, PublishedConfig, Publisher, Records, Sandbox,
    SandboxId, Service, TAKES,
};
use sha2::{Digest, Sha256};

use crate::{names, state::State};

impl State {
    pub(crate) fn find_container(&self, key: &ContainerKey) -> Option<&Container> {
        let id = self.derived.containers.with_key(key)?;
        self.containers.get(&id)
    }

    /// Containers with a sandbox. No host is told of the others: they only hold addresses.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (&Container, &Sandbox)> {
        self.containers
            .values()
            .filter_map(|container| Some((container, container.sandbox.as_ref()?)))
    }

    pub(crate) fn placed_on(&self, node: NodeId) -> impl Iterator<Item = (&Container, &Sandbox)> {
        self.containers_of(node)
            .filter_map(|container| Some((container, container.sandbox.as_ref()?)))
    }

    /// The containers of a node, placed or not, by id.
    pub(crate) fn containers_of(&self, node: NodeId) -> impl Iterator<Item = &Container> {
        let ids = self.derived.containers.of_node(node);
        ids.filter_map(|id| self.containers.get(id))
    }

    /// The containers on a network, placed or not, by id.
    pub(crate) fn containers_on(&self, network: NetworkId) -> impl Iterator<Item = &Container> {
        let ids = self.derived.containers.on_network(network);
        ids.filter_map(|id| self.containers.get(id))
    }

    /// Describes the owner of an address for people.
    pub(crate) fn describe(&self, owner: Owner) -> String {
        let service = |id| {
            self.services
                .get(&id)
                .map_or_else(String::new, |record| record.service.spec.name.clone())
        };
        match owner {
            Owner::Gateway => "the network's gateway".to_owned(),
            Owner::Vip(id) => format!("service {:?} as its virtual IP", service(id)),
            Owner::Slot(id, slot) => format!("task {}.{slot}", service(id)),
            Owner::Node(node) => format!("host {:?}", self.hostname(node)),
            Owner::Container(id) => match self.containers.get(&id) {
                Some(held) => {
                    format!(
                        "{} container {:?} on {}",
                        held.key.runtime,
                        held.name(),
                        self.hostname(held.key.node)
                    )
                }
                None => owner.to_string(),
            },
        }
    }
}

/// Id of a namespace at this path of the host. With a known identity (boot and inode), a later
/// namespace at the same path gets another id.
pub(crate) fn sandbox_id(node: NodeId, sandbox: &Sandbox) -> SandboxId {
    let identity = sandbox
        .identity
        .iter()
        .flat_map(|identity| ["\0", identity])
        .collect::<String>();
    let digest = Sha256::new()
        .chain_update(node.0.to_be_bytes())
        .chain_update(&sandbox.path);
    let digest = digest.chain_update(identity).finalize();
    SandboxId(
        digest
            .iter()
            .take(8)
            .fold(0, |id, &byte| id << 8 | u64::from(byte)),
    )
}

/// Containers that claim to serve a service, by network and the service's name in lower case.
#[derive(Default)]
pub(crate) struct Members<'a>(BTreeMap<(NetworkId, String), Vec<&'a Container>>);

impl<'a> Members<'a> {
    pub(crate) fn of(state: &'a State) -> Self {
        Self::among(state.placed().map(|(container, _)| container))
    }

    pub(crate) fn among(containers: impl Iterator<Item = &'a Container>) -> Self {
        let mut members: BTreeMap<_, Vec<&Container>> = BTreeMap::new();
        for container in containers {
            if let Some(service) = &container.traits.service {
                members
                    .entry((container.network, service.to_ascii_lowercase()))
                    .or_default()
                    .push(container);
            }
        }
        Self(members)
    }

    /// Those of a service on one of its networks.
    pub(crate) fn of_service(
        &self,
        service: &Service,
        network: NetworkId,
    ) -> impl Iterator<Item = &'a Container> {
        let found = self
            .0
            .get(&(network, service.spec.name.to_ascii_lowercase()));
        found.into_iter().flatten().copied()
    }

    /// Their addresses as real servers, with weights: an unready container gets weight 0 and keeps
    /// its connections.
    pub(crate) fn real_servers(
        &self,
        state: &State,
        service: &Service,
        network: NetworkId,
    ) -> BTreeMap<IpAddr, u16> {
        let reachable = self
            .of_service(service, network)
            .filter(|container| is_reachable(state, container));
        let weight = |container: &Container| {
            if container.traits.unready || service.removing {
                KEEPS
            } else {
                TAKES
            }
        };
        let weighted = reachable.flat_map(|container| {
            container
                .addresses
                .iter()
                .map(move |address| (*address, weight(container)))
        });
        weighted.collect()
    }
}

pub(crate) fn is_reachable(state: &State, container: &Container) -> bool {
    !state.is_down(container.key.node)
}

/// The networks that a host has part in because of them.
pub(crate) fn networks_on(state: &State, node: NodeId) -> BTreeSet<NetworkId> {
    state
        .placed_on(node)
        .map(|(container, _)| container.network)
        .collect()
}

/// Adds containers of these networks to a view: endpoints of all hosts, and the host's own
/// sandboxes and published ports.
pub(crate) fn project(config: &mut NodeConfig, state: &State, networks: &BTreeSet<NetworkId>) {
    let near = state
        .placed()
        .filter(|(container, _)| networks.contains(&container.network));
    for (container, sandbox) in near {
        let (id, endpoint) = endpoint(container, sandbox);
        config.endpoints.insert(id, endpoint);
        let member = names::member(state, container);
        config.members.insert((container.network, id), member);
    }
    let here: Vec<_> = state.placed_on(config.node).collect();
    config.containers = containers(config.node, &here);
    for (container, _) in here {
        config.published.extend(published(container));
    }
}

/// Published ports of a container.
pub(crate) fn published(
    container: &Container,
) -> impl Iterator<Item = ((Publisher, String), PublishedConfig)> + '_ {
    let real_servers: BTreeMap<IpAddr, u16> = container
        .addresses
        .iter()
        .map(|held| (*held, TAKES))
        .collect();
    let ports = container.traits.publish.iter().enumerate();
    ports.map(move |(place, spec)| {
        let port = PublishedConfig {
            owner: format!("container {}", container.name()),
            network: container.network,
            spec: spec.clone(),
            balance: Balance::default(),
            real_servers: real_servers.clone(),
        };
        (
            (Publisher::Container(container.id), format!("{place:03}")),
            port,
        )
    })
}

pub(crate) fn endpoint(container: &Container, sandbox: &Sandbox) -> (EndpointId, EndpointConfig) {
    let Container {
        network,
        mac,
        ref addresses,
        ..
    } = *container;
    let node = container.key.node;
    let sandbox = sandbox_id(node, sandbox);
    (
        container.id,
        EndpointConfig {
            network,
            node,
            sandbox,
            addresses: addresses.clone(),
            mac,
        },
    )
}

/// One for each namespace of the host, of the containers that are placed on it.
pub(crate) fn containers(
    node: NodeId,
    here: &[(&Container, &Sandbox)],
) -> Records<SandboxId, ContainerConfig> {
    let mut found: BTreeMap<SandboxId, Vec<(&Container, &Sandbox)>> = BTreeMap::new();
    for &(container, sandbox) in here {
        found
            .entry(sandbox_id(node, sandbox))
            .or_default()
            .push((container, sandbox));
    }
    found
        .into_iter()
        .filter_map(|(id, joints)| Some((id, container(joints)?)))
        .collect()
}

fn container(mut joints: Vec<(&Container, &Sandbox)>) -> Option<ContainerConfig> {
    // `net2` comes before `net10`.
    joints.sort_by_key(|(joint, sandbox)| {
        let name = sandbox.interface.as_ref().map(|name| (name.len(), name));
        (name, joint.created, joint.id)
    });
    let (first, sandbox) = joints.first()?;
    let endpoint = |(joint, sandbox): &(&Container, &Sandbox)| ContainerEndpoint {
        id: joint.id,
        interface: sandbox.interface.clone(),
        bandwidth: joint.traits.bandwidth,
    };
    Some(ContainerConfig {
        runtime: first.key.runtime,
        name: first.name(),
        path: sandbox.path.clone(),
        identity: joints
            .iter()
            .find_map(|(_, sandbox)| sandbox.identity.clone()),
        endpoints: joints.iter().map(endpoint).collect(),
        leaves_elsewhere: joints
            .iter()
            .any(|(joint, _)| joint.traits.leaves_elsewhere),
    })
}
