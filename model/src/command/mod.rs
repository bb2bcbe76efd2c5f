//! Entries of the replicated log, and their outcomes.

mod batch;
mod cluster;
mod container;
mod keys;
mod network;
mod node;
mod service;
mod task;

pub use batch::Batch;
pub use cluster::ClusterCommand;
pub use container::ContainerCommand;
pub use keys::KeysCommand;
pub use network::NetworkCommand;
pub use node::NodeCommand;
pub use service::ServiceCommand;
pub use task::TaskCommand;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::Value;

use crate::{
    Capability, Container, EpochKey, Failure, Level, Millis, NetworkId, NodeId, PublishSpec,
    Refusal, ServiceId, Spi, Subnet, TaskId, TaskState,
};

/// Id of one request of one caller. A caller that lost its leader may repeat a request: one that
/// was carried out gets its first answer again and changes nothing, one that was refused is judged
/// anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// A command as the leader took it.
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
    /// The change that was asked for.
    pub command: Command,
}

/// What an agent says of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Id of the run.
    pub task: TaskId,
    /// How far it has come; it never moves back.
    pub state: TaskState,
    /// A note on its state; may be empty. Before [`Level::TYPED_FAILURES`] also a failure, in one
    /// line.
    pub message: String,
    /// Why it failed, was rejected or has to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Failure>,
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
            why: None,
            exit_code: None,
            connections: None,
            unhealthy: false,
        }
    }

    /// Why it is in its state, for people; may be empty.
    pub fn text(&self) -> String {
        said(self.why.as_ref(), &self.message)
    }

    /// The same in the shape of a level.
    fn at(mut self, level: Level) -> Self {
        if level < Level::TYPED_FAILURES
            && let Some(why) = self.why.take()
        {
            self.message = why.in_one_line();
        }
        self
    }
}

/// What is said of a task: its failure in one line or, where there is none, the note.
pub(crate) fn said(why: Option<&Failure>, message: &str) -> String {
    why.map_or_else(|| message.to_owned(), Failure::in_one_line)
}

/// The most failures and prefixes of a report, and the longest text, in bytes.
const FAILURES: usize = 64;
const PREFIXES: usize = 1_024;
const TEXT: usize = 4 << 10;

/// Cuts a text to what a report may have.
pub(crate) fn clip(text: &mut String) {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push('…');
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Id of the node that reports.
    pub node: NodeId,
    /// The generation that its kernel has applied.
    pub applied: u64,
    /// The networks that its kernel is further behind with, and the generation that it has of each;
    /// empty before [`Level::DISTINCTIONS`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub behind: BTreeMap<NetworkId, u64>,
    /// What the host is called now; said from [`Level::DISTINCTIONS`] on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// What its kernel refused, one line each; empty from [`Level::TYPED_FAILURES`] on.
    pub failures: Vec<String>,
    /// What its kernel refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Failure>,
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
            behind: BTreeMap::new(),
            hostname: None,
            failures,
            causes: Vec::new(),
            tasks,
            capabilities: BTreeSet::new(),
            lost,
            on_link,
        }
    }

    /// The same with no more than a leader puts into the log: a host may be anybody's.
    pub fn bounded(mut self) -> Self {
        self.failures.truncate(FAILURES);
        self.failures.iter_mut().for_each(clip);
        self.causes.truncate(FAILURES);
        self.causes.iter_mut().for_each(Failure::clip);
        while self.on_link.len() > PREFIXES {
            self.on_link.pop_last();
        }
        for word in &mut self.tasks {
            clip(&mut word.message);
            word.why.iter_mut().for_each(Failure::clip);
        }
        self
    }

    /// The same in the shape of a level: before [`Level::TYPED_FAILURES`] failures are text, and
    /// before [`Level::DISTINCTIONS`] a host is as far as it is with its last network.
    pub fn at(mut self, level: Level) -> Self {
        if level < Level::DISTINCTIONS {
            let behind = std::mem::take(&mut self.behind);
            self.applied = behind.into_values().fold(self.applied, u64::min);
            self.hostname = None;
        }
        if level < Level::TYPED_FAILURES {
            let causes = std::mem::take(&mut self.causes);
            self.failures
                .extend(causes.iter().map(Failure::in_one_line));
        }
        self.tasks = self.tasks.into_iter().map(|word| word.at(level)).collect();
        self
    }
}

