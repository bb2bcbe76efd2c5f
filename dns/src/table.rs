//! What names resolve to, for whom. Pure: no socket, no clock.
//!
//! A client's names are looked up in this order: with its own stack behind them, as they are, and
//! without the name of a network that ends them; each in its networks in the order of its
//! interfaces. All of that first among what services and containers are called by one label, and
//! what is formed from it (`web.1`, `web.shop`); then among the names that they were given with
//! dots (`api.example.com`), which so can hide none of the former in any network.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use model::{
    EndpointConfig, EndpointId, NameConfig, NamedPort, NetworkConfig, NetworkId, NodeConfig,
    Protocol, SandboxId, Subnet, names,
};

use crate::{
    cache::Way,
    wire::{self, Name},
};

/// TTL of our positive answers in seconds.
pub const ANSWER_TTL: u32 = 2;
/// Name of the resolver itself on each network; no valid service name begins with `_`.
const OURSELVES: &str = "_dns";

/// The names of this host's networks and the clients that may see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    generation: u64,
    zones: Vec<Zone>,
    viewers: Vec<Viewer>,
    networks: HashMap<NetworkId, usize>,
    clients: HashMap<(NetworkId, IpAddr), usize>,
    sandboxes: HashMap<SandboxId, usize>,
    host: Viewer,
    gateways: Arc<BTreeSet<IpAddr>>,
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
    /// A sandbox with a resolver of its own.
    Sandbox(SandboxId),
    /// A program of the host itself. It sees the networks that hosts call, below a domain of its
    /// own, and gets nothing else answered.
    Host,
}

/// The names that one client sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Viewer {
    /// Its networks' zones, in the order of its interfaces.
    zones: Vec<usize>,
    /// Its stack's name as DNS labels.
    stack: Option<Vec<u8>>,
    /// Whom other names are asked of.
    pub(crate) way: Way,
    /// A network outside the cluster, such as Docker's bridge, gives the container its default
    /// route.
    leaves_elsewhere: bool,
}

impl Table {
    /// The table of this configuration.
    pub fn of(config: &NodeConfig) -> Self {
        let mut table = Self {
            generation: config.generation,
            ..Self::default()
        };
        for (&id, network) in &config.networks {
            let zone = table.zones.len();
            table.networks.insert(id, zone);
            // At the same index as the zone: an unknown client sees the network that it asks in.
            table.viewers.push(Viewer {
                zones: vec![zone],
                ..Viewer::default()
            });
            table.zones.push(Zone::of(network));
            if network.reach.hosts && !is_lan(network) {
                table.host.zones.push(zone);
            }
        }
        for ((network, name), record) in &config.names {
            if let Some(&zone) = table.networks.get(network) {
                table.zones[zone].add(name, name, record);
            }
        }
        table.add_sandboxes(config);
        let overlays = config.networks.values();
        let overlays = overlays.filter(|network| !is_lan(network));
        table.gateways = Arc::new(overlays.flat_map(gateways).collect());
        table
    }

    /// Makes the table of `before` that of `after`. It costs what differs, unless networks do.
    pub fn follow(&mut self, before: &NodeConfig, after: &NodeConfig) {
        if before.networks != after.networks {
            *self = Self::of(after);
            return;
        }
        self.generation = after.generation;
        for ((network, name), [old, new]) in before.names.differences(&after.names) {
            if let Some(&zone) = self.networks.get(network) {
                self.zones[zone].change(name, old, new);
            }
        }
        let mut endpoints = before.endpoints.differences(&after.endpoints);
        let is_here = |endpoint: Option<&EndpointConfig>| {
            endpoint.is_some_and(|endpoint| endpoint.node == after.node)
        };
        let is_alike = before.node == after.node
            && before.tasks == after.tasks
            && before.containers == after.containers
            && !endpoints.any(|(_, versions)| versions.into_iter().any(is_here));
        if !is_alike {
            self.viewers.truncate(self.zones.len());
            self.clients.clear();
            self.sandboxes.clear();
            self.add_sandboxes(after);
        }
    }

