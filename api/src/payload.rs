//! JSON payloads of the local API that are not nouns of `model`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use model::{
    BalancerKind, Command, Container, ContainerTraits, Epoch, Failure, Level, Mac, NetworkId,
    NodeId, RequestId, Role, ServiceId, Spi, SubnetLease, ViewInfo, other_version,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::proto::Json;

/// A command and the id of its request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// Random, chosen by the caller; the same when the request is repeated.
    pub request: RequestId,
    /// The command to be proposed to the leader.
    pub command: Command,
}

/// Request to create a cluster with this host as its only member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InitRequest {
    /// Address at which other hosts reach this host's control plane; default port 2377.
    pub advertise: SocketAddr,
    /// Address and port at which its control plane listens (TCP).
    pub listen: SocketAddr,
    /// Address at which this host's tunnels end; default: the advertised address.
    pub data_path: Option<IpAddr>,
    /// UDP port of the cluster's tunnels, 1024 to 49150; encrypted tunnels use the next port.
    pub data_path_port: u16,
}

/// Default UDP port of tunnels: that of VXLAN (RFC 7348 section 8).
pub const DATA_PATH_PORT: u16 = 4789;

/// Joins this host to a cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Join token, `SWMTKN-1-<digest>-<secret>`. Secret: never log it.
    pub token: String,
    /// A manager of the cluster.
    pub manager: SocketAddr,
    /// Address at which other hosts reach this host's control plane; default: the source address of
    /// the connection to the manager.
    pub advertise: Option<SocketAddr>,
    /// Address and port at which its control plane listens (TCP).
    pub listen: SocketAddr,
    /// Address at which this host's tunnels end; default: the advertised address.
    pub data_path: Option<IpAddr>,
}

/// Takes this host out of its cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaveRequest {
    /// Leave even if no manager can be reached, or if this is the last manager.
    pub force: bool,
}

/// This host's membership and the state of its kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// Version of netd, such as 0.1.0.
    pub version: String,
    /// Host name of the machine that netd runs on.
    pub hostname: String,
    /// Its node id and role, once it is part of a cluster.
    pub member: Option<(NodeId, Role)>,
    /// The level of its cluster, as far as its view says.
    #[serde(default)]
    pub level: Level,
    /// The generation of its view.
    pub generation: u64,
    /// The generation that its kernel has applied.
    pub applied: u64,
    /// Changes that its kernel refused, one line each.
    pub failures: Vec<String>,
    /// The same in fields; a daemon of the previous version leaves them out.
    #[serde(default)]
    pub causes: Vec<Failure>,
}

/// Which internal state to print.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Debug {
    /// Desired state of this host.
    Config,
    /// State observed in the kernel.
    Observed,
    /// Changes that netd would make next; empty when settled.
    Plan,
    /// The digest of this manager's state, with its log index and level.
    Digest,
}

/// Requests of the CNI plugin: the operations of the same names (CNI specification 1.1, section 2).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum ContainerRequest {
    /// Attaches an interface; if it is attached already, returns it. The reply comes once packets
    /// pass.
    Add(Box<CniInterface>),
    /// Whether an interface still is as `Add` said, in the ledger and in the kernel.
    Check(Box<CniInterface>),
    /// Detaches an interface. Succeeds for an unknown interface, too.
    Del {
        /// Container id and interface name as the runtime gives them.
        name: CniName,
        /// `CNI_NETNS`, if the runtime still gives it.
        sandbox: Option<String>,
    },
    /// Detaches all interfaces that one configuration of the runtime has attached, except these.
    Gc {
        /// Name of the CNI network configuration.
        configuration: String,
        /// Interfaces that are in use.
        valid: Vec<CniName>,
    },
    /// Whether `Add` would succeed now.
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
    /// Name of our interface inside, if the configuration sets one because another plugin's
    /// interface has `CNI_IFNAME`.
    pub own: Option<String>,
}

/// An interface that a CNI runtime asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniInterface {
    /// Container id and interface name as the runtime gives them.
    pub name: CniName,
    /// The network of the cluster.
    pub network: String,
    /// `CNI_NETNS`, absolute.
    pub sandbox: String,
    /// Only allocate addresses, as IPAM plugin of another plugin that makes the interface.
    pub only_addresses: bool,
    /// These addresses and no others; at most one per family.
    pub addresses: Vec<IpAddr>,
    /// The Ethernet address that it is to have; `None`: any.
    pub mac: Option<Mac>,
    /// Names, labels, ports and limits of the container.
    pub traits: ContainerTraits,
}

/// Replies to the CNI plugin.
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
    /// Nothing outside of the network can be reached.
    pub internal: bool,
    /// Gateways of its default routes. Empty if another network of the container carries them.
    pub ways_out: Vec<IpAddr>,
    /// MTU of the interface in bytes, where one was made.
    pub mtu: Option<u32>,
    /// Addresses of the DNS resolvers.
    pub resolvers: Vec<IpAddr>,
}

/// A question that only one node can answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Examine {
    /// Id of the node.
    pub node: NodeId,
    /// What to look at.
    pub subject: Subject,
}

