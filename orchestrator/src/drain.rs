//! Planned stop of a task (promise P8). It is withdrawn: no new connection is led to it. Once every
//! balancer knows, it drains: its connections run out. Only then it gets SIGTERM. A task without
//! traffic stops at once.

use model::{Command, EndpointMode, Millis, NodeStatus, Service, TaskCommand, TaskState};

use crate::{
    acknowledged,
    look::Look,
    record::{Draining, TaskRecord, Withdrawal},
    state::State,
};

/// Longest wait, in milliseconds, for a host that answers but whose kernel refuses changes.
pub(crate) const PATIENCE: Millis = 30_000;
/// Time, in milliseconds, in which clients may still use an address that a `dnsrr` name resolved to
/// (promise P9).
const NAME_TTL: Millis = 5_000;

/// The next command towards this task's stop; `None` while it waits, or if nothing is left to do.
pub(crate) fn next(look: &Look<'_>, record: &TaskRecord, desired: TaskState) -> Option<Command> {
    let task = record.task.id;
    if !record.is_alive() || record.task.desired >= desired {
        return None;
    }
    if may_stop(look, record) {
        return Some(Command::Task(TaskCommand::SetDesired { task, desired }));
    }
    let is_new = |since: Millis| since <= look.now;
    match &record.withdrawal {
        None => Some(Command::Task(TaskCommand::Withdraw { task })),
        // The stamp is of an earlier leader whose clock was ahead. The remaining time is unknown,
        // so the step begins anew.
        Some(Withdrawal {
            since,
            draining: None,
            ..
        }) if !is_new(*since) => Some(Command::Task(TaskCommand::Withdraw { task })),
        Some(Withdrawal {
            draining: Some(Draining { since, .. }),
            ..
        }) if !is_new(*since) => Some(Command::Task(TaskCommand::Drain { task })),
        Some(withdrawal) => {
            let by_all = || {
                service_of(look.state, record)
                    .is_none_or(|service| look.is_known(service, withdrawal.index))
            };
            let is_over = || look.has_passed(withdrawal.since, PATIENCE);
            (withdrawal.draining.is_none() && (by_all() || is_over()))
                .then_some(Command::Task(TaskCommand::Drain { task }))
        }
    }
}

/// Whether the task may stop: it has no traffic left, or the wait for it is over.
pub(crate) fn may_stop(look: &Look<'_>, record: &TaskRecord) -> bool {
    if !takes_traffic(look.state, record) {
        return true;
    }
    let Some(draining) = record
        .withdrawal
        .as_ref()
        .and_then(|withdrawal| withdrawal.draining.as_ref())
    else {
        return false;
    };
    let by_name = service_of(look.state, record)
        .is_some_and(|service| service.spec.endpoint_mode == EndpointMode::Dnsrr);
    let is_quiet =
        draining.connections == Some(0) && (!by_name || look.has_passed(draining.since, NAME_TTL));
    is_quiet
        || draining.since <= look.now && look.has_passed(draining.since, record.task.spec.drain)
}

/// What a withdrawn task waits for, for people.
pub(crate) fn message(state: &State, record: &TaskRecord) -> Option<String> {
    let withdrawal = record.withdrawal.as_ref().filter(|_| record.is_running())?;
    Some(match &withdrawal.draining {
        None => {
            let late = service_of(state, record)
                .map(|service| acknowledged::behind(state, service, withdrawal.index));
            format!(
                "withdrawn: waits until {} knows",
                late.unwrap_or_default().join(", ")
            )
        }
        Some(Draining {
            connections: None, ..
        }) => "draining".to_owned(),
        Some(Draining {
            connections: Some(1),
            ..
        }) => "draining: 1 connection".to_owned(),
        Some(Draining {
            connections: Some(count),
            ..
        }) => format!("draining: {count} connections"),
    })
}

/// Whether it has traffic, or may still have some.
fn takes_traffic(state: &State, record: &TaskRecord) -> bool {
    let node = record.task.node.and_then(|id| state.nodes.get(&id));
    let is_reachable = node.is_some_and(|node| node.status != NodeStatus::Down);
    record.is_running() && !record.unhealthy && is_reachable && !record.task.attachments.is_empty()
}

fn service_of<'a>(state: &'a State, record: &TaskRecord) -> Option<&'a Service> {
    state
        .services
        .get(&record.task.service)
        .map(|record| &record.service)
}
