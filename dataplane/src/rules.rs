//! The nftables plane: in every network's namespace the virtual services and the guard against
//! spoofed sources, on the host what crosses the networks' border. Its sockets are those of crates
//! `nftables` and `ipvs`, one set per namespace.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    future::poll_fn,
    io,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use ipvs::{Balancer, BalancerError, Clients, IpVs, Nftables, Table, Traffic, ip_vs};
use model::{
    BalancerKind, Capability, DriverConfig, EndpointConfig, EndpointId, Kind, Mac, NetworkConfig,
    NetworkId, NodeConfig, Protocol, Vni,
    names::{self, LinkName, Namespace},
};
use nftables::{Change, Connection, Family, Monitor, NftError, Overtake, Rule, Ruleset, Socket};
use rules::{
    guard::{self, Border, PassedOn, Secret, Sources},
    published::{self, Led},
    shortcut::{self, Device, Devices, Endpoint},
};
use tracing::{info, warn};

use super::{
    AGAIN, Failure, Plane,
    changed::Changed,
    kernel_said, kind_of,
    listing::Present,
    namespace::{self, Identity},
    plan::Observed,
    ports::Open,
    state::{ObservedLink, Place, Route, Space},
    turn::Turn,
    undone,
};

/// Interval at which the services of IPVS are compared, which tells nobody of changes.
const COMPARE_AGAIN: Duration = Duration::from_secs(10);
/// Time after which a change of a locked table is retried.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Other software may insist on the first place, too: our rules are moved before foreign ones at
/// most this often in [`OVERTAKING`].
const OVERTAKINGS: usize = 5;
const OVERTAKING: Duration = Duration::from_secs(10);

/// The families that tables of ours may have.
const FAMILIES: [Family; 3] = [Family::Inet, Family::Netdev, Family::Arp];

/// What the rules of one namespace should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The tables `netd`, of different families; there should be no others of that name.
    pub rulesets: Vec<Arc<Ruleset>>,
    /// One more, which the kernel may refuse: the short way between endpoints.
    pub shortcut: Option<Arc<Ruleset>>,
    /// The virtual services; `None` where none are balanced.
    pub services: Option<Table>,
    /// Where callers of published ports are led; `None` on the host, and where none are.
    pub led: Option<Led>,
    /// What is to translate them.
    pub engine: BalancerKind,
    /// What stands first in the forward chains of other software; `None` where nobody else has any.
    pub passage: Option<Vec<Rule>>,
    /// The devices that chains of the short way are on, with their numbers.
    pub devices: BTreeMap<LinkName, u32>,
}

impl Wanted {
    /// The table of a family.
    fn table(&self, family: Family) -> Option<&Arc<Ruleset>> {
        self.rulesets
            .iter()
            .chain(&self.shortcut)
            .find(|ruleset| ruleset.family == family)
    }
}

/// What is left to change in one namespace.
#[derive(Debug)]
pub struct Pending {
    /// The namespace.
    pub place: Place,
    wanted: Arc<Wanted>,
    rulesets: Vec<Change>,
    services: Vec<ipvs::Op>,
    passage: Vec<Change>,
    /// The host's ports that are no longer led elsewhere.
    closed: BTreeSet<(u8, u16)>,
}

impl Pending {
    /// Whether the rules of the host's own namespace are not what they should be.
    pub fn leaves_host_open(&self) -> bool {
        self.place == Place::Host && !self.rulesets.is_empty()
    }

    /// One line per change, for people.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let changes = self.rulesets.iter().chain(&self.passage);
        let steps = changes.flat_map(|change| {
            change
                .steps
                .iter()
                .map(|step| format!("{step} (table {})", change.table))
        });
        let ops = self.services.iter().map(ToString::to_string);
        steps
            .chain(ops)
            .map(|line| format!("{}: nftables: {line}", self.place))
    }
}

/// What rules follow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grounds {
    /// The view.
    pub config: Arc<NodeConfig>,
    /// What there is of links: rules are only made where there is a namespace.
    pub observed: Observed,
    /// The ports that lead into networks.
    pub open: Arc<Open>,
    /// The resolvers that engines of containers ask for them.
    pub asked: BTreeSet<IpAddr>,
}

/// The rules of each namespace.
pub type WantedRules = BTreeMap<Place, Arc<Wanted>>;

