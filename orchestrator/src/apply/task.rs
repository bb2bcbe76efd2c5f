//! Commands about tasks: create, assign, stop, forget. Each is refused if the reason that `step`
//! saw no longer holds.

use ipam::Owner;
use model::{
    Attachment, Command, EndpointId, Kind, Millis, Node, NodeId, Outcome, Refusal, Response,
    ServiceId, Task, TaskCommand, TaskId, TaskState, TaskStatus,
};

use crate::{
    capability, drain,
    look::Look,
    ports,
    record::{Draining, TaskRecord, Withdrawal},
    restart, scheduler, segment,
    state::{State, outdated},
    update,
};

/// Creates a new task for a slot. Earlier tasks of the slot get the target SHUTDOWN, so that only
/// one should run.
pub(super) fn create(state: &mut State, now: Millis, service: ServiceId, number: u32) -> Response {
    let gone = || outdated(format!("slot {number} of service {service} is gone"));
    let record = state.services.get(&service).ok_or_else(gone)?;
    let slot = record.slots.get(&number).ok_or_else(gone)?;
    let runs: Vec<&TaskRecord> = state.records(&slot.tasks).collect();
    let look = Look::new(state, now);
    if !record.wants(number) || !restart::needs_task(&look, record, slot, &runs) {
        return Err(outdated(format!(
            "slot {number} of service {service} needs no new task"
        )));
    }
    let earlier = slot.tasks.clone();
    let is_restart = state
        .records(&earlier)
        .next_back()
        .is_some_and(TaskRecord::ended_by_itself);
    let task = new_task(state, now, service, number).ok_or_else(gone)?;
    let id = task.id;
    for earlier in earlier {
        if let Some(record) = state.tasks.get_mut(&earlier) {
            stop(record, now, TaskState::Shutdown);
        }
    }
    if let Some(slot) = state
        .services
        .get_mut(&service)
        .and_then(|record| record.slots.get_mut(&number))
    {
        slot.tasks.push(id);
        slot.restarts = slot.restarts.saturating_add(u32::from(is_restart));
    }
    let made_at = state.index;
    state.tasks.insert(
        id,
        TaskRecord {
            task,
            made_at,
            running_at: 0,
            withdrawal: None,
            unhealthy: false,
        },
    );
    Ok(Outcome::Task(id))
}

pub(super) fn assign(state: &mut State, now: Millis, id: TaskId, node: NodeId) -> Response {
    let record = known(state, id)?;
    let service = state
        .services
        .get(&record.task.service)
        .filter(|service| service.wants(record.task.slot));
    let slot = service.and_then(|service| service.slots.get(&record.task.slot));
    let is_free = slot.is_some_and(|slot| scheduler::predecessor(state, slot, id).is_none());
    if !record.is_waiting() || !is_free {
        return Err(outdated(format!(
            "task {id} waits for no node, is not wanted, or its slot's last run still stops"
        )));
    }
    let needed = capability::of_task(state, &record.task);
    let is_free = |node: &Node| ports::taken(state, &record.task, node.id).is_none();
    let takes = |node: &Node| {
        scheduler::is_eligible(node) && capability::has_all(node, &needed) && is_free(node)
    };
    if !state.nodes.get(&node).is_some_and(takes) {
        return Err(outdated(format!("node {node} takes no tasks now")));
    }
    if let Some(record) = state.tasks.get_mut(&id) {
        record.task.node = Some(node);
        (record.task.status.state, record.task.status.since) = (TaskState::Assigned, now);
    }
    Ok(Outcome::Task(id))
}

pub(super) fn set_desired(
    state: &mut State,
    now: Millis,
    id: TaskId,
    desired: TaskState,
) -> Response {
    let record = known(state, id)?;
    let is_wanted = state
        .services
        .get(&record.task.service)
        .is_some_and(|service| service.wants(record.task.slot));
    let is_forward =
        matches!(desired, TaskState::Shutdown | TaskState::Remove) && desired > record.task.desired;
    let look = Look::new(state, now);
    let is_due = || {
        let leaves = || update::must_leave(&look, record);
        drain::may_stop(&look, record) && (desired == TaskState::Remove || leaves())
    };
    if !is_forward || (desired == TaskState::Remove && is_wanted) || !is_due() {
        return Err(outdated(format!(
            "task {id} is not to go from {} to {desired} now",
            record.task.desired
        )));
    }
    if let Some(record) = state.tasks.get_mut(&id) {
        stop(record, now, desired);
    }
    Ok(Outcome::Task(id))
}

