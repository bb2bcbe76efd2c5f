//! The scheduler: places pending tasks on nodes, spread by service first, then by load.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Availability, Command, Node, NodeId, NodeStatus, ServiceId, TaskCommand, TaskId, TaskState,
};

use crate::{
    capability,
    derived::groups::{Bag, Groups},
    ports,
    record::{Slot, TaskRecord},
    state::State,
};

/// Assignments for at most `limit` waiting tasks.
pub(crate) fn assign(state: &State, limit: usize) -> Vec<Command> {
    let mut commands = Vec::new();
    if state.derived.tasks.waiting().next().is_none() {
        return commands;
    }
    let nodes = state.nodes.values().filter(|node| is_eligible(node));
    let nodes: Vec<&Node> = nodes.collect();
    if nodes.is_empty() {
        return commands;
    }
    let mut placed = Placed::default();
    let mut candidates: Option<Candidates> = None;
    for (slot, record) in waiting(state) {
        if commands.len() >= limit {
            break;
        }
        let service = record.task.service;
        let of_service = candidates.take().filter(|last| last.service == service);
        let candidates = candidates
            .insert(of_service.unwrap_or_else(|| Candidates::of(state, record, &nodes, &placed)));
        if let Some(node) = candidates.take_best(state, slot) {
            placed.add(candidates, node);
            let task = record.task.id;
            commands.push(Command::Task(TaskCommand::Assign { task, node }));
        }
    }
    commands
}

/// Whether the scheduler may give this node a task.
pub(crate) fn is_eligible(node: &Node) -> bool {
    node.status == NodeStatus::Ready && node.availability == Availability::Active
}

/// An earlier run of the slot that may still use its addresses on a host that is not known to be
/// dead.
pub(crate) fn predecessor<'a>(
    state: &'a State,
    slot: &'a Slot,
    task: TaskId,
) -> Option<&'a TaskRecord> {
    let holds_on = |record: &&TaskRecord| {
        record.is_alive() && record.task.node.is_some_and(|node| !state.is_down(node))
    };
    state
        .records(&slot.tasks)
        .filter(|record| record.task.id != task)
        .find(holds_on)
}

/// The tasks that may be placed now, by service and slot.
fn waiting(state: &State) -> impl Iterator<Item = (&Slot, &TaskRecord)> {
    let waiting = state.derived.tasks.waiting();
    waiting.filter_map(|(service, number, task)| {
        let service = state.services.get(service)?;
        let slot = service.slots.get(number)?;
        let is_newest = slot.tasks.last() == Some(task);
        let may_be = service.wants(*number) && is_newest;
        let is_free = || predecessor(state, slot, *task).is_none();
        let record = state.tasks.get(task)?;
        (may_be && is_free()).then_some((slot, record))
    })
}

/// Where this step puts tasks.
#[derive(Default)]
struct Placed {
    load: Bag<NodeId>,
    /// Of services that take ports of their hosts.
    exclusive: Groups<NodeId, ServiceId>,
}

impl Placed {
    /// A task of the service of these candidates is on this node.
    fn add(&mut self, candidates: &Candidates, node: NodeId) {
        self.load.add(node);
        if candidates.is_exclusive {
            self.exclusive.insert(node, candidates.service);
        }
    }
}

/// The nodes that a service's next task may be placed on.
struct Candidates {
    service: ServiceId,
    /// Number of the service's tasks there, and of all tasks. The first one is the best.
    nodes: BTreeSet<(usize, usize, NodeId)>,
    /// Whether a node takes one task of the service, because of its ports.
    is_exclusive: bool,
}

impl Candidates {
    /// Those for the service of this task.
    fn of(state: &State, record: &TaskRecord, nodes: &[&Node], placed: &Placed) -> Self {
        let service = record.task.service;
        let needed = capability::of_task(state, &record.task);
        let is_exclusive = ports::takes_host_ports(state, service);
        let has_ports = |node: &Node| {
            let mut others = placed.exclusive.of(&node.id);
            ports::taken(state, &record.task, node.id).is_none()
                && others.all(|other| ports::may_share(state, service, *other))
        };
        let suits = |node: &&&Node| {
            capability::has_all(node, &needed) && (!is_exclusive || has_ports(node))
        };
        let load = &state.derived.tasks;
        let rank = |node: &&Node| {
            let total = load.load(node.id) + placed.load.count(&node.id);
            (load.load_of(service, node.id), total, node.id)
        };
        Self {
            service,
            nodes: nodes.iter().filter(suits).map(rank).collect(),
            is_exclusive,
        }
    }

    /// The best node for a slot's task, which counts there from now on.
    fn take_best(&mut self, state: &State, slot: &Slot) -> Option<NodeId> {
        let rejections = rejections(state, slot);
        let count = |node: NodeId| rejections.get(&node).copied().unwrap_or(0);
        let is_trusted = |(.., node): &&(usize, usize, NodeId)| count(*node) == 0;
        let trusted = self.nodes.iter().find(is_trusted);
        let best = trusted.or_else(|| self.nodes.iter().min_by_key(|(.., node)| count(*node)));
        let (of_service, total, node) = *best?;
        self.nodes.remove(&(of_service, total, node));
        if !self.is_exclusive {
            self.nodes.insert((of_service + 1, total + 1, node));
        }
        Some(node)
    }
}

/// Number of recent tasks of this slot that each node rejected. A rejecting node has fewer tasks:
/// without this penalty it would be chosen again and again.
fn rejections(state: &State, slot: &Slot) -> BTreeMap<NodeId, usize> {
    let mut rejections = BTreeMap::new();
    let rejected = state
        .records(&slot.tasks)
        .filter(|record| record.task.status.state == TaskState::Rejected);
    for node in rejected.filter_map(|record| record.task.node) {
        *rejections.entry(node).or_default() += 1;
    }
    rejections
}
