//! Services: a spec of a command, and how many tasks run it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Balance, Millis, NamedPort, NetworkId, PublishSpec, ServiceId};

/// What runs a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Runtime {
    /// A command in namespaces of its own.
    Exec {
        /// Program and arguments; empty only where nothing runs: in external services.
        argv: Vec<String>,
        /// `NAME=VALUE`, on top of a minimal environment.
        env: BTreeMap<String, String>,
        /// Root directory, or the word [`Runtime::MINIMAL_ROOT`] or [`Runtime::HOST_ROOT`]. In
        /// services from before [`crate::Level::KEYS`] none, which is all of the host's own root,
        /// read-only.
        rootfs: Option<PathBuf>,
    },
}

impl Runtime {
    /// A root directory of the host's programs and libraries, and hardly anything else of the host.
    /// What services have that ask for none.
    pub const MINIMAL_ROOT: &str = "minimal";
    /// The host's own root, read-only, without what it keeps secret and what it remembers.
    pub const HOST_ROOT: &str = "host";

    /// Whether this says a word, and no directory.
    pub fn is_word(rootfs: &Path) -> bool {
        [Self::MINIMAL_ROOT, Self::HOST_ROOT]
            .iter()
            .any(|word| rootfs == Path::new(word))
    }
}

/// When a task that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// Whatever its exit code.
    Any,
    /// When it failed: exit code other than 0.
    OnFailure,
    /// Not at all.
    None,
}

/// How a task that ended is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// After which ends a task gets a successor.
    pub condition: RestartCondition,
    /// Milliseconds between the end and the new start.
    pub delay: u64,
    /// How many restarts a slot gets; 0 is no limit.
    pub max_attempts: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: 5_000,
            max_attempts: 0,
        }
    }
}

/// A health check. A task takes traffic from its first success on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Program and arguments, run inside the task; exit code 0 is healthy. Never empty.
    pub argv: Vec<String>,
    /// Milliseconds between the end of one check and the next.
    pub interval: u64,
    /// Milliseconds after which a check has failed.
    pub timeout: u64,
    /// How many failures in a row end the task; at least 1.
    pub retries: u32,
    /// Milliseconds from the start in which failures do not count.
    pub start_period: u64,
}

/// Resolver settings of a task, for `/etc/resolv.conf` and forwarding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// DNS servers for names outside the cluster, instead of the host's resolvers.
    pub servers: Vec<IpAddr>,
    /// Search domains instead of the host's.
    pub search: Vec<String>,
    /// Resolver options (resolv.conf(5)) instead of the host's.
    pub options: Vec<String>,
}

/// What one task runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Program or image of the task.
    pub runtime: Runtime,
    /// How it is started again.
    pub restart: RestartPolicy,
    /// Command that tells whether it is well; `None`: it is while it runs.
    pub health: Option<HealthCheck>,
    /// What the resolver inside the task asks and searches.
    pub dns: DnsConfig,
    /// Milliseconds that open connections get to finish before a planned stop, once no new ones
    /// arrive.
    pub drain: u64,
    /// Milliseconds between SIGTERM and SIGKILL.
    pub stop_grace: u64,
}

impl TaskSpec {
    /// A spec with defaults for everything else.
    pub fn new(runtime: Runtime) -> Self {
        let (restart, dns) = (RestartPolicy::default(), DnsConfig::default());
        Self {
            runtime,
            restart,
            health: None,
            dns,
            drain: 10_000,
            stop_grace: 10_000,
        }
    }
}

/// Order of a planned replacement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old one stops.
    #[default]
    StopFirst,
    /// Another one takes traffic.
    StartFirst,
}

/// Action when new tasks of an update end by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdateFailure {
    /// The tasks that are not updated yet stay as they are.
    #[default]
    Pause,
    /// The update goes on.
    Continue,
}

/// How a changed service replaces its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdatePolicy {
    /// How many slots at a time; 0 is all.
    pub parallelism: u32,
    /// Milliseconds between one batch and the next.
    pub delay: u64,
    /// Whether the old task stops first or the new one starts first.
    pub order: UpdateOrder,
    /// Action when new tasks end by themselves.
    pub on_failure: UpdateFailure,
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: 0,
            order: UpdateOrder::default(),
            on_failure: UpdateFailure::default(),
        }
    }
}

/// What a service's name resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// A virtual IP per family of each network.
    Vip,
    /// The addresses of its tasks.
    Dnsrr,
}

/// A network of a service as the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// Name, id, or a prefix of an id that only one object has.
    pub network: String,
    /// Aliases of the service there: [`crate::DnsName`], and one label each below
    /// [`crate::Level::COMPOUNDS`].
    pub aliases: Vec<String>,
}

impl NetworkAttachment {
    /// An attachment without aliases.
    pub fn new(network: impl Into<String>) -> Self {
        Self {
            network: network.into(),
            aliases: Vec::new(),
        }
    }
}

/// A service as the user asked for it. Never edited by the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique in the cluster and usable as a DNS label: letters, digits, `-`, at most 63, no `-` at
    /// either end; from [`crate::Level::COMPOUNDS`] on also `_` between others.
    pub name: String,
    /// How many tasks run.
    pub replicas: u32,
    /// It starts no tasks: only containers run by Docker or CNI serve it.
    pub external: bool,
    /// The networks that its tasks attach to; the first carries the way out.
    pub networks: Vec<NetworkAttachment>,
    /// Its stack, a DNS label. It is also called `name.stack`, and tasks of the stack resolve its
    /// short name first.
    pub stack: Option<String>,
    /// What its name resolves to.
    pub endpoint_mode: EndpointMode,
    /// How its virtual IPs choose.
    pub balance: Balance,
    /// Its ports that have a name.
    pub ports: Vec<NamedPort>,
    /// Ports of hosts that lead to ports of its tasks.
    pub publish: Vec<PublishSpec>,
    /// Names lead to its tasks before they are healthy, too.
    pub publish_not_ready: bool,
    /// How its tasks are replaced when it is changed.
    pub update: UpdatePolicy,
    /// What one task runs.
    pub task: TaskSpec,
    /// Labels of the user; those that begin with `netd.` mean something to netd.
    pub labels: BTreeMap<String, String>,
}

impl ServiceSpec {
    /// A service of one task on no network, with defaults for everything else.
    pub fn new(name: impl Into<String>, task: TaskSpec) -> Self {
        Self {
            name: name.into(),
            replicas: 1,
            external: false,
            networks: Vec::new(),
            stack: None,
            endpoint_mode: EndpointMode::Vip,
            balance: Balance::default(),
            ports: Vec::new(),
            publish: Vec::new(),
            publish_not_ready: false,
            update: UpdatePolicy::default(),
            task,
            labels: BTreeMap::new(),
        }
    }
}

/// A service of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its id; in JSON 13 characters of base 36.
    pub id: ServiceId,
    /// What the user asked for; netd never changes it.
    pub spec: ServiceSpec,
    /// Its networks, in the order asked for.
    pub networks: Vec<NetworkId>,
    /// Its virtual IPs: one per family of each network; empty lists for `dnsrr`.
    pub vips: BTreeMap<NetworkId, Vec<IpAddr>>,
    /// It is being removed: its tasks stop, then its record is deleted.
    pub removing: bool,
    /// When it was made.
    pub created: Millis,
}
