//! The nouns that every crate shares: ids, addresses, specs, records, commands, and the
//! configuration of one host. Pure data: no I/O, no clock, no chance.

#![warn(unreachable_pub)]

mod balance;
mod base36;
mod change;
mod command;
mod container;
pub mod dns_name;
mod encryption;
mod failure;
pub mod hex;
mod id;
mod info;
pub mod kernel_names;
mod lan;
pub mod level;
mod mac;
mod network;
mod network_info;
mod node;
mod node_config;
mod offer;
mod parse;
mod port;
mod question;
mod records;
mod reported;
mod secret;
mod service;
mod service_info;
mod state_machine;
mod subnet;
mod task;
mod views;
mod vni;
mod watch;

pub use balance::{Balance, BalancerKind, Scheduler};
pub use change::{Applied, Change, Concern, Facts, Fate, ObjectKind, ObjectRef, TaskFacts};
pub use command::{
    Batch, ClusterCommand, Command, ContainerCommand, Entry, Issuer, KeysCommand, NetworkCommand,
    NodeCommand, NodeReport, Outcome, RequestId, Response, ServiceCommand, TaskCommand, TaskReport,
};
pub use container::{
    AddressWish, Bandwidth, CONTAINER_LABELS, Container, ContainerKey, ContainerRuntime,
    ContainerSpec, ContainerTraits, Sandbox,
};
pub use dns_name::DnsName;
pub use encryption::{Association, Capability, Epoch, EpochKey, EspKey, Key, PeerKeys, Spi};
pub use failure::{Failure, Kind, Refusal};
pub use id::{EndpointId, IdError, NetworkId, NodeId, SandboxId, ServiceId, TaskId};
pub use info::{Answer, EndpointInfo, NodeInfo, Query, TaskInfo, TokenInfo, UpdateInfo, ViewInfo};
pub use kernel_names as names;
pub use lan::{IpvlanMode, MacvlanMode, Parent};
pub use level::{Level, RecordError, TooNew};
pub use mac::Mac;
pub use network::{Driver, Network, NetworkSpec, Reach, SubnetLease, SubnetSpec};
pub use network_info::{NetworkInfo, NetworkStatus};
pub use node::{Authority, Availability, KeyDigest, Node, NodeStatus, Role};
pub use node_config::{
    ContainerConfig, ContainerEndpoint, DriverConfig, EndpointConfig, NameConfig, NetworkConfig,
    NodeConfig, PeerConfig, PublishedConfig, Publisher, TaskConfig, Unread, ViewDelta, ViewError,
    VirtualServiceConfig,
};
pub use offer::{JoinedConfig, KEEPS, MemberConfig, OfferConfig, SlotConfig, TAKES, name_in_stack};
pub use parse::ParseError;
pub use port::{NamedPort, Protocol, PublishAt, PublishMode, PublishSpec};
pub use question::{Question, other_version};
pub use records::{Differences, Records};
pub use reported::Reported;
pub use secret::{Secret, SecretError};
pub use service::{
    DnsConfig, EndpointMode, HealthCheck, NetworkAttachment, RestartCondition, RestartPolicy,
    Runtime, Service, ServiceSpec, TaskSpec, UpdateFailure, UpdateOrder, UpdatePolicy,
};
pub use service_info::{ServiceInfo, ServiceStatus};
pub use state_machine::{RestoreError, StateMachine};
pub use subnet::{Family, Subnet, SubnetError};
pub use task::{Attachment, Task, TaskState, TaskStatus};
pub use views::{Own, Projector, Record, SectionId, Told, Touched, Update, Views, WholeViews};
pub use vni::{Vni, VniError};
pub use watch::{Begin, Filter, Progress, Waiting, Watch, Watched};

/// Milliseconds since the Unix epoch, stamped into a command by the leader. State never reads a
/// clock.
pub type Millis = u64;
