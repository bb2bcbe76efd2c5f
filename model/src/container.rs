//! Containers that Docker Engine or a CNI runtime runs: requests and records. One record is one
//! interface.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    EndpointId, Mac, Millis, NamedPort, NetworkId, NodeId, ParseError, PublishSpec, Subnet,
};

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

/// Key of an interface of a container. The same key again is the same endpoint with the same
/// addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerKey {
    /// Id of the node that it is on.
    pub node: NodeId,
    /// The kind of runtime that has the container.
    pub runtime: ContainerRuntime,
    /// The runtime's id of the interface, 1-255 bytes.
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
    /// Distinguishes it from other namespaces at the same path: `<boot id>/<inode of nsfs>`.
    /// `None`: it may not exist yet.
    pub identity: Option<String>,
    /// Name of the interface inside. `None`: the runtime moves a device from the host into the
    /// namespace and configures it.
    pub interface: Option<String>,
}

/// A wish for an address of one family. What it leaves open is chosen from the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressWish {
    /// Whether an address of this family is wanted, if the network has the family.
    pub wanted: bool,
    /// The only address that will do.
    pub exact: Option<IpAddr>,
    /// Any address of this prefix.
    pub within: Option<Subnet>,
}

/// Properties of a container beside its addresses. They may change at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerTraits {
    /// The runtime's id of the container; empty if unknown.
    pub container: String,
    /// Name of the container, also its DNS name if valid; empty if unknown.
    pub name: String,
    /// Aliases on this network; they may be shared.
    pub aliases: BTreeSet<String>,
    /// Service that it serves: the service's virtual IP and names lead to it, too.
    pub service: Option<String>,
    /// Not ready: only its own name leads to it, no virtual IP.
    pub unready: bool,
    /// Its ports that have a name.
    pub ports: Vec<NamedPort>,
    /// Published ports of its host, mode `host`.
    pub publish: Vec<PublishSpec>,
    /// Limits of its interface, in bits per second.
    pub bandwidth: Bandwidth,
    /// The runtime's name of the network configuration, used for its garbage collection. Empty if
    /// it has none.
    pub configuration: String,
    /// For address-only containers: the namespace that uses the addresses. They are released when
    /// it ends.
    pub held_for: Option<Sandbox>,
    /// A network outside the cluster is its way out: an internal network here does not stop it from
    /// reaching the outside, names included.
    #[serde(default)]
    pub leaves_elsewhere: bool,
}

/// Label with the service that a container serves: `web`.
const SERVICE_LABEL: &str = "netd.service";
/// Label with named ports: `http=80,dns=53/udp`. A number alone has the service's name, if there is
/// one.
const PORT_LABEL: &str = "netd.port";
/// Label with aliases: `db,primary`.
const ALIAS_LABEL: &str = "netd.alias";

/// Labels of ours, in the order in which they must be applied.
pub const CONTAINER_LABELS: [&str; 3] = [SERVICE_LABEL, PORT_LABEL, ALIAS_LABEL];

impl ContainerTraits {
    /// The most aliases of one container on one network.
    pub const MAX_ALIASES: usize = 64;

    /// The short id: the first characters of the runtime's id, Docker's host name of the container.
    /// Empty if unknown.
    pub fn short_id(&self) -> &str {
        let end = self
            .container
            .char_indices()
            .nth(SHORT_ID)
            .map_or(self.container.len(), |(end, _)| end);
        self.container.get(..end).unwrap_or_default()
    }

    /// Applies a label. Foreign labels change nothing. Errors: the value of a label of ours is
    /// invalid.
    pub fn take_label(&mut self, key: &str, value: &str) -> Result<(), ParseError> {
        let items = value.split(',').map(str::trim);
        let items = items.filter(|item| !item.is_empty());
        match key {
            SERVICE_LABEL if value.is_empty() => {
                let cause = format!("label {key} names no service");
                return Err(ParseError::new(cause, format!("write {key}=SERVICE")));
            }
            SERVICE_LABEL => self.service = Some(value.to_owned()),
            ALIAS_LABEL => self.aliases.extend(items.map(str::to_owned)),
            PORT_LABEL => {
                let mut ports = Vec::new();
                for item in items {
                    let place = |error: ParseError| error.within(&format!("label {key}"));
                    ports.extend(port(item, self.service.as_deref()).map_err(place)?);
                }
                self.ports.extend(ports);
            }
            _ => {}
        }
        Ok(())
    }
}

