//! Keeps a resolver at the gateway addresses of every network of this host. The sockets are made inside the network's
//! namespace and go on belonging to it; a namespace that was replaced gets new ones.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, TcpListener, UdpSocket},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use dns::{Listener, ServerHandle, Table, Upstream};
use model::{NetworkId, NodeConfig, names};
use tokio::sync::watch;

use crate::dataplane::{Status, namespace};

/// How long a namespace that vanished without notice goes unseen at most.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const DNS_PORT: u16 = 53;

struct Resolver {
    /// The inode of the namespace that its sockets belong to.
    namespace: u64,
    _server: ServerHandle,
}

/// Serves names until dropped. The table changes before the kernel does: a name is known when its address works.
pub async fn serve(mut config: watch::Receiver<Arc<NodeConfig>>, mut status: watch::Receiver<Arc<Status>>) {
    let (table, tables) = watch::channel(Arc::new(Table::of(&config.borrow())));
    let upstream = Arc::new(Upstream::system());
    let mut resolvers: BTreeMap<NetworkId, Resolver> = BTreeMap::new();
    loop {
        let current = config.borrow_and_update().clone();
        table.send_replace(Arc::new(Table::of(&current)));
        resolvers.retain(|network, resolver| {
            // One that lost its name is given it back; one that was replaced has to lose its last sockets.
            current.networks.contains_key(network)
                && namespace_inode(*network).is_none_or(|inode| inode == resolver.namespace)
        });
        for (&network, wanted) in &current.networks {
            let Some(inode) = namespace_inode(network).filter(|_| !resolvers.contains_key(&network)) else { continue };
            let gateways: Vec<IpAddr> = wanted.subnets.iter().map(|lease| lease.gateway).collect();
            match listen(network, gateways).await {
                Ok(listener) => {
                    let server = dns::serve(listener, tables.clone(), upstream.clone());
                    resolvers.insert(network, Resolver { namespace: inode, _server: server });
                }
                // The gateway address is not there yet: the data plane's next status wakes us.
                Err(error) => tracing::debug!(network = wanted.name, %error, "no resolver yet"),
            }
        }
        tokio::select! {
            changed = config.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn namespace_inode(network: NetworkId) -> Option<u64> {
    let path = Path::new(names::NAMESPACE_DIRECTORY).join(names::network_namespace(network));
    path.metadata().ok().map(|metadata| metadata.ino())
}

async fn listen(network: NetworkId, gateways: Vec<IpAddr>) -> io::Result<Listener> {
    let bind = move || -> io::Result<(Vec<UdpSocket>, Vec<TcpListener>)> {
        let udp = gateways.iter().map(|&gateway| {
            let socket = UdpSocket::bind((gateway, DNS_PORT))?;
            socket.set_nonblocking(true).map(|()| socket)
        });
        let tcp = gateways.iter().map(|&gateway| {
            let socket = TcpListener::bind((gateway, DNS_PORT))?;
            socket.set_nonblocking(true).map(|()| socket)
        });
        Ok((udp.collect::<io::Result<_>>()?, tcp.collect::<io::Result<_>>()?))
    };
    let name = names::network_namespace(network);
    let (udp, tcp) = tokio::task::spawn_blocking(move || namespace::within(&name, bind))
        .await
        .map_err(io::Error::other)
        .and_then(|entered| entered?)?;
    Ok(Listener {
        network,
        udp: udp.into_iter().map(tokio::net::UdpSocket::from_std).collect::<io::Result<_>>()?,
        tcp: tcp.into_iter().map(tokio::net::TcpListener::from_std).collect::<io::Result<_>>()?,
    })
}
