//! Published ports of this host. A socket that takes nothing reserves each port; a port that another
//! program has is left to it. Long ranges are not reserved: they are left to a program that was
//! there first, and one that comes later is named.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use model::{
    ContainerRuntime, Kind, Mac, NetworkConfig, NetworkId, NodeConfig, Protocol, PublishAt,
    PublishSpec, PublishedConfig, Publisher, Subnet,
    names::{self, LinkName},
};
use nix::libc::{BPF_K, BPF_RET};
use rules::published::{Answers, Diversion, Port};
use socket2::{Domain, SockFilter, Socket, Type};

use super::{
    Failure,
    desired::{Desired, published},
    listeners::listening,
};

/// What is reserved port by port; a range of more would take thousands of sockets.
const RESERVED: u16 = 1_000;
/// How often it is asked whether a program has come to a range that is not reserved.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What this host leads elsewhere, and where to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// The host's part.
    pub diversion: Diversion,
    /// What each network balances.
    pub networks: BTreeMap<NetworkId, Vec<Port>>,
    /// What tasks here answer whom other hosts led to them.
    pub answers: BTreeMap<NetworkId, Answers>,
}

/// The ports that are kept from other programs.
#[derive(Debug, Default)]
pub struct Ports {
    held: BTreeMap<(Protocol, SocketAddr), Socket>,
    /// What could be had last.
    pub open: Arc<Open>,
    /// What could not.
    pub failures: Vec<Failure>,
    settled: Option<(Arc<NodeConfig>, Arc<Desired>)>,
    /// The ranges that are led and not reserved, and when it was asked last who listens there.
    ranges: BTreeSet<(Publisher, String)>,
    looked: Option<Instant>,
}

impl Ports {
    /// Keeps what the configuration asks for, lets go of the rest.
    pub fn reconcile(&mut self, config: &Arc<NodeConfig>, desired: &Arc<Desired>) {
        let is_same = |(last, before): &(Arc<_>, Arc<_>)| {
            Arc::ptr_eq(last, config) && Arc::ptr_eq(before, desired)
        };
        let is_seen =
            self.ranges.is_empty() || self.looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN);
        let is_settled = self.failures.is_empty() && is_seen;
        if is_settled && self.settled.as_ref().is_some_and(is_same) {
            return;
        }
        self.settled = Some((config.clone(), desired.clone()));
        let mut open = Open {
            answers: answers(config),
            ..Open::default()
        };
        let closed = desired.closed.iter();
        let closed =
            closed.filter_map(|(id, found)| Some(is_closed(config.networks.get(id)?, *found)));
        let (mut wanted, mut failures) = (BTreeSet::new(), closed.collect::<Vec<_>>());
        let (mut ranges, mut listeners) = (BTreeSet::new(), Listeners::default());
        for ((service, place), record) in &config.published {
            let Some(&mark) = desired.diverted.get(&record.network) else {
                let first = desired.undiverted.get(&record.network);
                failures.extend(first.map(|first| not_told_apart(config, record, *first)));
                continue;
            };
            let at = addresses(&record.spec.at, &desired.addresses);
            if at.as_ref().is_some_and(BTreeSet::is_empty) {
                continue;
            }
            let is_range = record.spec.count > RESERVED;
            let sockets = if is_kept(config, *service) && !is_range {
                sockets(record, at.as_ref())
            } else {
                Vec::new()
            };
            if is_range {
                let range = (*service, place.clone());
                let taken = listeners.at(&record.spec, at.as_ref());
                if let Some(taken) = taken {
                    let first = self.first_at(&range);
                    failures.push(in_use(config, record, taken, first));
                    if first == First::Program {
                        continue;
                    }
                }
                ranges.insert(range);
            }
            wanted.extend(sockets.iter().copied());
            if let Some(taken) = sockets.into_iter().find(|&socket| !self.hold(socket)) {
                failures.push(in_use(config, record, taken, First::Program));
                continue;
            }
            let port = Port {
                name: format!("{service}-{place}"),
                at,
                ..port(record, service.to_string(), mark)
            };
            open.networks
                .entry(record.network)
                .or_default()
                .push(port.clone());
            open.diversion.ports.push(port);
        }
        self.held.retain(|key, _| wanted.contains(key));
        open.diversion.uplinks = uplinks(config, desired);
        open.diversion.own = own(config, &desired.addresses);
        self.looked = (!ranges.is_empty()).then(Instant::now);
        (self.failures, self.ranges) = (failures, ranges);
        if *self.open != open {
            self.open = Arc::new(open);
        }
    }

    fn first_at(&self, range: &(Publisher, String)) -> First {
        if self.ranges.contains(range) {
            First::Us
        } else {
            First::Program
        }
    }

    /// Reserves a port; whether no other program has it. A protocol that cannot be checked counts
    /// as free.
    fn hold(&mut self, key: (Protocol, SocketAddr)) -> bool {
        if self.held.contains_key(&key) {
            return true;
        }
        match reserve(key.0, key.1) {
            Ok(socket) => drop(self.held.insert(key, socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return false,
            Err(_) => {}
        }
        true
    }
}

/// A socket that drops whatever comes, so that nothing is answered while no rules lead packets
/// away, as between the flush of a firewall's rules and their repair: a bound socket of TCP, or
/// none at all, would reset established connections. `SO_REUSEADDR` is set only until it listens,
/// so that connections in TIME_WAIT do not count, but no other program can listen afterwards.
fn reserve(protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
        // SCTP ports are not reserved: few kernels have SCTP, and few hosts a program that uses it.
        Protocol::Sctp => return Err(io::ErrorKind::Unsupported.into()),
    };
    let found = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        found.set_only_v6(true)?;
    }
    found.attach_filter(&[nothing()])?;
    let is_tcp = protocol == Protocol::Tcp;
    found.set_reuse_address(is_tcp)?;
    found.bind(&address.into())?;
    if is_tcp {
        found.listen(0)?;
        found.set_reuse_address(false)?;
    }
    Ok(found)
}

