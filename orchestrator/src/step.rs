//! What the cluster should change next, from the state alone.

use model::{Command, Millis, TaskState};

use crate::{
    keys,
    record::{ServiceRecord, Slot, TaskRecord},
    restart, scheduler,
    state::State,
};

/// The most commands that one step proposes; the next step sees what is left. Keeps one batch of the log small.
pub const MAX_COMMANDS: usize = 1_000;
/// How many ended runs of a slot are kept for people to look at.
const HISTORY: usize = 5;

pub(crate) fn step(state: &State, now: Millis) -> Vec<Command> {
    let services = state.services.values().flat_map(|record| service(state, record, now));
    let mut commands: Vec<Command> = services.take(MAX_COMMANDS).collect();
    commands.extend(scheduler::assign(state, MAX_COMMANDS - commands.len()));
    commands.extend(keys::step(state, now));
    commands
}

fn service(state: &State, record: &ServiceRecord, now: Millis) -> Vec<Command> {
    let service = record.service.id;
    if record.service.removing {
        let commands: Vec<Command> = record.slots.values().flat_map(|slot| empty(state, slot)).collect();
        let is_empty = record.task_ids().next().is_none();
        return if is_empty { vec![Command::PurgeService { service }] } else { commands };
    }
    let mut commands = Vec::new();
    for (&number, slot) in &record.slots {
        if record.wants(number) {
            commands.extend(forget_history(state, slot));
            if restart::needs_task(state, record, number, slot, now) {
                commands.push(Command::CreateTask { service, slot: number });
            }
        } else if slot.tasks.is_empty() {
            commands.push(Command::ReleaseSlot { service, slot: number });
        } else {
            commands.extend(empty(state, slot));
        }
    }
    commands
}

/// Stops the tasks of a slot that is no longer wanted, and forgets those that have stopped.
fn empty<'a>(state: &'a State, slot: &'a Slot) -> impl Iterator<Item = Command> {
    state.records(&slot.tasks).filter_map(|record| {
        let task = record.task.id;
        if !record.is_alive() {
            Some(Command::RemoveTask { task })
        } else if record.task.desired < TaskState::Remove {
            Some(Command::SetDesired { task, desired: TaskState::Remove })
        } else {
            None
        }
    })
}

fn forget_history<'a>(state: &'a State, slot: &'a Slot) -> impl Iterator<Item = Command> {
    let ended = |record: &&TaskRecord| !record.is_alive();
    let surplus = state.records(&slot.tasks).filter(ended).count().saturating_sub(HISTORY);
    let too_old =
        move |position: usize, record: &TaskRecord| position < surplus || record.task.desired == TaskState::Remove;
    let ended = state.records(&slot.tasks).filter(ended).enumerate();
    ended
        .filter(move |(position, record)| too_old(*position, record))
        .map(|(_, record)| Command::RemoveTask { task: record.task.id })
}
