//! Which log index every balancer and resolver has applied. This decides when a task counts as
//! taking traffic, and when it may stop.

use std::collections::{BTreeMap, BTreeSet};

use model::{NetworkId, Node, NodeId, NodeStatus, PublishMode, Service};

use crate::{record::TaskRecord, state::State};

/// The lowest applied generations. Hosts that are down do not count: their lease is over.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    /// By network: those of the hosts with a part in it.
    networks: BTreeMap<NetworkId, u64>,
    /// That of all hosts: each of them answers at published ports.
    everywhere: u64,
}

impl Acknowledged {
    pub(crate) fn of(state: &State) -> Self {
        let mut networks: BTreeMap<NetworkId, u64> = BTreeMap::new();
        for (node, network) in parts(state) {
            let least = networks.entry(network).or_insert(node.applied);
            *least = node.applied.min(*least);
        }
        let ready = state
            .nodes
            .values()
            .filter(|node| node.status == NodeStatus::Ready);
        Self {
            networks,
            everywhere: ready.map(|node| node.applied).min().unwrap_or(u64::MAX),
        }
    }

    /// The generation that every host which leads traffic to this service has applied.
    pub(crate) fn generation(&self, service: &Service) -> u64 {
        let least = service
            .networks
            .iter()
            .filter_map(|network| self.networks.get(network))
            .min()
            .copied();
        let published = is_everywhere(service).then_some(self.everywhere);
        least.into_iter().chain(published).min().unwrap_or(u64::MAX)
    }
}

/// Names of the hosts that lead traffic to this service and have not applied this log index.
pub(crate) fn behind(state: &State, service: &Service, index: u64) -> Vec<String> {
    let late = state
        .nodes
        .values()
        .filter(|node| node.status == NodeStatus::Ready && node.applied < index);
    let late: BTreeMap<NodeId, &Node> = late.map(|node| (node.id, node)).collect();
    let shares = |record: &&TaskRecord| {
        let mut networks = record
            .task
            .attachments
            .iter()
            .map(|attachment| attachment.network);
        record.is_alive() && networks.any(|network| service.networks.contains(&network))
    };
    let on_late = state
        .tasks
        .values()
        .filter_map(|record| Some((record.task.node?, record)));
    let on_late = on_late
        .filter(|(node, record)| late.contains_key(node) && shares(record))
        .map(|(node, _)| node);
    let containers = state
        .placed()
        .filter(|(container, _)| service.networks.contains(&container.network));
    let containers = containers
        .map(|(container, _)| container.key.node)
        .filter(|node| late.contains_key(node));
    let waited_for: BTreeSet<NodeId> = match late.is_empty() {
        true => BTreeSet::new(),
        false if is_everywhere(service) => late.keys().copied().collect(),
        false => on_late.chain(containers).collect(),
    };
    waited_for
        .iter()
        .filter_map(|node| Some(late.get(node)?.hostname.clone()))
        .collect()
}

fn is_everywhere(service: &Service) -> bool {
    service
        .spec
        .publish
        .iter()
        .any(|publish| publish.mode == PublishMode::Ingress)
}

/// The hosts that answer and the networks that they have a part in.
fn parts(state: &State) -> impl Iterator<Item = (&Node, NetworkId)> {
    let tasks = state
        .tasks
        .values()
        .filter(|record| record.is_alive())
        .filter_map(|record| Some((record.task.node?, &record.task.attachments)));
    let tasks = tasks.flat_map(|(node, joints)| {
        joints
            .iter()
            .map(move |attachment| (node, attachment.network))
    });
    let containers = state
        .placed()
        .map(|(container, _)| (container.key.node, container.network));
    let nodes = tasks
        .chain(containers)
        .filter_map(|(id, network)| Some((state.nodes.get(&id)?, network)));
    nodes.filter(|(node, _)| node.status == NodeStatus::Ready)
}
