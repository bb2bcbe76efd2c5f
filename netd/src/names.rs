//! Runs the DNS resolvers of this host: one for the host's own programs, one at the gateway
//! addresses of every overlay, one in every sandbox on a LAN, which has no gateway of ours, and one
//! in every container of Docker Engine, which asks 127.0.0.11. Sockets are made inside the
//! namespace and belong to it; a replaced namespace gets new ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane::{Status, namespace};
use dns::{
    Audience, Enter, Limits, Listener, MAX_RESOLVERS, NameServer, ServerHandle, Table, Trust,
    Upstream,
};
use model::{
    Failure, Kind, NodeConfig, SandboxId,
    names::{self, Namespace},
};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::sync::{mpsc, watch};

/// Interval at which namespaces that vanished without notice are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Interval at which sockets are tried in a namespace that has just been made: its loopback is not
/// up yet.
const LOOK_SOON: Duration = Duration::from_millis(5);
/// Time after which that is no longer a matter of moments.
const SOON: Duration = Duration::from_secs(5);
const DNS_PORT: u16 = 53;
/// Where a sandbox's own resolver listens.
const INSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(names::RESOLVER), names::RESOLVER_PORT);
/// The host's own network namespace.
const OWN_NAMESPACE: &str = "/proc/self/ns/net";
/// Receive buffer of a resolver in bytes: some thousand queries.
const RECEIVE_BUFFER: usize = 4 << 20;

/// The sockets of one resolver.
pub(crate) struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

/// The sockets of a sandbox's own resolver, opened before questions are led to them: what is asked
/// until they are served waits there.
pub(crate) struct Opened {
    sandbox: SandboxId,
    /// The inode of the namespace that they belong to.
    namespace: u64,
    sockets: Sockets,
}

/// Opens those of a sandbox, on a thread that is in its namespace.
pub(crate) fn open(sandbox: SandboxId, opened: &mpsc::UnboundedSender<Opened>) {
    let open = || {
        Ok::<_, io::Error>(Opened {
            sandbox,
            namespace: namespace::current()?.metadata()?.ino(),
            sockets: bind(&[INSIDE])?,
        })
    };
    match open() {
        // Nobody serves names any more where nobody receives them.
        Ok(sockets) => drop(opened.send(sockets)),
        Err(error) => tracing::debug!(%sandbox, %error, "a resolver's sockets are opened later"),
    }
}

struct Resolver {
    /// The inode of the namespace that its sockets belong to.
    namespace: u64,
    server: ServerHandle,
}

/// Whom this host asks for names outside the cluster: these, or those of /etc/resolv.conf.
pub(crate) fn upstream(servers: &[NameServer]) -> Result<Upstream, Failure> {
    let refusal = |kind, cause: String, next: &str| {
        let failure = Failure::new(kind, cause, next);
        Err(failure.about("netd --dns"))
    };
    if servers.is_empty() {
        return Ok(Upstream::system());
    }
    if servers.len() > MAX_RESOLVERS {
        let cause = format!(
            "{} DNS servers, where {MAX_RESOLVERS} are asked",
            servers.len()
        );
        return refusal(Kind::Invalid, cause, "leave out --dns for the others");
    }
    let mut trust = None;
    if servers.iter().any(NameServer::is_encrypted) {
        match Trust::system() {
            Ok(found) => trust = Some(found),
            Err(error) => {
                let next = "install package ca-certificates, or set SSL_CERT_FILE for netd";
                return refusal(Kind::Unavailable, error.to_string(), next);
            }
        }
    }
    Ok(Upstream::servers(servers.to_vec(), trust))
}

