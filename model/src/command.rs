//! Entries of the replicated log, and their outcomes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    Authority, Availability, Capability, Container, ContainerKey, ContainerSpec, Engine, EpochKey,
    Millis, NetworkId, NetworkSpec, Node, NodeId, NodeStatus, Refusal, Role, Secret, ServiceId,
    ServiceSpec, Spi, Subnet, TaskId, TaskState,
};

/// Id of one request of one caller. The same id gets the first answer again and changes nothing, so
/// a caller that lost its leader may repeat the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whose request this is.
    pub request: RequestId,
    /// The leader's clock when it took the request.
    pub now: Millis,
    /// 256 random bits from the leader, if the command makes keys: the state machine has no
    /// randomness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<EpochKey>,
    /// What to change.
    pub command: Command,
}

/// What an agent says of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: TaskId,
    /// Its state.
    pub state: TaskState,
    /// Why it is in this state; may be empty.
    pub message: String,
    /// Exit code once it has ended.
    pub exit_code: Option<i32>,
    /// Number of TCP connections that it still serves; reported while it drains.
    pub connections: Option<u32>,
    /// Its health check has failed for good: its agent stops it, and no new connection may be led
    /// to it.
    pub unhealthy: bool,
}

impl TaskReport {
    /// A report of a state only.
    pub fn new(task: TaskId, state: TaskState) -> Self {
        Self {
            task,
            state,
            message: String::new(),
            exit_code: None,
            connections: None,
            unhealthy: false,
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who speaks.
    pub node: NodeId,
    /// The generation that its kernel has applied.
    pub applied: u64,
    /// What its kernel refused.
    pub failures: Vec<String>,
    /// Its tasks whose status has changed.
    pub tasks: Vec<TaskReport>,
    /// Kernel features that networks may need.
    pub capabilities: BTreeSet<Capability>,
    /// Associations with these peers, in either direction, that its kernel has lost (see
    /// [`crate::Association`]). They will be replaced.
    pub lost: BTreeSet<(NodeId, Spi)>,
    /// Prefixes of its own links. No overlay may overlap them.
    pub on_link: BTreeSet<Subnet>,
}

impl NodeReport {
    /// A report of the applied generation only.
    pub fn new(node: NodeId, applied: u64) -> Self {
        let (failures, tasks, lost, on_link) =
            (Vec::new(), Vec::new(), BTreeSet::new(), BTreeSet::new());
        Self {
            node,
            applied,
            failures,
            tasks,
            capabilities: BTreeSet::new(),
            lost,
            on_link,
        }
    }
}

/// One replicated change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Command {
    /// The first entry of a cluster: its authority and first manager. Refused later.
    Bootstrap {
        /// What admits further nodes.
        authority: Authority,
        /// The first manager.
        node: Node,
        /// UDP port of tunnels; encrypted ones use the next port.
        data_path_port: u16,
    },
    /// A node has got a certificate. The same node again updates its address.
    Admit {
        /// The node.
        node: Node,
    },
    /// A node has become ready, or is down.
    SetNodeStatus {
        /// The node.
        node: NodeId,
        /// Its status.
        status: NodeStatus,
    },
    /// The user sets a node's availability to the scheduler.
    SetAvailability {
        /// Name or id.
        node: String,
        /// The new availability.
        availability: Availability,
    },
    /// The user chooses a node's balancer.
    SetBalancer {
        /// Name or id.
        node: String,
        /// What is to do it.
        balancer: Engine,
    },
    /// A node has left or is removed: its tasks are replaced, its record is deleted.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// Replaces the secret of one join token; the old token is refused.
    RotateToken {
        /// Whose token.
        role: Role,
        /// The new secret.
        secret: Secret,
    },
    /// A node's word on itself and its tasks.
    Report(NodeReport),
    /// Begins a change of the encrypted networks' keys: by the user, or by `step` when keys are
    /// old.
    RotateKeys,
    /// By `step`: the next step of a key change, after every host has acknowledged the last one.
    AdvanceKeys,
    /// The user makes a network.
    CreateNetwork {
        /// What is asked for.
        spec: NetworkSpec,
    },
    /// The user removes a network that nothing uses.
    RemoveNetwork {
        /// Name or id.
        network: String,
    },
    /// The user makes a service.
    CreateService {
        /// What is asked for.
        spec: ServiceSpec,
    },
    /// The user changes the number of replicas.
    ScaleService {
        /// Name or id.
        service: String,
        /// How many tasks are to run.
        replicas: u32,
    },
    /// The user updates a service. Tasks that differ from the new spec are replaced batch by batch.
    UpdateService {
        /// Its identity or name.
        service: String,
        /// All that is asked for from now on.
        spec: ServiceSpec,
        /// The version that the update was made from. Refused if the service has changed since.
        version: u64,
        /// Replace every task, even if its spec does not change.
        force: bool,
    },
    /// The user restores the spec before the last update.
    RollbackService {
        /// Name or id.
        service: String,
    },
    /// The user has a task replaced by a new one in its slot.
    ReplaceTask {
        /// Name or id.
        task: String,
    },
    /// The user removes a service.
    RemoveService {
        /// Name or id.
        service: String,
    },
    /// A container runtime attaches an interface, or updates its traits.
    AttachContainer {
        /// What is asked for.
        spec: Box<ContainerSpec>,
    },
    /// A container runtime, or the host itself, detaches interfaces. Unknown keys are ignored.
    DetachContainers {
        /// Which.
        keys: Vec<ContainerKey>,
    },
    /// Gives the engine's name to a network that was made without one. Refused for any other
    /// network.
    NameNetwork {
        /// Name or id.
        network: String,
        /// The name.
        name: String,
    },
    /// By `step`: creates a task for a slot without a living one.
    CreateTask {
        /// The service.
        service: ServiceId,
        /// The slot.
        slot: u32,
    },
    /// By `step`: assigns a node to a pending task.
    AssignTask {
        /// The task.
        task: TaskId,
        /// The place.
        node: NodeId,
    },
    /// By `step`: withdraws a task that will stop; it gets no new connections.
    WithdrawTask {
        /// The task.
        task: TaskId,
    },
    /// By `step`: drains a task; every balancer knows that it is withdrawn.
    DrainTask {
        /// The task.
        task: TaskId,
    },
    /// By `step`: number of slots beyond the replicas, whose tasks take traffic while others are
    /// replaced; 0 ends them.
    SetSurge {
        /// The service.
        service: ServiceId,
        /// How many.
        slots: u32,
    },
    /// By `step`: pauses an update whose new tasks end by themselves.
    PauseUpdate {
        /// The service.
        service: ServiceId,
    },
    /// By `step`: sets a task's target state. It never moves back.
    SetDesired {
        /// The task.
        task: TaskId,
        /// The target.
        desired: TaskState,
    },
    /// By `step`: deletes the record of a stopped task.
    RemoveTask {
        /// The task.
        task: TaskId,
    },
    /// By `step`: deletes a removed service without tasks, and releases its addresses.
    PurgeService {
        /// The service.
        service: ServiceId,
    },
    /// By `step`: releases the addresses of a slot beyond the replicas that has no task.
    ReleaseSlot {
        /// The service.
        service: ServiceId,
        /// The slot.
        slot: u32,
    },
}

impl Command {
    /// Whether the leader must add random bits to its entry.
    pub fn needs_chance(&self) -> bool {
        match self {
            Self::RotateKeys => true,
            Self::CreateNetwork { spec } => spec.encrypted,
            _ => false,
        }
    }
}

/// What an applied command made or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing to name.
    Done,
    /// This node.
    Node(NodeId),
    /// This network.
    Network(NetworkId),
    /// This service.
    Service(ServiceId),
    /// This task.
    Task(TaskId),
    /// The attached interface of a container.
    Container(Box<Container>),
}

/// Result of a command, the same on every manager.
pub type Response = Result<Outcome, Refusal>;
