//! Commands about containers that others run: attach, change, detach with release of the addresses.

use ipam::{IpamError, Owner};
use model::{
    Container, ContainerKey, ContainerSpec, ContainerTraits, EndpointId, Kind, Mac, Millis,
    NetworkId, NodeId, Outcome, Refusal, Response,
};

use crate::{
    capability, ports, segment,
    state::{State, outdated},
    validate,
};

/// Attaches a container. The same key again finds the same endpoint and addresses; its traits are
/// replaced.
pub(super) fn attach(state: &mut State, now: Millis, spec: ContainerSpec) -> Response {
    validate::container(&spec, state.level)?;
    if !state.nodes.contains_key(&spec.key.node) {
        return Err(Refusal::not_found(
            "node",
            &spec.key.node.to_string(),
            "swarmctl node ls",
        ));
    }
    let network = state.find_network(&spec.network)?;
    let container = match state.find_container(&spec.key) {
        Some(known) => known.clone(),
        None => fresh(state, now, &spec, network)?,
    };
    if container.network != network {
        return Err(elsewhere(state, &container, &spec.network));
    }
    let is_new = !state.containers.contains_key(&container.id);
    let container = changed(state, container, spec)?;
    if is_new {
        state.use_id("endpoint");
    }
    if container.sandbox.is_some() {
        replace(state, &container);
    }
    state.containers.insert(container.id, container.clone());
    Ok(Outcome::Container(Box::new(container)))
}

/// Detaches containers. Unknown keys are ignored.
pub(super) fn detach(state: &mut State, keys: &[ContainerKey]) -> Response {
    let known: Vec<EndpointId> = keys
        .iter()
        .filter_map(|key| state.find_container(key))
        .map(|container| container.id)
        .collect();
    known.into_iter().for_each(|id| give_up(state, id));
    Ok(Outcome::Done)
}

/// All that a host had.
pub(super) fn detach_all(state: &mut State, node: NodeId) {
    let here = state.containers_of(node);
    let ids: Vec<EndpointId> = here.map(|container| container.id).collect();
    ids.into_iter().for_each(|id| give_up(state, id));
}

fn give_up(state: &mut State, id: EndpointId) {
    if let Some(container) = state.containers.remove(&id) {
        state
            .ledger
            .release(container.network, Owner::Container(id));
    }
}

/// A new one, of which nothing is known and that has no address yet.
fn fresh(
    state: &State,
    now: Millis,
    spec: &ContainerSpec,
    network: NetworkId,
) -> Result<Container, Refusal> {
    let found = state
        .networks
        .get(&network)
        .ok_or_else(|| outdated(format!("network {network} is gone")))?;
    let name = &found.spec.name;
    if !found.spec.attachable {
        let cause = format!("network {name:?} is not attachable: it is for services only");
        let next = "attach to a network that is, such as one made by `swarmctl network create \
                    --attachable NAME`";
        return Err(Refusal::new(Kind::Precondition, cause, next));
    }
    let needed = capability::needed(&found.spec);
    if let Some(node) = state
        .nodes
        .get(&spec.key.node)
        .filter(|node| !capability::has_all(node, &needed))
    {
        let cause = format!(
            "nothing can be attached to network {name:?}: {}",
            capability::lacks(&[node], &needed)
        );
        let next =
            "attach it on another node, or run a kernel that has it there and start netd again";
        return Err(Refusal::new(Kind::Precondition, cause, next));
    }
    let (id, key) = (EndpointId(state.peek_id("endpoint")), spec.key.clone());
    let (addresses, mac, traits) = (Vec::new(), Mac([0; 6]), ContainerTraits::default());
    Ok(Container {
        id,
        key,
        network,
        addresses,
        mac,
        sandbox: None,
        traits,
        created: now,
    })
}

/// The changed record. Its addresses are leased last, once nothing else can fail.
fn changed(
    state: &mut State,
    mut container: Container,
    spec: ContainerSpec,
) -> Result<Container, Refusal> {
    if let Some(traits) = spec.traits {
        let is_other = traits.publish != container.traits.publish;
        container.traits = traits;
        if is_other {
            ports::check_container(state, &container)?;
        }
    }
    let is_new = container.addresses.is_empty();
    let (network, owner) = (container.network, Owner::Container(container.id));
    if let Some(mac) = spec.mac.filter(|mac| *mac != container.mac) {
        let found = state
            .networks
            .get(&network)
            .ok_or_else(|| outdated(format!("network {network} is gone")))?;
        segment::refuse_taken(state, found, owner, mac)?;
        container.mac = mac;
    }
    container.addresses = match state.ledger.grant(network, owner, [spec.ipv4, spec.ipv6]) {
        Ok(addresses) => addresses,
        Err(error) => return Err(refusal(state, &container, error)),
    };
    let Some(&first) = container.addresses.first() else {
        return Err(nothing_asked(&spec.network));
    };
    if is_new && spec.mac.is_none() {
        container.mac = segment::made(state, network, owner, first);
    }
    container.sandbox = if spec.left {
        None
    } else {
        spec.sandbox.or(container.sandbox)
    };
    Ok(container)
}

/// Removes the containers of an earlier namespace at the same path: it no longer exists.
fn replace(state: &mut State, newest: &Container) {
    let Some(now) = newest
        .sandbox
        .as_ref()
        .filter(|sandbox| sandbox.identity.is_some())
    else {
        return;
    };
    let is_gone = |other: &Container| {
        other.id != newest.id
            && other.sandbox.as_ref().is_some_and(|sandbox| {
                sandbox.identity.is_some() && sandbox.identity != now.identity
            })
    };
    let there = state.derived.containers.at(newest.key.node, &now.path);
    for id in there {
        if state.containers.get(&id).is_some_and(is_gone)
            && let Some(other) = state.containers.get_mut(&id)
        {
            other.sandbox = None;
        }
    }
}

fn elsewhere(state: &State, container: &Container, wanted: &str) -> Refusal {
    let network = state
        .networks
        .get(&container.network)
        .map_or_else(String::new, |found| found.spec.name.clone());
    let name = container.name();
    let cause = format!(
        "this interface of container {name:?} is on network {network:?}, not on {wanted:?}"
    );
    Refusal::new(Kind::Conflict, cause, "detach it there first")
}

fn nothing_asked(network: &str) -> Refusal {
    let cause = format!("no address of network {network:?} is asked for, of a family that it has");
    Refusal::new(
        Kind::Invalid,
        cause,
        format!("ask for one; `swarmctl network inspect {network}` shows its subnets"),
    )
}

fn refusal(state: &State, container: &Container, error: IpamError) -> Refusal {
    match &error {
        IpamError::Held {
            address,
            network,
            holder,
        } => {
            let cause = format!(
                "{address} of network {network:?} is held by {}",
                state.describe(*holder)
            );
            Refusal {
                cause,
                ..error.into()
            }
        }
        IpamError::Other {
            address,
            held,
            network,
            ..
        } => {
            let name = container.name();
            let cause = format!(
                "container {name:?} has {held} on network {network:?} and cannot have {address} \
                 instead"
            );
            Refusal {
                cause,
                ..error.into()
            }
        }
        _ => error.into(),
    }
}