/// `http=80/tcp`; nothing for a number without a name, of no service.
fn port(text: &str, service: Option<&str>) -> Result<Option<NamedPort>, ParseError> {
    let (name, rest) = text.split_once('=').map_or((None, text), |(name, rest)| {
        (Some(name.trim()), rest.trim())
    });
    let (number, protocol) = rest.split_once('/').unwrap_or((rest, "tcp"));
    let port = number.parse().ok().filter(|&port: &u16| port > 0);
    let malformed = || ParseError::not(text, "a port", "80, http=80 or dns=53/udp");
    let port = port.ok_or_else(malformed)?;
    let protocol = protocol.parse()?;
    Ok(name.or(service).map(|name| NamedPort {
        name: name.to_owned(),
        protocol,
        port,
    }))
}

/// Bandwidth limits of an interface: bits per second and burst in bits; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// To the container, in bits per second; 0 is no limit.
    pub ingress_rate: u64,
    /// To the container, at once.
    pub ingress_burst: u64,
    /// From the container, in bits per second; 0 is no limit.
    pub egress_rate: u64,
    /// From the container, at once.
    pub egress_burst: u64,
}

/// A request to attach one interface of one container to one network. With the same key it updates
/// the traits and keeps the addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The interface, by host, runtime and the runtime's id.
    pub key: ContainerKey,
    /// Name or id; that of an existing endpoint does not change.
    pub network: String,
    /// IPv4. Without any wish an existing endpoint keeps its addresses.
    pub ipv4: AddressWish,
    /// IPv6.
    pub ipv6: AddressWish,
    /// Its Ethernet address; generated if none is given.
    pub mac: Option<Mac>,
    /// Its namespace. `None`: none, the container is address-only; or it stays where it was.
    pub sandbox: Option<Sandbox>,
    /// It has left its sandbox.
    pub left: bool,
    /// `None`: as they were.
    pub traits: Option<ContainerTraits>,
}

/// An interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Id of the endpoint; kernel objects are named after it.
    pub id: EndpointId,
    /// Which interface it is.
    pub key: ContainerKey,
    /// Id of the network that it is on.
    pub network: NetworkId,
    /// One address per family at most, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its Ethernet address, unique on its segment.
    pub mac: Mac,
    /// Its network namespace; `None` where it only holds addresses.
    pub sandbox: Option<Sandbox>,
    /// What else is known of it.
    pub traits: ContainerTraits,
    /// When it was made.
    pub created: Millis,
}

/// Length of the short id in characters.
const SHORT_ID: usize = 12;

impl Container {
    /// Its name, or its runtime's id if it has none.
    pub fn name(&self) -> String {
        let names = [
            self.traits.name.as_str(),
            self.traits.short_id(),
            self.key.id.as_str(),
        ];
        names
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default()
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    #[test]
    fn our_labels_say_service_ports_and_aliases_and_others_nothing() {
        let mut traits = ContainerTraits::default();
        for (key, value) in
            CONTAINER_LABELS
                .iter()
                .zip(["web", "80, http=8080,dns=53/udp", "db,pg"])
        {
            traits.take_label(key, value).unwrap();
        }
        traits.take_label("com.example.port", "x").unwrap();
        let named = |name: &str, protocol, port| NamedPort {
            name: name.to_owned(),
            protocol,
            port,
        };
        let expected = ContainerTraits {
            service: Some("web".to_owned()),
            ports: vec![
                named("web", Protocol::Tcp, 80),
                named("http", Protocol::Tcp, 8080),
                named("dns", Protocol::Udp, 53),
            ],
            aliases: ["db", "pg"].map(str::to_owned).into(),
            ..ContainerTraits::default()
        };
        assert_eq!(traits, expected);
    }

    #[test]
    fn labels_of_ours_that_make_no_sense_are_refused() {
        for (key, value) in [
            ("netd.service", ""),
            ("netd.port", "http=0"),
            ("netd.port", "http"),
            ("netd.port", "80/x"),
        ] {
            assert!(
                ContainerTraits::default().take_label(key, value).is_err(),
                "{key}={value}"
            );
        }
    }
}
