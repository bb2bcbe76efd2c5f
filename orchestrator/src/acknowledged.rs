//! What every balancer and resolver has heard of: the one measure of taking traffic, and of being left alone.

use std::collections::BTreeMap;

use model::{NetworkId, Node, NodeStatus, PublishMode, Service};

use crate::state::State;

/// The generations that hosts have in common. A host that is down is waited for by nobody: its lease is over.
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
        let ready = state.nodes.values().filter(|node| node.status == NodeStatus::Ready);
        Self { networks, everywhere: ready.map(|node| node.applied).min().unwrap_or(u64::MAX) }
    }

    /// The generation that every host has which leads traffic to this service.
    pub(crate) fn generation(&self, service: &Service) -> u64 {
        let least = service.networks.iter().filter_map(|network| self.networks.get(network)).min().copied();
        let published = is_everywhere(service).then_some(self.everywhere);
        least.into_iter().chain(published).min().unwrap_or(u64::MAX)
    }
}

/// The hosts that lead traffic to this service and have not heard of this log index, by name.
pub(crate) fn behind(state: &State, service: &Service, index: u64) -> Vec<String> {
    let all = state.nodes.values().filter(|node| node.status == NodeStatus::Ready && is_everywhere(service));
    let some = parts(state).filter(|(_, network)| service.networks.contains(network)).map(|(node, _)| node);
    let late = all.chain(some).filter(|node| node.applied < index);
    let names: std::collections::BTreeSet<&str> = late.map(|node| node.hostname.as_str()).collect();
    names.into_iter().map(str::to_owned).collect()
}

fn is_everywhere(service: &Service) -> bool {
    service.spec.publish.iter().any(|publish| publish.mode == PublishMode::Ingress)
}

/// The hosts that answer and the networks that they have a part in.
fn parts(state: &State) -> impl Iterator<Item = (&Node, NetworkId)> {
    state.tasks.values().filter(|record| record.is_alive()).flat_map(|record| {
        let node = record.task.node.and_then(|id| state.nodes.get(&id));
        let node = node.filter(|node| node.status == NodeStatus::Ready);
        node.into_iter()
            .flat_map(|node| record.task.attachments.iter().map(move |attachment| (node, attachment.network)))
    })
}
