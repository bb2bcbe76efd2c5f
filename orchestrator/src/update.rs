//! Rolling replacement of a service's tasks, because of an update or a drained node. Enough other
//! tasks take traffic at any time; with start-first additional tasks in slots of surge take it
//! first.

use std::collections::BTreeSet;

use ipam::Owner;
use model::{
    Command, PublishMode, ServiceCommand, TaskId, TaskState, UpdateFailure, UpdateInfo, UpdateOrder,
};

use crate::{
    acknowledged,
    derived::rollouts::Rollout,
    drain,
    look::Look,
    record::{ServiceRecord, TaskRecord},
    restart, runs,
    state::State,
};

/// The tasks of a service that are to begin to stop now.
pub(crate) fn leaving(look: &Look<'_>, record: &ServiceRecord) -> BTreeSet<TaskId> {
    let state = look.state;
    let slots = state.derived.rollouts.of(record.service.id);
    let odd: Vec<&TaskRecord> = newest_of(state, record, slots.odd()).collect();
    let (mut serving, idle): (Vec<&TaskRecord>, Vec<&TaskRecord>) = odd
        .iter()
        .filter(|run| run.is_wanted() && must_go(state, record, run))
        .partition(|run| runs::is_serving(state, run));
    let mut leaving: BTreeSet<TaskId> = idle.into_iter().map(|run| run.task.id).collect();
    let is_none = serving.is_empty() && !has_leaving(record, slots);
    if is_none || surge(look, record) != record.surge {
        return leaving;
    }
    let mut capacity = steady(look, record, slots) + count_steady(look, record, &odd);
    let is_paced = is_paced(look, record, slots, &odd);
    serving.sort_by_key(|run| record.outdates(run));
    let settled = candidates(record, slots, is_paced);
    let settled = newest_of(state, record, settled);
    for run in merged(record, serving, settled) {
        let cause = if runs::is_displaced(state, run) {
            Cause::Emptying
        } else {
            Cause::Update
        };
        let is_due = is_paced || cause == Cause::Emptying;
        if is_due && capacity > floor(record, cause) && is_steady(look, record, run) {
            capacity -= 1;
            leaving.insert(run.task.id);
        }
        if capacity <= floor(record, Cause::Update) {
            break;
        }
    }
    leaving
}

/// Whether a run that takes traffic, in a slot that is settled but for that, is to go.
fn has_leaving(record: &ServiceRecord, slots: &Rollout) -> bool {
    let is_outdated = || record.paused.is_none() && slots.outdated().next().is_some();
    slots.displaced().next().is_some() || is_outdated()
}

/// The slots with such runs, those first that are not outdated. While an update is to wait, those
/// on nodes that are being emptied.
fn candidates<'a>(
    record: &ServiceRecord,
    slots: &'a Rollout,
    is_paced: bool,
) -> Box<dyn Iterator<Item = u32> + 'a> {
    if is_paced && record.paused.is_none() {
        Box::new(slots.only_displaced().chain(slots.outdated()))
    } else {
        Box::new(slots.displaced())
    }
}

/// Both sequences as one: runs that are not outdated first, then by slot.
fn merged<'a>(
    record: &ServiceRecord,
    some: Vec<&'a TaskRecord>,
    others: impl Iterator<Item = &'a TaskRecord>,
) -> impl Iterator<Item = &'a TaskRecord> {
    let rank = |run: &&TaskRecord| (record.outdates(run), run.task.slot);
    let (mut some, mut others) = (some.into_iter().peekable(), others.peekable());
    std::iter::from_fn(move || match (some.peek(), others.peek()) {
        (Some(one), Some(other)) if rank(one) < rank(other) => some.next(),
        (_, Some(_)) => others.next(),
        _ => some.next(),
    })
}

/// How many settled slots take traffic with the knowledge of every balancer.
fn steady(look: &Look<'_>, record: &ServiceRecord, slots: &Rollout) -> usize {
    let late = unacknowledged(look, record, slots);
    let late: Vec<&TaskRecord> = newest_of(look.state, record, late).collect();
    slots.serving() - late.len() + count_steady(look, record, &late)
}

/// The slots that take traffic of which not every balancer knows.
fn unacknowledged<'a>(
    look: &Look<'a>,
    record: &ServiceRecord,
    slots: &'a Rollout,
) -> impl Iterator<Item = u32> + 'a {
    slots.running_after(acknowledged::generation(look.state, &record.service))
}

fn count_steady(look: &Look<'_>, record: &ServiceRecord, runs: &[&TaskRecord]) -> usize {
    let steady = runs.iter().filter(|run| is_steady(look, record, run));
    steady.count()
}

