//! Desired kernel state of a `NodeConfig`, one file per driver. Pure: independent of the present
//! state.

mod lan;
mod overlay;
mod part;
pub mod published;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use model::{
    Bandwidth, DriverConfig, EndpointConfig, EndpointId, Mac, NetworkConfig, NetworkId, NodeConfig,
    Parent, PeerConfig, SandboxId, Subnet, SubnetLease,
    names::{self, LinkName, Namespace},
};

pub use overlay::OUTER;

use overlay::Member;

use super::{
    Failure, Plane,
    state::{
        AddressForm, AddressKey, Kind, Link, MAIN_TABLE, NeighbourKey, Place, Route, RouteKey,
        Shape, Space, Stacked, Sysctl, host_prefix,
    },
};

/// What IPv6 gives a route without a metric (`IP6_RT_PRIO_USER`).
const IPV6_METRIC: u32 = 1024;
/// Assumed where the VTEP is on no link of the host.
const ETHERNET_MTU: u32 = 1500;

/// A number below /proc/sys: its directory, which of a link or of all has another one in it for
/// each, its name, and the value.
type Setting = (&'static str, &'static str, i64);

/// Sysctls of every namespace of ours: the kernel configures nothing by itself, so that everything
/// there is ours.
const QUIET: [Setting; 7] = [
    ("net/ipv6/conf/all", "disable_ipv6", 0),
    ("net/ipv6/conf/default", "disable_ipv6", 0),
    ("net/ipv6/conf/all", "accept_dad", 0),
    ("net/ipv6/conf/default", "accept_dad", 0),
    ("net/ipv6/conf/default", "dad_transmits", 0),
    ("net/ipv6/conf/default", "accept_ra", 0),
    ("net/ipv6/conf/default", "addr_gen_mode", 1),
];

/// Sysctls of our interface in a foreign container: the kernel configures nothing on it by itself.
const FOREIGN: [Setting; 4] = [
    ("net/ipv6/conf", "disable_ipv6", 0),
    ("net/ipv6/conf", "accept_dad", 0),
    ("net/ipv6/conf", "accept_ra", 0),
    ("net/ipv6/conf", "addr_gen_mode", 1),
];
/// Extra metric of our default route inside a foreign container, so that its own default route
/// wins.
const YIELDING: u32 = 1024;

/// What a host has that is not ours, and what networks rest on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// The way to the other hosts.
    pub underlay: Underlay,
    /// The links of the host's own namespace, ours included.
    pub links: BTreeMap<LinkName, HostLink>,
    /// The host's addresses, those on links of ours left out.
    pub addresses: BTreeSet<(LinkName, IpAddr)>,
    /// The prefixes of those addresses.
    pub on_link: BTreeSet<Subnet>,
    /// The endpoints on a LAN whose addresses nobody else there has.
    pub free: BTreeSet<EndpointId>,
    /// The containers of others whose network namespaces are there.
    pub alive: BTreeSet<SandboxId>,
    /// The endpoints on a LAN whose devices a container's runtime has taken from the host.
    pub taken: BTreeSet<EndpointId>,
    /// Of networks with one mark: those that packets to published ports are led into.
    pub led: BTreeSet<NetworkId>,
}

/// A link of the host's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// What it is, if it is on top of another.
    pub stacked: Option<Stacked>,
}

/// The question whether another machine of a LAN has an endpoint's addresses. Until it is answered
/// the endpoint has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whose endpoint it is.
    pub sandbox: SandboxId,
    /// The endpoint's own link.
    pub port: (Place, LinkName),
    /// Where to ask: the namespace.
    pub place: Place,
    /// The link there.
    pub link: LinkName,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether there is no good answer yet.
    pub open: bool,
}

