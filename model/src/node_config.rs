//! `NodeConfig`: all that one host must look like, with no choices left; and its snapshots and
//! deltas.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Balance, BalancerKind, Bandwidth, ContainerRuntime, EndpointId, IdError, IpvlanMode,
    JoinedConfig, Level, Mac, MacvlanMode, MemberConfig, NamedPort, NetworkId, NodeId, OfferConfig,
    Parent, PeerKeys, PublishSpec, Reach, Records, Role, SandboxId, ServiceId, SlotConfig,
    SubnetLease, TaskId, TaskSpec, TaskState, Vni, names::Namespace,
};

/// All that one host must look like. A function of the replicated state and the host's identity,
/// nothing else. A copy is cheap, and a change of it shares with it all records that it has not
/// touched, so that who depends on it finds them: [`Records::differences`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The state's revision that it was projected at. Never goes back on a host.
    pub generation: u64,
    /// The level that its reader must know: the cluster's.
    pub level: Level,
    /// Id of the node that it is on.
    pub node: NodeId,
    /// The managers, the hosts it shares a network with, and the host itself.
    pub peers: Records<NodeId, PeerConfig>,
    /// For each host that it shares an encrypted network with.
    pub keys: Records<NodeId, PeerKeys>,
    /// The networks it has part in.
    pub networks: Records<NetworkId, NetworkConfig>,
    /// The endpoints of those networks, on all hosts. No two of a network share an address.
    pub endpoints: Records<EndpointId, EndpointConfig>,
    /// The virtual services of those networks. Derived, as names are.
    pub services: Records<(NetworkId, ServiceId), VirtualServiceConfig>,
    /// The ports of the host that lead to services and containers, by whose they are and their
    /// place in its list.
    pub published: Records<(Publisher, String), PublishedConfig>,
    /// DNS names on those networks, in lower case, without the network's own name. From
    /// [`Level::SHARED_VIEWS`] on they do not travel: [`NodeConfig::derive`].
    pub names: Records<(NetworkId, String), NameConfig>,
    /// The networks that it has names on. Empty below [`Level::SHARED_VIEWS`], as are the next
    /// three.
    pub joined: Records<NetworkId, JoinedConfig>,
    /// The services of its networks.
    pub offers: Records<(NetworkId, ServiceId), OfferConfig>,
    /// Their slots.
    pub slots: Records<(NetworkId, (ServiceId, u32)), SlotConfig>,
    /// The containers of its networks.
    pub members: Records<(NetworkId, EndpointId), MemberConfig>,
    /// The tasks that it runs or is to stop.
    pub tasks: Records<TaskId, TaskConfig>,
    /// The containers attached on it.
    pub containers: Records<SandboxId, ContainerConfig>,
}

/// A host as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// Host name of the node when it joined.
    pub hostname: String,
    /// What it may do.
    pub role: Role,
    /// Where its control plane listens.
    pub address: SocketAddr,
    /// Where its tunnels end.
    pub vtep: IpAddr,
    /// What translates virtual IPs on it.
    pub balancer: BalancerKind,
}

impl PeerConfig {
    /// The addresses that the host's own calls into networks bear: where its tunnels end, and where
    /// that is of IPv4 one of IPv6 that follows from its id, so that others can tell whose it is.
    pub fn calling(&self, node: NodeId) -> Vec<IpAddr> {
        let derived = self.vtep.is_ipv4().then(|| calling6(node).into());
        [self.vtep].into_iter().chain(derived).collect()
    }
}

/// A unique local address (RFC 4193), which leaves the host inside tunnels only.
fn calling6(node: NodeId) -> Ipv6Addr {
    let prefix = 0xfd6e_6574_6401_0000_u128 << 64;
    Ipv6Addr::from(prefix | u128::from(node.0))
}