/// Whether the reason to stop this task still holds.
pub(crate) fn must_leave(look: &Look<'_>, run: &TaskRecord) -> bool {
    let Some(record) = look.state.services.get(&run.task.service) else {
        return true;
    };
    let is_leaving = || leaving(look, record).contains(&run.task.id);
    !record.wants(run.task.slot) || run.withdrawal.is_some() || is_leaving()
}

/// Changes that come before tasks are replaced: the number of surge slots, or pausing the update.
pub(crate) fn steer(look: &Look<'_>, record: &ServiceRecord) -> Option<Command> {
    let service = record.service.id;
    if failure(look.state, record).is_some() {
        return Some(Command::Service(ServiceCommand::PauseUpdate { service }));
    }
    let slots = surge(look, record);
    (slots != record.surge).then_some(Command::Service(ServiceCommand::SetSurge {
        service,
        slots,
    }))
}

/// The replacement of tasks that is under way, for people.
pub(crate) fn info(state: &State, record: &ServiceRecord) -> Option<UpdateInfo> {
    let runs = newest(state, record);
    let is_due = |run: &TaskRecord| {
        record.outdates(run) || run.is_wanted() && runs::is_displaced(state, run)
    };
    if record.service.removing || record.surge == 0 && !runs.iter().any(|run| is_due(run)) {
        return None;
    }
    let regular = runs
        .iter()
        .filter(|run| run.task.slot <= record.service.spec.replicas);
    let updated = regular
        .filter(|run| !is_due(run) && runs::is_serving(state, run))
        .count();
    let message = match &record.paused {
        Some(why) => format!("paused: {why}"),
        None => runs
            .iter()
            .find_map(|run| waits_for(state, record, run))
            .unwrap_or_default(),
    };
    Some(UpdateInfo {
        paused: record.paused.is_some(),
        updated: u32::try_from(updated).unwrap_or(u32::MAX),
        message,
    })
}

/// What holds an update up in this slot.
fn waits_for(state: &State, record: &ServiceRecord, run: &TaskRecord) -> Option<String> {
    let (name, task) = (run.task.name(), &run.task);
    if let Some(message) = drain::message(state, run) {
        return Some(format!("{name} is {message}"));
    }
    if !run.is_alive() {
        return Some(format!("{name} is {}", task.status.state));
    }
    if task.desired > TaskState::Running {
        return Some(format!("{name} stops"));
    }
    if !run.is_running() {
        return Some(format!("{name} is {}", task.status.state));
    }
    let is_known = acknowledged::generation(state, &record.service) >= run.running_at;
    let late = || acknowledged::behind(state, &record.service, run.running_at).join(", ");
    (!is_known).then(|| format!("{name} runs, which {} does not know yet", late()))
}

/// The newest run of each slot that is wanted, by slot.
fn newest<'a>(state: &'a State, record: &'a ServiceRecord) -> Vec<&'a TaskRecord> {
    newest_of(state, record, record.slots.keys().copied()).collect()
}

/// The newest runs of these slots, as far as they are wanted.
fn newest_of<'a>(
    state: &'a State,
    record: &'a ServiceRecord,
    slots: impl Iterator<Item = u32>,
) -> impl Iterator<Item = &'a TaskRecord> {
    let wanted = slots.filter(|number| record.wants(*number));
    wanted.filter_map(|number| newest_in(state, record, number))
}

fn newest_in<'a>(
    state: &'a State,
    record: &'a ServiceRecord,
    number: u32,
) -> Option<&'a TaskRecord> {
    let slot = record.slots.get(&number)?;
    state.records(&slot.tasks).next_back()
}

fn must_go(state: &State, record: &ServiceRecord, run: &TaskRecord) -> bool {
    runs::is_displaced(state, run) || record.paused.is_none() && record.outdates(run)
}

/// Whether its slot is settled: it takes traffic and every balancer knows, or it has completed.
fn is_steady(look: &Look<'_>, record: &ServiceRecord, run: &TaskRecord) -> bool {
    if run.ended_by_itself() && !record.outdates(run) {
        let restarts = record
            .slots
            .get(&run.task.slot)
            .map_or(0, |slot| slot.restarts);
        return !restart::is_followed(run, restarts)
            || record.service.spec.update.on_failure == UpdateFailure::Continue;
    }
    runs::is_serving(look.state, run)
        && (look.is_known(&record.service, run.running_at)
            || look.has_passed(run.task.status.since, drain::PATIENCE))
}

/// How many of its slots are replaced at a time.
fn in_step(record: &ServiceRecord) -> u32 {
    let (spec, policy) = (&record.service.spec, &record.service.spec.update);
    if policy.parallelism == 0 {
        spec.replicas
    } else {
        policy.parallelism.min(spec.replicas)
    }
}

