//! Commands on networks.

use serde::{Deserialize, Serialize};

use super::Issuer;
use crate::{NetworkSpec, Subnet};

/// Changes a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum NetworkCommand {
    /// The user makes a network.
    #[serde(rename = "create_network")]
    Create {
        /// What is asked for.
        spec: NetworkSpec,
    },
    /// The user removes a network that nothing uses.
    #[serde(rename = "remove_network")]
    Remove {
        /// Name, id, or a prefix of an id that only one object has.
        network: String,
    },
    /// Gives the engine's name to a network that was made without one. Refused for any other
    /// network.
    #[serde(rename = "name_network")]
    Name {
        /// Name, id, or a prefix of an id that only one object has.
        network: String,
        /// The new name, unique among networks.
        name: String,
    },
    /// The user says who outside of an overlay may call its endpoints. From
    /// [`crate::Level::REACH`] on.
    #[serde(rename = "reach_network")]
    Reach {
        /// Name, id, or a prefix of an id that only one object has.
        network: String,
        /// Whether every host of the cluster may; `None`: as before.
        hosts: Option<bool>,
        /// Prefixes of machines that may from now on.
        expose: Vec<Subnet>,
        /// Prefixes of machines that may no longer.
        conceal: Vec<Subnet>,
    },
}

impl NetworkCommand {
    /// What the commands are called in JSON, in the field `kind`.
    pub(super) const KINDS: &[&str] = &[
        "create_network",
        "remove_network",
        "name_network",
        "reach_network",
    ];

    pub(super) fn issuer(&self) -> Issuer {
        match self {
            Self::Create { .. } | Self::Remove { .. } | Self::Reach { .. } => Issuer::Person,
            Self::Name { .. } => Issuer::Host(Vec::new()),
        }
    }
}
