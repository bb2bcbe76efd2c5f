//! `step`: the commands that the leader proposes next, computed from the state alone.

use std::collections::BTreeSet;

use model::{Command, Millis, Service, ServiceCommand, ServiceId, TaskCommand, TaskId, TaskState};

use crate::{
    acknowledged::Acknowledged,
    drain, keys,
    record::{ServiceRecord, Slot, TaskRecord},
    restart, scheduler,
    state::State,
    update,
};

/// Most commands of one step, to keep a batch of the log small; the next step proposes the rest.
pub const MAX_COMMANDS: usize = 1_000;
/// Number of ended runs of a slot that are kept for `service ps`.
const HISTORY: usize = 5;

pub(crate) fn step(state: &State, now: Millis) -> Vec<Command> {
    let heard = Acknowledged::of(state);
    let services = state
        .services
        .values()
        .flat_map(|record| service(state, &heard, record, now));
    let mut commands: Vec<Command> = services.take(MAX_COMMANDS).collect();
    let places = scheduler::assign(state, MAX_COMMANDS - commands.len());
    let unwanted = unwanted(&commands);
    let is_wanted = |place: &Command| match place {
        Command::Task(TaskCommand::Assign { task, .. }) => {
            let record = state.tasks.get(task);
            record.is_some_and(|record| {
                !unwanted.0.contains(task) && !unwanted.1.contains(&record.task.service)
            })
        }
        _ => true,
    };
    commands.extend(places.into_iter().filter(is_wanted));
    commands.extend(keys::step(state, now));
    commands
}

/// The tasks, and the services some of whose tasks, may not be wanted any more after these
/// commands.
fn unwanted(commands: &[Command]) -> (BTreeSet<TaskId>, BTreeSet<ServiceId>) {
    let tasks = commands.iter().filter_map(|command| match command {
        Command::Task(TaskCommand::SetDesired { task, .. }) => Some(*task),
        _ => None,
    });
    let services = commands.iter().filter_map(|command| match command {
        Command::Service(ServiceCommand::SetSurge { service, .. }) => Some(*service),
        _ => None,
    });
    (tasks.collect(), services.collect())
}

fn service(
    state: &State,
    heard: &Acknowledged,
    record: &ServiceRecord,
    now: Millis,
) -> Vec<Command> {
    let service = record.service.id;
    let empty = |slot| empty(state, heard, slot, now);
    if record.service.removing {
        let commands: Vec<Command> = record.slots.values().flat_map(empty).collect();
        let is_empty = record.task_ids().next().is_none();
        return if is_empty {
            vec![Command::Service(ServiceCommand::Purge { service })]
        } else {
            commands
        };
    }
    // Whatever else there is to do depends on this.
    if let Some(command) = update::steer(state, heard, record, now) {
        return vec![command];
    }
    let is_known = |service: &Service, index| heard.generation(service) >= index;
    let leaving = update::leaving(state, heard, record, now);
    let mut commands = Vec::new();
    for (&number, slot) in &record.slots {
        if record.wants(number) {
            commands.extend(forget_history(state, slot));
            let stops =
                |run: &&TaskRecord| run.withdrawal.is_some() || leaving.contains(&run.task.id);
            let stopping = state.records(&slot.tasks).filter(stops);
            commands.extend(
                stopping
                    .filter_map(|run| drain::next(state, run, TaskState::Shutdown, now, is_known)),
            );
            if restart::needs_task(state, record, number, slot, now) {
                commands.push(Command::Task(TaskCommand::Create {
                    service,
                    slot: number,
                }));
            }
        } else if slot.tasks.is_empty() {
            commands.push(Command::Service(ServiceCommand::ReleaseSlot {
                service,
                slot: number,
            }));
        } else {
            commands.extend(empty(slot));
        }
    }
    commands
}

/// Stops the tasks of a slot that is no longer wanted, and forgets those that have stopped.
fn empty(state: &State, heard: &Acknowledged, slot: &Slot, now: Millis) -> Vec<Command> {
    let is_known = |service: &Service, index| heard.generation(service) >= index;
    let next = |record: &TaskRecord| match record.is_alive() {
        true => drain::next(state, record, TaskState::Remove, now, is_known),
        false => Some(Command::Task(TaskCommand::Remove {
            task: record.task.id,
        })),
    };
    state.records(&slot.tasks).filter_map(next).collect()
}

fn forget_history<'a>(state: &'a State, slot: &'a Slot) -> impl Iterator<Item = Command> {
    let ended = |record: &&TaskRecord| !record.is_alive();
    let surplus = state
        .records(&slot.tasks)
        .filter(ended)
        .count()
        .saturating_sub(HISTORY);
    let too_old = move |position: usize, record: &TaskRecord| {
        position < surplus || record.task.desired == TaskState::Remove
    };
    let ended = state.records(&slot.tasks).filter(ended).enumerate();
    ended
        .filter(move |(position, record)| too_old(*position, record))
        .map(|(_, record)| {
            Command::Task(TaskCommand::Remove {
                task: record.task.id,
            })
        })
}