    /// Adds the clients on this host that have networks of their own.
    fn add_sandboxes(&mut self, config: &NodeConfig) {
        for (&id, task) in &config.tasks {
            let servers = &task.spec.dns.servers;
            let viewer = Viewer {
                zones: Vec::new(),
                stack: task
                    .stack
                    .as_ref()
                    .and_then(|stack| wire::labels(&stack.to_ascii_lowercase())),
                way: match servers.is_empty() {
                    true => Way::Host,
                    false => Way::Sandbox(id.into(), servers.clone()),
                },
                leaves_elsewhere: false,
            };
            self.add_sandbox(config, id.into(), viewer, task.endpoints.iter());
        }
        for (&id, container) in &config.containers {
            let endpoints = container.endpoints.iter().map(|joint| &joint.id);
            let viewer = Viewer {
                way: match container.has_engine() {
                    true => Way::Engine(id),
                    false => Way::Host,
                },
                leaves_elsewhere: container.leaves_elsewhere,
                ..Viewer::default()
            };
            self.add_sandbox(config, id, viewer, endpoints);
        }
    }

    fn add_sandbox<'a>(
        &mut self,
        config: &'a NodeConfig,
        id: SandboxId,
        viewer: Viewer,
        endpoints: impl Iterator<Item = &'a EndpointId>,
    ) {
        let endpoints: Vec<&EndpointConfig> = endpoints
            .filter_map(|id| config.endpoints.get(id))
            .collect();
        let zones = endpoints
            .iter()
            .filter_map(|of| self.networks.get(&of.network).copied())
            .collect();
        let index = self.viewers.len();
        self.viewers.push(Viewer { zones, ..viewer });
        self.sandboxes.insert(id, index);
        for endpoint in endpoints {
            self.clients.extend(
                endpoint
                    .addresses
                    .iter()
                    .map(|&address| ((endpoint.network, address), index)),
            );
        }
    }

    /// Generation of the configuration that this table was built from.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The addresses that our own resolvers answer at.
    pub fn gateways(&self) -> &Arc<BTreeSet<IpAddr>> {
        &self.gateways
    }

    /// The view of a client; `None` if this host does not know its network.
    pub(crate) fn viewer(&self, client: Client) -> Option<&Viewer> {
        let index = match client {
            Client::Host => return Some(&self.host),
            Client::Sandbox(sandbox) => self.sandboxes.get(&sandbox),
            Client::Of { network, address } => {
                let own = self.networks.get(&network)?;
                Some(self.clients.get(&(network, address)).unwrap_or(own))
            }
        };
        self.viewers.get(*index?)
    }

    fn zones<'a>(&'a self, viewer: &'a Viewer) -> impl Iterator<Item = &'a Zone> + Clone {
        viewer.zones.iter().filter_map(|&zone| self.zones.get(zone))
    }

    /// What a name means to a client, and where.
    pub(crate) fn find<'a>(
        &'a self,
        viewer: &'a Viewer,
        name: &[u8],
    ) -> Option<(&'a Zone, &'a Entry)> {
        let found = self.find_among(viewer, name, |zone| &zone.names);
        found.or_else(|| {
            let has_dotted = self.zones(viewer).any(|zone| !zone.dotted.is_empty());
            has_dotted.then(|| self.find_among(viewer, name, |zone| &zone.dotted))?
        })
    }

    /// Whether this is the name of a network that a client sees.
    pub(crate) fn is_network(&self, viewer: &Viewer, name: &[u8]) -> bool {
        self.zones(viewer).any(|zone| zone.lower == name)
    }

    /// What a name with a network's name at its end means there.
    pub(crate) fn find_there<'a>(
        &'a self,
        viewer: &'a Viewer,
        name: &[u8],
    ) -> Option<(&'a Zone, &'a Entry)> {
        let mut zones = self.zones(viewer);
        zones.find_map(|zone| Some((zone, zone.get(zone.relative(name)?)?)))
    }

    fn find_among<'a>(
        &'a self,
        viewer: &'a Viewer,
        name: &[u8],
        names_of: impl Fn(&Zone) -> &Names,
    ) -> Option<(&'a Zone, &'a Entry)> {
        let zones = || self.zones(viewer);
        let get = |zone: &'a Zone, name: &[u8]| Some((zone, names_of(zone).get(name)?));
        let exactly = |name: &[u8]| zones().find_map(|zone| get(zone, name));
        let of_stack = |zone: &'a Zone, name: &[u8]| {
            let whole = Name::below(name, viewer.stack.as_ref()?)?;
            get(zone, whole.as_bytes())
        };
        let stacked = |name: &[u8]| {
            viewer
                .stack
                .as_ref()
                .and_then(|_| zones().find_map(|zone| of_stack(zone, name)))
        };
        stacked(name).or_else(|| exactly(name)).or_else(|| {
            zones().find_map(|zone| {
                let rest = zone.relative(name)?;
                of_stack(zone, rest).or_else(|| get(zone, rest))
            })
        })
    }

    /// Name of an address: `None` if the address is not the cluster's, `Err` if it has no name.
    pub(crate) fn name_of<'a>(
        &'a self,
        viewer: &'a Viewer,
        address: IpAddr,
    ) -> Option<Result<(&'a Zone, &'a [u8]), &'a Zone>> {
        let known = self
            .zones(viewer)
            .find_map(|zone| Some((zone, zone.name_of(address)?)));
        known
            .map(Ok)
            .or_else(|| self.zones.iter().find(|zone| zone.owns(address)).map(Err))
    }

    /// Whether a client may not ask for outside names, because all its networks are internal.
    pub(crate) fn is_inside(&self, viewer: &Viewer) -> bool {
        !viewer.leaves_elsewhere && self.zones(viewer).all(|zone| zone.internal)
    }
}