/// A network on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Name that people gave it, unique among those of its kind.
    pub name: String,
    /// Its VXLAN network identifier; networks without tunnels have one too, for the names of their
    /// links.
    pub vni: Vni,
    /// How its endpoints reach each other.
    pub driver: DriverConfig,
    /// Its prefixes and gateways.
    pub subnets: Vec<SubnetLease>,
    /// No way out, no forwarding of names.
    pub internal: bool,
    /// MTU of its endpoints in bytes if the user set one; default: the uplink's minus the overhead.
    pub mtu: Option<u32>,
    /// Who outside of it may call its endpoints; nobody before [`Level::REACH`].
    #[serde(default, skip_serializing_if = "Reach::is_nobody")]
    pub reach: Reach,
}

/// Driver of a network, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DriverConfig {
    /// Routed VXLAN (RFC 7348) between hosts.
    Overlay {
        /// UDP port of its tunnels. Encrypted networks have a port of their own, at which packets
        /// are encrypted or dropped.
        port: u16,
        /// ESP between hosts (RFC 4303).
        encrypted: bool,
    },
    /// Ports of a LAN, each with an Ethernet address of its own.
    Macvlan {
        /// The host's link to the LAN.
        parent: Parent,
        /// Which endpoints on the same host an endpoint reaches.
        mode: MacvlanMode,
    },
    /// Ports of a LAN that share the Ethernet address of the host's link to it.
    Ipvlan {
        /// The host's link to the LAN.
        parent: Parent,
        /// What its devices decide by.
        mode: IpvlanMode,
    },
}

impl DriverConfig {
    /// The host's link to the LAN, if the network is on one.
    pub fn parent(&self) -> Option<&Parent> {
        match self {
            Self::Overlay { .. } => None,
            Self::Macvlan { parent, .. } | Self::Ipvlan { parent, .. } => Some(parent),
        }
    }
}

/// An endpoint, on this host or another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointConfig {
    /// Id of the network that it is on.
    pub network: NetworkId,
    /// Id of the node that it is on.
    pub node: NodeId,
    /// The sandbox that it joins.
    pub sandbox: SandboxId,
    /// Its addresses, one per family at most.
    pub addresses: Vec<IpAddr>,
    /// Its Ethernet address, unique on its segment.
    pub mac: Mac,
}

/// A service on a network that has a virtual IP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualServiceConfig {
    /// Name that people gave it, unique among those of its kind.
    pub name: String,
    /// Its virtual IPs, one per family. Each answers every port and protocol.
    pub vips: Vec<IpAddr>,
    /// Scheduler and affinity of its virtual IPs.
    pub balance: Balance,
    /// Its real servers and their weights (0: no new connections), both families; a virtual IP uses
    /// those of its own.
    pub real_servers: BTreeMap<IpAddr, u16>,
}

/// Owner of published ports. Written as the service's id, or as `container-` and the endpoint's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Publisher {
    /// A service's.
    Service(ServiceId),
    /// A container's.
    Container(EndpointId),
}

impl fmt::Display for Publisher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(out, "{service}"),
            Self::Container(endpoint) => write!(out, "container-{endpoint}"),
        }
    }
}

impl FromStr for Publisher {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.strip_prefix("container-") {
            Some(endpoint) => endpoint.parse().map(Self::Container),
            None => text.parse().map(Self::Service),
        }
    }
}

/// Ports of the host that lead to a service's tasks, or to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedConfig {
    /// Owner, for people: `service web`, `container db`.
    pub owner: String,
    /// Network on which its tasks are reached. A host without tasks has part in it for this purpose
    /// alone.
    pub network: NetworkId,
    /// What the user asked for; netd never changes it.
    pub spec: PublishSpec,
    /// How a real server is chosen.
    pub balance: Balance,
    /// Real servers on this host's ports, with weights (0: no new connections), both families.
    pub real_servers: BTreeMap<IpAddr, u16>,
}

