//! Commands on tasks.

use serde::{Deserialize, Serialize};

use super::Issuer;
use crate::{NodeId, ServiceId, TaskId, TaskState};

/// Changes a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum TaskCommand {
    /// The user has a task stopped; its slot's next run follows.
    #[serde(rename = "replace_task")]
    Replace {
        /// Name or id.
        task: String,
    },
    /// By `step`: a new task for a slot that has no living one.
    #[serde(rename = "create_task")]
    Create {
        /// The service.
        service: ServiceId,
        /// The slot.
        slot: u32,
    },
    /// By `step`: a place for a pending task.
    #[serde(rename = "assign_task")]
    Assign {
        /// The task.
        task: TaskId,
        /// The place.
        node: NodeId,
    },
    /// By `step`: a task that is to stop takes no new connections from now on.
    #[serde(rename = "withdraw_task")]
    Withdraw {
        /// The task.
        task: TaskId,
    },
    /// By `step`: every balancer knows that a task is withdrawn; its connections run out.
    #[serde(rename = "drain_task")]
    Drain {
        /// The task.
        task: TaskId,
    },
    /// By `step`: where a task should stand. Only ever forward.
    #[serde(rename = "set_desired")]
    SetDesired {
        /// The task.
        task: TaskId,
        /// The target.
        desired: TaskState,
    },
    /// By `step`: a task that has stopped for good is forgotten.
    #[serde(rename = "remove_task")]
    Remove {
        /// The task.
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