/// A name's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) v4: Vec<Ipv4Addr>,
    pub(crate) v6: Vec<Ipv6Addr>,
    ports: Vec<NamedPort>,
    /// Names in the same zone that are the targets of SRV records; the name itself if empty.
    targets: Vec<Vec<u8>>,
}

impl Entry {
    pub(crate) fn of(addresses: &[IpAddr]) -> Self {
        let v4 = addresses.iter().filter_map(|address| {
            if let IpAddr::V4(v4) = address {
                Some(*v4)
            } else {
                None
            }
        });
        let v6 = addresses.iter().filter_map(|address| {
            if let IpAddr::V6(v6) = address {
                Some(*v6)
            } else {
                None
            }
        });
        Self {
            v4: v4.collect(),
            v6: v6.collect(),
            ..Self::default()
        }
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4
            .iter()
            .map(|&v4| v4.into())
            .chain(self.v6.iter().map(|&v6| v6.into()))
    }

    /// Whether it has ports of this protocol, of any name or this one.
    pub(crate) fn has_port(&self, protocol: Protocol, name: Option<&[u8]>) -> bool {
        let is_named = |port: &NamedPort| {
            name.is_none_or(|name| port.name.as_bytes().eq_ignore_ascii_case(name))
        };
        self.ports
            .iter()
            .any(|port| port.protocol == protocol && is_named(port))
    }
}

/// `web`, by its labels.
type Names = HashMap<Vec<u8>, Entry>;

/// The names of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    /// Its labels as the user wrote them; none where they cannot be a name.
    apex: Option<Vec<u8>>,
    /// The same in lower case.
    lower: Vec<u8>,
    internal: bool,
    subnets: Vec<Subnet>,
    /// Addresses of the resolver.
    resolvers: Entry,
    names: Names,
    /// Those that were given with dots in them.
    dotted: Names,
    /// `web.my-net`, by its addresses.
    pointers: HashMap<IpAddr, Vec<Pointer>>,
}

