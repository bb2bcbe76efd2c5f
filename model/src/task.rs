//! Tasks: one run of one slot of a service.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    EndpointId, Failure, Mac, Millis, NetworkId, NodeId, ServiceId, TaskId, TaskSpec, command::said,
};

/// SwarmKit's task states, in order. A task never moves back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Made; addresses not yet given.
    New = 0,
    /// Waits for a node.
    Pending = 64,
    /// The scheduler has chosen its node.
    Assigned = 192,
    /// The node knows of it.
    Accepted = 256,
    /// The node prepares its network and root directory.
    Preparing = 320,
    /// All that it needs is there; it could be started.
    Ready = 384,
    /// Its main process is being started, or is not healthy yet.
    Starting = 448,
    /// Its main process runs and is healthy.
    Running = 512,
    /// Ended by itself with exit code 0.
    Complete = 576,
    /// Was asked to stop and did.
    Shutdown = 640,
    /// Ended by itself with another exit code or a signal.
    Failed = 704,
    /// The node could not prepare it.
    Rejected = 768,
    /// To be deleted once it has stopped.
    Remove = 800,
    /// Its node has been gone for too long to know.
    Orphaned = 832,
}

impl TaskState {
    /// Whether nothing of the task runs any more, nor ever will.
    pub fn is_terminal(self) -> bool {
        self > TaskState::Running
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            TaskState::New => "new",
            TaskState::Pending => "pending",
            TaskState::Assigned => "assigned",
            TaskState::Accepted => "accepted",
            TaskState::Preparing => "preparing",
            TaskState::Ready => "ready",
            TaskState::Starting => "starting",
            TaskState::Running => "running",
            TaskState::Complete => "complete",
            TaskState::Shutdown => "shutdown",
            TaskState::Failed => "failed",
            TaskState::Rejected => "rejected",
            TaskState::Remove => "remove",
            TaskState::Orphaned => "orphaned",
        })
    }
}

/// What the agent last said of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// How far it has come; it never moves back.
    pub state: TaskState,
    /// A note on its state; may be empty. Before [`crate::Level::TYPED_FAILURES`] also a failure,
    /// in one line.
    pub message: String,
    /// Why it failed, was rejected or has to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Failure>,
    /// Exit code once it has ended; 128 + the signal's number when a signal ended it.
    pub exit_code: Option<i32>,
    /// When this state was entered.
    pub since: Millis,
}

impl TaskStatus {
    /// A state that was entered at this moment, with nothing to be said of it.
    pub fn new(state: TaskState, since: Millis) -> Self {
        Self {
            state,
            message: String::new(),
            why: None,
            exit_code: None,
            since,
        }
    }

    /// Why it failed, was rejected or has to wait, of whatever level the report was.
    pub fn failure(&self) -> Option<Failure> {
        use TaskState::{Failed, Orphaned, Rejected};
        let is_failure = matches!(self.state, Failed | Orphaned | Rejected);
        let text = Some(&self.message).filter(|text| is_failure && !text.is_empty());
        self.why.clone().or_else(|| text.map(Failure::untyped))
    }

    /// Why it is in its state, for people; may be empty.
    pub fn text(&self) -> String {
        said(self.why.as_ref(), &self.message)
    }
}

/// A task's joint with one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Id of the endpoint; kernel objects are named after it.
    pub endpoint: EndpointId,
    /// Id of the network that it joins.
    pub network: NetworkId,
    /// One address per family of the network, IPv4 first; they belong to the slot, not to the task.
    pub addresses: Vec<IpAddr>,
    /// Its Ethernet address, unique on its segment.
    pub mac: Mac,
}

/// One run of one slot of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id; in JSON 13 characters of base 36.
    pub id: TaskId,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Name of that service, a DNS label.
    pub service_name: String,
    /// Its replica number, from 1.
    pub slot: u32,
    /// Its node, once assigned; never changes.
    pub node: Option<NodeId>,
    /// Program, environment, restarts, health check and DNS options.
    pub spec: TaskSpec,
    /// Target state, set by managers only.
    pub desired: TaskState,
    /// How far it has come, and why.
    pub status: TaskStatus,
    /// Its networks, in the service's order.
    pub attachments: Vec<Attachment>,
    /// When it was made.
    pub created: Millis,
}

impl Task {
    /// The name people use: `web.1`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.service_name, self.slot)
    }
}
