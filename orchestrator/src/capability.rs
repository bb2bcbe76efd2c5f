//! What a network asks of the kernel of every node.

use std::collections::BTreeSet;

use model::{Capability, Driver, Kind, NetworkSpec, Node, Refusal};

use crate::{state::State, validate};

/// What the kernels of nodes must have for this network.
pub(crate) fn needed(spec: &NetworkSpec) -> BTreeSet<Capability> {
    let device = match spec.driver {
        Driver::Overlay => None,
        Driver::Macvlan => Some(Capability::Macvlan),
        Driver::Ipvlan => Some(Capability::Ipvlan),
    };
    let vlan = validate::parent(spec).ok().flatten().and_then(|parent| parent.vlan()).map(|_| Capability::Vlan);
    device.into_iter().chain(vlan).collect()
}

/// Whether nothing that is known of a node speaks against it.
pub(crate) fn has_all(node: &Node, needed: &BTreeSet<Capability>) -> bool {
    node.capabilities.as_ref().is_none_or(|found| needed.is_subset(found))
}

/// Refuses a network that a node could not take part in.
pub(crate) fn check(state: &State, spec: &NetworkSpec) -> Result<(), Refusal> {
    let needed = needed(spec);
    let Some(node) = state.nodes.values().find(|node| !has_all(node, &needed)) else { return Ok(()) };
    let missing =
        needed.iter().filter(|wanted| node.capabilities.as_ref().is_some_and(|found| !found.contains(wanted)));
    let missing: Vec<String> = missing.map(|capability| format!("{capability} ({})", option(*capability))).collect();
    let (hostname, missing) = (&node.hostname, missing.join(" and "));
    let cause = format!("the kernel of node {hostname:?} lacks {missing}, so network {:?} was not created", spec.name);
    let next = "run a kernel that has it there and start netd again, or take the node out of the cluster";
    Err(Refusal::new(Kind::Precondition, cause, next))
}

/// What the kernel's configuration calls it.
fn option(capability: Capability) -> &'static str {
    match capability {
        Capability::Esp => "CONFIG_INET_ESP, CONFIG_INET6_ESP, CONFIG_CRYPTO_GCM",
        Capability::Ipvs => "CONFIG_IP_VS",
        Capability::Vlan => "CONFIG_VLAN_8021Q",
        Capability::Macvlan => "CONFIG_MACVLAN",
        Capability::Ipvlan => "CONFIG_IPVLAN",
    }
}