/// The rules that are asked for, by namespace that there is. Pure.
pub fn wanted(grounds: &Grounds) -> WantedRules {
    let overlays = grounds.overlays().map(|(id, _)| *id).collect();
    let host = (Place::Host, grounds.host());
    let all = std::iter::once(host)
        .chain(grounds.networks(&overlays))
        .chain(sandboxes(&grounds.config, &grounds.asked));
    all.map(|(place, wanted)| (place, Arc::new(wanted)))
        .collect()
}

/// The same, where it is known what was asked for earlier: only networks that differ are made anew.
pub fn rewanted(before: &Grounds, last: &WantedRules, grounds: &Grounds) -> WantedRules {
    let changed = Changed::between(&before.config, &grounds.config)
        .filter(|_| before.open == grounds.open && before.asked == grounds.asked);
    let Some(changed) = changed else {
        return wanted(grounds);
    };
    let is_moved = |network: &NetworkId| {
        let place = Place::Inside(Namespace::Network(*network));
        let [old, new] = [before, grounds].map(|it| it.observed.spaces.get(&place));
        match (old, new) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            (old, new) => old.is_some() || new.is_some(),
        }
    };
    let moved = grounds.overlays().map(|(id, _)| *id);
    let mut networks: BTreeSet<NetworkId> = moved.filter(is_moved).collect();
    networks.extend(changed.networks.iter().chain(&changed.services));
    let mut next = last.clone();
    // Those on a LAN are few, and each depends on all of its networks.
    next.retain(|place, _| match place {
        Place::Host => true,
        Place::Inside(Namespace::Network(network)) => !networks.contains(network),
        Place::Inside(Namespace::Sandbox(_) | Namespace::Container(_)) => false,
    });
    let made = grounds.networks(&networks);
    for (place, wanted) in made.chain(sandboxes(&grounds.config, &grounds.asked)) {
        let same = last.get(&place).filter(|last| ***last == wanted);
        next.insert(place, same.cloned().unwrap_or_else(|| Arc::new(wanted)));
    }
    next
}

impl Grounds {
    fn overlays(&self) -> impl Iterator<Item = (&NetworkId, &NetworkConfig)> {
        let networks = self.config.networks.iter();
        networks.filter(|(_, network)| network.driver.parent().is_none())
    }

    /// What crosses the border between the networks and the outside.
    fn host(&self) -> Wanted {
        let config = &self.config;
        let leaving = || {
            self.overlays()
                .map(|(_, network)| network)
                .filter(|network| !network.internal)
        };
        let others = config
            .peers
            .iter()
            .filter(|(node, _)| **node != config.node);
        let border = Border {
            subnets: leaving()
                .flat_map(|network| network.subnets.iter().map(|lease| lease.subnet))
                .collect(),
            tunnels: config.networks.values().filter_map(tunnel).collect(),
            vteps: others
                .map(|(&node, peer)| (peer.vtep, Mac::of_router(node)))
                .collect(),
            own: config.peers.get(&config.node).map(|own| own.vtep),
            secret: secret(config),
        };
        let border = || published::divert(guard::border(&border), &self.open.diversion);
        let rulesets = self.overlays().next().map(|_| border());
        let passage = if leaving().next().is_some() {
            guard::passage()
        } else {
            Vec::new()
        };
        Wanted {
            rulesets: rulesets.map(Arc::new).into_iter().collect(),
            shortcut: None,
            services: None,
            led: None,
            engine: BalancerKind::Nftables,
            passage: Some(passage),
            devices: BTreeMap::new(),
        }
    }

    /// Those of these networks that there are.
    fn networks(&self, networks: &BTreeSet<NetworkId>) -> impl Iterator<Item = (Place, Wanted)> {
        let mut members = members(&self.config, networks);
        let records = self.overlays().filter(|(id, _)| networks.contains(id));
        records.filter_map(move |(&network, record)| {
            let members = members.remove(&network).unwrap_or_default();
            let wanted = self.network(network, record, &members)?;
            Some((Place::Inside(Namespace::Network(network)), wanted))
        })
    }

