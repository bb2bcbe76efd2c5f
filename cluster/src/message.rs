//! Messages between members that are not nouns of `model`.

use std::net::{IpAddr, SocketAddr};

use model::{Level, Node, NodeId, NodeReport, Secret, ViewDelta};
use serde::{Deserialize, Serialize};

/// A host asks for a certificate.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinCall {
    /// The secret part of the join token.
    pub secret: Secret,
    /// Certificate request, PEM.
    pub request: String,
    /// Its host name.
    pub hostname: String,
    /// Where its control plane listens.
    pub address: SocketAddr,
    /// Where its tunnels end.
    pub vtep: IpAddr,
    /// The newest level that it knows.
    #[serde(default)]
    pub level: Level,
}

/// A host is admitted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// Its certificate, PEM.
    pub certificate: String,
    /// The cluster's root certificate, PEM.
    pub root: String,
    /// Its record, with its id and role.
    pub node: Node,
    /// Where the managers listen.
    pub managers: Vec<SocketAddr>,
    /// Whom a new manager takes entries from. Empty: whoever has a manager's certificate.
    #[serde(default)]
    pub voters: Vec<NodeId>,
}

/// Who leads, as far as the one asked knows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Leadership {
    /// The leader and where it listens.
    pub leader: Option<(NodeId, SocketAddr)>,
    /// For how many milliseconds the one asked has heard no leader: as a leader, since a majority
    /// has confirmed it. `None`: it has heard none since it started, or does not say.
    #[serde(default)]
    pub silence: Option<u64>,
}

/// From a node to the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Upward {
    /// The first message.
    Hello {
        /// Who speaks.
        node: NodeId,
        /// The generation of the view that it has.
        generation: u64,
        /// The digest of that view's records; empty asks for a snapshot.
        digest: String,
        /// The newest level that it knows.
        #[serde(default)]
        level: Level,
    },
    /// Still there.
    Alive,
    /// What has changed on the node.
    Report {
        /// Counts the reports of this session.
        sequence: u64,
        /// The report.
        report: NodeReport,
    },
}

/// From the leader to a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Downward {
    /// The node's view changes.
    Change {
        /// How.
        delta: ViewDelta,
    },
    /// A report is in the log.
    Acknowledged {
        /// Which.
        sequence: u64,
    },
}