/// A name on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameConfig {
    /// What it resolves to, both families.
    pub addresses: Vec<IpAddr>,
    /// Whether this is the name that its addresses resolve back to (PTR).
    pub canonical: bool,
    /// The ports that SRV records of it tell.
    pub ports: Vec<NamedPort>,
    /// Targets of the SRV records; the name itself if empty.
    pub targets: Vec<String>,
    /// Somebody gave it with dots in it: names that are formed (`NAME.STACK`) are found before it.
    #[serde(default, skip_serializing_if = "is_formed")]
    pub dotted: bool,
}

/// Of a name without dots, or of one that is formed.
fn is_formed(dotted: &bool) -> bool {
    !dotted
}

impl NameConfig {
    /// The name that these addresses resolve back to, without ports.
    pub fn canonical(addresses: Vec<IpAddr>) -> Self {
        Self {
            canonical: true,
            ..Self::further(addresses)
        }
    }

    /// A further name of these addresses, without ports.
    pub fn further(addresses: Vec<IpAddr>) -> Self {
        Self {
            addresses,
            canonical: false,
            ports: Vec::new(),
            targets: Vec::new(),
            dotted: false,
        }
    }
}

/// A task on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskConfig {
    /// Id of the service that it is a run of.
    pub service: ServiceId,
    /// Name of that service, a DNS label.
    pub service_name: String,
    /// The stack that its service is part of.
    pub stack: Option<String>,
    /// Number of its replica, from 1.
    pub slot: u32,
    /// Program, environment, restarts, health check and DNS options.
    pub spec: TaskSpec,
    /// Target state: `Running`, or a terminal one.
    pub desired: TaskState,
    /// Where the managers think it stands.
    pub state: TaskState,
    /// No balancer leads new connections to it: the agent reports how many are left.
    pub draining: bool,
    /// Its endpoints in the order of its interfaces (`eth0`, `eth1`, …). The first on a network
    /// that is not internal is the way out, for each family by itself.
    pub endpoints: Vec<EndpointId>,
}

impl TaskConfig {
    /// The name people use: `web.1`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.service_name, self.slot)
    }

    /// Whether one of its networks is on a LAN.
    pub fn is_on_lan(&self, config: &NodeConfig) -> bool {
        config.any_on_lan(self.endpoints.iter())
    }
}

/// A container on this host, run by Docker or CNI: its endpoints in one network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// The kind of runtime that has the container.
    pub runtime: ContainerRuntime,
    /// What people call it.
    pub name: String,
    /// The file of its network namespace.
    pub path: String,
    /// Identity of the namespace at this path; `None`: it may not exist yet.
    pub identity: Option<String>,
    /// Its endpoints in the order of their names, or of their making.
    pub endpoints: Vec<ContainerEndpoint>,
    /// A network outside the cluster is its way out.
    #[serde(default)]
    pub leaves_elsewhere: bool,
}

impl ContainerConfig {
    /// Whether its runtime has a resolver of its own inside: Docker Engine's at 127.0.0.11.
    pub fn has_engine(&self) -> bool {
        self.runtime == ContainerRuntime::Docker
    }
}

/// An endpoint of a container of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEndpoint {
    /// Id of the endpoint.
    pub id: EndpointId,
    /// Name of the interface inside. `None`: the runtime moves a device from the host into the
    /// namespace and configures it.
    pub interface: Option<String>,
    /// Limits of its interface, in bits per second.
    pub bandwidth: Bandwidth,
}

/// A change from one configuration of a host to a later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewDelta {
    /// The generation it applies to; `None` applies to anything: a snapshot.
    pub from: Option<u64>,
    /// The generation it leads to.
    pub to: u64,
    /// The level that its reader must know.
    #[serde(default, skip_serializing_if = "Level::is_first")]
    pub level: Level,
    /// The host that it is for.
    pub node: NodeId,
    /// Records that are new or differ, by key: `section/id`.
    pub set: BTreeMap<String, Value>,
    /// Keys of records that are gone.
    pub remove: Vec<String>,
}

impl ViewDelta {
    /// Whether it changes nothing but the generation.
    pub fn is_empty(&self) -> bool {
        self.from.is_some() && self.set.is_empty() && self.remove.is_empty()
    }
}

