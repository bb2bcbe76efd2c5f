//! Commands on nodes.

use serde::{Deserialize, Serialize};

use super::Issuer;
use crate::{Availability, BalancerKind, KeyDigest, Node, NodeId, NodeReport, NodeStatus};

/// Changes a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum NodeCommand {
    /// A node has got a certificate. The same node again updates its address.
    #[serde(rename = "admit")]
    Admit {
        /// The node as it is to be recorded.
        node: Node,
    },
    /// The leader has seen the key of a node of which none is known.
    #[serde(rename = "set_node_key")]
    SetKey {
        /// Id of the node.
        node: NodeId,
        /// The digest of its public key.
        key: KeyDigest,
    },
    /// A node has become ready, or is down.
    #[serde(rename = "set_node_status")]
    SetStatus {
        /// Id of the node.
        node: NodeId,
        /// Whether the leader hears from it now.
        status: NodeStatus,
    },
    /// The user sets a node's availability to the scheduler.
    #[serde(rename = "set_availability")]
    SetAvailability {
        /// Name, id, or a prefix of an id that only one object has.
        node: String,
        /// Whether the scheduler may use it from now on.
        availability: Availability,
        /// Refused unless this still is the node's version; regarded from level 2 on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    /// The user chooses a node's balancer.
    #[serde(rename = "set_balancer")]
    SetBalancer {
        /// Name, id, or a prefix of an id that only one object has.
        node: String,
        /// What is to do it.
        balancer: BalancerKind,
        /// Refused unless this still is the node's version; regarded from level 2 on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    /// A node has left or is removed: its tasks are replaced, its record is deleted.
    #[serde(rename = "remove_node")]
    Remove {
        /// Id of the node.
        node: NodeId,
    },
    /// A node's word on itself and its tasks.
    #[serde(rename = "report")]
    Report(NodeReport),
}

impl NodeCommand {
    /// What the commands are called in JSON, in the field `kind`.
    pub(super) const KINDS: &[&str] = &[
        "admit",
        "set_node_key",
        "set_node_status",
        "set_availability",
        "set_balancer",
        "remove_node",
        "report",
    ];

    pub(super) fn issuer(&self) -> Issuer {
        match self {
            Self::Admit { .. } | Self::SetKey { .. } | Self::SetStatus { .. } => Issuer::Leader,
            Self::Report(report) => Issuer::Host(vec![report.node]),
            Self::SetAvailability { .. } | Self::SetBalancer { .. } | Self::Remove { .. } => {
                Issuer::Person
            }
        }
    }
}