/// Who may issue a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Issuer {
    /// An operator, on any member.
    Person,
    /// A host, on behalf of these nodes: itself, and no other. Empty where the command speaks for
    /// no node.
    Host(Vec<NodeId>),
    /// The leader alone: no member may propose it.
    Leader,
}

macro_rules! commands {
    ($($(#[doc = $doc:literal])* $noun:ident($command:ident),)*) => {
        /// One replicated change, by the noun that it changes.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        pub enum Command {
            $($(#[doc = $doc])* $noun($command),)*
        }

        impl Command {
            /// Who may issue it.
            pub fn issuer(&self) -> Issuer {
                match self {
                    $(Self::$noun(command) => command.issuer(),)*
                }
            }

            /// What all commands are called in JSON, in the field `kind`.
            pub fn kinds() -> impl Iterator<Item = &'static str> {
                [$($command::KINDS),*].into_iter().flatten().copied()
            }

            fn read(kind: &str, value: Value) -> serde_json::Result<Self> {
                $(if $command::KINDS.contains(&kind) {
                    return $command::deserialize(value).map(Self::$noun);
                })*
                Err(serde::de::Error::custom(format!("{kind:?} is no command that is known here")))
            }
        }

        $(impl From<$command> for Command {
            fn from(command: $command) -> Self {
                Self::$noun(command)
            }
        })*
    };
}

commands! {
    /// Of the cluster as a whole.
    Cluster(ClusterCommand),
    /// Of a node.
    Node(NodeCommand),
    /// Of the keys of encrypted networks.
    Keys(KeysCommand),
    /// Of a network.
    Network(NetworkCommand),
    /// Of a service.
    Service(ServiceCommand),
    /// Of a task.
    Task(TaskCommand),
    /// Of an interface of a container.
    Container(ContainerCommand),
}

/// In JSON all commands are one list, told apart by `kind`: which noun they belong to is a matter
/// of this code, not of the log.
impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let kind = value.get("kind").and_then(Value::as_str).map(str::to_owned);
        let kind = kind.ok_or_else(|| D::Error::missing_field("kind"))?;
        Self::read(&kind, value).map_err(D::Error::custom)
    }
}

impl Command {
    /// The same in the shape of a level, so that members of earlier versions take it.
    pub fn at(mut self, level: Level) -> Self {
        let publish = match &mut self {
            Self::Service(
                ServiceCommand::Create { spec } | ServiceCommand::Update { spec, .. },
            ) => Some(&mut spec.publish),
            Self::Container(ContainerCommand::Attach { spec }) => {
                spec.traits.as_mut().map(|traits| &mut traits.publish)
            }
            _ => None,
        };
        let ports = publish.into_iter().flatten();
        ports.for_each(|port| port.become_of(level));
        self
    }

    /// The ports that it publishes.
    pub fn published(&self) -> &[PublishSpec] {
        match self {
            Self::Service(
                ServiceCommand::Create { spec } | ServiceCommand::Update { spec, .. },
            ) => &spec.publish,
            Self::Container(ContainerCommand::Attach { spec }) => {
                let traits = spec.traits.as_ref();
                traits.map_or(&[], |traits| &traits.publish)
            }
            _ => &[],
        }
    }

    /// Whether the leader of a cluster of this level must add random bits to its entry.
    pub fn needs_chance(&self, level: Level) -> bool {
        match self {
            Self::Keys(KeysCommand::Rotate) => true,
            Self::Node(NodeCommand::Remove { .. }) => level >= Level::KEYS,
            Self::Network(NetworkCommand::Create { spec }) => spec.encrypted,
            _ => false,
        }
    }

