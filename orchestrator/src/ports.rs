//! Published ports: which of them collide, where they lead, and which hosts they need.

use std::collections::BTreeSet;

use ipam::Owner;
use model::{
    Container, Driver, Kind, Level, NetworkId, NodeId, Protocol, PublishMode, PublishSpec, Refusal,
    ServiceId, ServiceSpec, Task, Vni,
};

use crate::{
    record::ServiceRecord,
    state::State,
    validate::{no_place, range},
};

/// The network of services that publish ports and name no network, as in Swarm.
pub(crate) const INGRESS: &str = "ingress";

/// The network that a service's published ports lead to: the first overlay that has a way out.
pub(crate) fn network(state: &State, networks: &[NetworkId]) -> Option<NetworkId> {
    let leads_out = |id: &&NetworkId| {
        state
            .networks
            .get(id)
            .is_some_and(|found| found.spec.driver == Driver::Overlay && !found.spec.internal)
    };
    networks.iter().find(leads_out).copied()
}

/// Refuses ports that lead nowhere, and ports that somebody else has. `own` is the service itself,
/// if it is there already.
pub(crate) fn check(
    state: &State,
    spec: &ServiceSpec,
    networks: &[NetworkId],
    own: Option<ServiceId>,
) -> Result<(), Refusal> {
    if spec.publish.is_empty() {
        return Ok(());
    }
    if !networks.is_empty() && network(state, networks).is_none() {
        let cause = format!(
            "ports of service {:?} cannot be published: none of its networks leads there",
            spec.name
        );
        let next = "attach it also to an overlay network that is not internal, or to none to get \
                    the network \"ingress\"";
        return Err(Refusal::new(Kind::Precondition, cause, next));
    }
    families_are_told_apart(state, &spec.publish)?;
    let publishes = |own: ServiceId| state.derived.services.publishing().any(|id| *id == own);
    if let Some(network) = network(state, networks)
        && !own.is_some_and(publishes)
    {
        let whose = format!("service {:?}", spec.name);
        is_told_apart(state, &whose, network, &led_networks(state))?;
    }
    spec.publish.iter().try_for_each(|port| {
        is_not_ours(state, port)?;
        is_nobody_elses(state, port, own)?;
        is_no_containers(state, port)
    })
}

/// Refuses a container's ports that lead nowhere, and those that somebody has on its host.
pub(crate) fn check_container(state: &State, container: &Container) -> Result<(), Refusal> {
    families_are_told_apart(state, &container.traits.publish)?;
    let (name, node) = (container.name(), container.key.node);
    if !container.traits.publish.is_empty() && network(state, &[container.network]).is_none() {
        let cause = format!(
            "ports of container {name:?} cannot be published: its network does not lead there"
        );
        return Err(Refusal::new(
            Kind::Precondition,
            cause,
            "attach it to an overlay network that is not internal",
        ));
    }
    let publishes = publishing_on(state, node).any(|other| other.id == container.id);
    if !container.traits.publish.is_empty() && !publishes {
        let led = services_networks(state)
            .chain(publishing_on(state, node).map(|other| other.network))
            .collect();
        is_told_apart(
            state,
            &format!("container {name:?}"),
            container.network,
            &led,
        )?;
    }
    container.traits.publish.iter().try_for_each(|port| {
        is_not_ours(state, port)?;
        let everywhere = publishing(state).map(|record| &record.service.spec);
        let mut everywhere =
            everywhere.flat_map(|spec| spec.publish.iter().map(move |other| (spec, other)));
        let by_service = everywhere
            .find(|(_, other)| other.mode == PublishMode::Ingress && other.overlaps(port));
        let by_service = by_service.map(|(spec, _)| format!("service {:?}", spec.name));
        let tasks: Vec<&Task> = state.tasks_on(node).map(|record| &record.task).collect();
        let by_task = || holder(state, port, &tasks).map(|name| format!("task {name}"));
        let others = || {
            let all = publishing_on(state, node);
            all.filter(|other| other.id != container.id)
        };
        match by_service
            .or_else(by_task)
            .or_else(|| container_at(state, port, others()))
        {
            None => Ok(()),
            Some(holder) => {
                let cause = format!(
                    "port {} of {} is taken by {holder}",
                    range(port),
                    state.hostname(node)
                );
                Err(Refusal::new(
                    Kind::Conflict,
                    cause,
                    "publish at another port or address",
                ))
            }
        }
    })
}

