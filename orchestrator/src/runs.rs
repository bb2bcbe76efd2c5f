//! What is asked of single runs of a service's slots, by what decides and by what is looked up.

use model::Availability;

use crate::{
    record::{ServiceRecord, Slot, TaskRecord},
    restart,
    state::State,
};

/// Number of ended runs of a slot that are kept for `service ps`.
pub(crate) const HISTORY: usize = 5;

/// Whether its node is being emptied.
pub(crate) fn is_displaced(state: &State, run: &TaskRecord) -> bool {
    let node = run.task.node.and_then(|id| state.nodes.get(&id));
    node.is_some_and(|node| node.availability == Availability::Drain)
}

/// Whether new connections are led to it.
pub(crate) fn is_serving(state: &State, run: &TaskRecord) -> bool {
    run.takes_connections() && run.task.node.is_some_and(|node| !state.is_down(node))
}

/// The last run of a slot that was made after the last update and has failed.
pub(crate) fn failed_in<'a>(
    state: &'a State,
    record: &ServiceRecord,
    slot: &'a Slot,
) -> Option<&'a TaskRecord> {
    let mut runs = state.records(&slot.tasks);
    runs.rfind(|run| {
        run.made_at >= record.changed && run.ended_by_itself() && restart::is_failure(run)
    })
}
