//! Commands on interfaces of containers that other runtimes run.

use serde::{Deserialize, Serialize};

use super::Issuer;
use crate::{ContainerKey, ContainerSpec};

/// Changes an interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum ContainerCommand {
    /// A container runtime attaches an interface, or updates its traits.
    #[serde(rename = "attach_container")]
    Attach {
        /// What is asked for.
        spec: Box<ContainerSpec>,
    },
    /// A container runtime, or the host itself, detaches interfaces. Unknown keys are ignored.
    #[serde(rename = "detach_containers")]
    Detach {
        /// The interfaces, by host, runtime and the runtime's id.
        keys: Vec<ContainerKey>,
    },
}

impl ContainerCommand {
    /// What the commands are called in JSON, in the field `kind`.
    pub(super) const KINDS: &[&str] = &["attach_container", "detach_containers"];

    pub(super) fn issuer(&self) -> Issuer {
        match self {
            Self::Attach { spec } => Issuer::Host(vec![spec.key.node]),
            Self::Detach { keys } => Issuer::Host(keys.iter().map(|key| key.node).collect()),
        }
    }
}