/// All that the kernel should hold of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By namespace. The host is only there while it has something of ours.
    pub spaces: BTreeMap<Place, Arc<Space<Link>>>,
    /// The networks of each task whose endpoints are all known, with the endpoints' links.
    pub sandboxes: BTreeMap<SandboxId, BTreeSet<(NetworkId, EndpointId)>>,
    /// Whose sandbox each endpoint joins that others have made.
    pub foreign: BTreeMap<EndpointId, SandboxId>,
    /// The endpoints whose devices lie on the host until a container's runtime takes them from
    /// there.
    pub handed: BTreeSet<EndpointId>,
    /// What has to be known before an endpoint on a LAN gets its addresses.
    pub questions: BTreeMap<EndpointId, Question>,
    /// Of the host's links that are there for a LAN: a task that needs it.
    pub users: BTreeMap<LinkName, SandboxId>,
    /// The networks that ports of this host lead into, with the marks of packets on their way
    /// there.
    pub diverted: BTreeMap<NetworkId, u32>,
    /// The networks that ports should lead into and cannot, with those that were there first and
    /// have the same mark.
    pub undiverted: BTreeMap<NetworkId, NetworkId>,
    /// The networks whose endpoints this host may call and does not, with the subnet and the prefix
    /// of the host's own that overlap.
    pub closed: BTreeMap<NetworkId, (Subnet, Subnet)>,
    /// The host's addresses, by link.
    pub addresses: BTreeSet<(LinkName, IpAddr)>,
    /// Their prefixes.
    pub on_link: BTreeSet<Subnet>,
    /// Which endpoint has a link of the host to itself.
    alone: BTreeMap<Parent, EndpointId>,
    /// What the configuration leaves open.
    pub failures: Vec<Failure>,
}

/// The way to the other hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// MTU of the link that carries this host's VTEP, in bytes; `None`: none does.
    pub link: Option<u32>,
    /// MTU of the way to each VTEP that there is a way to.
    pub paths: BTreeMap<IpAddr, u32>,
}

impl Desired {
    /// What `config` asks for on a host that has this.
    pub fn of(config: &NodeConfig, ground: &Ground) -> Self {
        let (addresses, on_link) = (ground.addresses.clone(), ground.on_link.clone());
        let mut desired = Self {
            addresses,
            on_link,
            ..Self::default()
        };
        let mut locals = desired.sandboxes(config);
        locals.extend(desired.containers(config, &ground.alive));
        let own = desired.overlays(config, &locals, ground);
        desired.give_alone(config, &locals, ground);
        // In the order of each task's interfaces: the first with a way out is the one that is
        // taken.
        for local in &locals {
            let Some(network) = config.networks.get(&local.endpoint.network) else {
                continue;
            };
            match (&network.driver, own) {
                (DriverConfig::Overlay { .. }, Some(own)) => {
                    let mtu = overlay::mtu(network, own, ground.underlay.link);
                    match &local.interface {
                        Some(inner) => desired.overlay_endpoint(local, inner, network, mtu),
                        None => desired.handed_endpoint(local, network, mtu, ground),
                    }
                }
                (DriverConfig::Overlay { .. }, None) => {
                    drop(desired.sandboxes.remove(&local.sandbox))
                }
                _ => desired.lan_endpoint(local, network, config, ground),
            }
        }
        desired
    }

