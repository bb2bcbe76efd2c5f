//! Names of kernel objects: links, namespaces, tables. Made and recognised here only: a name is the
//! one mark of ownership.

use std::{fmt, net::Ipv4Addr};

use crate::{EndpointId, NetworkId, SandboxId, Vni};

/// Where named network namespaces are mounted; `ip netns` looks there too.
pub const NAMESPACE_DIRECTORY: &str = "/run/netns";
/// The nftables table that is ours, in every namespace, family `inet`.
pub const TABLE: &str = "netd";
/// The nftables table of the virtual services, in the namespaces that balance, family `inet`.
pub const BALANCER_TABLE: &str = "netd-lb";
const NEWBORN: &str = "n";
/// Inside a network's namespace: the device to the host.
pub const UPLINK: &str = "up0";

/// Where a sandbox on a LAN, which has no gateway of ours, and a container of Docker Engine ask for
/// names: port 53.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Where that is translated to: port 53 itself is left to the task. Below the ports that Linux
/// gives out by itself.
pub const RESOLVER_PORT: u16 = 31_053;
/// Where a host's own programs ask for names of networks that hosts call.
pub const HOST_RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 110);
/// The domain of these names: `web.my-net.netd.internal`. Below a domain for private use, which
/// nobody else has.
pub const HOST_DOMAIN: &str = "netd.internal";
/// Inside a container of Docker Engine: where our resolver asks the engine's from. Any other
/// source's questions are led to ours.
pub const ASKS_ENGINE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 12);

/// The longest interface name, in bytes (`IFNAMSIZ` without the zero at its end).
const LONGEST: usize = 15;

/// An interface name: 1-15 bytes, no `/`, no white space (`dev_valid_name` in the kernel's
/// net/core/dev.c).
// Filled with zeros, which sorts as the text does. Maps of links are copied and compared in every
// pass of the data plane: a name takes no memory of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName([u8; LONGEST]);

impl LinkName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0);
        str::from_utf8(&self.0[..end.unwrap_or(LONGEST)]).unwrap_or_default()
    }

    /// A name that is made here; none is longer.
    fn made(text: &str) -> Self {
        let mut name = [0; LONGEST];
        let own = text.bytes().take(LONGEST);
        name.iter_mut().zip(own).for_each(|(byte, own)| *byte = own);
        Self(name)
    }

    /// A name read from the kernel or made here.
    pub fn parse(text: &str) -> Option<Self> {
        let ends = |byte: char| matches!(byte, '/' | ':' | '\0') || byte.is_whitespace();
        let valid = (1..=LONGEST).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.contains(ends);
        valid.then(|| Self::made(text))
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(out)
    }
}

/// A network's namespace on a host: `netd-<network id>`.
pub fn network_namespace(network: NetworkId) -> String {
    format!("netd-{network}")
}

/// A task's sandbox: `netd-t-<sandbox id>`.
pub fn sandbox_namespace(sandbox: impl Into<SandboxId>) -> String {
    format!("netd-t-{}", sandbox.into())
}

/// What a namespace of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// A network's.
    Network(NetworkId),
    /// A task's sandbox.
    Sandbox(SandboxId),
    /// Our name for the network namespace of a container that others run: `netd-c-<sandbox id>`.
    Container(SandboxId),
}

impl Namespace {
    /// What the namespace of this name is for; `None` if it is not ours.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("netd-")?;
        match rest.split_once('-') {
            Some(("t", sandbox)) => sandbox.parse().ok().map(Self::Sandbox),
            Some(("c", sandbox)) => sandbox.parse().ok().map(Self::Container),
            Some(_) => None,
            None => rest.parse().ok().map(Self::Network),
        }
    }

    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::Network(network) => network_namespace(network),
            Self::Sandbox(sandbox) => sandbox_namespace(sandbox),
            Self::Container(sandbox) => format!("netd-c-{sandbox}"),
        }
    }
}

/// A network's VXLAN device: `vx-<vni in hex>`. Unique on a host, because it is born in the host's
/// namespace.
pub fn vxlan_link(vni: Vni) -> LinkName {
    LinkName::made(&format!("vx-{:06x}", u32::from(vni)))
}

/// The host's end of a network's uplink: `nu-<vni in hex>`.
pub fn uplink_link(vni: Vni) -> LinkName {
    LinkName::made(&format!("nu-{:06x}", u32::from(vni)))
}

/// The host's own port of a network on a LAN: `ns-<vni in hex>`.
pub fn shim_link(vni: Vni) -> LinkName {
    LinkName::made(&format!("ns-{:06x}", u32::from(vni)))
}

/// The device that we make for a VLAN of a host's link: `nv-<vlan>-<hash of the link's name>`.
/// Never `eth0.50`: one of that name is the operator's.
pub fn vlan_link(link: &str, vlan: u16) -> LinkName {
    // FNV-1a; what matters is that two links of a host differ.
    let hash = link.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    LinkName::made(&format!(
        "nv-{vlan}-{:07x}",
        (hash ^ hash >> 28) & 0x0fff_ffff
    ))
}

