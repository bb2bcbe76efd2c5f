//! The slots of each service by what there may be to do about them, so that whoever decides that
//! looks at these and not at the whole service.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use model::{Millis, ServiceId};

use crate::record::{ServiceRecord, Slot};

/// What the slots of services are looked up by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rollouts(BTreeMap<ServiceId, Rollout>);

/// The slots of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rollout {
    shape: Shape,
    slots: BTreeMap<u32, Known>,
    /// Those that are not serving: whatever there is to do about them, their records tell.
    odd: BTreeSet<u32>,
    /// Those that are, by the log index at which their runs were first seen running.
    serving: BTreeSet<(u64, u32)>,
    /// Of these the ones whose run differs from the spec.
    outdated: BTreeSet<u32>,
    /// Of these the ones on nodes that are being emptied; those that are outdated, too, come last.
    displaced: BTreeSet<(bool, u32)>,
    /// Of these the ones whose run was made after the last update, by the time of its state.
    renewed: BTreeSet<(Millis, u32)>,
    /// Those with a run, made after the last update, that has failed.
    failed: BTreeSet<u32>,
}

/// What decides about all slots of a service alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    /// The last slot that is wanted.
    last: u32,
    changed: u64,
    forced: u64,
}

impl Shape {
    fn of(record: &ServiceRecord) -> Self {
        let wanted = record.service.spec.replicas.saturating_add(record.surge);
        Self {
            last: if record.service.removing { 0 } else { wanted },
            changed: record.changed,
            forced: record.forced,
        }
    }
}

/// What is known of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub serving: Option<Serving>,
    /// A run that was made after the last update has failed.
    pub has_failed: bool,
}

/// A slot whose newest run takes traffic and is to go on, and whose other runs are history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serving {
    pub running_at: u64,
    pub since: Millis,
    pub is_outdated: bool,
    pub is_displaced: bool,
    pub is_renewed: bool,
}

static NONE: Rollout = Rollout {
    shape: Shape {
        last: 0,
        changed: 0,
        forced: 0,
    },
    slots: BTreeMap::new(),
    odd: BTreeSet::new(),
    serving: BTreeSet::new(),
    outdated: BTreeSet::new(),
    displaced: BTreeSet::new(),
    renewed: BTreeSet::new(),
    failed: BTreeSet::new(),
};

impl Rollouts {
    /// The slots of a service.
    pub(crate) fn of(&self, service: ServiceId) -> &Rollout {
        self.0.get(&service).unwrap_or(&NONE)
    }

    /// Follows a service, and those of its slots that are told apart in another way than before.
    pub(super) fn put(&mut self, record: &ServiceRecord, known: impl Fn(u32, &Slot) -> Known) {
        let shape = Shape::of(record);
        let rollout = self.0.entry(record.service.id).or_insert(NONE.clone());
        let before = std::mem::replace(&mut rollout.shape, shape);
        let is_alike = Shape {
            last: before.last,
            ..shape
        } == before;
        let first = match is_alike && !rollout.slots.is_empty() {
            true => before.last.min(shape.last),
            false => 0,
        };
        let last = match first {
            0 => u32::MAX,
            _ => before.last.max(shape.last),
        };
        let slots = (Bound::Excluded(first), Bound::Included(last));
        if first < last {
            for (&number, slot) in record.slots.range::<u32, _>(slots) {
                rollout.set(number, Some(known(number, slot)));
            }
        }
    }

    /// The service is gone.
    pub(super) fn remove(&mut self, service: ServiceId) {
        self.0.remove(&service);
    }

    /// Follows a slot.
    pub(super) fn set(&mut self, service: ServiceId, number: u32, known: Option<Known>) {
        if let Some(rollout) = self.0.get_mut(&service) {
            rollout.set(number, known);
        }
    }

    /// A slot is gone.
    pub(crate) fn release(&mut self, service: ServiceId, number: u32) {
        self.set(service, number, None);
    }
}

impl Rollout {
    /// The slots, in order, about which there may be something to do.
    pub(crate) fn odd(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.odd.iter().copied()
    }

    /// How many slots have a run that takes traffic and is to go on.
    pub(crate) fn serving(&self) -> usize {
        self.serving.len()
    }

    /// Those of them whose run was first seen running after this log index.
    pub(crate) fn running_after(&self, index: u64) -> impl Iterator<Item = u32> {
        let later = (Bound::Excluded((index, u32::MAX)), Bound::Unbounded);
        self.serving.range(later).map(|(_, number)| *number)
    }

    /// Those of them whose run is outdated, in order.
    pub(crate) fn outdated(&self) -> impl Iterator<Item = u32> {
        self.outdated.iter().copied()
    }

    /// Those of them on nodes that are being emptied; outdated ones come last.
    pub(crate) fn displaced(&self) -> impl Iterator<Item = u32> {
        self.displaced.iter().map(|(_, number)| *number)
    }

    /// Those of [`Rollout::displaced`] that are not outdated, in order.
    pub(crate) fn only_displaced(&self) -> impl Iterator<Item = u32> {
        let only = self.displaced.range(..(true, 0));
        only.map(|(_, number)| *number)
    }

    /// When the last of the runs that take traffic and were made after the last update got there.
    pub(crate) fn last_renewed(&self) -> Option<Millis> {
        self.renewed.last().map(|(since, _)| *since)
    }

    /// The slots, in order, with a run made after the last update that has failed.
    pub(crate) fn failed(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.failed.iter().copied()
    }

    /// How many slots there are up to this one.
    pub(crate) fn up_to(&self, last: u32) -> usize {
        let beyond = (Bound::Excluded(last), Bound::Unbounded);
        self.slots.len() - self.slots.range::<u32, _>(beyond).count()
    }

    fn set(&mut self, number: u32, known: Option<Known>) {
        if self.slots.get(&number) == known.as_ref() {
            return;
        }
        if let Some(old) = self.slots.remove(&number) {
            self.unlink(number, &old);
        }
        if let Some(known) = known {
            self.link(number, &known);
            self.slots.insert(number, known);
        }
    }

    fn link(&mut self, number: u32, known: &Known) {
        if known.has_failed {
            self.failed.insert(number);
        }
        let Some(serving) = known.serving else {
            self.odd.insert(number);
            return;
        };
        self.serving.insert((serving.running_at, number));
        if serving.is_outdated {
            self.outdated.insert(number);
        }
        if serving.is_displaced {
            self.displaced.insert((serving.is_outdated, number));
        }
        if serving.is_renewed {
            self.renewed.insert((serving.since, number));
        }
    }

    fn unlink(&mut self, number: u32, known: &Known) {
        self.failed.remove(&number);
        self.odd.remove(&number);
        if let Some(serving) = known.serving {
            self.serving.remove(&(serving.running_at, number));
            self.outdated.remove(&number);
            self.displaced.remove(&(serving.is_outdated, number));
            self.renewed.remove(&(serving.since, number));
        }
    }
}