/// The filter that lets no byte pass.
fn nothing() -> SockFilter {
    SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, 0)
}

/// Some CNI runtimes keep the ports of their containers themselves (Podman does), once they know
/// that they are led there.
fn is_kept(config: &NodeConfig, publisher: Publisher) -> bool {
    let Publisher::Container(endpoint) = publisher else {
        return true;
    };
    let of_cni = config
        .containers
        .values()
        .filter(|container| container.runtime == ContainerRuntime::Cni);
    !of_cni
        .flat_map(|container| &container.endpoints)
        .any(|joint| joint.id == endpoint)
}

fn sockets(record: &PublishedConfig, at: Option<&BTreeSet<IpAddr>>) -> Vec<(Protocol, SocketAddr)> {
    let spec = &record.spec;
    let everywhere = BTreeSet::from([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]);
    let at = at.unwrap_or(&everywhere);
    let numbers = spec.published..=spec.last();
    numbers
        .flat_map(|port| {
            at.iter()
                .map(move |address| (spec.protocol, (*address, port).into()))
        })
        .collect()
}

/// Sockets of programs, asked of the kernel where a range needs to know.
#[derive(Default)]
struct Listeners(BTreeMap<Protocol, Vec<SocketAddr>>);

impl Listeners {
    /// The first socket that takes calls at one of these ports; `at` as in [`Port`]. What the
    /// kernel does not tell counts as free.
    fn at(
        &mut self,
        spec: &PublishSpec,
        at: Option<&BTreeSet<IpAddr>>,
    ) -> Option<(Protocol, SocketAddr)> {
        let protocol = spec.protocol;
        let found = self.0.entry(protocol).or_insert_with(|| {
            let mut found = listening(protocol).unwrap_or_default();
            found.sort();
            found
        });
        let numbers = spec.published..=spec.last();
        let taken = found
            .iter()
            .find(|one| numbers.contains(&one.port()) && meets(one.ip(), at));
        taken.map(|address| (protocol, *address))
    }
}

/// Whether a socket at this address takes calls at one of the others; a socket at `::` may take
/// those of IPv4 as well.
fn meets(socket: IpAddr, at: Option<&BTreeSet<IpAddr>>) -> bool {
    let Some(at) = at else {
        return true;
    };
    let meets = |other: &IpAddr| {
        let of_family = other.is_ipv4() == socket.is_ipv4();
        *other == socket
            || other.is_unspecified() && of_family
            || socket.is_unspecified() && (of_family || socket.is_ipv6())
    };
    at.iter().any(meets)
}

/// Who was first at a port that two want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Program,
    Us,
}

fn in_use(
    config: &NodeConfig,
    record: &PublishedConfig,
    (protocol, address): (Protocol, SocketAddr),
    first: First,
) -> Failure {
    let host = config
        .peers
        .get(&config.node)
        .map_or("this host", |own| own.hostname.as_str());
    let cause = format!(
        "port {}/{protocol} of host {host} is in use by another program",
        address.port()
    );
    let next = "stop that program (`ss -lntup` names it), or publish at another port";
    let cause = match first {
        First::Program => {
            format!("{cause}, so this host does not lead callers to tasks there")
        }
        First::Us => format!("{cause}, whose callers this host leads to tasks all the same"),
    };
    let why = model::Failure::new(Kind::Conflict, cause, next);
    Failure::of_host(why.about(format!(
        "published port {} of {}",
        record.spec, record.owner
    )))
}

