//! What the state keeps beside the nouns of `model`.

use std::collections::BTreeMap;

use model::{Service, Task, TaskId, TaskState};
use serde::{Deserialize, Serialize};

/// A service and its slots. A slot exists for as long as its addresses are leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    pub(crate) service: Service,
    pub(crate) slots: BTreeMap<u32, Slot>,
}

impl ServiceRecord {
    /// Whether the user still wants a task in this slot.
    pub(crate) fn wants(&self, slot: u32) -> bool {
        !self.service.removing && (1..=self.service.spec.replicas).contains(&slot)
    }

    pub(crate) fn wanted_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|(number, _)| self.wants(**number)).map(|(_, slot)| slot)
    }

    pub(crate) fn task_ids(&self) -> impl Iterator<Item = TaskId> {
        self.slots.values().flat_map(|slot| slot.tasks.iter().copied())
    }
}

/// One replica's place: its runs so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slot {
    /// Oldest first; ended ones included until they are forgotten.
    pub(crate) tasks: Vec<TaskId>,
    /// How often a run that ended by itself has been followed by another.
    pub(crate) restarts: u32,
}

/// A task and what only managers need to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    pub(crate) task: Task,
    /// The log index at which it was first seen running; 0 before.
    pub(crate) running_at: u64,
}

impl TaskRecord {
    /// Whether something of it runs, may run, or is yet to run.
    pub(crate) fn is_alive(&self) -> bool {
        !self.task.status.state.is_terminal()
    }

    /// Whether it runs and should.
    pub(crate) fn is_running(&self) -> bool {
        self.task.status.state == TaskState::Running && self.task.desired == TaskState::Running
    }

    /// Whether nobody has asked it to stop.
    pub(crate) fn is_meant_to_run(&self) -> bool {
        self.task.desired == TaskState::Running
    }

    /// Whether it ended though nobody asked it to.
    pub(crate) fn ended_by_itself(&self) -> bool {
        !self.is_alive() && self.task.desired == TaskState::Running && self.task.status.state != TaskState::Orphaned
    }
}
