//! Runs the DNS resolvers of this host: one at the gateway addresses of every overlay, and one in
//! every sandbox on a LAN, which has no gateway of ours. Sockets are made inside the namespace and
//! belong to it; a replaced namespace gets new ones.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use dataplane::{Status, namespace};
use dns::{Audience, Limits, Listener, ServerHandle, Table, Upstream};
use model::{
    NetworkId, NodeConfig,
    names::{self, Namespace},
};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::sync::watch;

/// Interval at which namespaces that vanished without notice are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const DNS_PORT: u16 = 53;
/// Receive buffer of a resolver in bytes: some thousand queries.
const RECEIVE_BUFFER: usize = 4 << 20;

struct Resolver {
    /// The inode of the namespace that its sockets belong to.
    namespace: u64,
    server: ServerHandle,
}

/// Serves names until dropped. The table changes before the kernel does: a name is known when its
/// address works.
pub(crate) async fn serve(
    mut config: watch::Receiver<Arc<NodeConfig>>,
    mut status: watch::Receiver<Arc<Status>>,
) {
    let mut current = config.borrow_and_update().clone();
    let (table, tables) = watch::channel(Table::of(&current));
    let upstream = Arc::new(Upstream::system().inside(Arc::new(|task, work| {
        namespace::within(&names::sandbox_namespace(task), work)?
    })));
    let mut resolvers: BTreeMap<(Audience, u16), Resolver> = BTreeMap::new();
    loop {
        let newest = config.borrow_and_update().clone();
        if !Arc::ptr_eq(&newest, &current) {
            table.send_modify(|table| table.follow(&current, &newest));
            current = newest;
        }
        let wanted = wanted(&current);
        resolvers.retain(|at, resolver| {
            // One that lost its name is given it back; one that was replaced has to lose its last
            // sockets.
            wanted.contains_key(at)
                && resolver.server.is_whole()
                && namespace_inode(&namespace_of(at.0, &current))
                    .is_none_or(|inode| inode == resolver.namespace)
        });
        for ((audience, port), addresses) in wanted {
            let namespace = namespace_of(audience, &current);
            let missing = !resolvers.contains_key(&(audience, port));
            let Some(inode) = namespace_inode(&namespace).filter(|_| missing) else {
                continue;
            };
            match listen(audience, namespace, port, addresses).await {
                Ok(listener) => {
                    let server = dns::serve(
                        listener,
                        tables.clone(),
                        upstream.clone(),
                        Limits::default(),
                    );
                    resolvers.insert(
                        (audience, port),
                        Resolver {
                            namespace: inode,
                            server,
                        },
                    );
                }
                // The address is not there yet: the data plane's next status wakes us.
                Err(error) => {
                    tracing::debug!(?audience, %error, "cannot open a resolver's socket yet")
                }
            }
        }
        tokio::select! {
            changed = config.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

/// Where this host should answer questions, by port.
fn wanted(config: &NodeConfig) -> BTreeMap<(Audience, u16), Vec<IpAddr>> {
    let gateways = |id: &NetworkId| {
        config
            .networks
            .get(id)
            .into_iter()
            .flat_map(|network| &network.subnets)
    };
    let at = |id: NetworkId, port| {
        (
            (Audience::Network(id), port),
            gateways(&id).map(|lease| lease.gateway).collect(),
        )
    };
    let overlays = config
        .networks
        .iter()
        .filter(|(_, network)| network.driver.parent().is_none());
    let asked = overlays.map(|(&id, _)| at(id, DNS_PORT));
    // The engines of containers ask others, and are led to a port whose answers are tracked.
    let networks = config
        .handed()
        .filter_map(|id| Some(config.endpoints.get(&id)?.network));
    let is_overlay = |id: &NetworkId| {
        config
            .networks
            .get(id)
            .is_some_and(|network| network.driver.parent().is_none())
    };
    let passed_on = networks
        .filter(is_overlay)
        .map(|id| at(id, names::RESOLVER_PORT));
    let sandbox = |id| {
        (
            (Audience::Sandbox(id), names::RESOLVER_PORT),
            vec![IpAddr::V4(names::RESOLVER)],
        )
    };
    asked
        .chain(passed_on)
        .chain(config.sandboxes_on_lan().map(sandbox))
        .collect()
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
    port: u16,
    addresses: Vec<IpAddr>,
) -> io::Result<Listener> {
    let addresses: Vec<SocketAddr> = addresses
        .into_iter()
        .map(|address| (address, port).into())
        .collect();
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