/// A delta that cannot be applied; the receiver keeps what it has and asks for a snapshot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ViewError {
    /// Meant for another host.
    #[error("the view of node {found} was sent to node {expected}")]
    Node {
        /// Id of the node that has the view.
        expected: NodeId,
        /// The one it is for.
        found: NodeId,
    },
    /// It does not follow on what is here.
    #[error("a change of generation {found:?} does not follow on generation {expected}")]
    Gap {
        /// Generation of the view that is here.
        expected: u64,
        /// What it applies to.
        found: Option<u64>,
    },
    /// It leads to an earlier generation.
    #[error("generation {found} is older than generation {expected}, which this host already has")]
    Stale {
        /// Generation of the view that is here.
        expected: u64,
        /// What it leads to.
        found: u64,
    },
    /// A record that this version cannot read.
    #[error("record {0:?} of the view cannot be read: {1}")]
    Record(String, Unread),
}

/// Why a record of a view cannot be read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unread {
    /// Its key names no section that this version has.
    #[error("there is no such section")]
    Section,
    /// Its key is not of the form that its section takes.
    #[error("{0:?} is not a key of this section")]
    Key(String),
    /// Its value has another shape than its section's records.
    #[error("{0}")]
    Value(String),
}

impl NodeConfig {
    /// The sandboxes on this host with a resolver of their own inside: those with a port of a LAN,
    /// and the containers of Docker Engine.
    pub fn resolving(&self) -> impl Iterator<Item = SandboxId> {
        let tasks = self.tasks.iter();
        let tasks = tasks.filter(|(_, task)| task.is_on_lan(self));
        let containers = self
            .containers
            .iter()
            .filter(|(_, container)| container.has_engine() || self.is_on_lan(container));
        tasks
            .map(|(&id, _)| id.into())
            .chain(containers.map(|(&id, _)| id))
    }

    /// Whether a container has a port of a LAN.
    pub fn is_on_lan(&self, container: &ContainerConfig) -> bool {
        self.any_on_lan(container.endpoints.iter().map(|joint| &joint.id))
    }

    /// Kernel name of a sandbox's namespace on this host.
    pub fn namespace_of(&self, sandbox: SandboxId) -> Namespace {
        match self.containers.contains_key(&sandbox) {
            true => Namespace::Container(sandbox),
            false => Namespace::Sandbox(sandbox),
        }
    }

