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
    Capability, DriverConfig, EndpointConfig, EndpointId, Engine, Kind, Mac, NetworkConfig,
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
    AGAIN, Failure, Plane, kernel_said, kind_of,
    namespace::{self, Identity},
    plan::Observed,
    ports::Open,
    state::{ObservedLink, Place, Route, Space},
    undone,
};

/// Interval at which rules are read again without a notice.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// Time after which changed and confirmed rules are read back; nobody waits for it.
const PROVE: Duration = Duration::from_millis(500);

/// Time after which a change of a locked table is retried.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Other software may insist on the first place, too: our rules are moved before foreign ones at
/// most this often per [`READ_AGAIN`].
const OVERTAKINGS: usize = 5;

/// The families that tables of ours may have.
const FAMILIES: [Family; 3] = [Family::Inet, Family::Netdev, Family::Arp];

/// What the rules of one namespace should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The tables `netd`, of different families; there should be no others of that name.
    pub rulesets: Vec<Ruleset>,
    /// One more, which the kernel may refuse: the short way between endpoints.
    pub shortcut: Option<Ruleset>,
    /// The virtual services; `None` where none are balanced.
    pub services: Option<Table>,
    /// Where callers of published ports are led; `None` on the host, and where none are.
    pub led: Option<Led>,
    /// What is to translate them.
    pub engine: Engine,
    /// What stands first in the forward chains of other software; `None` where nobody else has any.
    pub passage: Option<Vec<Rule>>,
}

