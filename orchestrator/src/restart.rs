//! Whether a slot needs a new task: because it never had one, lost it with its node, or its restart policy says so.

use model::{Availability, Millis, RestartCondition, TaskState};

use crate::{
    record::{ServiceRecord, Slot, TaskRecord},
    state::State,
};

/// Whether this slot should get a new task now. Asked by `step`, and again when its command is applied.
pub(crate) fn needs_task(state: &State, record: &ServiceRecord, number: u32, slot: &Slot, now: Millis) -> bool {
    if !record.wants(number) {
        return false;
    }
    let Some(newest) = state.records(&slot.tasks).next_back() else { return true };
    if newest.is_alive() {
        newest.task.desired > TaskState::Running || is_displaced(state, newest)
    } else {
        !newest.ended_by_itself() || is_due(newest, slot.restarts, now)
    }
}

/// Whether its node is gone or being emptied: it is replaced at once, whatever its restart policy.
fn is_displaced(state: &State, record: &TaskRecord) -> bool {
    let node = record.task.node.and_then(|id| state.nodes.get(&id));
    node.is_some_and(|node| state.is_down(node.id) || node.availability == Availability::Drain)
}

/// Whether the policy lets a run that ended by itself be followed by another now.
fn is_due(ended: &TaskRecord, restarts: u32, now: Millis) -> bool {
    let policy = &ended.task.spec.restart;
    let failed = ended.task.status.state != TaskState::Complete;
    let wanted = match policy.condition {
        RestartCondition::Any => true,
        RestartCondition::OnFailure => failed,
        RestartCondition::None => false,
    };
    let attempts_left = policy.max_attempts == 0 || restarts < policy.max_attempts;
    // The end was stamped by another leader, whose clock was ahead: what is left of the delay cannot be known.
    let waited = now.checked_sub(ended.task.status.since).is_none_or(|waited| waited >= policy.delay);
    wanted && attempts_left && waited
}