    fn any_on_lan<'a>(&self, endpoints: impl Iterator<Item = &'a EndpointId>) -> bool {
        let endpoints = endpoints.filter_map(|id| self.endpoints.get(id));
        let mut networks = endpoints.filter_map(|endpoint| self.networks.get(&endpoint.network));
        networks.any(|network| network.driver.parent().is_some())
    }

    /// The whole of it, to be applied to anything.
    pub fn snapshot(&self) -> ViewDelta {
        ViewDelta {
            from: None,
            ..Self::empty(self.node).delta(self)
        }
    }

    /// What leads from here to `later`.
    pub fn delta(&self, later: &NodeConfig) -> ViewDelta {
        let mut delta = ViewDelta {
            from: Some(self.generation),
            to: later.generation,
            level: later.level,
            node: later.node,
            set: BTreeMap::new(),
            remove: Vec::new(),
        };
        self.compare(later, &mut delta);
        delta
    }

    /// Applies a delta to a copy of this configuration. All or nothing.
    pub fn apply(&self, delta: &ViewDelta) -> Result<Self, ViewError> {
        if delta.node != self.node {
            return Err(ViewError::Node {
                expected: self.node,
                found: delta.node,
            });
        }
        if delta.to < self.generation {
            return Err(ViewError::Stale {
                expected: self.generation,
                found: delta.to,
            });
        }
        let mut next = match delta.from {
            None => Self::empty(self.node),
            Some(from) if from == self.generation => self.clone(),
            found => {
                return Err(ViewError::Gap {
                    expected: self.generation,
                    found,
                });
            }
        };
        let mut touched = Vec::new();
        let is_shared = delta.level >= Level::SHARED_VIEWS;
        let begins = is_shared && next.level < Level::SHARED_VIEWS;
        (next.generation, next.level) = (delta.to, delta.level);
        for key in &delta.remove {
            touched.extend(next.change(key, None)?);
        }
        for (key, value) in &delta.set {
            touched.extend(next.change(key, Some(value))?);
        }
        if begins {
            next.derive();
        } else if is_shared {
            next.derive_again(&touched);
        }
        Ok(next)
    }

    /// Returns where names and balancers are to be derived anew.
    fn change(&mut self, key: &str, value: Option<&Value>) -> Result<Option<Derive>, ViewError> {
        let unread = |reason| ViewError::Record(key.to_owned(), reason);
        let unknown = || unread(Unread::Section);
        let (section, id) = key.split_once('/').ok_or_else(unknown)?;
        self.put(section, id, value).map_err(unread)?;
        Ok(match section {
            "joined" | "offer" | "member" => {
                let network = id.split('/').next().unwrap_or_default();
                network.parse().ok().map(Derive::Network)
            }
            "slot" => Key::read(id).map(Derive::Slot),
            "publish" => {
                let key = Key::read(id);
                let port = key.and_then(|key| self.published.get(&key));
                port.map(|port| Derive::Network(port.network))
            }
            _ => None,
        })
    }

    /// Ports as they travel: what their reader derives is left out.
    fn sent_published(&self) -> Records<(Publisher, String), PublishedConfig> {
        let mut published = self.published.clone();
        if self.level < Level::SHARED_VIEWS {
            return published;
        }
        for (key, port) in &self.published {
            if port.shared_by(key.0).is_some() && !port.real_servers.is_empty() {
                let real_servers = BTreeMap::new();
                let port = PublishedConfig {
                    real_servers,
                    ..port.clone()
                };
                published.insert(key.clone(), port);
            }
        }
        published
    }
}

/// What is derived from records that have changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Derive {
    /// All that is on a network.
    Network(NetworkId),
    /// What leads to this slot.
    Slot((NetworkId, (ServiceId, u32))),
}

/// Records that travel; none where their reader derives them.
fn unless_derived<K: Ord, V>(records: &Records<K, V>, level: Level) -> Records<K, V> {
    if level < Level::SHARED_VIEWS {
        records.clone()
    } else {
        Records::default()
    }
}

/// The sections of a configuration: what each is called in the keys of records, its field,
/// whether its records are secrets, which are not to be shown, and whether they travel or are
/// derived.
macro_rules! sections {
    ($($name:literal: $field:ident $shown:ident $travels:ident,)*) => {
        impl NodeConfig {
            /// The configuration of a host without a view.
            pub fn empty(node: NodeId) -> Self {
                Self {
                    generation: 0,
                    level: Level::FIRST,
                    node,
                    $($field: Records::default(),)*
                }
            }

            /// Whether the record of this key, `section/id`, may be shown to people. One of an
            /// unknown section may not.
            pub fn is_public(key: &str) -> bool {
                let section = key.split_once('/').map_or(key, |(section, _)| section);
                match section {
                    $($name => sections!(@ $shown),)*
                    _ => false,
                }
            }

            fn compare(&self, later: &Self, delta: &mut ViewDelta) {
                $({
                    let old = sections!(@ $travels self.$field, self);
                    let new = sections!(@ $travels later.$field, later);
                    diff($name, &old, &new, delta);
                })*
            }

            fn put(
                &mut self,
                section: &str,
                id: &str,
                value: Option<&Value>,
            ) -> Result<(), Unread> {
                match section {
                    $($name => put(&mut self.$field, id, value),)*
                    _ => Err(Unread::Section),
                }
            }
        }
    };
    (@ public) => { true };
    (@ secret) => { false };
    (@ whole $records:expr, $config:ident) => { $records.clone() };
    (@ derived $records:expr, $config:ident) => { unless_derived(&$records, $config.level) };
    (@ partly $records:expr, $config:ident) => { $config.sent_published() };
}

