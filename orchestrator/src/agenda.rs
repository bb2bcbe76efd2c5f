//! What the leader keeps between two steps, so that a step looks at what may be due only.

use std::collections::{BTreeMap, BTreeSet};

use model::{Command, Millis, Service, ServiceId};

use crate::{acknowledged, look::Waits, scheduler, state::State};

/// How long one review of all services takes at least, in milliseconds. It finds nothing, unless a
/// service was left out by mistake.
const REVIEW: Millis = 10_000;
/// How many services of a review each step looks at.
const REVIEWED: usize = 50;

/// The services to look at, and when to look at the others again. A new one looks at all.
///
/// A service is looked at when it, one of its tasks or one of their hosts has changed; when a time
/// that it waits for has come; when the hosts have applied what it waits for; and for as long as it
/// is proposed something, for that may be refused or lost.
#[derive(Debug, Default)]
pub struct Agenda {
    /// The revision up to which changes have been noticed.
    seen: Option<u64>,
    /// The time then.
    now: Millis,
    due: BTreeSet<ServiceId>,
    /// Due in the next step.
    again: BTreeSet<ServiceId>,
    waits: BTreeMap<ServiceId, Waits>,
    timers: BTreeSet<(Millis, ServiceId)>,
    /// Those of `waits` that wait for anything but a time.
    watched: BTreeSet<ServiceId>,
    /// The revision at which no waiting task could be placed.
    unplaceable: Option<u64>,
    review: Review,
}

/// A look at all services, some in each step.
#[derive(Debug, Default)]
struct Review {
    began: Millis,
    /// The last service looked at; `None` between two reviews.
    position: Option<ServiceId>,
}

impl Agenda {
    /// Notices what has changed, and what time it is.
    pub(crate) fn follow(&mut self, state: &State, now: Millis) {
        // Behind a clock that was set back, stamps are of the future, which ends every wait.
        let seen = self.seen.filter(|_| self.now <= now);
        match seen.and_then(|seen| state.derived.touched.after(seen)) {
            Some(touched) => self.due.extend(touched),
            None => {
                *self = Self::default();
                self.review.began = now;
                self.due.extend(state.services.keys());
            }
        }
        (self.seen, self.now) = (Some(state.index), now);
        self.due.append(&mut self.again);
        while let Some(&(end, service)) = self.timers.first()
            && end <= now
        {
            self.timers.remove(&(end, service));
            self.due.insert(service);
        }
        let is_due = |id: &&ServiceId| {
            let record = state.services.get(id);
            let waits = self.waits.get(id);
            let both = record.zip(waits);
            both.is_none_or(|(record, waits)| is_over(state, &record.service, *waits))
        };
        let due: Vec<ServiceId> = self.watched.iter().filter(is_due).copied().collect();
        self.due.extend(due);
        self.review(state, now);
    }

    fn review(&mut self, state: &State, now: Millis) {
        let Review { began, position } = &mut self.review;
        if position.is_none() {
            if now.abs_diff(*began) < REVIEW {
                return;
            }
            *began = now;
        }
        let first = position.map_or(ServiceId(0), |last| ServiceId(last.0.saturating_add(1)));
        let services = state.services.range(first..).map(|(id, _)| *id);
        let some: Vec<ServiceId> = services.take(REVIEWED).collect();
        *position = some.last().copied().filter(|_| some.len() == REVIEWED);
        self.due.extend(some);
    }

    /// The next service to look at.
    pub(crate) fn next(&mut self) -> Option<ServiceId> {
        let service = self.due.pop_first()?;
        self.watched.remove(&service);
        let waits = self.waits.remove(&service);
        if let Some(end) = waits.and_then(|waits| waits.until) {
            self.timers.remove(&(end, service));
        }
        Some(service)
    }

    /// A service is to be looked at in the next step.
    pub(crate) fn look_again(&mut self, service: ServiceId) {
        self.again.insert(service);
    }

    /// A service of which nothing is due now waits for this.
    pub(crate) fn wait(&mut self, service: ServiceId, waits: Waits) {
        if waits == Waits::default() {
            return;
        }
        self.waits.insert(service, waits);
        if let Some(end) = waits.until {
            self.timers.insert((end, service));
        }
        if waits.generation.is_some() || waits.for_room {
            self.watched.insert(service);
        }
    }

    /// Assignments for at most `limit` waiting tasks. Nothing is looked for again in a state in
    /// which no place was found.
    pub(crate) fn assign(&mut self, state: &State, limit: usize) -> Vec<Command> {
        if self.unplaceable == Some(state.index) {
            return Vec::new();
        }
        let commands = scheduler::assign(state, limit);
        if commands.is_empty() && limit > 0 {
            self.unplaceable = Some(state.index);
        }
        commands
    }
}

/// Whether a wait for anything but a time is over.
fn is_over(state: &State, service: &Service, waits: Waits) -> bool {
    let is_known = |index| acknowledged::generation(state, service) >= index;
    waits.for_room || waits.generation.is_some_and(is_known)
}
