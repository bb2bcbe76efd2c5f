//! What names resolve to, for whom. Pure: no socket, no clock; chance comes in as an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hickory_proto::rr::{
    LowerName, Name, RData, RecordType,
    rdata::{A, AAAA, PTR},
};
use model::{EndpointConfig, NetworkConfig, NetworkId, NodeConfig, Subnet, TaskConfig, TaskId};

/// Seconds that an answer of ours may be kept.
pub const ANSWER_TTL: u32 = 2;

/// The names of this host's networks and the clients that may see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    generation: u64,
    zones: BTreeMap<NetworkId, Zone>,
    /// The networks that a client is attached to, in the order of its interfaces.
    clients: BTreeMap<(NetworkId, IpAddr), Vec<NetworkId>>,
    tasks: BTreeMap<TaskId, Vec<NetworkId>>,
    gateways: BTreeSet<IpAddr>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// An address, as seen on the resolver of a network.
    Of {
        /// The network whose resolver was asked.
        network: NetworkId,
        /// Where the question came from.
        address: IpAddr,
    },
    /// A task with a resolver of its own.
    Task(TaskId),
}

/// What is to be said to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The name is ours and has these records; never empty.
    Records(Vec<RData>),
    /// The name is ours and has nothing of this type.
    NoData,
    /// An address of ours that has no name.
    NoSuchName,
    /// Not ours: for the host's resolvers.
    Forward,
    /// Not ours, and all of the client's networks are internal: nothing else exists for it.
    Internal,
    /// This host does not know the network (any more): neither yes nor no would be true.
    UnknownNetwork,
}

impl Table {
    /// The table of this configuration.
    pub fn of(config: &NodeConfig) -> Self {
        let mut zones: BTreeMap<_, _> = config.networks.iter().map(|(&id, network)| (id, Zone::of(network))).collect();
        for ((network, name), record) in &config.names {
            if let Some(zone) = zones.get_mut(network) {
                zone.add(name, &record.addresses, record.canonical);
            }
        }
        Self {
            generation: config.generation,
            zones,
            clients: config.tasks.values().flat_map(|task| clients(config, task)).collect(),
            tasks: config.tasks.iter().map(|(&id, task)| (id, networks(config, task))).collect(),
            gateways: config.networks.values().filter(|network| !is_lan(network)).flat_map(gateways).collect(),
        }
    }

    /// What to say to `client`. `chance` rotates the addresses of an answer; any value will do.
    ///
    /// A name that two of the client's networks have is the one of its first network; a name as it stands comes before
    /// one with a network's name appended.
    pub fn answer(&self, client: Client, question: &LowerName, kind: RecordType, chance: usize) -> Verdict {
        let Some(zones) = self.visible(client) else { return Verdict::UnknownNetwork };
        if let Some(address) = reverse(question) {
            return self.name_of(address, &zones, kind);
        }
        let plain = zones.iter().find_map(|zone| zone.names.get(question));
        match plain.or_else(|| zones.iter().find_map(|zone| zone.qualified.get(question))) {
            Some(addresses) => records(addresses, kind, chance),
            None => elsewhere(&zones),
        }
    }

    /// The log index of the configuration that it was made of.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The addresses that our own resolvers answer at.
    pub fn gateways(&self) -> &BTreeSet<IpAddr> {
        &self.gateways
    }

    /// The zones that a client sees; an unknown one sees the network that it asks in.
    fn visible(&self, client: Client) -> Option<Vec<&Zone>> {
        let zones = |ids: &Vec<NetworkId>| ids.iter().filter_map(|id| self.zones.get(id)).collect();
        match client {
            Client::Task(task) => self.tasks.get(&task).map(zones),
            Client::Of { network, address } => {
                let own = self.zones.get(&network)?;
                Some(self.clients.get(&(network, address)).map_or_else(|| vec![own], zones))
            }
        }
    }

    fn name_of(&self, address: IpAddr, zones: &[&Zone], kind: RecordType) -> Verdict {
        match zones.iter().find_map(|zone| zone.pointers.get(&address)) {
            Some(name) if kind == RecordType::PTR => Verdict::Records(vec![RData::PTR(PTR(name.clone()))]),
            Some(_) => Verdict::NoData,
            None if self.zones.values().any(|zone| zone.owns(address)) => Verdict::NoSuchName,
            None => elsewhere(zones),
        }
    }
}

