//! Commands about networks: create with subnets and VNI, name, remove if unused.

use ipam::Owner;
use model::{
    EpochKey, Kind, Level, Millis, Network, NetworkId, NetworkSpec, Node, Outcome, Reach, Refusal,
    Response, Subnet, SubnetSpec, Vni,
};

use crate::{capability, keys, ports, state::State, validate};

/// Label of a network that does not have its final name yet, with the value `true`.
const UNNAMED: &str = "netd.unnamed";

pub(super) fn create(
    state: &mut State,
    now: Millis,
    spec: NetworkSpec,
    chance: Option<EpochKey>,
) -> Response {
    validate::network(&spec, state.level)?;
    refuse_taken(state, &spec.name, None)?;
    capability::check(state, &spec)?;
    let vni = next_vni(state)?;
    let wanted = wanted_subnets(state, &spec)?;
    let id = NetworkId(state.peek_id("network"));
    let first_key = if spec.encrypted && !state.keys.exist() {
        Some(keys::made_of(chance)?)
    } else {
        None
    };
    let subnets = state.ledger.add_network(id, &spec.name, &wanted)?;
    first_key
        .into_iter()
        .for_each(|key| keys::begin(state, now, key));
    state.use_id("network");
    state.last_vni = Some(vni);
    state.networks.insert(
        id,
        Network {
            id,
            spec,
            vni,
            subnets,
            reach: Reach::default(),
            created: now,
            version: state.version(),
        },
    );
    state.follow_networks();
    hold_nodes(state);
    Ok(Outcome::Network(id))
}

pub(super) fn remove(state: &mut State, network: &str) -> Response {
    let id = state.find_network(network)?;
    let mut users = state.derived.services.on_network(id);
    if let Some(user) = users.find_map(|user| state.services.get(user)) {
        let service = &user.service.spec.name;
        let cause = format!("network {network:?} is used by service {service:?}");
        let next = if user.service.removing {
            "that service is being removed; try again in a moment".to_owned()
        } else {
            format!("remove it first: `swarmctl service rm {service}`")
        };
        return Err(Refusal::new(Kind::Precondition, cause, next));
    }
    let containers: Vec<String> = state
        .containers_on(id)
        .map(|container| state.describe(Owner::Container(container.id)))
        .collect();
    if !containers.is_empty() {
        let cause = format!("network {network:?} is used by {}", containers.join(", "));
        return Err(Refusal::new(
            Kind::Precondition,
            cause,
            "remove these containers first, where they run",
        ));
    }
    state.ledger.remove_network(id)?;
    state.networks.remove(&id);
    let networks = &state.derived.networks;
    if networks.encrypted().all(|other| *other == id) {
        state.keys_mut().clear();
    }
    Ok(Outcome::Network(id))
}

/// Gives the final name to a network that was made without one, and removes the label. Idempotent.
pub(super) fn name(state: &mut State, network: &str, name: String) -> Response {
    let id = state.find_network(network)?;
    validate::network_name(&name, state.level)?;
    let may_be = |network: &&Network| {
        network.spec.name == name
            || network
                .spec
                .labels
                .get(UNNAMED)
                .is_some_and(|value| value == "true")
    };
    let found = state.networks.get(&id).filter(may_be).ok_or_else(|| {
        let cause = format!("network {network:?} has its name");
        Refusal::new(
            Kind::Precondition,
            cause,
            "make another network with the other name",
        )
    })?;
    refuse_taken(state, &name, Some(found.id))?;
    state.ledger.rename(id, &name);
    let version = state.version();
    if let Some(network) = state.networks.get_mut(&id) {
        network.spec.labels.remove(UNNAMED);
        network.spec.name = name;
        network.version = version;
    }
    Ok(Outcome::Network(id))
}

/// What differs in who may call a network's endpoints.
pub(super) struct Reached {
    pub(super) hosts: Option<bool>,
    pub(super) expose: Vec<Subnet>,
    pub(super) conceal: Vec<Subnet>,
}

/// Says who outside of a network may call its endpoints. Idempotent.
pub(super) fn reach(state: &mut State, network: &str, reached: Reached) -> Response {
    let id = state.find_network(network)?;
    let (refused, next) = match state.networks.get(&id) {
        _ if state.level < Level::REACH => (
            format!(
                "the cluster is of level {}, and networks can be called from outside at level {}",
                state.level,
                Level::REACH
            ),
            "upgrade netd on every host, then try again; `swarmctl node ls` shows their levels",
        ),
        Some(found) if found.spec.driver.is_lan() => (
            format!("network {network:?} is on a LAN, whose machines call its endpoints already"),
            "leave it as it is",
        ),
        Some(found) if found.spec.internal => (
            format!("network {network:?} is internal: nobody outside reaches it"),
            "make another network without --internal",
        ),
        _ => {
            reached
                .expose
                .iter()
                .try_for_each(|callers| may_call(state, id, *callers))?;
            let version = state.version();
            if let Some(found) = state.networks.get_mut(&id) {
                let reach = &mut found.reach;
                reach.hosts = reached.hosts.unwrap_or(reach.hosts);
                reach.exposed.extend(reached.expose);
                reach
                    .exposed
                    .retain(|known| !reached.conceal.contains(known));
                found.version = version;
            }
            return Ok(Outcome::Network(id));
        }
    };
    Err(Refusal::new(Kind::Precondition, refused, next))
}