    fn network(
        &self,
        network: NetworkId,
        record: &NetworkConfig,
        members: &Members<'_>,
    ) -> Option<Wanted> {
        let (config, open) = (&self.config, &self.open);
        let place = Place::Inside(Namespace::Network(network));
        let space = self.observed.spaces.get(&place)?;
        let own = config.peers.get(&config.node);
        let services = Some(Table::of(config, network));
        let sources = members.sources();
        let ports = open
            .networks
            .get(&network)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let guard = published::balance(guard::guard(&sources), ports);
        let guard = open
            .answers
            .get(&network)
            .into_iter()
            .fold(guard, published::answer);
        let guard = guard::passed_on(guard, &passed_on(config, network, &self.asked));
        let found = members.devices(config, network, space);
        let subnets = record.subnets.iter().map(|lease| lease.subnet).collect();
        Some(Wanted {
            rulesets: [guard, guard::claims(&sources)].map(Arc::new).to_vec(),
            shortcut: found.as_ref().map(shortcut::shortcut).map(Arc::new),
            services,
            led: (!ports.is_empty()).then(|| Led::of(subnets, ports)),
            engine: own.map(|own| own.balancer).unwrap_or_default(),
            passage: None,
            devices: found.iter().flat_map(numbers).collect(),
        })
    }
}

/// What the engines of containers ask for them.
fn passed_on(config: &NodeConfig, network: NetworkId, asked: &BTreeSet<IpAddr>) -> Vec<PassedOn> {
    let Some(record) = config.networks.get(&network) else {
        return Vec::new();
    };
    let is_here = |id: &EndpointId| {
        config
            .endpoints
            .get(id)
            .is_some_and(|endpoint| endpoint.network == network)
    };
    let handed = config.handed().filter(is_here);
    let questions = |id| {
        asked.iter().filter_map(move |&asked| {
            let lease = record
                .subnets
                .iter()
                .find(|lease| lease.gateway.is_ipv4() == asked.is_ipv4())?;
            Some(PassedOn {
                link: names::endpoint_link(id),
                asked,
                resolver: lease.gateway,
            })
        })
    };
    handed.flat_map(questions).collect()
}

/// Sandboxes on a LAN have no namespace of ours on their packets' way: they do by themselves.
fn sandboxes(
    config: &NodeConfig,
    asked: &BTreeSet<IpAddr>,
) -> impl Iterator<Item = (Place, Wanted)> {
    config.sandboxes_on_lan().map(|sandbox| {
        let container = config.containers.get(&sandbox);
        let has_engine = container
            .is_some_and(|container| container.endpoints.iter().all(|it| it.interface.is_none()));
        let services = Some(Table::of_sandbox(config, sandbox));
        // Without a virtual IP nothing is tracked there, and no rule costs anything.
        let tracks = services
            .as_ref()
            .is_some_and(|table| !table.services.is_empty());
        let rulesets = match has_engine {
            true => vec![Arc::new(guard::passed_on_inside(asked.iter().copied()))],
            false => std::iter::once(guard::names())
                .chain(tracks.then(guard::untracked_names))
                .map(Arc::new)
                .collect(),
        };
        // Their packets come from the namespace itself, where nftables costs those of virtual IPs
        // only.
        let engine = BalancerKind::Nftables;
        let wanted = Wanted {
            rulesets,
            shortcut: None,
            services,
            led: None,
            engine,
            passage: None,
            devices: BTreeMap::new(),
        };
        (Place::Inside(config.namespace_of(sandbox)), wanted)
    })
}

/// A network's endpoints, by where they are.
#[derive(Default)]
struct Members<'a> {
    gateways: Vec<IpAddr>,
    here: BTreeMap<LinkName, &'a EndpointConfig>,
    elsewhere: Vec<&'a EndpointConfig>,
}

fn members<'a>(
    config: &'a NodeConfig,
    of: &BTreeSet<NetworkId>,
) -> BTreeMap<NetworkId, Members<'a>> {
    let gateways =
        |network: &NetworkConfig| network.subnets.iter().map(|lease| lease.gateway).collect();
    let networks = config.networks.iter().filter(|(id, _)| of.contains(id));
    let mut members: BTreeMap<NetworkId, Members<'_>> = networks
        .map(|(&id, network)| {
            (
                id,
                Members {
                    gateways: gateways(network),
                    ..Members::default()
                },
            )
        })
        .collect();
    for (&id, endpoint) in &config.endpoints {
        let Some(members) = members.get_mut(&endpoint.network) else {
            continue;
        };
        if endpoint.node == config.node {
            members.here.insert(names::endpoint_link(id), endpoint);
        } else {
            members.elsewhere.push(endpoint);
        }
    }
    members
}

