//! The cluster itself: its authority, its nodes, and what they report.

use std::collections::BTreeSet;

use ipam::{Ledger, Owner};
use model::{
    Authority, Availability, BalancerKind, Capability, EpochKey, Failure, KeyDigest, Kind, Level,
    Millis, Node, NodeId, NodeReport, NodeStatus, ObjectRef, Outcome, Refusal, Response, Role,
    Secret, TaskId, TaskReport, TaskState, TaskStatus,
};
use sha2::{Digest, Sha256};

use crate::{
    apply::{addresses, container, network},
    record::TaskRecord,
    state::{State, outdated},
    validate,
};

pub(super) fn bootstrap(
    state: &mut State,
    now: Millis,
    authority: Authority,
    node: Node,
    data_path_port: u16,
) -> Response {
    if state.authority.is_some() {
        let cause = "this cluster already has its authority";
        return Err(Refusal::new(
            Kind::Precondition,
            cause,
            "join it with a token: `swarmctl token manager`",
        ));
    }
    validate::data_path_port(data_path_port)?;
    let digest = Sha256::new()
        .chain_update(&authority.root_certificate)
        .chain_update(node.id.0.to_be_bytes())
        .finalize();
    state.seed = digest.into();
    let [a, b, c, d, e, ..] = state.peek_id("unique local addresses").to_be_bytes();
    state.ledger = Ledger::new([a, b, c, d, e]);
    state.authority = Some(authority);
    state.changed.insert(ObjectRef::Cluster);
    state.data_path_port = data_path_port;
    admit(state, now, node)
}

/// Admits a node. A known node keeps its capabilities and its operator's settings; only its own
/// data (address, role) changes.
pub(super) fn admit(state: &mut State, now: Millis, mut node: Node) -> Response {
    if state.authority.is_none() {
        return Err(not_bootstrapped());
    }
    validate::node(&node)?;
    addresses::refuse_misfit(state, &node)?;
    if state.level < Level::KEYS {
        node.key = None;
    } else {
        addresses::refuse_others(state, &node)?;
    }
    let id = node.id;
    let (hostname, address, vtep, role) =
        (node.hostname.clone(), node.address, node.vtep, node.role);
    if let Some(known) = state.nodes.get_mut(&id) {
        known.key = known.key.or(node.key);
        (known.hostname, known.address, known.vtep, known.role) = (hostname, address, vtep, role);
    } else {
        let joined = now;
        let version = state.version();
        let node = Node {
            joined,
            version,
            ..node
        };
        state.nodes.insert(id, node);
    }
    network::hold_nodes(state);
    if state.keys.exist() {
        state.keys_mut().admit(id);
    }
    Ok(Outcome::Node(id))
}

/// Notes the key of a node of which none was known.
pub(super) fn set_key(state: &mut State, node: NodeId, key: KeyDigest) -> Response {
    let level = state.level;
    let known = known(state, node)?;
    if level < Level::KEYS || known.key.is_some() {
        return Err(outdated(format!(
            "the key of node {node} is known, or not asked for"
        )));
    }
    known.key = Some(key);
    Ok(Outcome::Node(node))
}

pub(super) fn set_status(state: &mut State, node: NodeId, status: NodeStatus) -> Response {
    known(state, node)?.status = status;
    Ok(Outcome::Node(node))
}

pub(super) fn set_availability(
    state: &mut State,
    node: &str,
    version: Option<u64>,
    availability: Availability,
) -> Response {
    let id = state.find_node(node)?;
    let version = next_version(state, id, version)?;
    let node = known(state, id)?;
    (node.availability, node.version) = (availability, version);
    Ok(Outcome::Node(id))
}

pub(super) fn set_balancer(
    state: &mut State,
    node: &str,
    version: Option<u64>,
    balancer: BalancerKind,
) -> Response {
    let id = state.find_node(node)?;
    let version = next_version(state, id, version)?;
    let node = known(state, id)?;
    let lacks = |found: &BTreeSet<Capability>| !found.contains(&Capability::Ipvs);
    if balancer == BalancerKind::Ipvs && node.capabilities.as_ref().is_some_and(lacks) {
        let cause = format!("the kernel of node {} has no IPVS", node.hostname);
        let next = format!(
            "load or build {} and restart netd there, or use auto",
            Capability::Ipvs.options()
        );
        return Err(Refusal::new(Kind::Precondition, cause, next));
    }
    (node.balancer, node.version) = (balancer, version);
    Ok(Outcome::Node(id))
}

