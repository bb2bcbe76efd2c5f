//! Kernel features that networks need on every node.

use std::collections::BTreeSet;

use model::{Capability, Driver, Kind, NetworkSpec, Node, Refusal, Task};

use crate::{state::State, validate};

/// What the kernels of nodes must have for this network.
pub(crate) fn needed(spec: &NetworkSpec) -> BTreeSet<Capability> {
    let device = match spec.driver {
        Driver::Overlay => None,
        Driver::Macvlan => Some(Capability::Macvlan),
        Driver::Ipvlan => Some(Capability::Ipvlan),
    };
    let vlan = validate::parent(spec)
        .ok()
        .flatten()
        .and_then(|parent| parent.vlan())
        .map(|_| Capability::Vlan);
    let esp = spec.encrypted.then_some(Capability::Esp);
    device.into_iter().chain(vlan).chain(esp).collect()
}

/// What the networks of a task need.
pub(crate) fn of_task(state: &State, task: &Task) -> BTreeSet<Capability> {
    let networks = task
        .attachments
        .iter()
        .filter_map(|attachment| state.networks.get(&attachment.network));
    networks.flat_map(|network| needed(&network.spec)).collect()
}

/// Whether a node may have these features: missing reports count as yes, except for encryption.
pub(crate) fn has_all(node: &Node, needed: &BTreeSet<Capability>) -> bool {
    match &node.capabilities {
        Some(found) => needed.is_subset(found),
        None => !needed.contains(&Capability::Esp),
    }
}

/// Refuses a network that some node's kernel does not support.
pub(crate) fn check(state: &State, spec: &NetworkSpec) -> Result<(), Refusal> {
    let needed = needed(spec);
    let unfit: Vec<&Node> = state
        .nodes
        .values()
        .filter(|node| !has_all(node, &needed))
        .collect();
    if unfit.is_empty() {
        return Ok(());
    }
    let (unknown, lacking): (Vec<&Node>, Vec<&Node>) = unfit
        .into_iter()
        .partition(|node| node.capabilities.is_none());
    let (cause, next) = if lacking.is_empty() {
        let cause = format!(
            "what the kernel can do is not known yet of {}",
            names(&unknown)
        );
        (
            cause,
            "try again in a moment, or remove nodes that are gone",
        )
    } else {
        let next = "run a kernel that has it there and start netd again, or take these nodes out \
                    of the cluster";
        (lacks(&lacking, &needed), next)
    };
    let cause = format!("network {:?} was not created: {cause}", spec.name);
    Err(Refusal::new(Kind::Precondition, cause, next))
}

/// What is missing, and on which nodes.
pub(crate) fn lacks(nodes: &[&Node], needed: &BTreeSet<Capability>) -> String {
    let is_missing = |wanted: &&Capability| {
        nodes.iter().any(|node| {
            node.capabilities
                .as_ref()
                .is_none_or(|found| !found.contains(wanted))
        })
    };
    let missing = needed.iter().filter(is_missing);
    let missing: Vec<String> = missing
        .map(|wanted| format!("{wanted} ({})", wanted.options()))
        .collect();
    format!(
        "the kernel lacks {} on {}",
        missing.join(" and "),
        names(nodes)
    )
}

fn names(nodes: &[&Node]) -> String {
    nodes
        .iter()
        .map(|node| format!("{:?}", node.hostname))
        .collect::<Vec<_>>()
        .join(", ")
}
