//! Commands on tasks.

use serde::{Deserialize, Serialize};

use super::Issuer;
use crate::{NodeId, ServiceId, TaskId, TaskState};

/// Changes a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum TaskCommand {
    /// The user has a task replaced by a new one in its slot.
    #[serde(rename = "replace_task")]
    Replace {
        /// Name, id, or a prefix of an id that only one object has.
        task: String,
    },
    /// By `step`: creates a task for a slot without a living one.
    #[serde(rename = "create_task")]
    Create {
        /// Id of the service.
        service: ServiceId,
        /// Number of the slot, from 1.
        slot: u32,
    },
    /// By `step`: assigns a node to a pending task.
    #[serde(rename = "assign_task")]
    Assign {
        /// Id of the run.
        task: TaskId,
        /// Id of the node that is to run it.
        node: NodeId,
    },
    /// By `step`: withdraws a task that will stop; it gets no new connections.
    #[serde(rename = "withdraw_task")]
    Withdraw {
        /// Id of the run.
        task: TaskId,
    },
    /// By `step`: drains a task; every balancer knows that it is withdrawn.
    #[serde(rename = "drain_task")]
    Drain {
        /// Id of the run.
        task: TaskId,
    },
    /// By `step`: sets a task's target state. It never moves back.
    #[serde(rename = "set_desired")]
    SetDesired {
        /// Id of the run.
        task: TaskId,
        /// State that the task is to reach.
        desired: TaskState,
    },
    /// By `step`: deletes the record of a stopped task.
    #[serde(rename = "remove_task")]
    Remove {
        /// Id of the run.
        task: TaskId,
    },
}

impl TaskCommand {
    /// What the commands are called in JSON, in the field `kind`.
    pub(super) const KINDS: &[&str] = &[
        "replace_task",
        "create_task",
        "assign_task",
        "withdraw_task",
        "drain_task",
        "set_desired",
        "remove_task",
    ];

    pub(super) fn issuer(&self) -> Issuer {
        match self {
            Self::Replace { .. } => Issuer::Person,
            Self::Create { .. }
            | Self::Assign { .. }
            | Self::Withdraw { .. }
            | Self::Drain { .. }
            | Self::SetDesired { .. }
            | Self::Remove { .. } => Issuer::Leader,
        }
    }
}