    /// The overlays that this host's tasks are on; returns the host as others see it.
    fn overlays<'a>(
        &mut self,
        config: &'a NodeConfig,
        locals: &[Local<'_>],
        ground: &Ground,
    ) -> Option<&'a PeerConfig> {
        let on_overlay = |local: &&Local<'_>| {
            let network = config.networks.get(&local.endpoint.network);
            network.is_some_and(|network| network.driver.parent().is_none())
        };
        let present = locals
            .iter()
            .filter(on_overlay)
            .map(|local| local.endpoint.network);
        // The host also has part in networks that only its published ports lead to.
        let mut present: BTreeSet<NetworkId> = present
            .chain(config.published.values().map(|port| port.network))
            .collect();
        self.open(config, &mut present);
        let own = config.peers.get(&config.node);
        if present.is_empty() {
            return own;
        }
        let Some(own) = own else {
            self.fail(
                "tunnel",
                format!("the view names no VTEP of this host, node {}", config.node),
                "update the managers",
            );
            return None;
        };
        if ground.underlay.link.is_none() {
            let next = "`ip address` lists this host's addresses; join again with the right --data-path-addr";
            self.fail(
                "tunnel",
                format!("this host's VTEP {} is on none of its links", own.vtep),
                next,
            );
        }
        for (id, network) in in_order(present, config, ground) {
            let mtu = overlay::mtu(network, own, ground.underlay.link);
            self.overlay(
                Member {
                    id,
                    network,
                    node: config.node,
                    own,
                    underlay: &ground.underlay,
                    mtu,
                },
                config,
            );
        }
        Some(own)
    }

    /// Adds the networks whose endpoints may be called by any host, save those that would take
    /// addresses of the host's own links away. Where more than calls lead there, the host has part
    /// in them whatever its links are on.
    fn open(&mut self, config: &NodeConfig, present: &mut BTreeSet<NetworkId>) {
        for (&id, network) in &config.networks {
            let is_open = network.driver.parent().is_none()
                && network.reach.is_open()
                && !network.internal
                && !present.contains(&id);
            if !is_open {
                continue;
            }
            let in_the_way = network.subnets.iter().find_map(|lease| {
                let mut own = self.on_link.iter();
                Some((lease.subnet, *own.find(|own| own.overlaps(&lease.subnet))?))
            });
            let Some((subnet, own)) = in_the_way else {
                present.insert(id);
                continue;
            };
            self.closed.insert(id, (subnet, own));
        }
    }

    /// The sandbox that a link on a LAN, or in a foreign container, belongs to: its failure must
    /// not affect other sandboxes.
    pub fn sandbox_of(&self, place: Place, link: &LinkName) -> Option<SandboxId> {
        match place {
            Place::Host => self.users.get(link).copied(),
            Place::Inside(Namespace::Network(_)) => self
                .foreign
                .get(&names::parse_endpoint_link(link.as_str())?)
                .copied(),
            Place::Inside(Namespace::Sandbox(sandbox)) => {
                let link = self.spaces.get(&place)?.links.get(link)?;
                matches!(link.kind, Kind::Stacked(_)).then_some(sandbox)
            }
            Place::Inside(Namespace::Container(sandbox)) => Some(sandbox),
        }
    }

    fn sandboxes<'a>(&mut self, config: &'a NodeConfig) -> Vec<Local<'a>> {
        let mut locals = Vec::new();
        for (&id, asked) in &config.tasks {
            let sandbox = id.into();
            let space = self.space(Place::Inside(Namespace::Sandbox(sandbox)));
            set_all(space, &QUIET);
            space.links.insert(
                names::loopback_link(),
                Link {
                    kind: Kind::Loopback,
                    mac: None,
                    mtu: None,
                },
            );
            let known = asked
                .endpoints
                .iter()
                .enumerate()
                .filter_map(|(index, &id)| {
                    let endpoint = config
                        .endpoints
                        .get(&id)
                        .filter(|e| config.networks.contains_key(&e.network))?;
                    let interface = Some(names::sandbox_link(index));
                    let (namespace, bandwidth) =
                        (Namespace::Sandbox(sandbox), Bandwidth::default());
                    Some(Local {
                        id,
                        sandbox,
                        namespace,
                        bandwidth,
                        interface,
                        endpoint,
                    })
                });
            let known: Vec<Local<'a>> = known.collect();
            if known.len() == asked.endpoints.len() {
                let joints = known
                    .iter()
                    .map(|local| (local.endpoint.network, local.id))
                    .collect();
                self.sandboxes.insert(sandbox, joints);
            } else {
                self.fail(
                    &format!("task {}", asked.name()),
                    "the view lacks one of its endpoints".to_owned(),
                    "update the managers",
                );
            }
            locals.extend(known);
        }
        locals
    }

    /// Those of containers of others, as far as their namespaces are there.
    fn containers<'a>(
        &mut self,
        config: &'a NodeConfig,
        alive: &BTreeSet<SandboxId>,
    ) -> Vec<Local<'a>> {
        let mut locals = Vec::new();
        for (&sandbox, container) in &config.containers {
            self.foreign
                .extend(container.endpoints.iter().map(|joint| (joint.id, sandbox)));
            let known = container.endpoints.iter().filter_map(|joint| {
                let endpoint = config
                    .endpoints
                    .get(&joint.id)
                    .filter(|e| config.networks.contains_key(&e.network))?;
                let interface = match &joint.interface {
                    // Links of a namespace that is gone are gone, too.
                    Some(name) => Some(LinkName::parse(name).filter(|_| alive.contains(&sandbox))?),
                    None => None,
                };
                let (namespace, bandwidth) = (Namespace::Container(sandbox), joint.bandwidth);
                Some(Local {
                    id: joint.id,
                    sandbox,
                    namespace,
                    bandwidth,
                    interface,
                    endpoint,
                })
            });
            let known: Vec<Local<'a>> = known.collect();
            if known.len() == container.endpoints.len() {
                let joints = known
                    .iter()
                    .map(|local| (local.endpoint.network, local.id))
                    .collect();
                self.sandboxes.insert(sandbox, joints);
            }
            locals.extend(known);
        }
        locals
    }

    fn space(&mut self, place: Place) -> &mut Space<Link> {
        Arc::make_mut(self.spaces.entry(place).or_default())
    }

    fn fail(&mut self, object: &str, cause: String, next: &str) {
        let why = model::Failure::new(model::Kind::Precondition, cause, next);
        self.note(Failure::of_host(why.about(object)));
    }

    /// Refuses a task that cannot be on one of its networks here; the host's other tasks go on.
    fn refuse(&mut self, sandbox: SandboxId, why: model::Failure) {
        self.note(Failure {
            plane: Plane::Other,
            sandbox: Some(sandbox),
            network: None,
            why: why.about(format!("sandbox {sandbox}")),
        });
    }

    fn note(&mut self, failure: Failure) {
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }
}