/// Whether a link in the host's own namespace is ours by its name.
pub fn is_host_link(name: &str) -> bool {
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let vlan = name
        .strip_prefix("nv-")
        .and_then(|rest| rest.split_once('-'));
    parse_handed_link(name).is_some()
        || vlan.is_some_and(|(vlan, hash)| vlan.parse::<u16>().is_ok() && is_hex(hash, 7))
        || ["nu-", "vx-", "ns-"]
            .iter()
            .any(|prefix| name.strip_prefix(prefix).is_some_and(|hex| is_hex(hex, 6)))
}

/// Every namespace's own loopback: `lo`.
pub fn loopback_link() -> LinkName {
    LinkName::made("lo")
}

/// The network's end of its uplink: [`UPLINK`].
pub fn network_uplink_link() -> LinkName {
    LinkName::made(UPLINK)
}

/// The network's end of an endpoint: `e<endpoint id>`.
pub fn endpoint_link(endpoint: EndpointId) -> LinkName {
    LinkName::made(&format!("e{endpoint}"))
}

/// On the host: the device of an endpoint that a container's runtime is to take from there:
/// `nc<endpoint id>`.
pub fn handed_link(endpoint: EndpointId) -> LinkName {
    LinkName::made(&format!("nc{endpoint}"))
}

/// The endpoint that a device on the host is to be taken for.
pub fn parse_handed_link(name: &str) -> Option<EndpointId> {
    name.strip_prefix("nc")?.parse().ok()
}

/// The endpoint that a link in a network's namespace belongs to.
pub fn parse_endpoint_link(name: &str) -> Option<EndpointId> {
    name.strip_prefix('e')?.parse().ok()
}

/// Whether a link in a network's namespace is ours by its name.
pub fn is_network_link(name: &str) -> bool {
    name == UPLINK
        || parse_endpoint_link(name).is_some()
        || (name.starts_with("vx-") && is_host_link(name))
}

/// What a device on a LAN is called on its way from the host into a sandbox, until it has its own
/// name there: Linux 6.1 still looks for that name on the host, too.
pub fn newborn_link(task: SandboxId, link: &LinkName) -> LinkName {
    let index: u8 = link.as_str().bytes().last().unwrap_or(b'0');
    LinkName::made(&format!("{NEWBORN}{}{task}", char::from(index)))
}

/// Whether a link in a sandbox is ours by its name: `eth` and a number, or one that has no name of
/// its own yet.
pub fn is_sandbox_link(name: &str) -> bool {
    let newborn = name.strip_prefix(NEWBORN).and_then(|rest| rest.get(1..));
    if newborn.is_some_and(|task| task.parse::<SandboxId>().is_ok()) {
        return true;
    }
    name.strip_prefix("eth")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether an nftables table is ours by its name.
pub fn is_table(name: &str) -> bool {
    name == TABLE || name == BALANCER_TABLE
}

/// The sandbox's end of its endpoint number `index`: `eth0`, `eth1`, …
pub fn sandbox_link(index: usize) -> LinkName {
    LinkName::made(&format!("eth{index}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_are_recognised_and_others_are_not() {
        for namespace in [
            Namespace::Network(NetworkId(u64::MAX)),
            Namespace::Sandbox(SandboxId(1)),
            Namespace::Container(SandboxId(1)),
        ] {
            assert_eq!(Namespace::parse(&namespace.name()), Some(namespace));
        }
        for other in [
            "netd-",
            "netd-x",
            "netd-t-x",
            "cni-0000000000000",
            "0000000000000",
        ] {
            assert_eq!(Namespace::parse(other), None, "{other}");
        }
        let links = [
            uplink_link(Vni::LAST),
            vxlan_link(Vni::FIRST),
            shim_link(Vni::LAST),
            vlan_link("eth0", 50),
        ];
        assert!(links.iter().all(|link| is_host_link(link.as_str())));
        assert!(
            ![
                "flannel.1",
                "cni0",
                "docker0",
                "nu-",
                "vx-00000g",
                "nu-0010000",
                "nv-50",
                "eth0.50"
            ]
            .iter()
            .any(|name| is_host_link(name))
        );
    }

    #[test]
    fn every_link_name_of_ours_is_valid_to_the_kernel() {
        let links = [
            vxlan_link(Vni::LAST),
            vlan_link("enp0s31f6", 4094),
            endpoint_link(EndpointId(u64::MAX)),
            sandbox_link(99),
        ];
        for link in links {
            assert_eq!(LinkName::parse(link.as_str()), Some(link));
        }
        let newborn = newborn_link(SandboxId(u64::MAX), &sandbox_link(12));
        assert!(LinkName::parse(newborn.as_str()).is_some() && is_sandbox_link(newborn.as_str()));
    }
}
