//! The machines of the cluster, and the authority that admits them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    BalancerKind, Capability, Failure, Kind, Millis, NetworkId, NodeId, ParseError, Secret, Subnet,
    hex, level::is_zero,
};

/// The longest host name of Linux (gethostname(2)).
const MAX_HOSTNAME: usize = 64;

/// What a node may do. Its certificate carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs tasks and has no vote.
    Worker,
    /// Runs tasks and votes.
    Manager,
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Role::Worker => "worker",
            Role::Manager => "manager",
        })
    }
}

impl std::str::FromStr for Role {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "worker" => Ok(Role::Worker),
            "manager" => Ok(Role::Manager),
            _ => Err(ParseError::not(text, "a role", "worker or manager")),
        }
    }
}

/// Whether the scheduler uses a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// The scheduler gives it tasks.
    Active,
    /// Keeps its tasks, takes no new ones.
    Pause,
    /// Its tasks are moved elsewhere.
    Drain,
}

impl fmt::Display for Availability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Availability::Active => "active",
            Availability::Pause => "pause",
            Availability::Drain => "drain",
        })
    }
}

/// Whether the leader hears from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// Admitted, not yet heard from.
    Unknown,
    /// Its session is alive.
    Ready,
    /// Its session has been silent for longer than its lease.
    Down,
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            NodeStatus::Unknown => "unknown",
            NodeStatus::Ready => "ready",
            NodeStatus::Down => "down",
        })
    }
}

/// SHA-256 of a node's public key. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    /// The id of the node that has this key: the beginning of the digest.
    pub fn node(&self) -> NodeId {
        let head = self.0.iter().take(8);
        NodeId(head.fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "KeyDigest({self})")
    }
}

impl Serialize for KeyDigest {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyDigest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || de::Error::custom("the digest of a key takes 64 hexadecimal digits");
        hex::decode(&text).map(Self).ok_or_else(wrong)
    }
}

/// A machine of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its identity; also its Raft id.
    pub id: NodeId,
    /// Its host name when it joined; from [`crate::Level::DISTINCTIONS`] on, as last reported.
    pub hostname: String,
    /// Where its control plane listens (TCP).
    pub address: SocketAddr,
    /// Where its VXLAN tunnels end.
    pub vtep: IpAddr,
    /// What it may do.
    pub role: Role,
    /// Its public key. Unknown before [`crate::Level::KEYS`], and afterwards of nodes from before
    /// until they open their next session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyDigest>,
    /// Whether the scheduler uses it.
    pub availability: Availability,
    /// Its balancer as requested.
    pub balancer: BalancerKind,
    /// Whether the leader hears from it.
    pub status: NodeStatus,
    /// The generation of its view that its kernel has, as last reported.
    pub applied: u64,
    /// The networks that its kernel is further behind with than that, and the generation of its
    /// view that it has of each; empty before [`crate::Level::DISTINCTIONS`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub behind: BTreeMap<NetworkId, u64>,
    /// What its kernel refused, as last reported, one line each; empty from
    /// [`crate::Level::TYPED_FAILURES`] on.
    pub failures: Vec<String>,
    /// What its kernel refused, as last reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Failure>,
    /// What its kernel can do, as last reported; nothing is known of a node that has not reported
    /// yet.
    pub capabilities: Option<BTreeSet<Capability>>,
    /// The prefixes that links of its own are on, as last reported.
    #[serde(default)]
    pub on_link: BTreeSet<Subnet>,
    /// When it was admitted.
    pub joined: Millis,
    /// The revision of the last change of what people ask of it; 0 before [`crate::Level`] 2.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub version: u64,
}

impl Node {
    /// The generation of its view that its kernel has of a network, as last reported.
    pub fn applied_of(&self, network: NetworkId) -> u64 {
        let behind = self.behind.get(&network).copied();
        behind.map_or(self.applied, |applied| applied.min(self.applied))
    }

    /// Whether a host can be called so in a cluster.
    ///
    /// # Errors
    /// It cannot, and why.
    pub fn check_hostname(hostname: &str) -> Result<(), Failure> {
        let is_odd = |byte: char| byte.is_whitespace() || byte.is_control();
        if hostname.is_empty() || hostname.len() > MAX_HOSTNAME || hostname.contains(is_odd) {
            let shown: String = hostname.chars().take(MAX_HOSTNAME).collect();
            let next = format!(
                "give the host a name of 1 to {MAX_HOSTNAME} bytes without spaces: `hostnamectl \
                 hostname`"
            );
            let cause = format!("{shown:?} is no host name");
            return Err(Failure::new(Kind::Invalid, cause, next));
        }
        Ok(())
    }

    /// What its kernel refused, as last reported, of whatever level the report was.
    pub fn refused(&self) -> Vec<Failure> {
        let texts = self.failures.iter().map(Failure::untyped);
        texts.chain(self.causes.iter().cloned()).collect()
    }
}

/// What admits nodes to a cluster: its certificate authority and the secrets of its join tokens.
/// Held by managers only, in the replicated log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The root certificate, PEM.
    pub root_certificate: String,
    /// The root's private key, PEM (PKCS #8).
    pub root_key: String,
    /// The secret part of the worker token.
    pub worker_secret: Secret,
    /// The secret part of the manager token.
    pub manager_secret: Secret,
}

impl Authority {
    /// The secret that joins with this role.
    pub fn secret(&self, role: Role) -> &Secret {
        match role {
            Role::Worker => &self.worker_secret,
            Role::Manager => &self.manager_secret,
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Authority { secret }")
    }
}
