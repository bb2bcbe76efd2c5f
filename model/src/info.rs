//! Queries and their answers, as `-o json` prints them. JSON keys are stable.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::{
    Availability, BalancerKind, Capability, Container, Failure, Level, Millis, NetworkInfo, NodeId,
    NodeStatus, PublishSpec, Role, ServiceInfo, Subnet, TaskId, TaskSpec, TaskState,
};

/// The shape of what people made, from [`Level::TYPED_FAILURES`] on: what was asked for, and what
/// has become of it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Told<I, Spec, Status> {
    pub id: I,
    pub spec: Spec,
    pub status: Status,
    pub version: u64,
}

/// A question. Names may be ids, or a prefix of an id that only one object has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum Query {
    /// Every node.
    Nodes,
    /// One node; `self` is the one that is asked.
    Node(String),
    /// Every network.
    Networks,
    /// One network.
    Network(String),
    /// Every service.
    Services,
    /// One service.
    Service(String),
    /// The tasks of one service, or all; ended ones included.
    Tasks(Option<String>),
    /// Containers attached on a node, by name or id of the node.
    Containers(String),
    /// One task, by name (`web.1`: the newest run of that slot) or id.
    Task(String),
    /// The join token of a role.
    Token(Role),
    /// What one node must look like.
    View(String),
    /// Check of the ledger: exactly the addresses in use are leased.
    Ledger,
}

/// An answer, in the shape of its question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Answer {
    /// To `Nodes` and `Node`.
    Nodes(Vec<NodeInfo>),
    /// To `Networks` and `Network`.
    Networks(Vec<NetworkInfo>),
    /// To `Services` and `Service`.
    Services(Vec<ServiceInfo>),
    /// To `Tasks` and `Task`.
    Tasks(Vec<TaskInfo>),
    /// To `Containers`.
    Containers(Vec<Container>),
    /// To `Token`.
    Token(TokenInfo),
    /// To `View`.
    View(ViewInfo),
    /// To `Ledger`: inconsistencies, one sentence each.
    Ledger(Vec<String>),
}

impl Answer {
    /// The same in pages of at most this many objects. What is no list is one page, and so is a
    /// list without an object.
    pub fn into_pages(self, most: usize) -> Vec<Self> {
        match self {
            Self::Nodes(all) => pages(all, most, Self::Nodes),
            Self::Networks(all) => pages(all, most, Self::Networks),
            Self::Services(all) => pages(all, most, Self::Services),
            Self::Tasks(all) => pages(all, most, Self::Tasks),
            Self::Containers(all) => pages(all, most, Self::Containers),
            Self::Ledger(all) => pages(all, most, Self::Ledger),
            other @ (Self::Token(_) | Self::View(_)) => vec![other],
        }
    }

    /// Adds the next page. Whether it is one of the same list.
    pub fn add_page(&mut self, page: Self) -> bool {
        match (self, page) {
            (Self::Nodes(all), Self::Nodes(page)) => all.extend(page),
            (Self::Networks(all), Self::Networks(page)) => all.extend(page),
            (Self::Services(all), Self::Services(page)) => all.extend(page),
            (Self::Tasks(all), Self::Tasks(page)) => all.extend(page),
            (Self::Containers(all), Self::Containers(page)) => all.extend(page),
            (Self::Ledger(all), Self::Ledger(page)) => all.extend(page),
            _ => return false,
        }
        true
    }
}

fn pages<T>(all: Vec<T>, most: usize, answer: fn(Vec<T>) -> Answer) -> Vec<Answer> {
    if all.is_empty() {
        return vec![answer(all)];
    }
    let (mut pages, mut rest) = (Vec::new(), all.into_iter());
    loop {
        let page: Vec<T> = rest.by_ref().take(most).collect();
        if page.is_empty() {
            return pages;
        }
        pages.push(answer(page));
    }
}

/// A node, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id; in JSON 13 characters of base 36.
    pub id: NodeId,
    /// Host name of the node, as last reported.
    pub hostname: String,
    /// What it may do.
    pub role: Role,
    /// Whether the leader hears from it.
    pub status: NodeStatus,
    /// Whether the scheduler uses it.
    pub availability: Availability,
    /// Its balancer as requested.
    pub balancer: BalancerKind,
    /// Its balancer in use, which depends on its kernel.
    pub balancer_used: BalancerKind,
    /// Whether it is the leader that Raft has elected.
    pub leader: bool,
    /// Where its control plane listens.
    pub address: SocketAddr,
    /// Where its tunnels end.
    pub vtep: IpAddr,
    /// The generation that its kernel has applied.
    pub applied: u64,
    /// What its kernel refused, one line each.
    pub failures: Vec<String>,
    /// What its kernel refused.
    #[serde(default)]
    pub causes: Vec<Failure>,
    /// Kernel features that networks may need.
    pub capabilities: BTreeSet<Capability>,
    /// Prefixes of its own links.
    pub on_link: BTreeSet<Subnet>,
    /// When it was admitted.
    pub joined: Millis,
    /// The revision of the last change of what people ask of it: an update may name it.
    #[serde(default)]
    pub version: u64,
    /// Newest level that it knows, while it has a session with the leader.
    #[serde(default)]
    pub level: Option<Level>,
    /// Whether it votes and confirms what the leader writes, of a manager.
    #[serde(default)]
    pub votes: Option<bool>,
}

/// An endpoint of a network, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// Kind of its owner: `task`, `docker` or `cni`.
    pub kind: String,
    /// Name of the task or container; the runtime's id if it has no name.
    pub name: String,
    /// The host it is on.
    pub node: String,
    /// Its IP addresses: at most one per family, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Ports of its host that lead to it, of containers. From [`Level::COMPOUNDS`] on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishSpec>,
}

/// Progress of an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateInfo {
    /// It goes no further by itself.
    pub paused: bool,
    /// How many replicas run what they are to run.
    pub updated: u32,
    /// What it waits for.
    pub message: String,
}

/// A task, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Its id; in JSON 13 characters of base 36.
    pub id: TaskId,
    /// Service and slot: `web.1`.
    pub name: String,
    /// Name of that service, a DNS label.
    pub service: String,
    /// Number of its replica, from 1.
    pub slot: u32,
    /// The host name of its node; empty while it has none.
    pub node: String,
    /// Id of its node; `None` before it is assigned.
    pub node_id: Option<NodeId>,
    /// How far it has come; it never moves back.
    pub state: TaskState,
    /// Where it should stand.
    pub desired_state: TaskState,
    /// It will stop: no new connections are led to it.
    pub withdrawn: bool,
    /// Its addresses on all its networks.
    pub addresses: Vec<IpAddr>,
    /// Why it is in its state, in one line; may be empty.
    pub message: String,
    /// Why it failed, was rejected or has to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Failure>,
    /// Exit code once it has ended.
    pub exit_code: Option<i32>,
    /// When it entered its state.
    pub since: Millis,
    /// Program, environment, restarts, health check and DNS options.
    pub spec: TaskSpec,
}

/// A join token of one role, and where to join with it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// The role that it gives.
    pub role: Role,
    /// The token, a secret: `SWMTKN-1-<digest>-<secret>`, as in Docker.
    pub token: String,
    /// A manager to join at.
    pub address: SocketAddr,
}

impl std::fmt::Debug for TokenInfo {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "TokenInfo {{ role: {}, token: secret }}", self.role)
    }
}

/// Digests of a view's records: comparable, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewInfo {
    /// The log index that it was projected at.
    pub generation: u64,
    /// The digest of each record, by its key in a [`crate::ViewDelta`].
    pub records: BTreeMap<String, String>,
}