impl Members<'_> {
    /// An endpoint has its addresses, and one of its link for neighbour discovery. A host sends
    /// what comes from its endpoints, and errors in its own name: the gateways'.
    fn sources(&self) -> Sources {
        let of_endpoint = |(link, endpoint): (&LinkName, &&EndpointConfig)| {
            let addresses = endpoint
                .addresses
                .iter()
                .copied()
                .chain([endpoint.mac.link_local().into()]);
            addresses
                .map(|address| (link.clone(), endpoint.mac, address))
                .collect::<Vec<_>>()
        };
        let routers: BTreeSet<Mac> = self
            .elsewhere
            .iter()
            .map(|endpoint| Mac::of_router(endpoint.node))
            .collect();
        let own = |router: Mac| {
            self.gateways
                .iter()
                .copied()
                .chain([router.link_local().into()])
        };
        Sources {
            endpoints: self.here.iter().flat_map(of_endpoint).collect(),
            remotes: self.remotes().collect(),
            routers: routers
                .into_iter()
                .flat_map(|router| own(router).map(move |address| (router, address)))
                .collect(),
            resolvers: self.gateways.clone(),
        }
    }

    fn remotes(&self) -> impl Iterator<Item = (Mac, IpAddr)> {
        let addresses = |endpoint: &&EndpointConfig| {
            let router = Mac::of_router(endpoint.node);
            endpoint
                .addresses
                .iter()
                .map(|address| (router, *address))
                .collect::<Vec<_>>()
        };
        self.elsewhere.iter().flat_map(addresses)
    }

    /// `None` while there is no tunnel.
    fn devices(
        &self,
        config: &NodeConfig,
        network: NetworkId,
        space: &Space<ObservedLink>,
    ) -> Option<Devices> {
        let tunnel = names::vxlan_link(config.networks.get(&network)?.vni);
        let index = space.links.get(&tunnel)?.index;
        let endpoints = self.here.iter().filter_map(|(link, endpoint)| {
            let (index, addresses) = (space.links.get(link)?.index, endpoint.addresses.clone());
            Some((
                link.clone(),
                Endpoint {
                    index,
                    mac: endpoint.mac,
                    addresses,
                },
            ))
        });
        // A way narrower than the devices: the long way tells the sender so.
        let narrow: BTreeSet<IpAddr> = (space.routes.iter())
            .filter(|(_, route)| matches!(route, Route::Unicast { mtu: Some(_), .. }))
            .map(|(key, _)| key.destination.network())
            .collect();
        Some(Devices {
            tunnel: Device {
                link: tunnel,
                index,
                mac: Mac::of_router(config.node),
            },
            endpoints: endpoints.collect(),
            remotes: self
                .remotes()
                .filter(|(_, address)| !narrow.contains(address))
                .collect(),
        })
    }
}

/// The devices that there are chains on.
fn numbers(devices: &Devices) -> Vec<(LinkName, u32)> {
    let endpoints = devices.endpoints.iter();
    let endpoints = endpoints.map(|(link, endpoint)| (link.clone(), endpoint.index));
    let tunnel = (devices.tunnel.link.clone(), devices.tunnel.index);
    endpoints.chain([tunnel]).collect()
}

fn secret(config: &NodeConfig) -> Option<Secret> {
    let tunnels = config
        .networks
        .values()
        .filter_map(|network| match network.driver {
            DriverConfig::Overlay {
                port,
                encrypted: true,
            } => Some((port, network.vni)),
            _ => None,
        });
    let (ports, vnis): (Vec<u16>, Vec<Vni>) = tunnels.unzip();
    Some(Secret {
        port: *ports.first()?,
        vnis,
    })
}

/// UDP port and network identifier.
fn tunnel(network: &NetworkConfig) -> Option<(u16, Vni)> {
    let DriverConfig::Overlay { port, .. } = network.driver else {
        return None;
    };
    Some((port, network.vni))
}

/// The rules in the kernel, seen from one host.
#[derive(Default)]
pub struct Rules {
    tables: BTreeMap<Place, Tables>,
    capabilities: BTreeSet<Capability>,
    turn: Turn,
    /// The namespace whose rules were read in turn last.
    last: Option<Place>,
    /// Those whose rules have been changed, and are to be read back in turn before others.
    unproved: BTreeSet<Place>,
}