/// The names of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Zone {
    name: String,
    internal: bool,
    subnets: Vec<Subnet>,
    /// `web`
    names: BTreeMap<LowerName, Vec<IpAddr>>,
    /// `web.my-net`
    qualified: BTreeMap<LowerName, Vec<IpAddr>>,
    pointers: BTreeMap<IpAddr, Name>,
}

impl Zone {
    fn of(network: &NetworkConfig) -> Self {
        Self {
            name: network.name.clone(),
            internal: network.internal,
            // A LAN has machines that others know the names of.
            subnets: network.subnets.iter().filter(|_| !is_lan(network)).map(|lease| lease.subnet).collect(),
            names: BTreeMap::new(),
            qualified: BTreeMap::new(),
            pointers: BTreeMap::new(),
        }
    }

    fn add(&mut self, name: &str, addresses: &[IpAddr], canonical: bool) {
        // A name too long for DNS (RFC 1035 section 2.3.4) cannot be asked for.
        if let Some(name) = absolute(name) {
            self.names.insert(LowerName::new(&name), addresses.to_vec());
        }
        let Some(qualified) = absolute(&format!("{name}.{}", self.name)) else { return };
        self.qualified.insert(LowerName::new(&qualified), addresses.to_vec());
        if canonical {
            for &address in addresses {
                self.pointers.entry(address).or_insert_with(|| qualified.clone());
            }
        }
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(address))
    }
}

fn clients<'a>(
    config: &'a NodeConfig,
    task: &'a TaskConfig,
) -> impl Iterator<Item = ((NetworkId, IpAddr), Vec<NetworkId>)> + 'a {
    let networks = networks(config, task);
    endpoints(config, task).flat_map(move |endpoint| {
        let networks = networks.clone();
        endpoint.addresses.iter().map(move |&address| ((endpoint.network, address), networks.clone()))
    })
}

fn networks(config: &NodeConfig, task: &TaskConfig) -> Vec<NetworkId> {
    endpoints(config, task).map(|endpoint| endpoint.network).collect()
}

fn endpoints<'a>(config: &'a NodeConfig, task: &'a TaskConfig) -> impl Iterator<Item = &'a EndpointConfig> {
    task.endpoints.iter().filter_map(|id| config.endpoints.get(id))
}

fn is_lan(network: &NetworkConfig) -> bool {
    network.driver.parent().is_some()
}

fn gateways(network: &NetworkConfig) -> impl Iterator<Item = IpAddr> {
    network.subnets.iter().map(|lease| lease.gateway)
}

fn absolute(text: &str) -> Option<Name> {
    Name::from_labels(text.split('.').map(str::as_bytes)).ok()
}

/// The address that a name under in-addr.arpa or ip6.arpa stands for.
fn reverse(question: &LowerName) -> Option<IpAddr> {
    let prefix = question.parse_arpa_name().ok()?;
    (prefix.prefix_len() == prefix.max_prefix_len()).then(|| prefix.addr())
}

fn records(addresses: &[IpAddr], kind: RecordType, chance: usize) -> Verdict {
    let of_kind = |address: &IpAddr| match (kind, *address) {
        (RecordType::A, IpAddr::V4(v4)) => Some(RData::A(A(v4))),
        (RecordType::AAAA, IpAddr::V6(v6)) => Some(RData::AAAA(AAAA(v6))),
        _ => None,
    };
    let mut found: Vec<RData> = addresses.iter().filter_map(of_kind).collect();
    if found.is_empty() {
        return Verdict::NoData;
    }
    let first = chance % found.len();
    found.rotate_left(first);
    Verdict::Records(found)
}

/// Also a name below one of our networks' names: a network may well be called `dev`, and so is a part of the Internet.
fn elsewhere(zones: &[&Zone]) -> Verdict {
    if zones.iter().all(|zone| zone.internal) { Verdict::Internal } else { Verdict::Forward }
}