impl Wanted {
    /// The table of a family.
    fn table(&self, family: Family) -> Option<&Ruleset> {
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

/// The rules that a configuration asks for, by namespace that there is. `asked` are the resolvers
/// that engines of containers ask for them. Pure.
pub fn wanted(
    config: &NodeConfig,
    observed: &Observed,
    open: &Open,
    asked: &BTreeSet<IpAddr>,
) -> BTreeMap<Place, Arc<Wanted>> {
    let overlays = || {
        config
            .networks
            .iter()
            .filter(|(_, network)| network.driver.parent().is_none())
    };
    let leaving = || {
        overlays()
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
    let border = || published::divert(guard::border(&border), &open.diversion);
    let border = overlays().next().map(|_| border()).into_iter().collect();
    let engine = config
        .peers
        .get(&config.node)
        .map(|own| own.balancer)
        .unwrap_or_default();
    let passage = if leaving().next().is_some() {
        guard::passage()
    } else {
        Vec::new()
    };
    let host = Wanted {
        rulesets: border,
        shortcut: None,
        services: None,
        led: None,
        engine: Engine::Nftables,
        passage: Some(passage),
    };
    let host = (Place::Host, host);
    let mut members = members(config);
    let networks = overlays().filter_map(|(&network, record)| {
        let place = Place::Inside(Namespace::Network(network));
        let space = observed.spaces.get(&place)?;
        let services = Some(Table::of(config, network));
        let members = members.remove(&network).unwrap_or_default();
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
        let guard = guard::passed_on(guard, &passed_on(config, network, asked));
        let rulesets = vec![guard, guard::claims(&sources)];
        let shortcut = members
            .devices(config, network, space)
            .as_ref()
            .map(shortcut::shortcut);
        let subnets = record.subnets.iter().map(|lease| lease.subnet).collect();
        let led = (!ports.is_empty()).then(|| Led::of(subnets, ports));
        Some((
            place,
            Wanted {
                rulesets,
                shortcut,
                services,
                led,
                engine,
                passage: None,
            },
        ))
    });
    let all = std::iter::once(host)
        .chain(networks)
        .chain(sandboxes(config, asked));
    all.map(|(place, wanted)| (place, Arc::new(wanted)))
        .collect()
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
            true => vec![guard::passed_on_inside(asked.iter().copied())],
            false => std::iter::once(guard::names())
                .chain(tracks.then(guard::untracked_names))
                .collect(),
        };
        // Their packets come from the namespace itself, where nftables costs those of virtual IPs
        // only.
        let engine = Engine::Nftables;
        let wanted = Wanted {
            rulesets,
            shortcut: None,
            services,
            led: None,
            engine,
            passage: None,
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

fn members(config: &NodeConfig) -> BTreeMap<NetworkId, Members<'_>> {
    let gateways =
        |network: &NetworkConfig| network.subnets.iter().map(|lease| lease.gateway).collect();
    let networks = config.networks.iter();
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
}

/// The sockets of one namespace.
struct Tables {
    identity: Identity,
    socket: Socket,
    balancer: Box<dyn Balancer>,
    engine: Engine,
    monitor: Monitor,
    /// What is known to be there, and until when that is believed; none after any change, or where
    /// changes would not be heard of.
    settled: Option<(Arc<Wanted>, Instant)>,
    known: Option<Known>,
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
    tables: BTreeMap<Family, Ruleset>,
    until: Instant,
}

impl Rules {
    /// On a kernel with these capabilities.
    pub fn new(capabilities: BTreeSet<Capability>) -> Self {
        Self {
            tables: BTreeMap::new(),
            capabilities,
        }
    }

    /// Makes the kernel hold these rules, each namespace's in one batch per table; goes on after
    /// failures. Returns what is left to change, and why.
    pub fn settle(
        &mut self,
        wanted: &BTreeMap<Place, Arc<Wanted>>,
    ) -> (Vec<Pending>, Vec<Failure>) {
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
            tables.settled = None;
            tables.known = None;
            tables.overtaken.clear();
        });
        self.plan(wanted)
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
        let why = tables.apply(change).err()?;
        Some(failure(change.place, why))
    }

    /// Closes the sockets of namespaces that are gone: an open socket would keep a namespace and
    /// its tunnel alive.
    pub fn forget_the_gone(&mut self) {
        let present = namespace::list().unwrap_or_default();
        self.tables.retain(|place, tables| match place {
            Place::Host => true,
            Place::Inside(namespace) => present.get(namespace) == Some(&tables.identity),
        });
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
    engine: Engine,
    vips: &[IpAddr],
) -> Result<Vec<(IpAddr, Traffic)>, model::Failure> {
    let look = || -> Result<_, BalancerError> {
        let mut balancer: Box<dyn Balancer> = match engine {
            Engine::Ipvs => Box::new(IpVs::open()?),
            Engine::Nftables | Engine::Auto => Box::new(Nftables::open(Clients::Routed)?),
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
fn balancer(place: Place, engine: Engine) -> Result<Box<dyn Balancer>, BalancerError> {
    Ok(match (place, engine) {
        (Place::Inside(Namespace::Network(_)), Engine::Ipvs) => Box::new(IpVs::open()?),
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
    fn open(place: Place, engine: Engine) -> Result<Self, model::Failure> {
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
            .is_some_and(|(last, until)| last == wanted && Instant::now() < *until)
        {
            return Ok(None);
        }
        self.settled = None;
        // What happens from here on is reported again; what we have changed ourselves is read now.
        self.monitor.forget();
        let (mut rulesets, mut closed) = (Vec::new(), BTreeSet::new());
        let asked = FAMILIES.map(|family| (family, self.asked(place, wanted, family)));
        let known = self.observe().map_err(said)?;
        for (family, asked) in asked {
            let observed = known.tables.get(&family);
            if (place, family) == (Place::Host, Family::Inet) {
                closed = published::closed(asked, observed);
            }
            rulesets.extend(nftables::difference(asked, observed));
        }
        let until = known.until;
        let services = match &wanted.services {
            Some(table) => self.balancer.plan(table).map_err(said)?,
            None => Vec::new(),
        };
        let passage = match &wanted.passage {
            Some(rules) => self.passage(rules).map_err(said)?,
            None => Vec::new(),
        };
        let settled = rulesets.is_empty() && services.is_empty() && passage.is_empty();
        self.settled = (settled && !self.deaf).then(|| (wanted.clone(), until));
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
    fn asked<'w>(&self, place: Place, wanted: &'w Wanted, family: Family) -> Option<&'w Ruleset> {
        let refused =
            is_shortcut(place, family) && self.refused.is_some_and(|at| at.elapsed() < TRY_AGAIN);
        wanted.table(family).filter(|_| !refused)
    }

    /// The tables. Those of devices are read each time: the kernel takes chains away with their
    /// devices and tells nobody.
    fn observe(&mut self) -> Result<&Known, NftError> {
        let generation = nftables::generation(&mut self.socket)?;
        let is_so = |known: &Known| known.generation == generation && Instant::now() < known.until;
        let kept = self.known.take().filter(is_so);
        let to_read = if kept.is_some() {
            &[Family::Netdev][..]
        } else {
            &FAMILIES
        };
        let mut known = kept.unwrap_or_else(|| Known {
            generation,
            tables: BTreeMap::new(),
            until: Instant::now() + READ_AGAIN,
        });
        for &family in to_read {
            match nftables::observe(&mut self.socket, family, names::TABLE)? {
                Some(found) => drop(known.tables.insert(family, found)),
                None => drop(known.tables.remove(&family)),
            }
        }
        Ok(self.known.insert(known))
    }

    /// Until when it is believed that these tables are there, as they were made.
    fn made(&self, place: Place, wanted: &Wanted) -> Option<Instant> {
        let known = self.known.as_ref()?;
        let is_made = |&family: &Family| {
            nftables::difference(self.asked(place, wanted, family), known.tables.get(&family))
                .is_none()
        };
        FAMILIES.iter().all(is_made).then_some(known.until)
    }

    fn passage(&mut self, rules: &[Rule]) -> Result<Vec<Change>, NftError> {
        self.overtaken.retain(|at| at.elapsed() < READ_AGAIN);
        let overtake = if self.overtaken.len() < OVERTAKINGS {
            Overtake::Now
        } else {
            Overtake::Later
        };
        let mut changes = nftables::passage(
            rules,
            &nftables::foreign_forward_chains(&mut self.socket)?,
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
    fn change(&mut self, change: &Change, made: Option<&Ruleset>) -> Result<(), NftError> {
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
                    until: Instant::now() + PROVE,
                    ..known
                }
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
            self.balancer.apply(&change.services).map_err(said)?;
        }
        self.forget(change).map_err(said)?;
        self.pass_through(&change.passage);
        if change.services.is_empty() && change.passage.is_empty() && !self.deaf {
            self.settled = self
                .made(change.place, &change.wanted)
                .map(|until| (change.wanted.clone(), until));
        }
        Ok(())
    }
}