/// The version of a node that is changed now. Errors: it has another one than the change was made
/// for.
fn next_version(state: &State, id: NodeId, asked: Option<u64>) -> Result<u64, Refusal> {
    let node = state.nodes.get(&id);
    let stale = node.filter(|node| asked.is_some_and(|asked| asked != node.version));
    match stale.filter(|_| state.level >= Level::SHARED_VIEWS) {
        None => Ok(state.version()),
        Some(node) => {
            let name = &node.hostname;
            let cause = format!(
                "node {name:?} has been changed by somebody else since this update was made"
            );
            let next =
                format!("look at it (`swarmctl node inspect {name}`) and give the command again");
            Err(Refusal::new(Kind::Conflict, cause, next))
        }
    }
}

/// Removes a node. Nobody will report its tasks and containers again: they are orphaned and
/// removed, which frees slots and addresses. A manager has known the join tokens and the keys of
/// encrypted networks, which are replaced.
pub(super) fn remove_node(
    state: &mut State,
    now: Millis,
    node: NodeId,
    chance: Option<EpochKey>,
) -> Response {
    let removed = known(state, node)?;
    let (hostname, role) = (removed.hostname.clone(), removed.role);
    if role == Role::Manager && state.level >= Level::KEYS {
        // The leader may have taken the command just before the cluster reached this level.
        let chance = chance.ok_or_else(level_was_raised)?;
        replace_secrets(state, &chance);
        if state.keys.exist() {
            state.keys_mut().are_known_outside();
        }
    }
    state.nodes.remove(&node);
    container::detach_all(state, node);
    for network in state.networks.keys() {
        state.ledger.release(*network, Owner::Node(node));
    }
    network::hold_nodes(state);
    if state.keys.exist() {
        state.keys_mut().remove(node);
    }
    let cause = format!("its node {hostname} was removed");
    let why = Failure::new(Kind::Unavailable, cause, "");
    let mut orphaned = TaskStatus::new(TaskState::Orphaned, now);
    if state.level < Level::TYPED_FAILURES {
        orphaned.message = why.cause;
    } else {
        orphaned.why = Some(why);
    }
    let here: Vec<TaskId> = state.derived.tasks.of_node(node).copied().collect();
    for id in here {
        if let Some(record) = state.tasks.get_mut(&id) {
            record.task.status = orphaned.clone();
        }
    }
    Ok(Outcome::Node(node))
}

/// Gives both join tokens secrets of the leader's random bits.
fn replace_secrets(state: &mut State, chance: &EpochKey) {
    let Some(authority) = &mut state.authority else {
        return;
    };
    let secret = |role: &str| {
        let digest = Sha256::new()
            .chain_update(chance.secret())
            .chain_update(role)
            .finalize();
        let bits = digest.iter().take(16);
        Secret::new(bits.fold(0, |bits, &byte| bits << 8 | u128::from(byte)))
    };
    authority.worker_secret = secret("worker");
    authority.manager_secret = secret("manager");
    state.changed.insert(ObjectRef::Cluster);
}

/// One level at a time: the command was proposed for a state that may be older.
pub(super) fn raise_level(state: &mut State, level: Level) -> Response {
    if level != state.level.next() {
        return Err(outdated(format!(
            "the cluster is at level {}, and {level} is not the next one",
            state.level
        )));
    }
    state.level = level;
    state.changed.insert(ObjectRef::Cluster);
    Ok(Outcome::Done)
}

pub(super) fn rotate_token(state: &mut State, role: Role, secret: Secret) -> Response {
    let authority = state.authority.as_mut().ok_or_else(not_bootstrapped)?;
    state.changed.insert(ObjectRef::Cluster);
    match role {
        Role::Worker => authority.worker_secret = secret,
        Role::Manager => authority.manager_secret = secret,
    }
    Ok(Outcome::Done)
}

