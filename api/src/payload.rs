//! JSON payloads that are not nouns of `model`: requests to the local daemon.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use model::{
    Command, Container, ContainerTraits, Engine, Epoch, Mac, NetworkId, NodeId, RequestId, Role,
    ServiceId, Spi, SubnetLease, ViewInfo,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::proto::Json;

/// A command and the name of the request that it belongs to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// Chosen by the caller at random, kept when it asks again.
    pub request: RequestId,
    /// What to change.
    pub command: Command,
}

/// Makes a cluster of this one host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InitRequest {
    /// Where others reach this host's control plane; port 2377 unless given.
    pub advertise: SocketAddr,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its tunnels end; the advertised address where none is given.
    pub data_path: Option<IpAddr>,
    /// UDP port of the cluster's tunnels: 1024 to 49150; encrypted ones take the next.
    pub data_path_port: u16,
}

/// Where tunnels end unless told otherwise: the UDP port of VXLAN (RFC 7348 section 8).
pub const DATA_PATH_PORT: u16 = 4789;

/// Joins this host to a cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// `SWMTKN-1-<digest>-<secret>`. A secret.
    pub token: String,
    /// A manager of the cluster.
    pub manager: SocketAddr,
    /// Where others reach this host's control plane; the address that the way to the manager starts
    /// from otherwise.
    pub advertise: Option<SocketAddr>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its tunnels end; the advertised address where none is given.
    pub data_path: Option<IpAddr>,
}

/// Takes this host out of its cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaveRequest {
    /// Even if the cluster cannot be told, or this is its last manager.
    pub force: bool,
}

/// Where this host stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// The daemon's version.
    pub version: String,
    /// The host name.
    pub hostname: String,
    /// Its node id and role, once it is part of a cluster.
    pub member: Option<(NodeId, Role)>,
    /// The generation of its view.
    pub generation: u64,
    /// The generation that its kernel has.
    pub applied: u64,
    /// What its kernel refused.
    pub failures: Vec<String>,
}

/// What to print of the host's inside.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Debug {
    /// What the host should look like.
    Config,
    /// What the kernel says.
    Observed,
    /// What would be changed next; empty when settled.
    Plan,
}

/// What the CNI plugin asks of the daemon (CNI specification 1.1, section 2: the operations of the
/// same names).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum ContainerRequest {
    /// Attaches an interface, or finds it as it is. Answered once packets pass.
    Add(Box<CniInterface>),
    /// Whether an interface still is as `Add` said, in the ledger and in the kernel.
    Check(Box<CniInterface>),
    /// Gives an interface up. Never refused for not being there.
    Del {
        /// Whose it is.
        name: CniName,
        /// `CNI_NETNS`, if it is still said.
        sandbox: Option<String>,
    },
    /// Gives up all interfaces that one configuration of the runtime's has attached but these.
    Gc {
        /// The configuration's name.
        configuration: String,
        /// Who lives.
        valid: Vec<CniName>,
    },
    /// Whether `Add` would work.
    Status {
        /// The network of the cluster.
        network: String,
    },
}

/// One interface of one container, as a CNI runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CniName {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// Its name inside, where the configuration gives it one of its own beside an interface of
    /// another plugin's.
    pub own: Option<String>,
}

/// An interface that a CNI runtime asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniInterface {
    /// Whose it is.
    pub name: CniName,
    /// The network of the cluster.
    pub network: String,
    /// `CNI_NETNS`, absolute.
    pub sandbox: String,
    /// Only addresses are asked for (an address manager's work); another plugin makes the
    /// interface.
    pub only_addresses: bool,
    /// These addresses and no others; at most one per family.
    pub addresses: Vec<IpAddr>,
    /// This Ethernet address.
    pub mac: Option<Mac>,
    /// What else is known of the container.
    pub traits: ContainerTraits,
}

/// What the daemon answers the CNI plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum ContainerReply {
    /// To `Add`: what has been attached.
    Attached(Box<Attached>),
    /// To the others.
    Done,
}