/// Refuses callers whose addresses are of networks of the cluster, and those of a family that the
/// network has not.
fn may_call(state: &State, id: NetworkId, callers: Subnet) -> Result<(), Refusal> {
    let overlays = || {
        let networks = state.networks.values();
        networks.filter(|network| !network.spec.driver.is_lan())
    };
    let overlapping = overlays().find_map(|network| {
        let mut leases = network.subnets.iter();
        let lease = leases.find(|lease| lease.subnet.overlaps(&callers))?;
        Some((network, lease.subnet))
    });
    if let Some((network, subnet)) = overlapping {
        let cause = format!(
            "{callers} overlaps {subnet}, a subnet of network {:?}, whose addresses no machine \
             outside may call from",
            network.spec.name
        );
        let next = "give the prefixes that the machines are in, and no others";
        return Err(Refusal::new(Kind::Conflict, cause, next));
    }
    let found = state.networks.get(&id);
    let mut leases = found.into_iter().flat_map(|network| &network.subnets);
    if leases.any(|lease| lease.subnet.is_ipv6() == callers.is_ipv6()) {
        return Ok(());
    }
    let cause = format!("the network has no subnet of the family of {callers}");
    let next = "give a prefix of the family that the network's subnets are of";
    Err(Refusal::new(Kind::Invalid, cause, next))
}

fn refuse_taken(state: &State, name: &str, own: Option<NetworkId>) -> Result<(), Refusal> {
    let named = state.derived.networks.named(&name.to_ascii_lowercase());
    let mut others = named.filter(|id| Some(**id) != own);
    match others.find_map(|id| state.networks.get(id)) {
        None => Ok(()),
        Some(other) => {
            let cause = format!("there already is a network {:?}", other.spec.name);
            Err(Refusal::new(
                Kind::Conflict,
                cause,
                "use another name, or remove that one first",
            ))
        }
    }
}

/// Leases to every node those of its addresses that lie in a LAN's subnets, so that no endpoint
/// gets them.
pub(super) fn hold_nodes(state: &mut State) {
    for network in state.derived.networks.lans() {
        for node in state.nodes.values() {
            state
                .ledger
                .hold(*network, node.id, &[node.vtep, node.address.ip()]);
        }
    }
}

/// The requested subnets, or default ones. A subnet of an overlay must contain neither a node's
/// address nor a prefix of a node's link: its endpoints and the node could not reach each other.
fn wanted_subnets(state: &State, spec: &NetworkSpec) -> Result<Vec<SubnetSpec>, Refusal> {
    let hosts = |node: &Node| [node.vtep, node.address.ip()];
    if spec.subnets.is_empty() {
        let hosts = state.nodes.values().flat_map(hosts);
        let alone =
            hosts.filter_map(|host| Subnet::around(host, if host.is_ipv6() { 128 } else { 32 }));
        let avoid: Vec<Subnet> = alone
            .chain(state.nodes.values().flat_map(|node| node.on_link.clone()))
            .collect();
        let defaults = state.ledger.default_subnets(&avoid)?;
        return Ok(defaults
            .map(|subnet| SubnetSpec {
                subnet,
                gateway: None,
                range: None,
            })
            .to_vec());
    }
    let refused = |wanted: &SubnetSpec| {
        let subnet = wanted.subnet;
        let holds = |node: &Node| {
            let host = hosts(node)
                .into_iter()
                .find(|host| subnet.contains(*host))?;
            Some(format!(
                "subnet {subnet} holds {host}, the address of a node"
            ))
        };
        let overlaps = |node: &Node| {
            let other = node.on_link.iter().find(|other| other.overlaps(&subnet))?;
            Some(format!(
                "subnet {subnet} overlaps {other}, which a link of node {} is on",
                node.hostname
            ))
        };
        state
            .nodes
            .values()
            .find_map(holds)
            .or_else(|| state.nodes.values().find_map(overlaps))
    };
    match spec
        .subnets
        .iter()
        .find_map(refused)
        .filter(|_| !spec.driver.is_lan())
    {
        Some(cause) => {
            let next = "give a subnet that is used nowhere else, or none to get a free one from \
                        the default pools";
            Err(Refusal::new(Kind::Conflict, cause, next))
        }
        None => Ok(spec.subnets.clone()),
    }
}

/// The next one that no network has. It only counts up, so that a freed one rests; its mark has
/// fewer bits, so marks come around: one that no network has is taken, or one that no published
/// port leads to, or any. Whoever publishes ports there then is refused.
fn next_vni(state: &State) -> Result<Vni, Refusal> {
    let first = state.last_vni.map_or(Vni::FIRST, Vni::next);
    let candidates = std::iter::successors(Some(first), |vni| Some(vni.next()));
    let networks = &state.derived.networks;
    let is_free = |vni: &Vni| !networks.has_vni(*vni);
    // One more than there are networks: one of them is free.
    let mut any = candidates.clone().take(state.networks.len() + 1);
    let any = any.find(is_free).ok_or_else(|| {
        Refusal::new(
            Kind::Exhausted,
            "every VXLAN network identifier is used",
            "remove a network that is not used",
        )
    })?;
    if state.level < Level::DISTINCTIONS {
        return Ok(any);
    }
    // Each mark once.
    let mut around = candidates.clone().take(Vni::MARKS);
    if let Some(vni) = around.find(|vni| networks.marked(vni.mark()).next().is_none()) {
        return Ok(vni);
    }
    let led = ports::led_networks(state);
    let is_led = |vni: &Vni| networks.marked(vni.mark()).any(|other| led.contains(other));
    // Each mark once more than there are networks: one of each is free.
    let mut others = candidates.take(Vni::MARKS * (state.networks.len() + 1));
    let other = others.find(|vni| is_free(vni) && !is_led(vni));
    Ok(other.unwrap_or(any))
}