pub(super) fn report(state: &mut State, now: Millis, report: NodeReport) -> Response {
    let report = of_level(report, state.level);
    let unknown = || Refusal::not_found("node", &report.node.to_string(), "swarmctl node ls");
    // Each host says how far it is after each change: that alone is no news for the others.
    state.hear(report.node, report.applied, report.behind);
    let node = state.nodes.get(&report.node).ok_or_else(unknown)?;
    let renamed = report.hostname.filter(|name| *name != node.hostname);
    // A host that cannot be called as it is now says so itself, among its failures.
    let renamed = renamed.filter(|name| Node::check_hostname(name).is_ok());
    let is_known = renamed.is_none()
        && node.failures == report.failures
        && node.causes == report.causes
        && node.capabilities.as_ref() == Some(&report.capabilities)
        && node.on_link == report.on_link;
    if !is_known {
        let node = known(state, report.node)?;
        if let Some(name) = renamed {
            node.hostname = name;
        }
        node.failures = report.failures;
        node.causes = report.causes;
        node.capabilities = Some(report.capabilities);
        node.on_link = report.on_link;
    }
    if !report.lost.is_empty() {
        state.keys_mut().renew(report.node, &report.lost);
    }
    report
        .tasks
        .into_iter()
        .for_each(|word| report_task(state, now, report.node, word));
    Ok(Outcome::Done)
}

/// A report without what the versions of an earlier level do not read of it: managers of all
/// versions make the same of the same log.
fn of_level(mut report: NodeReport, level: Level) -> NodeReport {
    if level < Level::TYPED_FAILURES {
        report.causes.clear();
        report.tasks.iter_mut().for_each(|word| word.why = None);
    }
    if level < Level::DISTINCTIONS {
        report.behind.clear();
        report.hostname = None;
    }
    report
}

/// Takes a report about a task. Ignored: tasks that are unknown, on another node or ended, and
/// states that move back.
fn report_task(state: &mut State, now: Millis, node: NodeId, word: TaskReport) {
    let Some(record) = state.tasks.get(&word.task) else {
        return;
    };
    let status = &record.task.status;
    let is_heard =
        record.task.node == Some(node) && !status.state.is_terminal() && word.state >= status.state;
    if !is_heard || says_nothing_new(record, &word) {
        return;
    }
    let Some(record) = state.tasks.get_mut(&word.task) else {
        return;
    };
    let status = &mut record.task.status;
    if word.state > status.state {
        (status.state, status.since) = (word.state, now);
        if word.state == TaskState::Running {
            record.running_at = state.index;
        }
    }
    status.exit_code = word.exit_code;
    (status.message, status.why) = (word.message, word.why);
    record.unhealthy |= word.unhealthy;
    let draining = record
        .withdrawal
        .as_mut()
        .and_then(|withdrawal| withdrawal.draining.as_mut());
    if let Some((draining, connections)) = draining.zip(word.connections) {
        draining.connections = Some(connections);
    }
}

/// Agents report all their tasks whenever one of them has changed.
fn says_nothing_new(record: &TaskRecord, word: &TaskReport) -> bool {
    let status = &record.task.status;
    let draining = record
        .withdrawal
        .as_ref()
        .and_then(|withdrawal| withdrawal.draining.as_ref());
    let counted = draining.is_none_or(|draining| {
        word.connections.is_none() || word.connections == draining.connections
    });
    status.state == word.state
        && status.message == word.message
        && status.why == word.why
        && status.exit_code == word.exit_code
        && (record.unhealthy || !word.unhealthy)
        && counted
}

fn known(state: &mut State, node: NodeId) -> Result<&mut Node, Refusal> {
    let unknown = || Refusal::not_found("node", &node.to_string(), "swarmctl node ls");
    state.nodes.get_mut(&node).ok_or_else(unknown)
}

fn level_was_raised() -> Refusal {
    let cause = "the cluster has reached its next level while the node was being removed";
    Refusal::new(Kind::Precondition, cause, "give the command again")
}

fn not_bootstrapped() -> Refusal {
    Refusal::new(
        Kind::Precondition,
        "there is no cluster here yet",
        "make one with `swarmctl init`",
    )
}