/// Refuses ports of one family where hosts may not know them yet.
fn families_are_told_apart(state: &State, ports: &[PublishSpec]) -> Result<(), Refusal> {
    let mut early = ports.iter().filter(|port| port.is_of_one_family());
    match early.next().filter(|_| state.level < Level::DISTINCTIONS) {
        None => Ok(()),
        Some(port) => Err(no_place(port)),
    }
}

/// Networks that ports of any host lead to.
pub(crate) fn led_networks(state: &State) -> BTreeSet<NetworkId> {
    let publishing = state.derived.containers.publishing();
    let containers = publishing.filter_map(|id| state.containers.get(id));
    services_networks(state)
        .chain(containers.map(|container| container.network))
        .collect()
}

/// Networks that published ports of services lead to.
fn services_networks(state: &State) -> impl Iterator<Item = NetworkId> {
    publishing(state).filter_map(|record| network(state, &record.service.networks))
}

/// Refuses a network as the one that ports lead to, where hosts could not tell its packets from
/// those of another in `led`, which has such ports already: whoever was there first keeps them.
fn is_told_apart(
    state: &State,
    whose: &str,
    network: NetworkId,
    led: &BTreeSet<NetworkId>,
) -> Result<(), Refusal> {
    let Some(own) = state.networks.get(&network) else {
        return Ok(());
    };
    if state.level < Level::DISTINCTIONS || led.contains(&network) {
        return Ok(());
    }
    let alike = state.derived.networks.marked(own.vni.mark());
    let mut alike = alike.filter(|id| led.contains(id));
    let Some(other) = alike.find_map(|id| state.networks.get(id)) else {
        return Ok(());
    };
    let (name, taker) = (&own.spec.name, &other.spec.name);
    let cause = format!(
        "ports of {whose} cannot be published: hosts could not tell packets to network {name:?} \
         (VXLAN network identifier {}) from those to network {taker:?} ({}), which has published \
         ports",
        own.vni, other.vni
    );
    let next = format!(
        "make another network, whose identifier will differ enough, and use it in place of \
         {name:?}; if there are {} networks with published ports, remove ports of one first",
        Vni::MARKS
    );
    Err(Refusal::new(Kind::Conflict, cause, next))
}

/// A service's port that every host has must not be a container's on any.
fn is_no_containers(state: &State, port: &PublishSpec) -> Result<(), Refusal> {
    let publishing = state.derived.containers.publishing();
    let containers = publishing
        .filter_map(|id| state.containers.get(id))
        .filter(|_| port.mode == PublishMode::Ingress);
    let Some(holder) = container_at(state, port, containers) else {
        return Ok(());
    };
    let cause = format!("port {} is published by {holder} already", range(port));
    Err(Refusal::new(
        Kind::Conflict,
        cause,
        "publish at another port or address, or remove that container",
    ))
}

/// Which of these containers has such a port, for people.
fn container_at<'a>(
    state: &State,
    port: &PublishSpec,
    mut containers: impl Iterator<Item = &'a Container>,
) -> Option<String> {
    let found = containers.find(|container| {
        container
            .traits
            .publish
            .iter()
            .any(|other| other.overlaps(port))
    })?;
    Some(state.describe(Owner::Container(found.id)))
}

/// Which of these tasks has such a port of its host.
fn holder(state: &State, port: &PublishSpec, tasks: &[&Task]) -> Option<String> {
    let has = |task: &&&Task| host_ports(state, task.service).any(|theirs| theirs.overlaps(port));
    tasks.iter().find(has).map(|task| task.name())
}

