//! The runs of a slot: which one has its addresses, and which one takes its traffic.

use std::net::IpAddr;

use model::{NetworkId, NodeId, Task};

use crate::{
    record::{ServiceRecord, Slot, TaskRecord},
    state::State,
};

/// The task that has a slot's addresses. After a lost host has come back there may be two for a
/// while: then it is the newest, the only one that should run. A task on a lost host has them only
/// if no other task does.
pub(crate) fn holder<'a>(state: &'a State, slot: &'a Slot) -> Option<(&'a Task, NodeId)> {
    let task = &holding(state, slot)?.task;
    Some((task, task.node?))
}

/// The same, as a record.
pub(crate) fn holding<'a>(state: &'a State, slot: &'a Slot) -> Option<&'a TaskRecord> {
    let placed = state
        .records(&slot.tasks)
        .filter(|record| record.is_alive() && record.task.node.is_some());
    // Of equals the last is taken, and slots list their newest run last.
    placed.max_by_key(|record| is_reachable(state, &record.task))
}

/// The task of a slot that takes traffic, until it is withdrawn; also in a slot that is no longer
/// wanted.
pub(crate) fn serving<'a>(
    state: &'a State,
    record: &'a ServiceRecord,
    number: u32,
) -> Option<&'a TaskRecord> {
    let slot = record.slots.get(&number)?;
    state
        .records(&slot.tasks)
        .rfind(|record| record.takes_connections() && is_reachable(state, &record.task))
}

pub(crate) fn is_reachable(state: &State, task: &Task) -> bool {
    task.node.is_some_and(|node| !state.is_down(node))
}

/// The addresses of a task on one of its networks.
pub(crate) fn addresses(task: &Task, network: NetworkId) -> &[IpAddr] {
    let attachment = task
        .attachments
        .iter()
        .find(|attachment| attachment.network == network);
    attachment.map_or(&[], |attachment| &attachment.addresses)
}