/// Why a task that takes traffic is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It is outdated.
    Update,
    /// Its node is being emptied.
    Emptying,
}

/// How many slots are to take traffic at any time.
fn floor(record: &ServiceRecord, cause: Cause) -> usize {
    let policy = &record.service.spec.update;
    let replicas = record.service.spec.replicas;
    let missing = match policy.order {
        UpdateOrder::StartFirst if record.surge > 0 => 0,
        // There is no room for slots of surge.
        UpdateOrder::StartFirst => 1,
        UpdateOrder::StopFirst => in_step(record),
    };
    // Draining a node must not interrupt a service that has other tasks.
    let least = match cause {
        Cause::Update => 0,
        Cause::Emptying => replicas.saturating_sub(1).min(1),
    };
    replicas.saturating_sub(missing).max(least) as usize
}

/// Whether the delay since the last new task ran is over.
fn is_paced(look: &Look<'_>, record: &ServiceRecord, slots: &Rollout, odd: &[&TaskRecord]) -> bool {
    let updated = odd
        .iter()
        .filter(|run| run.made_at >= record.changed && run.is_running());
    let updated = updated.map(|run| run.task.status.since);
    let last = updated.chain(slots.last_renewed()).max();
    last.is_none_or(|last| look.has_passed(last, record.service.spec.update.delay))
}

/// How many slots of surge the service is to have.
pub(crate) fn surge(look: &Look<'_>, record: &ServiceRecord) -> u32 {
    let state = look.state;
    let policy = &record.service.spec.update;
    if record.service.removing {
        return 0;
    }
    let slots = state.derived.rollouts.of(record.service.id);
    let odd = || newest_of(state, record, slots.odd());
    let leaves = |run: &TaskRecord| run.is_wanted() && must_go(state, record, run);
    if record.surge > 0 {
        let goes_on = has_leaving(record, slots) || odd().any(leaves);
        let is_over = !goes_on && is_settled(look, record, slots);
        return if is_over { 0 } else { record.surge };
    }
    let serves = |run: &TaskRecord| leaves(run) && runs::is_serving(state, run);
    let is_led_to = || has_leaving(record, slots) || odd().any(serves);
    let more = if policy.order == UpdateOrder::StartFirst && is_led_to() {
        in_step(record)
    } else {
        0
    };
    if more > 0 && has_room(look, record, more) {
        more
    } else {
        0
    }
}

/// Whether each replica takes traffic and every balancer knows, or has completed.
fn is_settled(look: &Look<'_>, record: &ServiceRecord, slots: &Rollout) -> bool {
    let last = record.service.spec.replicas;
    let open = slots.odd().chain(unacknowledged(look, record, slots));
    let mut open = open.filter(|number| (1..=last).contains(number));
    let is_steady = |number| {
        let run = newest_in(look.state, record, number);
        run.is_some_and(|run| is_steady(look, record, run))
    };
    slots.up_to(last) == last as usize && open.all(is_steady)
}

fn has_room(look: &Look<'_>, record: &ServiceRecord, slots: u32) -> bool {
    // A port of single hosts is for one task of each.
    if record
        .service
        .spec
        .publish
        .iter()
        .any(|port| port.mode == PublishMode::Host)
    {
        return false;
    }
    let most = record.service.spec.replicas.saturating_add(slots);
    let owners: Vec<Owner> = (1..=most)
        .map(|slot| Owner::Slot(record.service.id, slot))
        .collect();
    let networks = &record.service.networks;
    let has_room = look.state.ledger.has_room(networks, &owners);
    if !has_room {
        look.wants_room();
    }
    has_room
}

/// Why an update that is under way should go no further.
pub(crate) fn failure(state: &State, record: &ServiceRecord) -> Option<String> {
    let policy = &record.service.spec.update;
    if record.paused.is_some()
        || record.service.removing
        || policy.on_failure == UpdateFailure::Continue
    {
        return None;
    }
    let slots = state.derived.rollouts.of(record.service.id);
    let mut odd = newest_of(state, record, slots.odd());
    if slots.outdated().next().is_none() && !odd.any(|run| record.outdates(run)) {
        return None;
    }
    let mut failed = slots.failed().rev();
    let failed =
        failed.find_map(|number| runs::failed_in(state, record, record.slots.get(&number)?))?;
    let (task, status) = (&failed.task, &failed.task.status);
    let text = status.text();
    let message = text.lines().next().unwrap_or_default();
    Some(format!("{} {}: {message}", task.name(), status.state))
}
