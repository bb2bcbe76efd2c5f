//! Answers queries of people from the state.

use model::{
    Answer, BalancerKind, Container, EndpointInfo, EndpointMode, Failure, Kind, Level, Network,
    NetworkId, NetworkInfo, NetworkStatus, Node, NodeId, NodeInfo, Progress, Query, Refusal,
    Scheduler, ServiceInfo, ServiceSpec, ServiceStatus, Task, TaskInfo, TaskState, Waiting,
};

use crate::{
    acknowledged, capability, drain, names, ports, project,
    record::{ServiceRecord, TaskRecord},
    scheduler, slots,
    state::State,
    update,
};

pub(crate) fn answer(
    state: &State,
    leader: Option<NodeId>,
    query: &Query,
) -> Result<Answer, Refusal> {
    Ok(match query {
        Query::Node(name) if name == "self" => return Err(for_the_node_itself("which node it is")),
        Query::Token(_) => return Err(for_the_node_itself("the digest of the join token")),
        Query::Nodes => Answer::Nodes(
            state
                .nodes
                .values()
                .map(|node| node_info(state, node, leader))
                .collect(),
        ),
        Query::Node(name) => {
            let id = state.find_node(name)?;
            Answer::Nodes(
                state
                    .nodes
                    .get(&id)
                    .map(|node| node_info(state, node, leader))
                    .into_iter()
                    .collect(),
            )
        }
        Query::View(name) => Answer::View(project::digests(&project::view(
            state,
            state.find_node(name)?,
        ))),
        Query::Ledger => Answer::Ledger(state.check()),
        Query::Networks => Answer::Networks(
            state
                .networks
                .values()
                .map(|network| network_info(state, network))
                .collect(),
        ),
        Query::Network(name) => {
            let id = state.find_network(name)?;
            let found = state.networks.get(&id);
            let mut found: Vec<_> = found
                .map(|network| network_info(state, network))
                .into_iter()
                .collect();
            for info in &mut found {
                info.status.endpoints = endpoints(state, id);
            }
            Answer::Networks(found)
        }
        Query::Services => Answer::Services(services(state, state.services.values().collect())),
        Query::Service(name) => {
            let id = state.find_service(name)?;
            Answer::Services(services(
                state,
                state.services.get(&id).into_iter().collect(),
            ))
        }
        Query::Tasks(None) => Answer::Tasks(tasks(state, state.services.values().collect())),
        Query::Tasks(Some(service)) => {
            let id = state.find_service(service)?;
            Answer::Tasks(tasks(state, state.services.get(&id).into_iter().collect()))
        }
        Query::Containers(node) => {
            let id = state.find_node(node)?;
            Answer::Containers(state.containers_of(id).cloned().collect())
        }
        Query::Task(name) => {
            let id = state.find_task(name)?;
            Answer::Tasks(
                state
                    .tasks
                    .get(&id)
                    .map(|record| task_info(state, record))
                    .into_iter()
                    .collect(),
            )
        }
    })
}

fn for_the_node_itself(what: &str) -> Refusal {
    Refusal::new(
        Kind::Invalid,
        format!("the replicated state does not know {what}"),
        "ask a node over its socket",
    )
}

fn node_info(state: &State, node: &Node, leader: Option<NodeId>) -> NodeInfo {
    let mut causes = node.refused();
    for container in state.containers_of(node.id) {
        causes.extend(names::unresolved(state, container));
    }
    NodeInfo {
        level: None,
        votes: None,
        id: node.id,
        hostname: node.hostname.clone(),
        role: node.role,
        status: node.status,
        availability: node.availability,
        balancer: node.balancer,
        balancer_used: node
            .balancer
            .on(&node.capabilities.clone().unwrap_or_default()),
        leader: leader == Some(node.id),
        address: node.address,
        vtep: node.vtep,
        applied: node.applied,
        failures: causes.iter().map(Failure::in_one_line).collect(),
        causes,
        capabilities: node.capabilities.clone().unwrap_or_default(),
        on_link: node.on_link.clone(),
        joined: node.joined,
        version: node.version,
    }
}

fn network_info(state: &State, network: &Network) -> NetworkInfo {
    let usage = state.ledger.usage(network.id).into_iter();
    let exhausted = usage
        .filter(|usage| u128::from(usage.used) >= usage.capacity)
        .map(|usage| usage.subnet)
        .collect();
    NetworkInfo {
        id: network.id,
        spec: network.spec.clone(),
        status: NetworkStatus {
            vni: network.vni,
            subnets: network.subnets.clone(),
            exhausted,
            endpoints: Vec::new(),
            reach: network.reach.clone(),
            created: network.created,
        },
        version: network.version,
        level: state.level,
    }
}

