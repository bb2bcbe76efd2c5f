//! One look at the state at a time of the clock, which notes what its answers wait for.

use std::cell::Cell;

use model::{Millis, Service};

use crate::{acknowledged, state::State};

/// The state and the time, for those who decide what is to be done now.
pub(crate) struct Look<'a> {
    pub(crate) state: &'a State,
    pub(crate) now: Millis,
    waits: Cell<Waits>,
}

/// When the same look may find something else, though nothing it looked at has been touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    /// From this time on.
    pub(crate) until: Option<Millis>,
    /// Once every host that leads traffic to the service has applied this log index.
    pub(crate) generation: Option<u64>,
    /// Once there is room for more leases.
    pub(crate) for_room: bool,
}

impl<'a> Look<'a> {
    pub(crate) fn new(state: &'a State, now: Millis) -> Self {
        Self {
            state,
            now,
            waits: Cell::default(),
        }
    }

    /// Whether a time span is over. A stamp of the future, from a leader whose clock was ahead,
    /// counts as over.
    pub(crate) fn has_passed(&self, since: Millis, time: Millis) -> bool {
        let is_over = has_passed(since, self.now, time);
        if !is_over {
            let end = since.saturating_add(time);
            self.note(|waits| waits.until = Some(waits.until.map_or(end, |until| until.min(end))));
        }
        is_over
    }

    /// Whether every host that leads traffic to a service has applied a log index.
    pub(crate) fn is_known(&self, service: &Service, index: u64) -> bool {
        let is_known = acknowledged::generation(self.state, service) >= index;
        if !is_known {
            let least = |known: u64| known.min(index);
            self.note(|waits| waits.generation = Some(waits.generation.map_or(index, least)));
        }
        is_known
    }

    /// There is no room for leases that are wanted.
    pub(crate) fn wants_room(&self) {
        self.note(|waits| waits.for_room = true);
    }

    pub(crate) fn waits(&self) -> Waits {
        self.waits.get()
    }

    fn note(&self, change: impl FnOnce(&mut Waits)) {
        let mut waits = self.waits.get();
        change(&mut waits);
        self.waits.set(waits);
    }
}

/// Whether a time span is over. A stamp of the future counts as over.
pub(crate) fn has_passed(since: Millis, now: Millis, time: Millis) -> bool {
    now.checked_sub(since).is_none_or(|passed| passed >= time)
}