/// A name that an address resolves back to, unless another one comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pointer {
    /// The name's rank: the first of all wins.
    rank: String,
    /// Its labels, the zone's included.
    whole: Vec<u8>,
}

impl Zone {
    fn of(network: &NetworkConfig) -> Self {
        let apex = wire::labels(&network.name);
        let at: Vec<IpAddr> = if is_lan(network) {
            vec![names::RESOLVER.into()]
        } else {
            gateways(network).collect()
        };
        let mut zone = Self {
            lower: apex
                .as_ref()
                .map(|apex| apex.to_ascii_lowercase())
                .unwrap_or_default(),
            apex,
            internal: network.internal,
            // Addresses of a LAN may belong to machines that are not ours: their reverse names are
            // forwarded.
            subnets: network
                .subnets
                .iter()
                .filter(|_| !is_lan(network))
                .map(|lease| lease.subnet)
                .collect(),
            resolvers: Entry::of(&at),
            names: HashMap::new(),
            dotted: HashMap::new(),
            pointers: HashMap::new(),
        };
        let name = if is_lan(network) {
            NameConfig::further(at)
        } else {
            NameConfig::canonical(at)
        };
        // No name comes before the empty one.
        zone.add(OURSELVES, "", &name);
        zone
    }

    /// Takes over what a name is now.
    fn change(&mut self, name: &str, old: Option<&NameConfig>, new: Option<&NameConfig>) {
        if let Some(old) = old {
            self.remove(name, old);
        }
        if let Some(new) = new {
            self.add(name, name, new);
        }
    }

    fn add(&mut self, name: &str, rank: &str, record: &NameConfig) {
        // No client can ask for a name that is too long for DNS.
        let Some(labels) = wire::labels(name) else {
            return;
        };
        let ports = record.ports.clone();
        let targets = record
            .targets
            .iter()
            .filter_map(|target| wire::labels(target))
            .collect();
        let lower = labels.to_ascii_lowercase();
        self.names_like(record).insert(
            lower,
            Entry {
                ports,
                targets,
                ..Entry::of(&record.addresses)
            },
        );
        if let Some(whole) = self.absolute(&labels).filter(|_| record.canonical) {
            for address in &record.addresses {
                let pointers = self.pointers.entry(*address).or_default();
                let pointer = Pointer {
                    rank: rank.to_owned(),
                    whole: whole.clone(),
                };
                if let Err(at) = pointers.binary_search(&pointer) {
                    pointers.insert(at, pointer);
                }
            }
        }
    }

    fn remove(&mut self, name: &str, record: &NameConfig) {
        let Some(labels) = wire::labels(name) else {
            return;
        };
        self.names_like(record).remove(&labels.to_ascii_lowercase());
        let addresses = record.addresses.iter().filter(|_| record.canonical);
        for address in addresses {
            if let Some(pointers) = self.pointers.get_mut(address) {
                pointers.retain(|pointer| pointer.rank != name);
                if pointers.is_empty() {
                    self.pointers.remove(address);
                }
            }
        }
    }

    fn names_like(&mut self, record: &NameConfig) -> &mut Names {
        if record.dotted {
            &mut self.dotted
        } else {
            &mut self.names
        }
    }

    fn get(&self, name: &[u8]) -> Option<&Entry> {
        self.names.get(name).or_else(|| self.dotted.get(name))
    }

    /// What an address resolves back to.
    fn name_of(&self, address: IpAddr) -> Option<&[u8]> {
        let pointer = self.pointers.get(&address)?.first()?;
        Some(&pointer.whole)
    }

    /// A name of this zone as everybody on the network may use it.
    pub(crate) fn absolute(&self, name: &[u8]) -> Option<Vec<u8>> {
        Name::below(name, self.apex.as_ref()?)
            .map(|_| [name, self.apex.as_deref().unwrap_or_default()].concat())
    }