/// Serves names until dropped. The table changes before the kernel does: a name is known when its
/// address works. `serving` is told whose resolvers stand.
pub(crate) async fn serve(
    upstream: Upstream,
    mut config: watch::Receiver<Arc<NodeConfig>>,
    mut status: watch::Receiver<Arc<Status>>,
    mut opened: mpsc::UnboundedReceiver<Opened>,
    serving: &watch::Sender<BTreeSet<Audience>>,
) {
    let mut current = config.borrow_and_update().clone();
    let (table, tables) = watch::channel(Table::of(&current));
    let upstream = Arc::new(upstream.inside(enter(config.clone())));
    let mut resolvers: BTreeMap<Audience, Resolver> = BTreeMap::new();
    let mut refused: BTreeMap<Audience, Instant> = BTreeMap::new();
    let mut early: Vec<Opened> = Vec::new();
    loop {
        // Before the view is looked at, which then has their sandboxes.
        while let Ok(next) = opened.try_recv() {
            early.push(next);
        }
        let newest = config.borrow_and_update().clone();
        if !Arc::ptr_eq(&newest, &current) {
            table.send_modify(|table| table.follow(&current, &newest));
            current = newest;
        }
        let wanted = wanted(&current);
        resolvers.retain(|audience, resolver| {
            // One that lost its name is given it back; one that was replaced has to lose its last
            // sockets.
            wanted.contains_key(audience)
                && resolver.server.is_whole()
                && namespace_inode(namespace_of(*audience, &current).as_deref())
                    .is_none_or(|inode| inode == resolver.namespace)
        });
        refused.retain(|audience, _| wanted.contains_key(audience));
        for (audience, addresses) in wanted {
            let namespace = namespace_of(audience, &current);
            let missing = !resolvers.contains_key(&audience);
            let Some(inode) = namespace_inode(namespace.as_deref()).filter(|_| missing) else {
                continue;
            };
            let at = early.iter().position(|early| {
                Audience::Sandbox(early.sandbox) == audience && early.namespace == inode
            });
            let sockets = match at {
                Some(at) => Ok(early.swap_remove(at).sockets),
                None => listen(namespace, addresses).await,
            };
            match sockets.and_then(|sockets| listener(audience, sockets)) {
                Ok(listener) => {
                    refused.remove(&audience);
                    let (tables, upstream) = (tables.clone(), upstream.clone());
                    let server = dns::serve(listener, tables, upstream, Limits::default());
                    let namespace = inode;
                    resolvers.insert(audience, Resolver { namespace, server });
                }
                // The address is not there yet.
                Err(error) => {
                    refused.entry(audience).or_insert_with(Instant::now);
                    tracing::debug!(?audience, %error, "cannot open a resolver's socket yet")
                }
            }
        }
        early.clear();
        serving.send_if_modified(|known| {
            let is_same = known.iter().eq(resolvers.keys());
            if !is_same {
                *known = resolvers.keys().copied().collect();
            }
            !is_same
        });
        let is_young = refused.values().any(|since| since.elapsed() < SOON);
        let pause = if is_young { LOOK_SOON } else { LOOK_AGAIN };
        tokio::select! {
            changed = config.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
            Some(next) = opened.recv() => early.push(next),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Takes the resolver's own questions into the sandbox of who asks.
fn enter(config: watch::Receiver<Arc<NodeConfig>>) -> Enter {
    Arc::new(move |sandbox, work| {
        let namespace = config.borrow().namespace_of(sandbox).name();
        namespace::within(&namespace, work)?
    })
}

/// Where this host should answer questions.
fn wanted(config: &NodeConfig) -> BTreeMap<Audience, Vec<SocketAddr>> {
    let overlays = config
        .networks
        .iter()
        .filter(|(_, network)| network.driver.parent().is_none());
    let at_gateways = overlays.map(|(&id, network)| {
        let gateways = network.subnets.iter().map(|lease| lease.gateway);
        let at = gateways.map(|gateway| (gateway, DNS_PORT).into()).collect();
        (Audience::Network(id), at)
    });
    let in_sandboxes = config
        .resolving()
        .map(|id| (Audience::Sandbox(id), vec![INSIDE]));
    let hosts_call = (config.networks.values()).any(|network| network.reach.hosts);
    let of_host = SocketAddr::from((names::HOST_RESOLVER, DNS_PORT));
    let of_host = hosts_call.then(|| (Audience::Host, vec![of_host]));
    at_gateways.chain(in_sandboxes).chain(of_host).collect()
}

/// `None`: the host's own.
fn namespace_of(audience: Audience, config: &NodeConfig) -> Option<String> {
    match audience {
        Audience::Network(network) => Some(Namespace::Network(network).name()),
        Audience::Sandbox(sandbox) => Some(config.namespace_of(sandbox).name()),
        Audience::Host => None,
    }
}

fn namespace_inode(name: Option<&str>) -> Option<u64> {
    let of_name = |name| Path::new(names::NAMESPACE_DIRECTORY).join(name);
    name.map_or_else(|| OWN_NAMESPACE.into(), of_name)
        .metadata()
        .ok()
        .map(|metadata| metadata.ino())
}

/// `None`: in the host's own namespace.
async fn listen(namespace: Option<String>, addresses: Vec<SocketAddr>) -> io::Result<Sockets> {
    let open = move || match namespace {
        Some(namespace) => namespace::within(&namespace, || bind(&addresses))?,
        None => bind(&addresses),
    };
    tokio::task::spawn_blocking(open)
        .await
        .map_err(io::Error::other)?
}

/// In the calling thread's namespace.
fn bind(addresses: &[SocketAddr]) -> io::Result<Sockets> {
    addresses.iter().try_for_each(|&address| reach(address))?;
    let udp = addresses.iter().map(|&address| {
        let socket = UdpSocket::bind(address)?;
        // Beyond what others may have: a burst of one task is not to push out what others ask.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        socket.set_nonblocking(true).map(|()| socket)
    });
    let tcp = addresses.iter().map(|&address| {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true).map(|()| socket)
    });
    Ok(Sockets {
        udp: udp.collect::<io::Result<_>>()?,
        tcp: tcp.collect::<io::Result<_>>()?,
    })
}

fn listener(audience: Audience, sockets: Sockets) -> io::Result<Listener> {
    let udp = sockets.udp.into_iter();
    let tcp = sockets.tcp.into_iter();
    Ok(Listener {
        audience,
        udp: udp
            .map(tokio::net::UdpSocket::from_std)
            .collect::<io::Result<_>>()?,
        tcp: tcp
            .map(tokio::net::TcpListener::from_std)
            .collect::<io::Result<_>>()?,
    })
}

/// Fails where nothing is routed yet: a namespace without any address takes every address for a
/// broadcast one, lets sockets be bound to it, and sends their answers from another
/// (`inet_addr_type` in Linux, net/ipv4/fib_frontend.c).
fn reach(address: SocketAddr) -> io::Result<()> {
    let any: IpAddr = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    UdpSocket::bind((any, 0))?.connect(address)
}