    /// The level that a cluster must have reached for this command to mean something in it.
    pub fn level(&self) -> Level {
        match self {
            Self::Cluster(ClusterCommand::RaiseLevel { level }) => *level,
            Self::Network(NetworkCommand::Reach { .. }) => Level::REACH,
            Self::Node(NodeCommand::SetKey { .. }) => Level::KEYS,
            _ => Level::FIRST,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Protocol, PublishAt, PublishMode};

    #[test]
    fn a_report_is_cut_to_what_the_log_takes() {
        let long = "ä".repeat(1 << 20);
        let why = Failure::new(Kind::Unavailable, &long, &long).about(&long);
        let report = NodeReport {
            failures: vec![long.clone(); 1_000],
            causes: vec![why.clone(); 1_000],
            tasks: vec![TaskReport {
                message: long.clone(),
                why: Some(why),
                ..TaskReport::new(TaskId(1), TaskState::Rejected)
            }],
            ..NodeReport::new(NodeId(1), 7)
        };
        let bounded = serde_json::to_string(&report.bounded()).unwrap();
        assert!(bounded.len() < 2 << 20, "{}", bounded.len());
        let honest = NodeReport {
            causes: vec![Failure::new(
                Kind::Unavailable,
                "it has no disk",
                "give it one",
            )],
            ..NodeReport::new(NodeId(1), 7)
        };
        assert_eq!(honest.clone().bounded(), honest);
    }

    #[test]
    fn a_report_carries_text_before_failures_had_types() {
        let why = Failure::new(Kind::Unavailable, "it has no disk", "give it one");
        let typed = NodeReport {
            causes: vec![why.clone().about("host h1")],
            tasks: vec![TaskReport {
                why: Some(why),
                ..TaskReport::new(TaskId(1), TaskState::Rejected)
            }],
            ..NodeReport::new(NodeId(1), 7)
        };
        assert_eq!(typed.clone().at(Level::TYPED_FAILURES), typed);
        let text = typed.clone().at(Level::SHARED_VIEWS);
        assert_eq!(
            text.failures,
            ["host h1: it has no disk; next: give it one"]
        );
        assert_eq!(text.tasks[0].message, "it has no disk; next: give it one");
        assert_eq!(text.tasks[0].text(), typed.tasks[0].text());
        // Nothing is added that an earlier version would not have sent.
        let sent = serde_json::to_string(&text).unwrap();
        assert!(!sent.contains("why") && !sent.contains("causes"), "{sent}");
    }

    #[test]
    fn port_of_before_is_of_both_families() {
        let runtime = crate::Runtime::Exec {
            argv: vec!["true".to_owned()],
            env: BTreeMap::new(),
            rootfs: None,
        };
        let mut spec = crate::ServiceSpec::new("web", crate::TaskSpec::new(runtime));
        spec.publish = ["0.0.0.0", "10.0.0.1"]
            .map(|at| PublishSpec {
                published: 80,
                target: 80,
                count: 1,
                protocol: Protocol::Tcp,
                mode: PublishMode::Ingress,
                at: PublishAt::Address(at.parse().unwrap()),
                allow: Vec::new(),
            })
            .to_vec();
        let command = Command::from(ServiceCommand::Create { spec });
        assert_eq!(command.clone().at(Level::DISTINCTIONS), command);
        let before = serde_json::to_string(&command.at(Level::TYPED_FAILURES)).unwrap();
        assert!(
            !before.contains("0.0.0.0") && before.contains("10.0.0.1"),
            "{before}"
        );
    }

    #[test]
    fn report_of_before_is_as_far_as_its_last_network() {
        let report = NodeReport {
            behind: BTreeMap::from([(NetworkId(1), 5), (NetworkId(2), 3)]),
            hostname: Some("h1".to_owned()),
            ..NodeReport::new(NodeId(1), 7)
        };
        assert_eq!(report.clone().at(Level::DISTINCTIONS), report);
        let before = report.at(Level::TYPED_FAILURES);
        assert_eq!(before, NodeReport::new(NodeId(1), 3));
    }
}