/// What to look at on a node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Whether its kernel matches its view.
    Kernel,
    /// The peers of a network, and the encrypted traffic exchanged with each.
    Peers(NetworkId),
    /// Traffic of a service's virtual IPs.
    Traffic(ServiceId),
}

/// A look at one node that finds a `T`.
#[derive(Debug)]
pub struct Look<T> {
    subject: Subject,
    take: fn(Examined) -> Option<T>,
}

impl<T> Look<T> {
    /// As it is sent.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// What was found. Errors: something else was looked at.
    pub fn take(&self, found: Examined) -> Result<T, Failure> {
        (self.take)(found).ok_or_else(|| other_version("the node"))
    }
}

impl Look<Verification> {
    /// Whether its kernel is what it was told.
    pub fn kernel() -> Self {
        Self {
            subject: Subject::Kernel,
            take: |found| match found {
                Examined::Kernel(verification) => Some(verification),
                _ => None,
            },
        }
    }
}

impl Look<Vec<Peer>> {
    /// The other hosts of a network, and what has passed between it and them.
    pub fn peers(network: NetworkId) -> Self {
        Self {
            subject: Subject::Peers(network),
            take: |found| match found {
                Examined::Peers(peers) => Some(peers),
                _ => None,
            },
        }
    }
}

impl Look<Vec<VipTraffic>> {
    /// What has passed by the virtual IPs of a service.
    pub fn traffic(service: ServiceId) -> Self {
        Self {
            subject: Subject::Traffic(service),
            take: |found| match found {
                Examined::Traffic(traffic) => Some(traffic),
                _ => None,
            },
        }
    }
}

/// What was found on a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Examined {
    /// How its kernel differs from its view.
    Kernel(Verification),
    /// Of a network's other hosts; empty where it has no part in the network.
    Peers(Vec<Peer>),
    /// Of a service's virtual IPs on overlays; on a LAN each client's own sandbox balances.
    Traffic(Vec<VipTraffic>),
}

/// Traffic of a virtual IP on one host since its balancer was set up there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipTraffic {
    /// Address that clients call.
    pub vip: IpAddr,
    /// The balancer that the node uses.
    pub balancer: BalancerKind,
    /// Connections that each real server was chosen for.
    pub connections: BTreeMap<IpAddr, u64>,
    /// Packets and bytes; only IPVS counts them.
    pub passed: Option<Passed>,
}

/// Packets and bytes of a virtual IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Packets from clients since the balancer was made.
    pub packets_in: u64,
    /// Bytes from clients since the balancer was made.
    pub bytes_in: u64,
    /// Packets to clients since the balancer was made.
    pub packets_out: u64,
    /// Bytes to clients since the balancer was made.
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
    /// Encrypted traffic of all encrypted networks that both hosts share; `None` for a network that
    /// is not encrypted.
    pub encryption: Option<Encryption>,
}

/// Encrypted traffic between two hosts, counted by one of them since it uses the current keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// Epoch of the key that it sends with; `None`: it cannot send.
    pub epoch: Option<Epoch>,
    /// The association that it sends with.
    pub sends_with: Option<Spi>,
    /// Associations that it accepts.
    pub accepts: Vec<Spi>,
    /// Packets sent to the peer since the association was made.
    pub sent_packets: u64,
    /// Bytes sent to the peer since the association was made.
    pub sent_bytes: u64,
    /// Packets received and authenticated.
    pub received_packets: u64,
    /// Bytes received and authenticated.
    pub received_bytes: u64,
    /// Packets dropped as replays.
    pub replayed: u64,
    /// Packets dropped because they are older than the replay window.
    pub late: u64,
    /// Packets dropped because authentication failed.
    pub forged: u64,
    /// Packets dropped for an unknown association, from all hosts together, since the host booted.
    pub unknown: u64,
    /// Time of the last packet received, in milliseconds since the Unix epoch; `None`: none with
    /// these keys.
    pub last_seen: Option<u64>,
}

/// A node's view and how its kernel differs from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verification {
    /// Digests of the records of its view.
    pub view: ViewInfo,
    /// How its kernel differs from the view, read now.
    pub differences: Vec<Difference>,
}

/// One difference between desired and observed state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The network that it belongs to, where it belongs to one.
    pub network: Option<NetworkId>,
    /// What is wrong, with what, and what to do.
    #[serde(flatten)]
    pub failure: Failure,
}

/// A payload that cannot be decoded.
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

impl From<PayloadError> for Failure {
    fn from(error: PayloadError) -> Self {
        Failure {
            cause: error.to_string(),
            ..other_version("netd")
        }
    }
}

impl From<PayloadError> for tonic::Status {
    fn from(error: PayloadError) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_that_the_previous_version_tells_of_are_read() {
        let old = r#"{"network":null,"object":"host","cause":"it is not there","next":"wait"}"#;
        let difference: Difference = serde_json::from_str(old).unwrap();
        assert_eq!(
            difference.failure.in_one_line(),
            "host: it is not there; next: wait"
        );
        let new = serde_json::to_value(&difference).unwrap();
        for field in ["network", "kind", "object", "cause", "next"] {
            assert!(new.get(field).is_some(), "{field} of {new}");
        }
    }
}