fn endpoints(state: &State, network: NetworkId) -> Vec<EndpointInfo> {
    let services = state.derived.services.on_network(network);
    let services = services.filter_map(|id| state.services.get(id));
    let slots = by_name(services.collect())
        .into_iter()
        .flat_map(|record| record.slots.values());
    let holders = slots.filter_map(|slot| slots::holder(state, slot));
    let infos = holders.filter_map(|(task, node)| {
        let attachment = task
            .attachments
            .iter()
            .find(|attachment| attachment.network == network)?;
        let (kind, addresses) = ("task".to_owned(), attachment.addresses.clone());
        Some(EndpointInfo {
            kind,
            name: task.name(),
            node: state.hostname(node),
            addresses,
            publish: Vec::new(),
        })
    });
    infos.chain(containers(state, network)).collect()
}

fn containers(state: &State, network: NetworkId) -> Vec<EndpointInfo> {
    let here = state.containers_on(network);
    let info = |container: &Container| EndpointInfo {
        kind: container.key.runtime.to_string(),
        name: container.name(),
        node: state.hostname(container.key.node),
        addresses: container.addresses.clone(),
        publish: match state.level < Level::COMPOUNDS {
            true => Vec::new(),
            false => container.traits.publish.clone(),
        },
    };
    let mut infos: Vec<EndpointInfo> = here.map(info).collect();
    infos.sort_by(|one, other| (&one.name, &one.node).cmp(&(&other.name, &other.node)));
    infos
}

fn by_name(mut records: Vec<&ServiceRecord>) -> Vec<&ServiceRecord> {
    records.sort_by(|one, other| one.service.spec.name.cmp(&other.service.spec.name));
    records
}

fn services(state: &State, records: Vec<&ServiceRecord>) -> Vec<ServiceInfo> {
    by_name(records)
        .into_iter()
        .map(|record| service_info(state, record))
        .collect()
}

fn service_info(state: &State, record: &ServiceRecord) -> ServiceInfo {
    let (service, spec) = (&record.service, &record.service.spec);
    let running: Vec<&TaskRecord> = record
        .slots
        .keys()
        .filter_map(|&number| slots::serving(state, record, number))
        .collect();
    let known = acknowledged::generation(state, service);
    let network_name = |id: &NetworkId| {
        state
            .networks
            .get(id)
            .map(|network| network.spec.name.clone())
    };
    let status = ServiceStatus {
        running: running.len() as u32,
        settled: running
            .iter()
            .filter(|run| run.running_at.max(record.led) <= known)
            .count() as u32,
        virtual_ips: service
            .networks
            .iter()
            .filter_map(|id| service.vips.get(id))
            .flatten()
            .copied()
            .collect(),
        networks: service.networks.iter().filter_map(network_name).collect(),
        notes: notes(state, spec),
        update: update::info(state, record),
        removing: service.removing,
        created: service.created,
    };
    ServiceInfo {
        id: service.id,
        spec: spec.clone(),
        status,
        version: record.version,
        level: state.level,
    }
}

/// Notes about balancing that differs from the requested one.
fn notes(state: &State, spec: &ServiceSpec) -> Vec<String> {
    let scheduler = spec.balance.scheduler;
    if spec.endpoint_mode == EndpointMode::Dnsrr || !scheduler.counts_connections() {
        return Vec::new();
    }
    let instead = if scheduler == Scheduler::Lc {
        Scheduler::Rr
    } else {
        Scheduler::Wrr
    };
    let note = |who: &str, next: &str| {
        let cause = format!("{who} are balanced by {instead}: nftables cannot count connections");
        Failure::new(Kind::Precondition, cause, format!("use {next}")).in_one_line()
    };
    let uses = |node: &&Node| {
        node.balancer
            .on(&node.capabilities.clone().unwrap_or_default())
            == BalancerKind::Nftables
    };
    let nodes: Vec<&str> = state
        .nodes
        .values()
        .filter(uses)
        .map(|node| node.hostname.as_str())
        .collect();
    let inside = (!nodes.is_empty()).then(|| {
        let next = "a kernel with IPVS there, and `swarmctl node update --balancer auto`";
        note(&format!("clients on {}", nodes.join(", ")), next)
    });
    let outside = (!spec.publish.is_empty())
        .then(|| note("callers at its published ports", "--lb rr, sh or mh there"));
    inside.into_iter().chain(outside).collect()
}

fn tasks(state: &State, records: Vec<&ServiceRecord>) -> Vec<TaskInfo> {
    let slots = by_name(records)
        .into_iter()
        .flat_map(|record| record.slots.values());
    slots
        .flat_map(|slot| state.records(&slot.tasks).rev())
        .map(|record| task_info(state, record))
        .collect()
}