/// The sockets of one namespace.
struct Tables {
    identity: Identity,
    socket: Socket,
    balancer: Box<dyn Balancer>,
    engine: BalancerKind,
    monitor: Monitor,
    /// What is known to be there, and since when; none after any change, or where changes would not
    /// be heard of.
    settled: Option<(Arc<Wanted>, Instant)>,
    known: Option<Known>,
    /// The devices that there were chains on when the tables of devices were known last.
    devices: BTreeMap<LinkName, u32>,
    /// How many tables have been read.
    reads: u64,
    /// When rules of others were overtaken lately.
    overtaken: VecDeque<Instant>,
    /// Tables whose owners let nobody change them, and when that was tried.
    barred: BTreeMap<String, Instant>,
    deaf: bool,
    /// Time when the kernel refused the short way; all packets take the long one.
    refused: Option<Instant>,
}

/// Tables as they were read or made. They are so while nothing in the namespace has changed.
struct Known {
    generation: u32,
    tables: BTreeMap<Family, Arc<Ruleset>>,
}

impl Rules {
    /// On a kernel with these capabilities.
    pub fn new(capabilities: BTreeSet<Capability>) -> Self {
        Self {
            capabilities,
            ..Self::default()
        }
    }

    /// Makes the kernel hold these rules, each namespace's in one batch per table; goes on after
    /// failures. Returns what is left to change, and why.
    pub fn settle(
        &mut self,
        wanted: &BTreeMap<Place, Arc<Wanted>>,
    ) -> (Vec<Pending>, Vec<Failure>) {
        let place = self.take_turn(wanted);
        let start = Instant::now();
        if let Some(place) = place {
            let own = wanted.get_key_value(&place);
            // What is found is planned with the rest.
            own.into_iter()
                .for_each(|(place, wanted)| drop(self.compare(*place, wanted)));
            self.turn.took(start.elapsed());
            if let Some(tables) = self.tables.get_mut(&place) {
                tables.reads = 0;
            }
        }
        let (pending, unread) = self.plan(wanted);
        let Some(first) = pending.iter().flat_map(Pending::lines).next() else {
            return (pending, unread);
        };
        info!(namespaces = pending.len(), first, "changing the rules");
        let mut failures: Vec<_> = pending
            .iter()
            .filter_map(|change| self.apply(change))
            .collect();
        let (left, unread) = self.plan(wanted);
        if failures.is_empty() {
            failures.extend(left.iter().map(|change| failure(change.place, undone())));
        }
        failures.extend(unread);
        (left, failures)
    }

    /// What is left to change, read anew, and what could not be read.
    pub fn look(&mut self, wanted: &BTreeMap<Place, Arc<Wanted>>) -> (Vec<Pending>, Vec<Failure>) {
        self.tables.values_mut().for_each(|tables| {
            tables.doubt();
            tables.overtaken.clear();
        });
        self.plan(wanted)
    }

    /// Doubts the rules of one namespace: those changed last, or the next.
    fn take_turn(&mut self, wanted: &BTreeMap<Place, Arc<Wanted>>) -> Option<Place> {
        if !self.turn.is_due() {
            return None;
        }
        let mut places = wanted.keys();
        let place = self.unproved.pop_first().or_else(|| {
            let next = places.find(|place| Some(**place) > self.last);
            self.last = next.or(wanted.keys().next()).copied();
            self.last
        })?;
        self.tables.get_mut(&place)?.doubt();
        Some(place)
    }

    /// How many tables have been read since this was asked last, those of the turn left out.
    pub fn reads(&mut self) -> u64 {
        let tables = self.tables.values_mut();
        tables.map(|tables| std::mem::take(&mut tables.reads)).sum()
    }

    fn plan(&mut self, wanted: &BTreeMap<Place, Arc<Wanted>>) -> (Vec<Pending>, Vec<Failure>) {
        let (mut pending, mut failures) = (Vec::new(), Vec::new());
        for (&place, wanted) in wanted {
            match self.compare(place, wanted) {
                Ok(change) => pending.extend(change),
                Err(why) => failures.push(failure(place, why)),
            }
        }
        (pending, failures)
    }

    /// What could not be made of it.
    fn apply(&mut self, change: &Pending) -> Option<Failure> {
        let tables = self.tables.get_mut(&change.place)?;
        self.unproved.insert(change.place);
        let why = tables.apply(change).err()?;
        Some(failure(change.place, why))
    }

    /// Closes the sockets of namespaces that are gone: an open socket would keep a namespace and
    /// its tunnel alive.
    pub fn forget_the_gone(&mut self, present: &Present) {
        let is_there = |place: &Place, identity: Identity| match place {
            Place::Host => true,
            Place::Inside(namespace) => present.get(namespace) == Some(&identity),
        };
        self.tables
            .retain(|place, tables| is_there(place, tables.identity));
        self.unproved
            .retain(|place| self.tables.contains_key(place));
    }

