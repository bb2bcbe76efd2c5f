//! Records of the state beside the nouns of `model`.

mod keys;

use std::collections::BTreeMap;

use model::{Millis, Service, ServiceSpec, Task, TaskId, TaskState};
use serde::{Deserialize, Serialize};

pub(crate) use keys::{Keys, Phase, Secrets};

/// A service and its slots. A slot exists for as long as its addresses are leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    pub(crate) service: Service,
    pub(crate) slots: BTreeMap<u32, Slot>,
    /// The log index of the last change of its spec.
    pub(crate) version: u64,
    /// Log index of the last update. An earlier run is outdated if it differs from the spec.
    pub(crate) changed: u64,
    /// Log index of the last forced update. Every earlier run is outdated.
    pub(crate) forced: u64,
    /// Log index of the last update of names, ports or balancing; 0 if none.
    pub(crate) led: u64,
    /// What was asked for before the last update.
    pub(crate) previous: Option<ServiceSpec>,
    /// Why the update goes no further.
    pub(crate) paused: Option<String>,
    /// How many slots beyond the replicas take traffic while others are replaced.
    pub(crate) surge: u32,
}

impl ServiceRecord {
    /// A service that was made at this log index.
    pub(crate) fn new(service: Service, slots: BTreeMap<u32, Slot>, index: u64) -> Self {
        let (changed, forced, led) = (index, 0, 0);
        Self {
            service,
            slots,
            version: index,
            changed,
            forced,
            led,
            previous: None,
            paused: None,
            surge: 0,
        }
    }

    /// Whether a task is to be in this slot.
    pub(crate) fn wants(&self, slot: u32) -> bool {
        !self.service.removing
            && (1..=self.service.spec.replicas.saturating_add(self.surge)).contains(&slot)
    }

    /// Whether a run differs from the present spec.
    pub(crate) fn outdates(&self, run: &TaskRecord) -> bool {
        let differs = || run.made_at < self.forced || run.task.spec != self.service.spec.task;
        run.made_at < self.changed && differs()
    }

    pub(crate) fn task_ids(&self) -> impl Iterator<Item = TaskId> {
        self.slots
            .values()
            .flat_map(|slot| slot.tasks.iter().copied())
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
    /// The log index at which it was made.
    pub(crate) made_at: u64,
    /// The log index at which it was first seen running; 0 before.
    pub(crate) running_at: u64,
    /// Nothing new is led to it: it is to stop.
    pub(crate) withdrawal: Option<Withdrawal>,
    /// Its health check has failed for good: its agent ends it.
    pub(crate) unhealthy: bool,
}

/// How far a task is on its way to a planned stop. There is no way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Withdrawal {
    /// The log index from which no view leads anything new to it.
    pub(crate) index: u64,
    pub(crate) since: Millis,
    /// Every balancer knows.
    pub(crate) draining: Option<Draining>,
}

/// Connections that run out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Draining {
    pub(crate) since: Millis,
    /// How many are left, as last reported.
    pub(crate) connections: Option<u32>,
}

impl TaskRecord {
    /// Whether something of it runs, may run, or is yet to run.
    pub(crate) fn is_alive(&self) -> bool {
        !self.task.status.state.is_terminal()
    }

    /// Whether it waits for a node.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_alive() && self.task.node.is_none() && self.task.desired == TaskState::Running
    }

    /// Whether it is to be forgotten.
    pub(crate) fn is_unwanted_history(&self) -> bool {
        !self.is_alive() && self.task.desired == TaskState::Remove
    }

    /// Whether it is to go on: nobody has begun to stop it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_alive() && self.task.desired <= TaskState::Running && self.withdrawal.is_none()
    }

    /// Whether new connections may be led to it.
    pub(crate) fn takes_connections(&self) -> bool {
        self.is_running() && self.withdrawal.is_none() && !self.unhealthy
    }

    /// Whether it runs and should.
    pub(crate) fn is_running(&self) -> bool {
        self.task.status.state == TaskState::Running && self.task.desired == TaskState::Running
    }

    /// Whether it ended though nobody asked it to.
    pub(crate) fn ended_by_itself(&self) -> bool {
        !self.is_alive()
            && self.task.desired == TaskState::Running
            && self.task.status.state != TaskState::Orphaned
    }
}
