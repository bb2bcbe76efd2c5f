//! Commands on the cluster as a whole.

use serde::{Deserialize, Serialize};

use super::Issuer;
use crate::{Authority, Level, Node, Role, Secret};

/// Changes the cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[expect(
    clippy::large_enum_variant,
    reason = "the largest comes once in the life of a cluster"
)]
pub enum ClusterCommand {
    /// The first entry of a cluster: its authority and first manager. Refused later.
    #[serde(rename = "bootstrap")]
    Bootstrap {
        /// What admits further nodes.
        authority: Authority,
        /// The first manager, which makes the cluster.
        node: Node,
        /// UDP port of tunnels; encrypted ones use the next port.
        data_path_port: u16,
    },
    /// Replaces the secret of one join token; the old token is refused.
    #[serde(rename = "rotate_token")]
    RotateToken {
        /// The role that the token gives.
        role: Role,
        /// The secret part of the new token.
        secret: Secret,
    },
    /// The cluster goes up to this level, the one after its own: every member knows it.
    #[serde(rename = "raise_level")]
    RaiseLevel {
        /// The level to go to: the one after the present.
        level: Level,
    },
}

impl ClusterCommand {
    /// What the commands are called in JSON, in the field `kind`.
    pub(super) const KINDS: &[&str] = &["bootstrap", "rotate_token", "raise_level"];

    pub(super) fn issuer(&self) -> Issuer {
        match self {
            Self::Bootstrap { .. } | Self::RaiseLevel { .. } => Issuer::Leader,
            Self::RotateToken { .. } => Issuer::Person,
        }
    }
}
