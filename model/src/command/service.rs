//! Commands on services.

use serde::{Deserialize, Serialize};

use super::Issuer;
use crate::{ServiceId, ServiceSpec};

/// Changes a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum ServiceCommand {
    /// The user makes a service.
    #[serde(rename = "create_service")]
    Create {
        /// What is asked for.
        spec: ServiceSpec,
    },
    /// The user changes the number of replicas.
    #[serde(rename = "scale_service")]
    Scale {
        /// Name or id.
        service: String,
        /// How many tasks are to run.
        replicas: u32,
    },
    /// The user changes a service. Tasks that are to run something else from now on are replaced
    /// one batch after the other.
    #[serde(rename = "update_service")]
    Update {
        /// Its identity or name.
        service: String,
        /// All that is asked for from now on.
        spec: ServiceSpec,
        /// The version that the change was made from: refused if somebody else has changed the
        /// service since.
        version: u64,
        /// Replace every task, whether or not it is to run something else.
        force: bool,
    },
    /// The user wants what was asked for before the last update.
    #[serde(rename = "rollback_service")]
    Rollback {
        /// Name or id.
        service: String,
    },
    /// The user removes a service.
    #[serde(rename = "remove_service")]
    Remove {
        /// Name or id.
        service: String,
    },
    /// By `step`: slots beyond the replicas, whose tasks take traffic while others are replaced; 0
    /// ends them.
    #[serde(rename = "set_surge")]
    SetSurge {
        /// The service.
        service: ServiceId,
        /// How many.
        slots: u32,
    },
    /// By `step`: new tasks of an update end by themselves: it goes no further.
    #[serde(rename = "pause_update")]
    PauseUpdate {
        /// The service.
        service: ServiceId,
    },
    /// By `step`: a service being removed whose last task is gone is forgotten, with its addresses.
    #[serde(rename = "purge_service")]
    Purge {
        /// The service.
        service: ServiceId,
    },
    /// By `step`: a slot above the number of replicas has no task any more; its addresses are given
    /// back.
    #[serde(rename = "release_slot")]
    ReleaseSlot {
        /// The service.
        service: ServiceId,
        /// The slot.
        slot: u32,
    },
}

impl ServiceCommand {
    /// What the commands are called in JSON, in the field `kind`.
    pub(super) const KINDS: &[&str] = &[
        "create_service",
        "scale_service",
        "update_service",
        "rollback_service",
        "remove_service",
        "set_surge",
        "pause_update",
        "purge_service",
        "release_slot",
    ];

    pub(super) fn issuer(&self) -> Issuer {
        match self {
            Self::Create { .. }
            | Self::Scale { .. }
            | Self::Update { .. }
            | Self::Rollback { .. }
            | Self::Remove { .. } => Issuer::Person,
            Self::SetSurge { .. }
            | Self::PauseUpdate { .. }
            | Self::Purge { .. }
            | Self::ReleaseSlot { .. } => Issuer::Leader,
        }
    }
}