fn task_info(state: &State, record: &TaskRecord) -> TaskInfo {
    let task = &record.task;
    let said = said(state, record);
    TaskInfo {
        id: task.id,
        name: task.name(),
        service: task.service_name.clone(),
        slot: task.slot,
        node: task
            .node
            .map(|node| state.hostname(node))
            .unwrap_or_default(),
        node_id: task.node,
        state: task.status.state,
        desired_state: task.desired,
        withdrawn: record.withdrawal.is_some(),
        addresses: task
            .attachments
            .iter()
            .flat_map(|attachment| attachment.addresses.clone())
            .collect(),
        message: said.text(),
        why: said
            .why
            .map(|why| why.about(format!("task {}", task.name()))),
        exit_code: task.status.exit_code,
        since: task.status.since,
        spec: task.spec.clone(),
    }
}

/// How far a service is.
pub(crate) fn progress(state: &State, service: &str) -> Result<Progress, Refusal> {
    let missing = || Refusal::not_found("service", service, "swarmctl service ls");
    let id = state.find_service(service)?;
    let record = state.services.get(&id).ok_or_else(missing)?;
    let runs = record.task_ids();
    let waiting = runs
        .filter_map(|id| state.tasks.get(&id))
        .filter(|record| record.is_waiting())
        .max_by_key(|record| record.task.status.since);
    Ok(Progress {
        service: service_info(state, record),
        waiting: waiting.map(|record| Waiting {
            task: record.task.name(),
            message: said(state, record).text(),
            since: record.task.status.since,
        }),
    })
}

/// What is said of a task.
struct Said {
    /// In one line; where there is a failure, what comes before it.
    note: String,
    /// Why it failed, was rejected or has to wait.
    why: Option<Failure>,
}

impl Said {
    fn note(note: String) -> Self {
        Self { note, why: None }
    }

    fn waits(cause: String, next: impl Into<String>) -> Self {
        Self {
            note: "waits: ".to_owned(),
            why: Some(Failure::new(Kind::Unavailable, cause, next)),
        }
    }

    fn text(&self) -> String {
        let why = self.why.as_ref().map(Failure::in_one_line);
        format!("{}{}", self.note, why.unwrap_or_default())
    }
}

/// What a task waits for; if nothing, the last word of its agent.
fn said(state: &State, record: &TaskRecord) -> Said {
    let task = &record.task;
    if record.is_waiting() {
        return waits_for(state, task).unwrap_or_else(|| agents_word(task));
    }
    if let Some(message) = drain::message(state, record) {
        return Said::note(message);
    }
    match task.node {
        Some(node)
            if record.is_alive() && task.desired > TaskState::Running && state.is_down(node) =>
        {
            let node = state.hostname(node);
            let next = format!(
                "start it again or, if it will not return, remove it: `swarmctl node rm {node}`"
            );
            Said::waits(format!("its node {node} is down"), next)
        }
        _ => agents_word(task),
    }
}

fn agents_word(task: &Task) -> Said {
    match task.status.failure() {
        Some(why) => Said {
            note: String::new(),
            why: Some(why),
        },
        None => Said::note(task.status.message.clone()),
    }
}

fn waits_for(state: &State, task: &Task) -> Option<Said> {
    let slot = state.services.get(&task.service)?.slots.get(&task.slot)?;
    if let Some(node) =
        scheduler::predecessor(state, slot, task.id).and_then(|earlier| earlier.task.node)
    {
        let node = state.hostname(node);
        return Some(Said::note(format!(
            "waits for its slot's last run to stop on {node}"
        )));
    }
    let eligible: Vec<&Node> = state
        .nodes
        .values()
        .filter(|node| scheduler::is_eligible(node))
        .collect();
    if eligible.is_empty() {
        let cause = "no node is ready and active".to_owned();
        return Some(Said::waits(cause, "`swarmctl node ls` lists them"));
    }
    let needed = capability::of_task(state, task);
    let possible: Vec<&Node> = eligible
        .iter()
        .copied()
        .filter(|node| capability::has_all(node, &needed))
        .collect();
    let taken: Vec<_> = possible
        .iter()
        .map(|node| ports::taken(state, task, node.id))
        .collect();
    if let Some(Some((port, holder))) = taken.first()
        && taken.iter().all(Option::is_some)
    {
        let cause =
            format!("port {port} is taken on every node that could run it, by {holder} for one");
        let next = "add a node, or scale down: a port of a host is for one task";
        return Some(Said::waits(cause, next));
    }
    possible.is_empty().then(|| {
        let networks = task
            .attachments
            .iter()
            .filter_map(|attachment| state.networks.get(&attachment.network));
        let networks = networks.filter(|network| !capability::needed(&network.spec).is_empty());
        let names: Vec<String> = networks
            .map(|network| format!("{:?}", network.spec.name))
            .collect();
        let lacks = capability::lacks(&eligible, &needed);
        let cause = format!("for network {} {lacks}", names.join(", "));
        Said::waits(cause, "run a kernel that has it there and restart netd")
    })
}
