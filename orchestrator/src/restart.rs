//! Whether a slot needs a new task: because it never had one, lost it with its node, or its restart
//! policy says so.

use model::{RestartCondition, TaskState};

use crate::{
    look::Look,
    record::{ServiceRecord, Slot, TaskRecord},
    state::State,
};

/// Whether this slot, which is wanted and has had these runs, should get a new task now. Asked by
/// `step`, and again when its command is applied.
pub(crate) fn needs_task(
    look: &Look<'_>,
    record: &ServiceRecord,
    slot: &Slot,
    runs: &[&TaskRecord],
) -> bool {
    let Some(newest) = runs.last() else {
        return true;
    };
    if newest.is_alive() {
        newest.task.desired > TaskState::Running || is_lost(look.state, newest)
    } else {
        let waited = || look.has_passed(newest.task.status.since, newest.task.spec.restart.delay);
        let is_renewed = record.paused.is_none() && record.outdates(newest);
        !newest.ended_by_itself() || is_renewed || is_followed(newest, slot.restarts) && waited()
    }
}

/// Whether the policy lets a run that ended by itself be followed by another.
pub(crate) fn is_followed(ended: &TaskRecord, restarts: u32) -> bool {
    let policy = &ended.task.spec.restart;
    let wanted = match policy.condition {
        RestartCondition::Any => true,
        RestartCondition::OnFailure => ended.task.status.state != TaskState::Complete,
        RestartCondition::None => false,
    };
    wanted && (policy.max_attempts == 0 || restarts < policy.max_attempts)
}

/// Whether a run that ended by itself did not do what it should.
pub(crate) fn is_failure(ended: &TaskRecord) -> bool {
    ended.task.status.state != TaskState::Complete
        || ended.task.spec.restart.condition == RestartCondition::Any
}

/// Whether its node is gone: it is replaced at once, whatever its restart policy.
fn is_lost(state: &State, record: &TaskRecord) -> bool {
    record
        .task
        .node
        .is_some_and(|node| state.nodes.contains_key(&node) && state.is_down(node))
}