/// Replaces a task on the user's request, whatever other tasks do: a task with traffic is
/// withdrawn, any other stops at once.
pub(super) fn replace(state: &mut State, now: Millis, name: &str) -> Response {
    let id = state.find_task(name)?;
    let is_idle = drain::may_stop(&Look::new(state, now), known(state, id)?);
    let index = state.index;
    let Some(record) = state.tasks.get_mut(&id) else {
        return Ok(Outcome::Task(id));
    };
    if !record.is_alive() {
        let cause = format!("task {name} has ended");
        let next = format!(
            "`swarmctl service ps {}` lists what runs",
            record.task.service_name
        );
        return Err(Refusal::new(Kind::Precondition, cause, next));
    }
    match &record.withdrawal {
        _ if is_idle => stop(record, now, TaskState::Shutdown),
        Some(_) => {}
        None => {
            record.withdrawal = Some(Withdrawal {
                index,
                since: now,
                draining: None,
            })
        }
    }
    Ok(Outcome::Task(id))
}

/// A task that is to stop takes no new connections.
pub(super) fn withdraw(state: &mut State, now: Millis, id: TaskId) -> Response {
    let index = state.index;
    let is_due = state.tasks.get(&id).is_some_and(|record| {
        let look = Look::new(state, now);
        let command = drain::next(&look, record, TaskState::Remove);
        matches!(command, Some(Command::Task(TaskCommand::Withdraw { .. })))
            && update::must_leave(&look, record)
    });
    let record = state.tasks.get_mut(&id).filter(|_| is_due);
    let record = record.ok_or_else(|| outdated(format!("task {id} is not to be withdrawn now")))?;
    match &mut record.withdrawal {
        Some(withdrawal) => withdrawal.since = now,
        none => {
            *none = Some(Withdrawal {
                index,
                since: now,
                draining: None,
            })
        }
    }
    Ok(Outcome::Task(id))
}

/// Begins to drain a task: every balancer knows that it is withdrawn.
pub(super) fn drain(state: &mut State, now: Millis, id: TaskId) -> Response {
    let is_due = state.tasks.get(&id).is_some_and(|record| {
        let command = drain::next(&Look::new(state, now), record, TaskState::Remove);
        matches!(command, Some(Command::Task(TaskCommand::Drain { .. })))
    });
    let withdrawal = state
        .tasks
        .get_mut(&id)
        .filter(|_| is_due)
        .and_then(|record| record.withdrawal.as_mut());
    let withdrawal =
        withdrawal.ok_or_else(|| outdated(format!("task {id} is not to be drained now")))?;
    match &mut withdrawal.draining {
        Some(draining) => draining.since = now,
        none => {
            *none = Some(Draining {
                since: now,
                connections: None,
            })
        }
    }
    Ok(Outcome::Task(id))
}

pub(super) fn remove(state: &mut State, id: TaskId) -> Response {
    let record = known(state, id)?;
    let (service, number) = (record.task.service, record.task.slot);
    let wanted = state
        .services
        .get(&service)
        .filter(|service| service.wants(number));
    // The last run of a slot tells whether and when there is another.
    let is_newest = wanted
        .and_then(|service| service.slots.get(&number))
        .and_then(|slot| slot.tasks.last())
        == Some(&id);
    if record.is_alive() || (is_newest && record.task.desired < TaskState::Remove) {
        return Err(outdated(format!("task {id} is not to be forgotten yet")));
    }
    state.tasks.remove(&id);
    if let Some(slot) = state
        .services
        .get_mut(&service)
        .and_then(|record| record.slots.get_mut(&number))
    {
        slot.tasks.retain(|task| *task != id);
    }
    Ok(Outcome::Done)
}

/// Sets a task's target to stop; a task without a node has stopped by that.
fn stop(record: &mut TaskRecord, now: Millis, desired: TaskState) {
    record.task.desired = record.task.desired.max(desired);
    if record.is_alive() && record.task.node.is_none() {
        record.task.status = TaskStatus {
            message: "stopped before it had a node".to_owned(),
            ..TaskStatus::new(TaskState::Shutdown, now)
        };
    }
}

fn new_task(state: &mut State, now: Millis, service: ServiceId, number: u32) -> Option<Task> {
    let service = state.services.get(&service)?.service.clone();
    let id = TaskId(state.use_id("task"));
    let mut attachments = Vec::new();
    for network in service.networks {
        let slot = Owner::Slot(service.id, number);
        let addresses = state.ledger.addresses(network, slot).to_vec();
        let mac = segment::made(state, network, slot, *addresses.first()?);
        attachments.push(Attachment {
            endpoint: EndpointId(state.use_id("endpoint")),
            network,
            addresses,
            mac,
        });
    }
    Some(Task {
        id,
        service: service.id,
        service_name: service.spec.name,
        slot: number,
        node: None,
        spec: service.spec.task,
        desired: TaskState::Running,
        status: TaskStatus::new(TaskState::Pending, now),
        attachments,
        created: now,
    })
}

fn known(state: &State, id: TaskId) -> Result<&TaskRecord, Refusal> {
    state
        .tasks
        .get(&id)
        .ok_or_else(|| outdated(format!("task {id} is gone")))
}
