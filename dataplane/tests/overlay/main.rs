//! The overlay against the real kernel: hosts are network and mount namespaces with a private /run,
//! joined by a bridge. Each runs the data plane in a process of its own, this binary started again
//! with `OVERLAY_HOST` set. Needs root.

#![allow(clippy::unwrap_used)]

mod containers;
mod frames;
mod hosts;
mod lab;
mod packets;
mod reach;
#[path = "../support/records.rs"]
mod records;
mod repairs;
mod rest;

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use dataplane::namespace;
use model::{
    Bandwidth, ContainerConfig, ContainerEndpoint, ContainerRuntime, DriverConfig, EndpointConfig,
    EndpointId, Mac, MacvlanMode, NetworkConfig, NetworkId, NodeConfig, NodeId, PeerConfig,
    Records, SandboxId, SubnetLease, TaskConfig, TaskId, ViewDelta, Vni, names::Namespace,
};
use tokio::sync::watch;

use frames::*;
use hosts::*;
use lab::*;

const NETWORK: NetworkId = NetworkId(77);
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const DIRECTORY: &str = "OVERLAY_HOST";

/// Not a test by itself: a host's process, started by the others. Ends when its standard input
/// does.
#[test]
fn host() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let read = || -> Option<NodeConfig> {
        let delta: ViewDelta =
            serde_json::from_slice(&fs::read(directory.join("config")).ok()?).ok()?;
        NodeConfig::empty(delta.node).apply(&delta).ok()
    };
    let first = Arc::new(read().expect("a configuration"));
    let (sender, receiver) = watch::channel(first);
    let desired = receiver.clone();
    let inhabited =
        move |sandbox| File::open(&desired.borrow().containers.get(&sandbox)?.path).ok();
    let (status, inside) =
        dataplane::spawn(receiver, &directory, inhabited, |_| ()).expect("a data plane");
    loop {
        if let Some(config) = read().filter(|config| config.generation > sender.borrow().generation)
        {
            sender.send_replace(Arc::new(config));
        }
        let seen = status.borrow().clone();
        let line = format!(
            "{} {} ready={} passes={} dumps={} tables={}\n{:?}\n{}",
            seen.generation,
            seen.settled,
            seen.ready.len(),
            inside.passes(),
            inside.reads().dumps,
            inside.reads().tables,
            seen.failures,
            inside.plan()
        );
        write_whole(&directory.join("status"), line.as_bytes());
        thread::sleep(POLL);
    }
}
