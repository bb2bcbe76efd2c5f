//! What the replicated log carries, and what comes back.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    Authority, Availability, Capability, Container, ContainerKey, ContainerSpec, Engine, EpochKey,
    Millis, NetworkId, NetworkSpec, Node, NodeId, NodeStatus, Refusal, Role, Secret, ServiceId,
    ServiceSpec, Spi, Subnet, TaskId, TaskState,
};

/// Names one request of one caller. The same id sent again gets the first answer again and changes
/// nothing, so a caller that lost its leader half-way may simply ask once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whose request this is.
    pub request: RequestId,
    /// The leader's clock when it took the request.
    pub now: Millis,
    /// 256 random bits of the leader's, where the command makes keys: state has no chance of its
    /// own.
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
    /// Where it stands.
    pub state: TaskState,
    /// Why, where there is something to say.
    pub message: String,
    /// Exit code once it has ended.
    pub exit_code: Option<i32>,
    /// Connections that it still serves; said while it drains.
    pub connections: Option<u32>,
    /// Its health check has failed for good: it is being ended, and nothing new is to be led to it.
    pub unhealthy: bool,
}

impl TaskReport {
    /// A task that stands there, with nothing else to say.
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
    /// The generation of its view that its kernel has.
    pub applied: u64,
    /// What its kernel refused.
    pub failures: Vec<String>,
    /// Its tasks whose status has changed.
    pub tasks: Vec<TaskReport>,
    /// What its kernel can do, of what networks may ask for.
    pub capabilities: BTreeSet<Capability>,
    /// Associations, with these peers and of either direction, that its kernel has lost (see
    /// [`crate::Association`]): others take their place.
    pub lost: BTreeSet<(NodeId, Spi)>,
    /// The prefixes that links of its own are on: those of no overlay may be.
    pub on_link: BTreeSet<Subnet>,
}

impl NodeReport {
    /// A node that has this generation and nothing else to say.
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
    /// The first entry of a cluster: its authority and its first manager. Refused ever after.
    Bootstrap {
        /// What admits further nodes.
        authority: Authority,
        /// The first manager.
        node: Node,
        /// UDP port of the tunnels; encrypted ones take the next.
        data_path_port: u16,
    },
    /// A node has been given a certificate. The same node again changes its address.
    Admit {
        /// The node.
        node: Node,
    },
    /// The leader hears from a node, or no longer does.
    SetNodeStatus {
        /// The node.
        node: NodeId,
        /// Its status.
        status: NodeStatus,
    },
    /// The user opens or closes a node to the scheduler.
    SetAvailability {
        /// Name or id.
        node: String,
        /// The new availability.
        availability: Availability,
    },
    /// The user chooses what translates virtual IPs on a node.
    SetBalancer {
        /// Name or id.
        node: String,
        /// What is to do it.
        balancer: Engine,
    },
    /// A node has left: its tasks are replaced, its record goes.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// The secret of one join token is replaced; the old token is refused from now on.
    RotateToken {
        /// Whose token.
        role: Role,
        /// The new secret.
        secret: Secret,
    },
    /// A node's word on itself and its tasks.
    Report(NodeReport),
    /// The keys of encrypted networks are replaced: by the user, or by `step` when they are old.
    RotateKeys,
    /// By `step`: every host accepts the new keys, or sends with them: the change of keys goes one
    /// step further.
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
    /// The user changes a service. Tasks that are to run something else from now on are replaced
    /// one batch after the other.
    UpdateService {
        /// Its identity or name.
        service: String,
        /// All that is asked for from now on.
        spec: ServiceSpec,
        /// The version that the change was made from: refused if somebody else has changed the
        /// service since.
        version: u64,
        /// Replace every task, whether or not it is to run something else.
        force: bool,
    },
    /// The user wants what was asked for before the last update.
    RollbackService {
        /// Name or id.
        service: String,
    },
    /// The user has a task stopped; its slot's next run follows.
    ReplaceTask {
        /// Name or id.
        task: String,
    },
    /// The user removes a service.
    RemoveService {
        /// Name or id.
        service: String,
    },
    /// A container runtime attaches an interface, or says what has changed of it.
    AttachContainer {
        /// What is asked for.
        spec: Box<ContainerSpec>,
    },
    /// A container runtime, or the host itself, gives interfaces up. Those that are not known are
    /// not missed.
    DetachContainers {
        /// Which.
        keys: Vec<ContainerKey>,
    },
    /// The engine tells how a network is called that was made without a name. Refused for any
    /// other.
    NameNetwork {
        /// Name or id.
        network: String,
        /// The name.
        name: String,
    },
    /// By `step`: a new task for a slot that has no living one.
    CreateTask {
        /// The service.
        service: ServiceId,
        /// The slot.
        slot: u32,
    },
    /// By `step`: a place for a pending task.
    AssignTask {
        /// The task.
        task: TaskId,
        /// The place.
        node: NodeId,
    },
    /// By `step`: a task that is to stop takes no new connections from now on.
    WithdrawTask {
        /// The task.
        task: TaskId,
    },
    /// By `step`: every balancer knows that a task is withdrawn; its connections run out.
    DrainTask {
        /// The task.
        task: TaskId,
    },
    /// By `step`: slots beyond the replicas, whose tasks take traffic while others are replaced; 0
    /// ends them.
    SetSurge {
        /// The service.
        service: ServiceId,
        /// How many.
        slots: u32,
    },
    /// By `step`: new tasks of an update end by themselves: it goes no further.
    PauseUpdate {
        /// The service.
        service: ServiceId,
    },
    /// By `step`: where a task should stand. Only ever forward.
    SetDesired {
        /// The task.
        task: TaskId,
        /// The target.
        desired: TaskState,
    },
    /// By `step`: a task that has stopped for good is forgotten.
    RemoveTask {
        /// The task.
        task: TaskId,
    },
    /// By `step`: a service being removed whose last task is gone is forgotten, with its addresses.
    PurgeService {
        /// The service.
        service: ServiceId,
    },
    /// By `step`: a slot above the number of replicas has no task any more; its addresses are given
    /// back.
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
    /// This interface of a container, as it is now.
    Container(Box<Container>),
}

/// The state machine's answer: the same on every manager.
pub type Response = Result<Outcome, Refusal>;
