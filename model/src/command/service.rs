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
        /// Name, id, or a prefix of an id that only one object has.
        service: String,
        /// How many tasks are to run.
        replicas: u32,
    },
    /// The user updates a service. Tasks that differ from the new spec are replaced batch by batch.
    #[serde(rename = "update_service")]
    Update {
        /// Its identity or name.
        service: String,
        /// All that is asked for from now on.
        spec: ServiceSpec,
        /// The version that the update was made from. Refused if the service has changed since.
        version: u64,
        /// Replace every task, even if its spec does not change.
        force: bool,
    },
    /// The user restores the spec before the last update.
    #[serde(rename = "rollback_service")]
    Rollback {
        /// Name, id, or a prefix of an id that only one object has.
        service: String,
    },
    /// The user removes a service.
    #[serde(rename = "remove_service")]
    Remove {
        /// Name, id, or a prefix of an id that only one object has.
        service: String,
    },
    /// By `step`: number of slots beyond the replicas, whose tasks take traffic while others are
    /// replaced; 0 ends them.
    #[serde(rename = "set_surge")]
    SetSurge {
        /// Id of the service.
        service: ServiceId,
        /// Number of slots beyond the replicas.
        slots: u32,
    },
    /// By `step`: pauses an update whose new tasks end by themselves.
    #[serde(rename = "pause_update")]
    PauseUpdate {
        /// Id of the service.
        service: ServiceId,
    },
    /// By `step`: deletes a removed service without tasks, and releases its addresses.
    #[serde(rename = "purge_service")]
    Purge {
        /// Id of the service.
        service: ServiceId,
    },
    /// By `step`: releases the addresses of a slot beyond the replicas that has no task.
    #[serde(rename = "release_slot")]
    ReleaseSlot {
        /// Id of the service.
        service: ServiceId,
        /// Number of the slot, from 1.
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
