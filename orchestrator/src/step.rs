//! `step`: the commands that the leader proposes next, computed from the state alone.

use std::collections::BTreeSet;

use model::{Command, Millis, ServiceCommand, ServiceId, TaskCommand, TaskId, TaskState};

use crate::{
    agenda::Agenda,
    drain, keys,
    look::Look,
    record::{ServiceRecord, Slot, TaskRecord},
    restart,
    runs::HISTORY,
    state::State,
    update,
};

/// Most commands of one step, to keep a batch of the log small; the next step proposes the rest.
pub const MAX_COMMANDS: usize = 1_000;
/// Looks at the services that are on the agenda, and at what concerns no single service.
pub(crate) fn step(state: &State, agenda: &mut Agenda, now: Millis) -> Vec<Command> {
    agenda.follow(state, now);
    let mut commands = Vec::new();
    while commands.len() < MAX_COMMANDS
        && let Some(id) = agenda.next()
    {
        let Some(record) = state.services.get(&id) else {
            continue;
        };
        let look = Look::new(state, now);
        let of_service = service(&look, record);
        if of_service.is_empty() {
            agenda.wait(id, look.waits());
        } else {
            // They may be refused, or lost with the leader.
            agenda.look_again(id);
        }
        commands.extend(of_service);
    }
    commands.truncate(MAX_COMMANDS);
    let unwanted = unwanted(&commands);
    let places = agenda.assign(state, MAX_COMMANDS - commands.len());
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

/// What is to be done about one service.
fn service(look: &Look<'_>, record: &ServiceRecord) -> Vec<Command> {
    let state = look.state;
    let service = record.service.id;
    if record.service.removing {
        let slots = record.slots.values();
        let commands = slots.flat_map(|slot| empty(look, slot));
        let commands: Vec<Command> = commands.take(MAX_COMMANDS).collect();
        let is_empty = record.task_ids().next().is_none();
        return if is_empty {
            vec![Command::Service(ServiceCommand::Purge { service })]
        } else {
            commands
        };
    }
    // Whatever else there is to do depends on this.
    if let Some(command) = update::steer(look, record) {
        return vec![command];
    }
    let leaving = update::leaving(look, record);
    let mut slots: BTreeSet<u32> = state.derived.rollouts.of(service).odd().collect();
    let leave = leaving.iter().filter_map(|id| state.tasks.get(id));
    slots.extend(leave.map(|run| run.task.slot));
    let mut commands = Vec::new();
    for number in slots {
        let Some(slot) = record.slots.get(&number) else {
            continue;
        };
        if commands.len() >= MAX_COMMANDS {
            break;
        }
        if record.wants(number) {
            let runs: Vec<&TaskRecord> = state.records(&slot.tasks).collect();
            commands.extend(forget_history(&runs));
            let stops =
                |run: &&&TaskRecord| run.withdrawal.is_some() || leaving.contains(&run.task.id);
            let stopping = runs.iter().filter(stops);
            commands.extend(stopping.filter_map(|run| drain::next(look, run, TaskState::Shutdown)));
            if restart::needs_task(look, record, slot, &runs) {
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
            commands.extend(empty(look, slot));
        }
    }
    commands
}

/// Stops the tasks of a slot that is no longer wanted, and forgets those that have stopped.
fn empty(look: &Look<'_>, slot: &Slot) -> Vec<Command> {
    let next = |record: &TaskRecord| match record.is_alive() {
        true => drain::next(look, record, TaskState::Remove),
        false => Some(Command::Task(TaskCommand::Remove {
            task: record.task.id,
        })),
    };
    look.state.records(&slot.tasks).filter_map(next).collect()
}

/// Forgets ended runs of a slot, of which these are all.
fn forget_history(runs: &[&TaskRecord]) -> impl Iterator<Item = Command> {
    let ended = |record: &&&TaskRecord| !record.is_alive();
    let surplus = runs.iter().filter(ended).count().saturating_sub(HISTORY);
    let too_old = move |position: usize, record: &TaskRecord| {
        position < surplus || record.is_unwanted_history()
    };
    let ended = runs.iter().filter(ended).enumerate();
    ended
        .filter(move |(position, record)| too_old(*position, record))
        .map(|(_, record)| {
            Command::Task(TaskCommand::Remove {
                task: record.task.id,
            })
        })
}
