//! Reads the network namespace of a container.

use std::{collections::BTreeSet, fs, io, net::IpAddr, path::Path};

use dataplane::namespace;
use nix::{ifaddrs::getifaddrs, sys::stat::stat};

use super::open;

/// An interface, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// In bytes; unknown where the kernel has no IPv6.
    pub mtu: Option<u32>,
}

/// The interface of this name in the namespace at this path, if it is there. Errors: the namespace
/// is gone, or cannot be entered.
pub(crate) fn interface(
    path: &str,
    identity: Option<&str>,
    name: &str,
) -> io::Result<Option<Interface>> {
    let gone = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("the network namespace {path} is gone"),
        )
    };
    let sandbox = open(path, identity).ok_or_else(gone)?;
    namespace::within_file(&sandbox, || look(name))?
}

fn look(name: &str) -> io::Result<Option<Interface>> {
    let mut found = None;
    for entry in getifaddrs()?.filter(|entry| entry.interface_name == name) {
        let interface: &mut Interface = found.get_or_insert_default();
        let Some(address) = entry.address else {
            continue;
        };
        let v4 = address
            .as_sockaddr_in()
            .map(|address| IpAddr::V4(address.ip()));
        interface.addresses.extend(
            v4.or(address
                .as_sockaddr_in6()
                .map(|address| IpAddr::V6(address.ip()))),
        );
    }
    if let Some(interface) = &mut found {
        let mtu = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/mtu"));
        interface.mtu = mtu.ok().and_then(|mtu| mtu.trim().parse().ok());
    }
    Ok(found)
}

/// Whether this is the namespace of the host itself.
pub(crate) fn is_own(path: &Path) -> bool {
    let place = |path: &Path| stat(path).map(|found| (found.st_dev, found.st_ino)).ok();
    place(path).is_some_and(|given| Some(given) == place(Path::new("/proc/self/ns/net")))
}