    /// Completes when a rule has changed since it was read. Cancel-safe.
    pub async fn changed(&mut self) {
        // Each is asked, or the changes of many would be heard of one by one, a pass for each.
        poll_fn(|context| {
            let heard = self.tables.values_mut().filter(|tables| !tables.deaf).fold(
                false,
                |heard, tables| {
                    let this = tables.poll_changed(context);
                    heard || this
                },
            );
            if heard {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn compare(
        &mut self,
        place: Place,
        wanted: &Arc<Wanted>,
    ) -> Result<Option<Pending>, model::Failure> {
        let engine = wanted.engine.on(&self.capabilities);
        let tables = match self.tables.entry(place) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Tables::open(place, engine)?),
        };
        if tables.engine != engine {
            info!(%place, %engine, "another balancer takes over");
            *tables = Tables::open(place, engine)?;
        }
        tables.compare(place, wanted)
    }
}

fn is_shortcut(place: Place, family: Family) -> bool {
    matches!(place, Place::Inside(Namespace::Network(_))) && family == Family::Netdev
}

fn failure(place: Place, why: model::Failure) -> Failure {
    Failure {
        plane: Plane::Rules(place),
        sandbox: place.sandbox(),
        why: why.about(format!("nftables of {place}")),
    }
}

/// What an engine or nftables says.
fn said(error: impl Into<BalancerError>) -> model::Failure {
    let error = error.into();
    let errno = error.errno();
    let kind = errno.map_or(Kind::Unavailable, kind_of);
    model::Failure::new(kind, error.to_string(), error.next()).with_errno(errno)
}

fn not_entered(error: &io::Error) -> model::Failure {
    let why = kernel_said(error, AGAIN);
    let cause = format!("its namespace cannot be entered: {error}");
    model::Failure { cause, ..why }
}

/// What has passed by virtual IPs of a network on this host; changes nothing.
pub fn traffic(
    network: NetworkId,
    engine: BalancerKind,
    vips: &[IpAddr],
) -> Result<Vec<(IpAddr, Traffic)>, model::Failure> {
    let look = || -> Result<_, BalancerError> {
        let mut balancer: Box<dyn Balancer> = match engine {
            BalancerKind::Ipvs => Box::new(IpVs::open()?),
            BalancerKind::Nftables | BalancerKind::Auto => {
                Box::new(Nftables::open(Clients::Routed)?)
            }
        };
        balancer.observe()?;
        vips.iter()
            .map(|vip| Ok((*vip, balancer.traffic(*vip)?)))
            .collect()
    };
    let entered = |error: io::Error| not_entered(&error);
    let (namespace, _) = namespace::open(Namespace::Network(network)).map_err(entered)?;
    namespace::within_file(&namespace, look)
        .map_err(entered)?
        .map_err(said)
}

/// In the calling thread's namespace. What another engine has left there is taken away.
fn balancer(place: Place, engine: BalancerKind) -> Result<Box<dyn Balancer>, BalancerError> {
    Ok(match (place, engine) {
        (Place::Inside(Namespace::Network(_)), BalancerKind::Ipvs) => Box::new(IpVs::open()?),
        (Place::Inside(Namespace::Network(_)), _) => {
            ip_vs::withdraw()?;
            Box::new(Nftables::open(Clients::Routed)?)
        }
        (Place::Inside(Namespace::Sandbox(_) | Namespace::Container(_)) | Place::Host, _) => {
            Box::new(Nftables::open(Clients::Local)?)
        }
    })
}

impl Tables {
    fn open(place: Place, engine: BalancerKind) -> Result<Self, model::Failure> {
        let open = || -> Result<_, BalancerError> {
            Ok((Socket::open()?, balancer(place, engine)?, Monitor::open()?))
        };
        let (opened, identity) = match place {
            Place::Host => (open(), 0),
            Place::Inside(inside) => {
                let entered = |error: io::Error| not_entered(&error);
                let (file, identity) = namespace::open(inside).map_err(entered)?;
                let opened = namespace::within_file(&file, open).map_err(entered)?;
                (opened, identity)
            }
        };
        let (socket, balancer, monitor) = opened.map_err(said)?;
        Ok(Self {
            identity,
            socket,
            balancer,
            engine,
            monitor,
            settled: None,
            known: None,
            devices: BTreeMap::new(),
            reads: 0,
            overtaken: VecDeque::new(),
            barred: BTreeMap::new(),
            deaf: false,
            refused: None,
        })
    }

    /// Whether something has changed, as far as one hears.
    fn poll_changed(&mut self, context: &mut Context<'_>) -> bool {
        let Poll::Ready(heard) = self.monitor.poll_changed(context) else {
            return false;
        };
        self.settled = None;
        // A monitor that fails leaves the period to find changes.
        self.deaf = heard.is_err();
        heard.is_ok()
    }

    fn compare(
        &mut self,
        place: Place,
        wanted: &Arc<Wanted>,
    ) -> Result<Option<Pending>, model::Failure> {
        if self
            .settled
            .as_ref()
            .is_some_and(|(last, since)| last == wanted && self.is_believed(*since))
        {
            return Ok(None);
        }
        self.settled = None;
        // What happens from here on is reported again; what we have changed ourselves is read now.
        self.monitor.forget();
        let (mut rulesets, mut closed) = (Vec::new(), BTreeSet::new());
        let asked = FAMILIES.map(|family| (family, self.asked(place, wanted, family)));
        let known = self.observe(&wanted.devices).map_err(said)?;
        for (family, asked) in asked {
            let observed = known.tables.get(&family);
            let is_same = |(asked, found)| Arc::ptr_eq(asked, found);
            if asked.zip(observed).is_some_and(is_same) {
                continue;
            }
            let (asked, observed) = (asked.map(Arc::as_ref), observed.map(Arc::as_ref));
            if (place, family) == (Place::Host, Family::Inet) {
                closed = published::closed(asked, observed);
            }
            rulesets.extend(nftables::difference(asked, observed));
        }
        let services = match &wanted.services {
            Some(table) => self.balancer.plan(table).map_err(said)?,
            None => Vec::new(),
        };
        let passage = match &wanted.passage {
            Some(rules) => self.passage(rules).map_err(said)?,
            None => Vec::new(),
        };
        let settled = rulesets.is_empty() && services.is_empty() && passage.is_empty();
        self.settled = (settled && !self.deaf).then(|| (wanted.clone(), Instant::now()));
        Ok((!settled).then(|| Pending {
            place,
            wanted: wanted.clone(),
            rulesets,
            services,
            passage,
            closed,
        }))
    }

    /// The table of a family that the kernel is asked for: not the short way while it refuses that.
    fn asked<'w>(
        &self,
        place: Place,
        wanted: &'w Wanted,
        family: Family,
    ) -> Option<&'w Arc<Ruleset>> {
        let refused =
            is_shortcut(place, family) && self.refused.is_some_and(|at| at.elapsed() < TRY_AGAIN);
        wanted.table(family).filter(|_| !refused)
    }

