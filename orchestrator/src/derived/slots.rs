//! What the records of a slot say of what there may be to do about it.

use model::ServiceId;

use super::rollouts::{Known, Serving};
use crate::{
    record::{ServiceRecord, Slot, TaskRecord},
    runs::{self, HISTORY},
    state::State,
};

impl State {
    /// What is known of a slot, if there is one.
    pub(super) fn look_at_slot(&self, service: ServiceId, number: u32) -> Option<Known> {
        let record = self.services.get(&service)?;
        let slot = record.slots.get(&number)?;
        Some(self.known_of(record, number, slot))
    }

    pub(super) fn known_of(&self, record: &ServiceRecord, number: u32, slot: &Slot) -> Known {
        if !record.wants(number) {
            return Known {
                serving: None,
                has_failed: false,
            };
        }
        Known {
            serving: self.serving(record, slot),
            has_failed: runs::failed_in(self, record, slot).is_some(),
        }
    }

    fn serving(&self, record: &ServiceRecord, slot: &Slot) -> Option<Serving> {
        let (newest, earlier) = slot.tasks.split_last()?;
        let is_history = |run: &TaskRecord| !run.is_alive() && !run.is_unwanted_history();
        let is_settled = earlier.len() <= HISTORY && self.records(earlier).all(is_history);
        let run = self.tasks.get(newest)?;
        (is_settled && run.is_wanted() && runs::is_serving(self, run)).then(|| Serving {
            running_at: run.running_at,
            since: run.task.status.since,
            is_outdated: record.outdates(run),
            is_displaced: runs::is_displaced(self, run),
            is_renewed: run.made_at >= record.changed,
        })
    }
}
