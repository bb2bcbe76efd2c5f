//! Runs the DNS resolvers of this host: one at the gateway addresses of every overlay, one in every
//! sandbox on a LAN, which has no gateway of ours, and one in every container of Docker Engine,
//! which asks 127.0.0.11. Sockets are made inside the namespace and
//! belong to it; a replaced namespace gets new ones.

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
use dns::{Audience, Enter, Limits, Listener, ServerHandle, Table, Upstream};
use model::{
    NodeConfig,
    names::{self, Namespace},
};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::sync::watch;

/// Interval at which namespaces that vanished without notice are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Interval at which sockets are tried in a namespace that has just been made: its loopback is not
/// up yet.
const LOOK_SOON: Duration = Duration::from_millis(5);
/// Time after which that is no longer a matter of moments.
const SOON: Duration = Duration::from_secs(5);
const DNS_PORT: u16 = 53;
/// Receive buffer of a resolver in bytes: some thousand queries.
const RECEIVE_BUFFER: usize = 4 << 20;

struct Resolver {
    /// The inode of the namespace that its sockets belong to.
    namespace: u64,
    server: ServerHandle,
}

/// Serves names until dropped. The table changes before the kernel does: a name is known when its
/// address works. `serving` is told whose resolvers stand.
pub(crate) async fn serve(
    mut config: watch::Receiver<Arc<NodeConfig>>,
    mut status: watch::Receiver<Arc<Status>>,
    serving: &watch::Sender<BTreeSet<Audience>>,
) {
    let mut current = config.borrow_and_update().clone();
    let (table, tables) = watch::channel(Table::of(&current));
    let upstream = Arc::new(Upstream::system().inside(enter(config.clone())));
    let mut resolvers: BTreeMap<Audience, Resolver> = BTreeMap::new();
    let mut refused: BTreeMap<Audience, Instant> = BTreeMap::new();
    loop {
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
                && namespace_inode(&namespace_of(*audience, &current))
                    .is_none_or(|inode| inode == resolver.namespace)
        });
        refused.retain(|audience, _| wanted.contains_key(audience));
        for (audience, addresses) in wanted {
            let namespace = namespace_of(audience, &current);
            let missing = !resolvers.contains_key(&audience);
            let Some(inode) = namespace_inode(&namespace).filter(|_| missing) else {
                continue;
            };
            match listen(audience, namespace, addresses).await {
                Ok(listener) => {
                    refused.remove(&audience);
                    let server = dns::serve(
                        listener,
                        tables.clone(),
                        upstream.clone(),
                        Limits::default(),
                    );
                    resolvers.insert(
                        audience,
                        Resolver {
                            namespace: inode,
                            server,
                        },
                    );
                }
                // The address is not there yet.
                Err(error) => {
                    refused.entry(audience).or_insert_with(Instant::now);
                    tracing::debug!(?audience, %error, "cannot open a resolver's socket yet")
                }
            }
        }
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
    let inside = SocketAddr::from((names::RESOLVER, names::RESOLVER_PORT));
    let in_sandboxes = config
        .resolving()
        .map(|id| (Audience::Sandbox(id), vec![inside]));
    at_gateways.chain(in_sandboxes).collect()
}

fn namespace_of(audience: Audience, config: &NodeConfig) -> String {
    match audience {
        Audience::Network(network) => Namespace::Network(network).name(),
        Audience::Sandbox(sandbox) => config.namespace_of(sandbox).name(),
    }
}

fn namespace_inode(name: &str) -> Option<u64> {
    Path::new(names::NAMESPACE_DIRECTORY)
        .join(name)
        .metadata()
        .ok()
        .map(|metadata| metadata.ino())
}

async fn listen(
    audience: Audience,
    namespace: String,
    addresses: Vec<SocketAddr>,
) -> io::Result<Listener> {
    let bind = move || -> io::Result<(Vec<UdpSocket>, Vec<TcpListener>)> {
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
        Ok((
            udp.collect::<io::Result<_>>()?,
            tcp.collect::<io::Result<_>>()?,
        ))
    };
    let (udp, tcp) = tokio::task::spawn_blocking(move || namespace::within(&namespace, bind))
        .await
        .map_err(io::Error::other)
        .and_then(|entered| entered?)?;
    Ok(Listener {
        audience,
        udp: udp
            .into_iter()
            .map(tokio::net::UdpSocket::from_std)
            .collect::<io::Result<_>>()?,
        tcp: tcp
            .into_iter()
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