/// Refuses ports that netd itself listens on.
fn is_not_ours(state: &State, port: &PublishSpec) -> Result<(), Refusal> {
    let control = state.nodes.values().map(|node| {
        (
            node.address.port(),
            Protocol::Tcp,
            "the cluster's control plane",
        )
    });
    let tunnels = [state.data_path_port, state.data_path_port.saturating_add(1)];
    let tunnels = tunnels.map(|port| (port, Protocol::Udp, "the cluster's tunnels"));
    let has = |&(number, protocol, _): &(u16, Protocol, &str)| {
        protocol == port.protocol && (port.published..=port.last()).contains(&number)
    };
    match control.chain(tunnels).find(has) {
        None => Ok(()),
        Some((number, protocol, whose)) => {
            let cause = format!("port {number}/{protocol} belongs to {whose}");
            Err(Refusal::new(
                Kind::Conflict,
                cause,
                "publish at another port",
            ))
        }
    }
}

/// Refuses ports of another service. Two services may share a port with mode=host: their tasks are
/// then never placed on one host.
fn is_nobody_elses(
    state: &State,
    port: &PublishSpec,
    own: Option<ServiceId>,
) -> Result<(), Refusal> {
    let others = publishing(state).map(|record| &record.service);
    let others = others.filter(|service| Some(service.id) != own);
    let both_on_hosts =
        |other: &PublishSpec| port.mode == PublishMode::Host && other.mode == PublishMode::Host;
    for service in others {
        let collides = |other: &&PublishSpec| port.overlaps(other) && !both_on_hosts(other);
        if let Some(other) = service.spec.publish.iter().find(collides) {
            let name = &service.spec.name;
            let cause = format!(
                "port {} is published by service {name:?} already, as {other}",
                range(port)
            );
            let next = match service.removing {
                true => "that service is being removed; try again in a moment".to_owned(),
                false => {
                    format!(
                        "publish at another port or address, or remove that service: `swarmctl \
                         service rm {name}`"
                    )
                }
            };
            return Err(Refusal::new(Kind::Conflict, cause, next));
        }
    }
    Ok(())
}

/// Networks that every host has part in, because ports published on all hosts lead there.
pub(crate) fn ingress_networks(state: &State) -> BTreeSet<NetworkId> {
    state.derived.services.ingress_networks().copied().collect()
}

/// The containers of a host that publish its ports, by id.
fn publishing_on(state: &State, node: NodeId) -> impl Iterator<Item = &Container> {
    let publishing = state.derived.containers.publishing_on(node);
    publishing.filter_map(|id| state.containers.get(id))
}

/// The services that publish ports, by id.
fn publishing(state: &State) -> impl Iterator<Item = &ServiceRecord> {
    let publishing = state.derived.services.publishing();
    publishing.filter_map(|id| state.services.get(id))
}

/// Whether every host leads to the service's tasks.
pub(crate) fn is_ingress(record: &ServiceRecord) -> bool {
    record
        .service
        .spec
        .publish
        .iter()
        .any(|port| port.mode == PublishMode::Ingress)
}

/// What a service takes of each host that runs a task of it.
fn host_ports(state: &State, service: ServiceId) -> impl Iterator<Item = &PublishSpec> {
    let service = state
        .services
        .get(&service)
        .map(|record| &record.service.spec);
    service
        .into_iter()
        .flat_map(|spec| &spec.publish)
        .filter(|port| port.mode == PublishMode::Host)
}

/// The first port of the task's host that another task or a container has there, with its name.
pub(crate) fn taken(state: &State, task: &Task, node: NodeId) -> Option<(String, String)> {
    let mut wanted = host_ports(state, task.service).peekable();
    wanted.peek()?;
    let others: Vec<&Task> = state
        .tasks_on(node)
        .map(|record| &record.task)
        .filter(|other| other.id != task.id)
        .collect();
    let containers: Vec<&Container> = publishing_on(state, node).collect();
    let by_container = |port| container_at(state, port, containers.iter().copied());
    let by_any = |port| holder(state, port, &others).or_else(|| by_container(port));
    wanted.find_map(|port| Some((range(port), by_any(port)?)))
}

/// Whether a service takes ports of each host that runs a task of it.
pub(crate) fn takes_host_ports(state: &State, service: ServiceId) -> bool {
    host_ports(state, service).next().is_some()
}

/// Whether tasks of these two services can be on one host.
pub(crate) fn may_share(state: &State, one: ServiceId, other: ServiceId) -> bool {
    !host_ports(state, one).any(|port| host_ports(state, other).any(|theirs| theirs.overlaps(port)))
}