/// An interface that has been attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The endpoint as the ledger has it.
    pub container: Container,
    /// The network's prefixes and gateways, IPv4 first; those of the addresses.
    pub subnets: Vec<SubnetLease>,
    /// No way out.
    pub internal: bool,
    /// Where its default routes lead to: a container leaves by the first of its networks that has a
    /// way out.
    pub ways_out: Vec<IpAddr>,
    /// MTU of the interface in bytes, where one was made.
    pub mtu: Option<u32>,
    /// Who answers names there.
    pub resolvers: Vec<IpAddr>,
}

/// Asks one node about itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Examine {
    /// The node.
    pub node: NodeId,
    /// What to look at.
    pub subject: Subject,
}

/// What to look at on a node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Whether its kernel is what it was told.
    Kernel,
    /// The other hosts of a network, and what has passed between it and them.
    Peers(NetworkId),
    /// What has passed by the virtual IPs of a service.
    Traffic(ServiceId),
}

/// What was found on a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Examined {
    /// Of its kernel.
    Kernel(Verification),
    /// Of a network's other hosts; empty where it has no part in the network.
    Peers(Vec<Peer>),
    /// Of a service's virtual IPs on overlays; on a LAN each client's own sandbox balances.
    Traffic(Vec<VipTraffic>),
}

/// What has passed by a virtual IP on one host, since its balancer was put to work there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipTraffic {
    /// The virtual IP.
    pub vip: IpAddr,
    /// What balances it.
    pub balancer: Engine,
    /// Connections that each real server was chosen for.
    pub connections: BTreeMap<IpAddr, u64>,
    /// Packets and bytes; only IPVS counts them.
    pub passed: Option<Passed>,
}

/// Packets and bytes by a virtual IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// From clients.
    pub packets_in: u64,
    /// From clients.
    pub bytes_in: u64,
    /// To clients.
    pub packets_out: u64,
    /// To clients.
    pub bytes_out: u64,
}

/// Another host of a network, as one host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The other host's name.
    pub hostname: String,
    /// Where its tunnels end.
    pub vtep: IpAddr,
    /// How many endpoints of the network it has.
    pub endpoints: usize,
    /// What all their encrypted networks together have exchanged; none of a network that is not
    /// encrypted.
    pub encryption: Option<Encryption>,
}

/// What two hosts have exchanged in secret, as one of them counts it since the present keys are in
/// use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// The change of keys that it sends with; none: it cannot send.
    pub epoch: Option<Epoch>,
    /// The association that it sends with.
    pub sends_with: Option<Spi>,
    /// Those that it accepts.
    pub accepts: Vec<Spi>,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets received and found good.
    pub received_packets: u64,
    /// Bytes received and found good.
    pub received_bytes: u64,
    /// Packets dropped for having come before.
    pub replayed: u64,
    /// Packets dropped for coming too late to tell.
    pub late: u64,
    /// Packets dropped for having been changed on their way.
    pub forged: u64,
    /// Packets dropped for having no key, from all hosts together, since the host started.
    pub unknown: u64,
    /// When the last packet was received: milliseconds since the Unix epoch; none: never, with
    /// these keys.
    pub last_seen: Option<u64>,
}

/// A node's view and how its kernel differs from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verification {
    /// What it was told.
    pub view: ViewInfo,
    /// How its kernel differs, seen just now.
    pub differences: Vec<Difference>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The network that it belongs to, where it belongs to one.
    pub network: Option<NetworkId>,
    /// What it is about.
    pub object: String,
    /// What is wrong with it.
    pub cause: String,
    /// What to do.
    pub next: String,
}

/// Bytes that are not the JSON that was expected.
#[derive(Debug, thiserror::Error)]
#[error("the payload is not a {expected}: {reason}")]
pub struct PayloadError {
    expected: &'static str,
    reason: serde_json::Error,
}

/// A value as payload.
pub fn encode<T: Serialize>(value: &T) -> Json {
    // The payload types have string keys only, so they always have a JSON form.
    Json {
        json: serde_json::to_vec(value).unwrap_or_default(),
    }
}

/// The value that a payload holds.
pub fn decode<T: DeserializeOwned>(payload: &Json) -> Result<T, PayloadError> {
    serde_json::from_slice(&payload.json).map_err(|reason| PayloadError {
        expected: std::any::type_name::<T>(),
        reason,
    })
}

impl From<PayloadError> for tonic::Status {
    fn from(error: PayloadError) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}