sections! {
    "peer": peers public whole,
    "key": keys secret whole,
    "network": networks public whole,
    "endpoint": endpoints public whole,
    "service": services public derived,
    "publish": published public partly,
    "name": names public derived,
    "joined": joined public whole,
    "offer": offers public whole,
    "slot": slots public whole,
    "member": members public whole,
    "task": tasks public whole,
    "container": containers public whole,
}

/// A map key that can be part of a record's key.
trait Key: Ord + Sized {
    fn write(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

macro_rules! simple_key {
    ($($name:ty),*) => {$(
        impl Key for $name {
            fn write(&self) -> String {
                self.to_string()
            }

            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}

simple_key!(
    NodeId, NetworkId, EndpointId, ServiceId, TaskId, SandboxId, Publisher, String, u32
);

impl<A: Key, B: Key> Key for (A, B) {
    fn write(&self) -> String {
        format!("{}/{}", self.0.write(), self.1.write())
    }

    fn read(text: &str) -> Option<Self> {
        let (first, second) = text.split_once('/')?;
        Some((A::read(first)?, B::read(second)?))
    }
}

fn diff<K: Key, V: PartialEq + Serialize>(
    section: &str,
    old: &Records<K, V>,
    new: &Records<K, V>,
    delta: &mut ViewDelta,
) {
    for (key, [_, value]) in old.differences(new) {
        let key = format!("{section}/{}", key.write());
        // Records are plain data with string keys: they always have a JSON form.
        match value {
            Some(value) => {
                let value = serde_json::to_value(value).unwrap_or(Value::Null);
                delta.set.insert(key, value);
            }
            None => delta.remove.push(key),
        }
    }
}

fn put<K: Key, V: PartialEq + DeserializeOwned>(
    records: &mut Records<K, V>,
    id: &str,
    value: Option<&Value>,
) -> Result<(), Unread> {
    let key = K::read(id).ok_or_else(|| Unread::Key(id.to_owned()))?;
    match value {
        Some(value) => {
            let record = V::deserialize(value);
            let record = record.map_err(|error| Unread::Value(error.to_string()))?;
            records.insert(key, record);
        }
        None => {
            records.remove(&key);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(generation: u64, names: &[(&str, &str)]) -> NodeConfig {
        let mut config = NodeConfig {
            generation,
            ..NodeConfig::empty(NodeId(7))
        };
        for (name, address) in names {
            let record = NameConfig::further(vec![address.parse().unwrap()]);
            config
                .names
                .insert((NetworkId(1), (*name).to_owned()), record);
        }
        config
    }

    #[test]
    fn a_delta_leads_from_one_configuration_to_the_other() {
        let old = config(3, &[("web", "10.0.9.2"), ("db", "10.0.9.3")]);
        let new = config(8, &[("web", "10.0.9.4"), ("tasks.web", "fd00:9::5")]);
        let delta = old.delta(&new);
        assert_eq!((delta.set.len(), delta.remove.len()), (2, 1));
        assert_eq!(old.apply(&delta), Ok(new.clone()));
        assert_eq!(config(5, &[]).apply(&new.snapshot()), Ok(new));
    }

    #[test]
    fn gaps_steps_back_and_other_hosts_views_are_refused() {
        let (old, new) = (config(3, &[]), config(8, &[]));
        assert!(matches!(
            config(4, &[]).apply(&old.delta(&new)),
            Err(ViewError::Gap { .. })
        ));
        assert!(matches!(
            new.apply(&old.snapshot()),
            Err(ViewError::Stale { .. })
        ));
        let other = NodeConfig {
            node: NodeId(8),
            ..new
        };
        assert!(matches!(
            old.apply(&other.snapshot()),
            Err(ViewError::Node { .. })
        ));
    }
}