    /// Nothing that was read is believed any more.
    fn doubt(&mut self) {
        self.settled = None;
        self.known = None;
        self.balancer.doubt();
    }

    /// Whether what was settled then still is, where nothing has been heard since.
    fn is_believed(&self, since: Instant) -> bool {
        self.engine != BalancerKind::Ipvs || since.elapsed() < COMPARE_AGAIN
    }

    /// The tables, read where somebody has changed nftables since. Those of devices are also read
    /// where a device has gone: the kernel takes its chains away and tells nobody.
    fn observe(&mut self, devices: &BTreeMap<LinkName, u32>) -> Result<&Known, NftError> {
        let generation = nftables::generation(&mut self.socket)?;
        let kept = self
            .known
            .take()
            .filter(|known| known.generation == generation);
        let stay = self
            .devices
            .iter()
            .all(|(link, index)| devices.get(link) == Some(index));
        let to_read = match (&kept, stay) {
            (Some(_), true) => &[][..],
            (Some(_), false) => &[Family::Netdev][..],
            (None, _) => &FAMILIES,
        };
        let mut known = kept.unwrap_or_else(|| Known {
            generation,
            tables: BTreeMap::new(),
        });
        for &family in to_read {
            self.reads += 1;
            match nftables::observe(&mut self.socket, family, names::TABLE)? {
                Some(found) => drop(known.tables.insert(family, Arc::new(found))),
                None => drop(known.tables.remove(&family)),
            }
        }
        self.devices.clone_from(devices);
        Ok(self.known.insert(known))
    }