    /// The name of the resolver here, and where it is.
    pub(crate) fn ourselves(&self) -> (Vec<u8>, &Entry) {
        let own = wire::labels(OURSELVES).unwrap_or_default();
        (self.absolute(&own).unwrap_or(own), &self.resolvers)
    }

    /// What stands before the zone's own name.
    fn relative<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let mut at = 0;
        while !self.lower.is_empty() && at + self.lower.len() < name.len() {
            at += usize::from(*name.get(at)?) + 1;
            if name.get(at..)? == self.lower {
                return name.get(..at);
            }
        }
        None
    }

    /// Targets of a named port: port number, name and addresses of each.
    pub(crate) fn places<'a>(
        &'a self,
        entry: &'a Entry,
        asked: &'a [u8],
        protocol: Protocol,
        port: &'a [u8],
    ) -> impl Iterator<Item = (u16, &'a [u8], &'a Entry)> {
        let own = entry.targets.is_empty().then_some((asked, entry));
        let targets = entry
            .targets
            .iter()
            .filter_map(|name| Some((name.as_slice(), self.get(name)?)));
        own.into_iter()
            .chain(targets)
            .filter(|(_, at)| at.addresses().next().is_some())
            .flat_map(move |(name, at)| {
                let is_it = move |of: &&NamedPort| {
                    of.protocol == protocol && of.name.as_bytes().eq_ignore_ascii_case(port)
                };
                at.ports
                    .iter()
                    .filter(is_it)
                    .map(move |of| (of.port, name, at))
            })
    }

    /// `name` without this zone's own, if it ends with that.
    pub(crate) fn local<'a>(&self, name: &'a [u8]) -> &'a [u8] {
        if self.get(name).is_some() {
            name
        } else {
            self.relative(name).unwrap_or(name)
        }
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(address))
    }
}

fn is_lan(network: &NetworkConfig) -> bool {
    network.driver.parent().is_some()
}

fn gateways(network: &NetworkConfig) -> impl Iterator<Item = IpAddr> {
    network.subnets.iter().map(|lease| lease.gateway)
}

/// The address that a name under in-addr.arpa or ip6.arpa stands for (RFC 1035 section 3.5, RFC
/// 3596 section 2.5).
pub(crate) fn reverse(name: &[u8]) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(b"\x07in-addr\x04arpa") {
        let mut octets = each(rest)?;
        (octets.len() == 4).then_some(())?;
        octets.reverse();
        let octet = |label: &&[u8]| {
            let plain = label.len() == 1 || label.first() != Some(&b'0');
            str::from_utf8(label)
                .ok()
                .filter(|_| plain && label.iter().all(u8::is_ascii_digit))?
                .parse::<u8>()
                .ok()
        };
        let octets: Vec<u8> = octets.iter().filter_map(octet).collect();
        return <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    }
    let nibbles =
        each(name.strip_suffix(b"\x03ip6\x04arpa")?).filter(|nibbles| nibbles.len() == 32)?;
    let value = nibbles.iter().rev().try_fold(0u128, |value, nibble| {
        let [digit] = nibble else { return None };
        char::from(*digit)
            .to_digit(16)
            .map(|digit| value << 4 | u128::from(digit))
    })?;
    Some(Ipv6Addr::from(value).into())
}

fn each(mut name: &[u8]) -> Option<Vec<&[u8]>> {
    let mut labels = Vec::new();
    while !name.is_empty() {
        let (label, rest) = wire::split(name)?;
        labels.push(label);
        name = rest;
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_addresses_have_reverse_names() {
        let of = |text: &str| reverse(&wire::labels(text).unwrap());
        assert_eq!(
            of("3.9.0.10.in-addr.arpa"),
            Some("10.0.9.3".parse().unwrap())
        );
        for text in [
            "9.0.10.in-addr.arpa",
            "300.9.0.10.in-addr.arpa",
            "03.9.0.10.in-addr.arpa",
            "x.ip6.arpa",
            "a",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        let v6 = "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(of(v6), Some("fd00:9::3".parse().unwrap()));
    }
}
