//! Services: intent to run a command a number of times.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Millis, NetworkId, ServiceId};

/// What runs a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Runtime {
    /// A command in namespaces of its own.
    Exec {
        /// Program and arguments; never empty.
        argv: Vec<String>,
        /// `NAME=VALUE`, on top of a minimal environment.
        env: BTreeMap<String, String>,
        /// Root directory; the host's own root, read-only, where none is given.
        rootfs: Option<PathBuf>,
    },
}

/// When a task that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// Always.
    Any,
    /// When it failed: exit code other than 0.
    OnFailure,
    /// Never.
    None,
}

/// How a task that ended is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// When.
    pub condition: RestartCondition,
    /// Milliseconds between the end and the new start.
    pub delay: u64,
    /// How many restarts a slot gets; 0 is no limit.
    pub max_attempts: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { condition: RestartCondition::Any, delay: 5_000, max_attempts: 0 }
    }
}

/// What one task runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// What runs.
    pub runtime: Runtime,
    /// How it is started again.
    pub restart: RestartPolicy,
    /// Milliseconds between SIGTERM and SIGKILL.
    pub stop_grace: u64,
}

/// What a service's name resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// A virtual IP.
    Vip,
    /// The addresses of its tasks.
    Dnsrr,
}

/// A service as the user asked for it. Never edited by the system, save `replicas` by the user's own `scale`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique in the cluster and usable as a DNS label: letters, digits, `-`, at most 63, no `-` at either end.
    pub name: String,
    /// How many tasks run.
    pub replicas: u32,
    /// Names or ids of the networks that its tasks attach to; the first carries the way out.
    pub networks: Vec<String>,
    /// What its name resolves to.
    pub endpoint_mode: EndpointMode,
    /// What one task runs.
    pub task: TaskSpec,
    /// The user's own notes.
    pub labels: BTreeMap<String, String>,
}

/// A service of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its identity.
    pub id: ServiceId,
    /// What was asked for.
    pub spec: ServiceSpec,
    /// Its networks, in the order asked for.
    pub networks: Vec<NetworkId>,
    /// Its virtual IPs: one per family of each network; empty lists for `dnsrr`.
    pub vips: BTreeMap<NetworkId, Vec<IpAddr>>,
    /// It is being removed: its tasks are stopped, then it goes.
    pub removing: bool,
    /// When it was made.
    pub created: Millis,
}