    fn passage(&mut self, rules: &[Rule]) -> Result<Vec<Change>, NftError> {
        self.overtaken.retain(|at| at.elapsed() < OVERTAKING);
        let overtake = if self.overtaken.len() < OVERTAKINGS {
            Overtake::Now
        } else {
            Overtake::Later
        };
        let mut changes = nftables::passage(
            rules,
            &nftables::foreign_forward_chains(&mut self.socket, names::is_table)?,
            overtake,
        );
        self.barred.retain(|_, at| at.elapsed() < TRY_AGAIN);
        changes.retain(|change| !self.barred.contains_key(&change.table));
        Ok(changes)
    }

    /// A table locked by its owner must not fail the rest.
    fn pass_through(&mut self, changes: &[Change]) {
        if !changes.is_empty() {
            self.overtaken.push_back(Instant::now());
        }
        for change in changes {
            if let Err(error) = self.change(change, None) {
                let next = "accept interfaces nu-* in that firewall's own configuration, both ways";
                warn!(table = change.table, %error, next, "a firewall may drop what leaves networks");
                self.barred.insert(change.table.clone(), Instant::now());
            }
        }
    }

    /// If it was the only one meanwhile, nothing need be read again to find that it was not
    /// somebody else's.
    fn change(&mut self, change: &Change, made: Option<&Arc<Ruleset>>) -> Result<(), NftError> {
        let known = self.known.take();
        let before = nftables::generation(&mut self.socket)?;
        nftables::apply(&mut self.socket, change)?;
        let generation = before.wrapping_add(1);
        // What is heard of now is our own change, or tells in the generation.
        self.monitor.forget();
        if nftables::generation(&mut self.socket)? != generation {
            return Ok(());
        }
        self.balancer.overlook(before);
        self.known = known
            .filter(|known| known.generation == before)
            .map(|mut known| {
                if change.table == names::TABLE {
                    known.tables.remove(&change.family);
                    known
                        .tables
                        .extend(made.map(|made| (change.family, made.clone())));
                }
                Known {
                    generation,
                    ..known
                }
            });
        Ok(())
    }

    /// If the balancer's were the only changes of nftables, the tables need not be read again.
    fn balance(&mut self, ops: &[ipvs::Op]) -> Result<(), BalancerError> {
        let known = self.known.take();
        let before = self.balancer.generation();
        self.balancer.apply(ops)?;
        let after = self.balancer.generation();
        self.known = known
            .filter(|known| before == Some(known.generation))
            .zip(after)
            .map(|(known, generation)| Known {
                generation,
                ..known
            });
        Ok(())
    }

    /// Forgets connections without an end that lead where nobody answers any more.
    fn forget(&mut self, change: &Pending) -> Result<(), NftError> {
        if !change.closed.is_empty() {
            let is_closed =
                |found: &Connection| change.closed.contains(&(found.protocol, found.port));
            nftables::forget(&mut self.socket, |found| {
                found.protocol != Protocol::Tcp.number() && is_closed(found)
            })?;
        }
        let in_network = matches!(change.place, Place::Inside(Namespace::Network(_)));
        let led = change.wanted.led.clone().unwrap_or_default();
        if in_network && change.rulesets.iter().any(published::is_led_elsewhere) {
            nftables::forget(&mut self.socket, |found| led.is_stale(found))?;
        }
        Ok(())
    }

    fn apply(&mut self, change: &Pending) -> Result<(), model::Failure> {
        for ruleset in &change.rulesets {
            match self.change(ruleset, change.wanted.table(ruleset.family)) {
                Ok(()) => {}
                // A kernel without CONFIG_NFT_FWD_NETDEV: slower, no worse.
                Err(error) if is_shortcut(change.place, ruleset.family) => {
                    if self.refused.replace(Instant::now()).is_none() {
                        warn!(place = %change.place, %error, "no short way between endpoints");
                    }
                }
                Err(error) => return Err(said(error)),
            }
        }
        if !change.services.is_empty() {
            self.balance(&change.services).map_err(said)?;
        }
        self.forget(change).map_err(said)?;
        self.pass_through(&change.passage);
        if change.services.is_empty() && change.passage.is_empty() && !self.deaf {
            // Every table that differed has been made as it is asked for, and nobody else has
            // changed any.
            let is_made = self.known.is_some() && self.refused.is_none();
            self.settled = is_made.then(|| (change.wanted.clone(), Instant::now()));
        }
        Ok(())
    }
}