/// Of a port that leads into a network with the mark of another one that was there first.
fn not_told_apart(config: &NodeConfig, record: &PublishedConfig, first: NetworkId) -> Failure {
    let named = |id: NetworkId| {
        let network = config.networks.get(&id);
        network.map_or_else(
            || format!("network {id}"),
            |network| {
                let (name, vni) = (&network.name, network.vni);
                format!("network {name} (VXLAN network identifier {vni})")
            },
        )
    };
    let cause = format!(
        "this host does not lead callers there: it cannot tell packets to {} from those to {}, \
         whose published ports were there first",
        named(record.network),
        named(first)
    );
    let next = "make another network, which gets an identifier that differs enough, and make the \
                service or container anew on it";
    let why = model::Failure::new(Kind::Conflict, cause, next);
    Failure::of_host(why.about(format!(
        "published port {} of {}",
        record.spec, record.owner
    )))
}

/// Of a network that would take addresses of the host's own links away.
fn is_closed(network: &NetworkConfig, (subnet, own): (Subnet, Subnet)) -> Failure {
    let cause = format!(
        "its subnet {subnet} overlaps {own}, which a link of this host is on: calls of this host, \
         and of machines that send by it, do not reach its tasks and containers"
    );
    let next = "give the host's link another prefix, or make the network anew with another subnet";
    let why = model::Failure::new(Kind::Conflict, cause, next);
    let why = why.about(format!("network {}", network.name));
    Failure::of_host(why)
}

/// `None`: all of them.
fn addresses(at: &PublishAt, here: &BTreeSet<(LinkName, IpAddr)>) -> Option<BTreeSet<IpAddr>> {
    let is_here = |address: &IpAddr| {
        address.is_loopback()
            || address.is_unspecified()
            || here.iter().any(|(_, own)| own == address)
    };
    match at {
        PublishAt::Everywhere => None,
        PublishAt::Address(address) => Some([*address].into_iter().filter(is_here).collect()),
        PublishAt::Interface(name) => {
            let on_link = here.iter().filter(|(link, _)| link.as_str() == name);
            Some(on_link.map(|(_, address)| *address).collect())
        }
    }
}

fn port(record: &PublishedConfig, service: String, mark: u32) -> Port {
    let spec = &record.spec;
    Port {
        name: service.clone(),
        service,
        mark,
        protocol: spec.protocol,
        published: spec.published,
        target: spec.target,
        count: spec.count,
        at: None,
        allow: spec.allow.clone(),
        balance: record.balance,
        real_servers: record.real_servers.clone(),
    }
}

fn uplinks(config: &NodeConfig, desired: &Desired) -> BTreeMap<LinkName, u32> {
    let link = |(network, mark): (&NetworkId, &u32)| {
        Some((names::uplink_link(config.networks.get(network)?.vni), *mark))
    };
    desired.diverted.iter().filter_map(link).collect()
}

/// The address that tunnels end at, and in the other family one of the same link if there is any.
fn own(config: &NodeConfig, here: &BTreeSet<(LinkName, IpAddr)>) -> Vec<IpAddr> {
    let Some(vtep) = config.peers.get(&config.node).map(|own| own.vtep) else {
        return Vec::new();
    };
    let link = here
        .iter()
        .find(|(_, address)| *address == vtep)
        .map(|(link, _)| link);
    let others = || {
        here.iter()
            .filter(|(_, address)| address.is_ipv4() != vtep.is_ipv4())
    };
    let other = others()
        .find(|(on, _)| Some(on) == link)
        .or_else(|| others().next());
    [vtep]
        .into_iter()
        .chain(other.map(|(_, address)| *address))
        .collect()
}

fn answers(config: &NodeConfig) -> BTreeMap<NetworkId, Answers> {
    let answering = config
        .networks
        .iter()
        .filter(|(id, _)| published::answers(config, **id));
    answering
        .map(|(&id, network)| {
            let routers = published::marks_of_peers(config);
            let routers = routers
                .into_iter()
                .map(|(node, mark)| (Mac::of_router(node), mark))
                .collect();
            let subnets = network.subnets.iter().map(|lease| lease.subnet).collect();
            (
                id,
                Answers {
                    subnets,
                    routers,
                    targets: targets(config, id),
                    hosts: hosts(config, network),
                    exposed: network.reach.exposed.iter().copied().collect(),
                },
            )
        })
        .collect()
}

