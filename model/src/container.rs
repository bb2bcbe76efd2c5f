//! Containers that others run: what their runtimes ask for, and what the ledger made of it. One record is one interface.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{EndpointId, Mac, Millis, NamedPort, NetworkId, NodeId, PublishSpec};

/// Who runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerRuntime {
    /// Docker Engine, by its plugin protocol.
    Docker,
    /// A runtime that calls CNI plugins.
    Cni,
}

impl fmt::Display for ContainerRuntime {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Docker => "docker",
            Self::Cni => "cni",
        })
    }
}

/// Which interface of which container: the same key again means the same endpoint with the same addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerKey {
    /// The host.
    pub node: NodeId,
    /// Who asks.
    pub runtime: ContainerRuntime,
    /// What the runtime tells its interfaces apart by; 1-255 bytes.
    pub id: String,
}

impl fmt::Display for ContainerKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.node, self.runtime, self.id)
    }
}

/// The network namespace of a container, made and removed by its runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its file on the host: absolute.
    pub path: String,
    /// Tells it from others that have had this path: `<boot id>/<inode of nsfs>`. `None`: it may not be there yet.
    pub identity: Option<String>,
    /// The interface's name inside. `None`: the runtime takes a device from the host into it and does the rest.
    pub interface: Option<String>,
}

/// Addresses that a runtime asks for; what it does not name is chosen from the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressWish {
    /// Whether it is to have an address of this family where the network has it.
    pub wanted: bool,
    /// This one and no other.
    pub exact: Option<IpAddr>,
}

/// What is known of a container beside its addresses. Changes at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerTraits {
    /// The runtime's identity of the container; empty while not known.
    pub container: String,
    /// What people call it; a DNS name of it where it is one. Empty while not known.
    pub name: String,
    /// Further names on this network; shared with whoever has them too.
    pub aliases: BTreeSet<String>,
    /// The service whose virtual IP and names lead to it, too.
    pub service: Option<String>,
    /// Not ready: no name but its own and no virtual IP leads to it.
    pub unready: bool,
    /// Its ports that have a name.
    pub ports: Vec<NamedPort>,
    /// Ports of its host that lead to it; mode `host`.
    pub publish: Vec<PublishSpec>,
    /// How much may pass.
    pub bandwidth: Bandwidth,
}

/// How much may pass an interface: bits per second and the bits that may pass at once; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// To the container.
    pub ingress_rate: u64,
    /// To the container, at once.
    pub ingress_burst: u64,
    /// From the container.
    pub egress_rate: u64,
    /// From the container, at once.
    pub egress_burst: u64,
}

/// What a runtime asks for: one interface of one container on one network. Asking again with the same key changes what may
/// change and gives the same addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Which interface.
    pub key: ContainerKey,
    /// Name or id; that of an existing endpoint does not change.
    pub network: String,
    /// IPv4. Without any wish an endpoint that is there keeps what it has.
    pub ipv4: AddressWish,
    /// IPv6.
    pub ipv6: AddressWish,
    /// Its Ethernet address; made from its identity where none is given.
    pub mac: Option<Mac>,
    /// Where it is. `None`: nowhere, its addresses are only held (an address manager's work), or it stays where it was.
    pub sandbox: Option<Sandbox>,
    /// Holds where it was no more: it has left its sandbox.
    pub left: bool,
    /// `None`: as they were.
    pub traits: Option<ContainerTraits>,
}

/// An interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The endpoint's identity.
    pub id: EndpointId,
    /// Which interface it is.
    pub key: ContainerKey,
    /// Its network.
    pub network: NetworkId,
    /// One address per family at most, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Where it is.
    pub sandbox: Option<Sandbox>,
    /// What else is known of it.
    pub traits: ContainerTraits,
    /// When it was made.
    pub created: Millis,
}

/// So many characters of a runtime's identity tell its containers apart to people, and are a name of the container.
const SHORT_ID: usize = 12;

impl Container {
    /// What people call it; its runtime's identity of it while it has no name.
    pub fn name(&self) -> String {
        let names = [self.traits.name.as_str(), self.traits.short_id(), self.key.id.as_str()];
        names.into_iter().find(|name| !name.is_empty()).unwrap_or_default().to_owned()
    }
}

impl ContainerTraits {
    /// The first characters of the runtime's identity of the container: Docker's host name of it. Empty while not known.
    pub fn short_id(&self) -> &str {
        let end = self.container.char_indices().nth(SHORT_ID).map_or(self.container.len(), |(end, _)| end);
        self.container.get(..end).unwrap_or_default()
    }
}
