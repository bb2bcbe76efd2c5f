//! Containers that others run: what their runtimes ask for, and what the ledger made of it. One
//! record is one interface.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{EndpointId, Mac, Millis, NamedPort, NetworkId, NodeId, PublishSpec, Subnet};

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

/// Which interface of which container: the same key again means the same endpoint with the same
/// addresses.
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
    /// Tells it from others that have had this path: `<boot id>/<inode of nsfs>`. `None`: it may
    /// not be there yet.
    pub identity: Option<String>,
    /// The interface's name inside. `None`: the runtime takes a device from the host into it and
    /// does the rest.
    pub interface: Option<String>,
}

/// Addresses that a runtime asks for; what it does not name is chosen from the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressWish {
    /// Whether it is to have an address of this family where the network has it.
    pub wanted: bool,
    /// This one and no other.
    pub exact: Option<IpAddr>,
    /// One of these, where none is named.
    pub within: Option<Subnet>,
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
    /// What the runtime calls the network that it attached it to: what a runtime's garbage
    /// collection is about. Empty where it has no such name.
    pub configuration: String,
    /// Where the addresses are used if they are only held, without a sandbox: they are given up
    /// when it ends.
    pub held_for: Option<Sandbox>,
    /// A network of somebody else's leads it out: what this one keeps inside, names included, does
    /// not keep it.
    #[serde(default)]
    pub leaves_elsewhere: bool,
}

/// The label of a container that names the service it belongs to: `web`.
const SERVICE_LABEL: &str = "netd.service";
/// The label that names ports: `http=80,dns=53/udp`. A number alone has the service's name, if
/// there is one.
const PORT_LABEL: &str = "netd.port";
/// The label with further names: `db,primary`.
const ALIAS_LABEL: &str = "netd.alias";

/// The labels that mean something here, in the order in which they are to be taken.
pub const CONTAINER_LABELS: [&str; 3] = [SERVICE_LABEL, PORT_LABEL, ALIAS_LABEL];

impl ContainerTraits {
    /// The first characters of the runtime's identity of the container: Docker's host name of it.
    /// Empty while not known.
    pub fn short_id(&self) -> &str {
        let end = self
            .container
            .char_indices()
            .nth(SHORT_ID)
            .map_or(self.container.len(), |(end, _)| end);
        self.container.get(..end).unwrap_or_default()
    }

    /// Takes in a label of the container's. Those of others change nothing. Errors: one of ours
    /// makes no sense.
    pub fn take_label(&mut self, key: &str, value: &str) -> Result<(), String> {
        let items = || {
            value
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
        };
        match key {
            SERVICE_LABEL if value.is_empty() => {
                return Err(format!("label {key} names no service"));
            }
            SERVICE_LABEL => self.service = Some(value.to_owned()),
            ALIAS_LABEL => self.aliases.extend(items().map(str::to_owned)),
            PORT_LABEL => {
                let ports = items().map(|item| port(item, self.service.as_deref()));
                let ports: Result<Vec<_>, String> = ports.collect();
                self.ports.extend(
                    ports
                        .map_err(|reason| format!("label {key}: {reason}"))?
                        .into_iter()
                        .flatten(),
                );
            }
            _ => {}
        }
        Ok(())
    }
}

/// `http=80/tcp`; nothing for a number without a name, of no service.
fn port(text: &str, service: Option<&str>) -> Result<Option<NamedPort>, String> {
    let (name, rest) = text.split_once('=').map_or((None, text), |(name, rest)| {
        (Some(name.trim()), rest.trim())
    });
    let (number, protocol) = rest.split_once('/').unwrap_or((rest, "tcp"));
    let port = number.parse().ok().filter(|&port: &u16| port > 0);
    let port =
        port.ok_or_else(|| format!("{text:?} is not a port: write 80, http=80 or dns=53/udp"))?;
    let protocol = protocol.parse()?;
    Ok(name.or(service).map(|name| NamedPort {
        name: name.to_owned(),
        protocol,
        port,
    }))
}

/// How much may pass an interface: bits per second and the bits that may pass at once; 0 is no
/// limit.
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

/// What a runtime asks for: one interface of one container on one network. Asking again with the
/// same key changes what may change and gives the same addresses.
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
    /// Where it is. `None`: nowhere, its addresses are only held (an address manager's work), or it
    /// stays where it was.
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

/// So many characters of a runtime's identity tell its containers apart to people, and are a name
/// of the container.
const SHORT_ID: usize = 12;

impl Container {
    /// What people call it; its runtime's identity of it while it has no name.
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
