//! The scheduler: places pending tasks on nodes, spread by service first, then by load.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Availability, Command, Node, NodeId, NodeStatus, ServiceId, TaskCommand, TaskId, TaskState,
};

use crate::{
    capability, ports,
    record::{ServiceRecord, Slot, TaskRecord},
    state::State,
};

/// Assignments for at most `limit` waiting tasks.
pub(crate) fn assign(state: &State, limit: usize) -> Vec<Command> {
    let waiting: Vec<(&Slot, &TaskRecord)> = waiting(state).take(limit).collect();
    if waiting.is_empty() || !state.nodes.values().any(is_eligible) {
        return Vec::new();
    }
    let mut load = Load::of(state);
    waiting
        .into_iter()
        .filter_map(|(slot, record)| load.place(state, slot, record))
        .collect()
}

/// Whether the scheduler may give this node a task.
pub(crate) fn is_eligible(node: &Node) -> bool {
    node.status == NodeStatus::Ready && node.availability == Availability::Active
}

/// Whether a task waits for a node.
pub(crate) fn is_waiting(record: &TaskRecord) -> bool {
    record.is_alive() && record.task.node.is_none() && record.task.desired == TaskState::Running
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

fn waiting(state: &State) -> impl Iterator<Item = (&Slot, &TaskRecord)> {
    let slots = state
        .services
        .values()
        .flat_map(ServiceRecord::wanted_slots);
    slots.filter_map(|slot| {
        let newest = state
            .records(&slot.tasks)
            .next_back()
            .filter(|record| is_waiting(record))?;
        predecessor(state, slot, newest.task.id)
            .is_none()
            .then_some((slot, newest))
    })
}

/// How many tasks that should run each node has.
struct Load {
    total: BTreeMap<NodeId, usize>,
    of_service: BTreeMap<(NodeId, ServiceId), usize>,
    /// Where this step puts tasks.
    placed: BTreeSet<(NodeId, ServiceId)>,
}

impl Load {
    fn of(state: &State) -> Self {
        let mut load = Self {
            total: BTreeMap::new(),
            of_service: BTreeMap::new(),
            placed: BTreeSet::new(),
        };
        for record in state.tasks.values() {
            if let Some(node) = record.task.node
                && record.is_alive()
                && record.task.desired == TaskState::Running
            {
                load.count(node, record.task.service);
            }
        }
        load
    }

    fn count(&mut self, node: NodeId, service: ServiceId) {
        *self.total.entry(node).or_default() += 1;
        *self.of_service.entry((node, service)).or_default() += 1;
    }

    fn place(&mut self, state: &State, slot: &Slot, record: &TaskRecord) -> Option<Command> {
        let (task, service) = (record.task.id, record.task.service);
        let rank = |node: &&Node| {
            let of_service = self
                .of_service
                .get(&(node.id, service))
                .copied()
                .unwrap_or(0);
            let total = self.total.get(&node.id).copied().unwrap_or(0);
            (rejections(state, slot, node.id), of_service, total, node.id)
        };
        let needed = capability::of_task(state, &record.task);
        let placed = |node: NodeId| self.placed.iter().filter(move |(at, _)| *at == node);
        let takes_ports = ports::takes_host_ports(state, service);
        let has_ports = |node: &Node| {
            if !takes_ports {
                return true;
            }
            let share = |(_, other): &(NodeId, ServiceId)| ports::may_share(state, service, *other);
            ports::taken(state, &record.task, node.id).is_none() && placed(node.id).all(share)
        };
        let suits = |node: &&Node| {
            is_eligible(node) && capability::has_all(node, &needed) && has_ports(node)
        };
        let node = state.nodes.values().filter(suits).min_by_key(rank)?.id;
        self.count(node, service);
        self.placed.insert((node, service));
        Some(Command::Task(TaskCommand::Assign { task, node }))
    }
}

/// Number of recent tasks of this slot that the node rejected. A rejecting node has fewer tasks:
/// without this penalty it would be chosen again and again.
fn rejections(state: &State, slot: &Slot, node: NodeId) -> usize {
    let rejected = |record: &&TaskRecord| {
        record.task.node == Some(node) && record.task.status.state == TaskState::Rejected
    };
    state.records(&slot.tasks).filter(rejected).count()
}