/// The networks in the order in which they get their marks: those that are led into keep theirs,
/// then the older ones come, for identifiers count up.
fn in_order<'a>(
    present: BTreeSet<NetworkId>,
    config: &'a NodeConfig,
    ground: &Ground,
) -> Vec<(NetworkId, &'a NetworkConfig)> {
    let known = |id: NetworkId| Some((id, config.networks.get(&id)?));
    let mut networks: Vec<_> = present.into_iter().filter_map(known).collect();
    networks.sort_by_key(|(id, network)| (!ground.led.contains(id), network.vni));
    networks
}

/// An endpoint on this host.
struct Local<'a> {
    id: EndpointId,
    sandbox: SandboxId,
    /// The namespace of its sandbox.
    namespace: Namespace,
    /// How much may pass.
    bandwidth: Bandwidth,
    /// What it is called in its sandbox. `None`: a container's runtime takes it there.
    interface: Option<LinkName>,
    endpoint: &'a EndpointConfig,
}

impl Local<'_> {
    fn place(&self) -> Place {
        Place::Inside(self.namespace)
    }

    /// Where its device is made, and what it is called there.
    fn port(&self) -> (Place, LinkName) {
        match &self.interface {
            Some(name) => (self.place(), name.clone()),
            None => (Place::Host, names::handed_link(self.id)),
        }
    }
}

impl Space<Link> {
    fn address(&mut self, link: &LinkName, address: IpAddr, form: AddressForm) {
        self.addresses.insert(
            AddressKey {
                link: link.clone(),
                address,
            },
            form,
        );
    }

    fn neighbour(&mut self, link: &LinkName, address: IpAddr, mac: Mac) {
        self.neighbours.insert(
            NeighbourKey {
                link: link.clone(),
                address,
            },
            mac,
        );
    }

    /// Limits what leaves by a link to bits per second and, at once, bits.
    fn shape(&mut self, link: &LinkName, rate: u64, burst: u64) {
        self.shapes
            .extend(Shape::of_bits(rate, burst).map(|shape| (link.clone(), shape)));
    }

    fn route(&mut self, destination: Option<Subnet>, route: Route) {
        if let Some(destination) = destination {
            self.routes.insert(RouteKey::to(destination), route);
        }
    }
}

impl AddressForm {
    const LINK_LOCAL: Self = Self {
        prefix: 64,
        prefix_route: true,
    };

    fn host(address: IpAddr) -> Self {
        Self {
            prefix: host_prefix(address),
            prefix_route: true,
        }
    }
}

impl RouteKey {
    fn to(destination: Subnet) -> Self {
        Self {
            table: MAIN_TABLE,
            destination,
            metric: if destination.is_ipv6() {
                IPV6_METRIC
            } else {
                0
            },
            nth: 0,
        }
    }
}

fn lease_of(network: &NetworkConfig, address: IpAddr) -> Option<&SubnetLease> {
    network
        .subnets
        .iter()
        .find(|lease| lease.subnet.contains(address))
}

fn host_subnet(address: IpAddr) -> Option<Subnet> {
    Subnet::around(address, host_prefix(address))
}

fn default_of(address: IpAddr) -> Option<Subnet> {
    let zero = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    Subnet::around(zero, 0)
}

/// The route to everywhere. In a sandbox of others it yields to theirs.
fn way_out(place: Place, everything: Subnet) -> RouteKey {
    let key = RouteKey::to(everything);
    RouteKey {
        metric: key.metric + if place.is_foreign() { YIELDING } else { 0 },
        ..key
    }
}

fn set_all(space: &mut Space<Link>, settings: &[Setting]) {
    let all = settings.iter();
    space
        .sysctls
        .extend(all.map(|(table, name, value)| (Sysctl::of_namespace(table, name), *value)));
}

fn set_link(space: &mut Space<Link>, link: &LinkName, settings: &[Setting]) {
    let all = settings.iter();
    space
        .sysctls
        .extend(all.map(|(table, name, value)| (Sysctl::of_link(table, link, name), *value)));
}
