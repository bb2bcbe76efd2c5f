//! Which log index every balancer and resolver has applied. This decides when a task counts as
//! taking traffic, and when it may stop.

use std::collections::BTreeSet;

use model::{Node, NodeId, NodeStatus, PublishMode, Service};

use crate::{ports, state::State};

/// The generation that every host which leads traffic to this service has applied. Hosts that are
/// down do not count: their lease is over.
pub(crate) fn generation(state: &State, service: &Service) -> u64 {
    let parts = &state.derived.parts;
    let networks = service.networks.iter();
    let least = networks
        .filter_map(|network| parts.least_on(*network))
        .min();
    let published = is_everywhere(service)
        .then(|| ports::network(state, &service.networks))
        .flatten()
        .and_then(|network| parts.least_everywhere(network));
    least.into_iter().chain(published).min().unwrap_or(u64::MAX)
}

/// Names of the hosts that lead traffic to this service and have not applied this log index.
pub(crate) fn behind(state: &State, service: &Service, index: u64) -> Vec<String> {
    if generation(state, service) >= index {
        return Vec::new();
    }
    let hosts: BTreeSet<&NodeId> = if is_everywhere(service) {
        state.nodes.keys().collect()
    } else {
        let networks = service.networks.iter();
        networks
            .flat_map(|network| state.derived.parts.hosts_of(*network))
            .collect()
    };
    let hosts = hosts.into_iter().filter_map(|id| state.nodes.get(id));
    hosts
        .filter(|node| node.status == NodeStatus::Ready && applied(node, service) < index)
        .map(|node| node.hostname.clone())
        .collect()
}

/// The least log index that a host has applied of the networks of a service.
fn applied(node: &Node, service: &Service) -> u64 {
    let networks = service.networks.iter();
    networks.fold(node.applied, |least, network| {
        least.min(node.applied_of(*network))
    })
}

fn is_everywhere(service: &Service) -> bool {
    service
        .spec
        .publish
        .iter()
        .any(|publish| publish.mode == PublishMode::Ingress)
}