/// The hosts that may call endpoints of a network, and the addresses that each calls from.
fn hosts(config: &NodeConfig, network: &NetworkConfig) -> Vec<(Mac, IpAddr)> {
    if !network.reach.hosts {
        return Vec::new();
    }
    let others = config.peers.iter();
    let others = others.filter(|(node, _)| **node != config.node);
    let calling = others.flat_map(|(node, peer)| {
        let router = Mac::of_router(*node);
        let addresses = peer.calling(*node).into_iter();
        addresses.map(move |address| (router, address))
    });
    calling.collect()
}

/// What other hosts may lead callers to: the tasks of this host, at their own ports.
fn targets(config: &NodeConfig, network: NetworkId) -> Vec<(IpAddr, Protocol, u16, u16)> {
    let here = config
        .endpoints
        .values()
        .filter(|endpoint| endpoint.network == network && endpoint.node == config.node);
    let here: BTreeSet<IpAddr> = here
        .flat_map(|endpoint| endpoint.addresses.iter().copied())
        .collect();
    let records = config.published.values().filter(|record| {
        record.network == network && record.spec.mode == model::PublishMode::Ingress
    });
    let targets = records.flat_map(|record| {
        let spec = &record.spec;
        let own = record
            .real_servers
            .keys()
            .filter(|address| here.contains(address));
        own.map(|address| (*address, spec.protocol, spec.target, spec.count))
            .collect::<Vec<_>>()
    });
    targets.collect()
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        time::Duration,
    };

    use super::*;

    #[test]
    fn a_port_belongs_to_its_program_or_to_us() {
        let program = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = program.local_addr().unwrap();
        let everywhere = (Ipv4Addr::UNSPECIFIED, taken.port()).into();
        assert!(is_in_use(Protocol::Tcp, taken));
        assert!(is_in_use(Protocol::Tcp, everywhere));
        drop(program);
        let kept = reserve(Protocol::Tcp, taken).unwrap();
        assert!(TcpListener::bind(taken).is_err());
        drop(kept);
        let program = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        assert!(is_in_use(Protocol::Udp, program.local_addr().unwrap()));
    }

    fn is_in_use(protocol: Protocol, address: SocketAddr) -> bool {
        reserve(protocol, address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    }

    #[test]
    fn a_port_that_is_kept_answers_nothing() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        // The server ends the connection, so its side waits.
        drop(TcpStream::connect(address).and_then(|_| free.accept()));
        drop(free);
        let _kept = [Protocol::Tcp, Protocol::Udp].map(|it| reserve(it, address).unwrap());
        let patience = Duration::from_millis(300);
        let outcome = TcpStream::connect_timeout(&address, patience);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let asks = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        asks.connect(address).unwrap();
        asks.set_read_timeout(Some(patience)).unwrap();
        asks.send(b"?").unwrap();
        let outcome = asks.recv(&mut [0]);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_program_at_a_port_of_a_range_is_found() {
        let program = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let here = program.local_addr().unwrap();
        let range = |protocol| PublishSpec {
            published: here.port() - 1,
            target: 1,
            count: 3,
            protocol,
            mode: model::PublishMode::Ingress,
            at: PublishAt::Everywhere,
            allow: Vec::new(),
        };
        let found = |at: Option<&str>| {
            let at = at.map(|address| [address.parse().unwrap()].into());
            let found = Listeners::default().at(&range(Protocol::Udp), at.as_ref());
            found.is_some_and(|(_, address)| address == here)
        };
        assert!(found(None) && found(Some("127.0.0.1")) && found(Some("0.0.0.0")));
        assert!(!found(Some("127.0.0.2")) && !found(Some("::")));
        assert_eq!(Listeners::default().at(&range(Protocol::Sctp), None), None);
        let (any4, any6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
        let at = [Ipv4Addr::LOCALHOST.into()].into();
        assert!(meets(any4, Some(&at)) && meets(any6, Some(&at)));
    }

    #[test]
    fn ports_at_an_interface_or_address_are_where_that_is() {
        let here =
            |link: &str, address: &str| (LinkName::parse(link).unwrap(), address.parse().unwrap());
        let here = BTreeSet::from([
            here("eth0", "10.0.0.1"),
            here("eth0", "fd00::1"),
            here("eth1", "10.1.0.1"),
        ]);
        let found = |at| addresses(&at, &here).map(|found| found.len());
        assert_eq!(found(PublishAt::Everywhere), None);
        assert_eq!(found(PublishAt::Interface("eth0".to_owned())), Some(2));
        assert_eq!(
            found(PublishAt::Address("10.1.0.1".parse().unwrap())),
            Some(1)
        );
        assert_eq!(found(PublishAt::Address("::1".parse().unwrap())), Some(1));
        assert_eq!(
            found(PublishAt::Address("10.9.9.9".parse().unwrap())),
            Some(0)
        );
    }
}
