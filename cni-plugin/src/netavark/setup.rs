//! `setup` and `teardown`: what is asked of netd for a container's interface, and what netavark is
//! told about it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use api::{Attached, CniInterface, CniName, ContainerRequest};
use model::{
    CONTAINER_LABELS, ContainerTraits, NetworkInfo, ParseError, Protocol, PublishAt, PublishMode,
    PublishSpec, Refusal,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{NETWORK, invalid};
use crate::{
    config::{address, mac_of_one, misread, one_of_each_family, or_default, wrong},
    environment,
    error::CniError,
    result,
};

/// What `setup` is asked.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    container_id: String,
    #[serde(default)]
    container_name: String,
    #[serde(default, deserialize_with = "or_default")]
    port_mappings: Vec<PortMapping>,
    network: Network,
    network_options: Options,
}

#[derive(Debug, Deserialize)]
struct Network {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
}

/// What a container says of one of its networks.
#[derive(Debug, Deserialize)]
struct Options {
    interface_name: String,
    #[serde(default, deserialize_with = "or_default")]
    aliases: BTreeSet<String>,
    #[serde(default, deserialize_with = "or_default")]
    static_ips: BTreeSet<IpAddr>,
    static_mac: Option<String>,
    /// Those that Podman does not know itself: `--network NAME:KEY=VALUE`.
    #[serde(default, deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
}

/// Ports of the host that lead to the container.
#[derive(Debug, Deserialize)]
struct PortMapping {
    container_port: u16,
    host_port: u16,
    #[serde(default)]
    host_ip: String,
    /// Several with commas between them; none is TCP.
    #[serde(default)]
    protocol: String,
    /// How many ports, from these on; 0 and 1 are one.
    #[serde(default)]
    range: u16,
}

impl Asked {
    pub(super) fn object(&self) -> String {
        let named = Some(&self.container_name).filter(|name| !name.is_empty());
        format!("container {}", named.unwrap_or(&self.container_id))
    }

    /// What ADD, as CNI calls it, asks for. Repeated, it is the same interface.
    pub(super) fn checked(&self, namespace: &str) -> Result<CniInterface, Refusal> {
        self.interface(namespace).map_err(invalid)
    }

    fn interface(&self, namespace: &str) -> Result<CniInterface, CniError> {
        let (network, options) = (&self.network, &self.network_options);
        environment::container("container_id", &self.container_id)?;
        environment::interface(&options.interface_name)
            .map_err(|reason| wrong(format!("interface_name {reason}"), "use another name"))?;
        if !namespace.starts_with('/') {
            let cause = format!("the network namespace {namespace:?} is not an absolute path");
            return Err(wrong(cause, "such as /run/netns/NAME"));
        }
        let mac = options.static_mac.as_deref();
        let mac = mac.filter(|text| !text.is_empty()).map(mac_of_one);
        Ok(CniInterface {
            name: name(&self.container_id, &options.interface_name),
            network: network
                .options
                .get(NETWORK)
                .unwrap_or(&network.name)
                .clone(),
            sandbox: namespace.to_owned(),
            only_addresses: false,
            addresses: one_of_each_family(options.static_ips.clone())?,
            mac: mac.transpose()?,
            traits: self.traits()?,
        })
    }

    fn traits(&self) -> Result<ContainerTraits, CniError> {
        let options = &self.network_options;
        let mut traits = ContainerTraits {
            container: self.container_id.clone(),
            name: self.container_name.clone(),
            ..ContainerTraits::default()
        };
        for mapping in &self.port_mappings {
            mapping.add_to(&mut traits.publish)?;
        }
        // Podman gives these as aliases, too.
        let is_known = |alias: &&String| **alias == traits.name || *alias == traits.short_id();
        let aliases = options.aliases.iter().filter(|alias| !is_known(alias));
        traits.aliases = aliases.cloned().collect();
        let mut unknown = options.options.keys();
        if let Some(key) = unknown.find(|key| !CONTAINER_LABELS.contains(&key.as_str())) {
            let cause = format!("--network {}:{key}=… is not supported", self.network.name);
            let next = format!(
                "write one of {}, or leave it out",
                CONTAINER_LABELS.join(", ")
            );
            return Err(wrong(cause, &next));
        }
        for key in CONTAINER_LABELS {
            if let Some(value) = options.options.get(key) {
                let refuse = |error: ParseError| misread("--network", error);
                traits.take_label(key, value).map_err(refuse)?;
            }
        }
        Ok(traits)
    }
}

/// Why published ports cannot lead to a network, for people.
pub(super) fn leads_nowhere(network: &NetworkInfo) -> Option<&'static str> {
    match &network.spec {
        spec if spec.internal => Some("is internal"),
        spec if spec.driver.is_lan() => Some("is of the hosts' LAN"),
        _ => None,
    }
}

/// The status block: what Podman shows, and the resolvers that it writes to `/etc/resolv.conf`.
pub(super) fn status(asked: &CniInterface, attached: &Attached) -> Value {
    let addresses = attached.container.addresses.iter();
    let subnets = addresses.map(|&address| {
        let mut subnet = json!({ "ipnet": result::with_length(attached, address) });
        if let Some(gateway) = result::gateway(attached, address) {
            subnet["gateway"] = gateway.to_string().into();
        }
        subnet
    });
    let interface = json!({
        "mac_address": attached.container.mac,
        "subnets": subnets.collect::<Value>(),
    });
    json!({
        "dns_search_domains": [],
        "dns_server_ips": attached.resolvers,
        "interfaces": Map::from_iter([(asked.name.interface.clone(), interface)]),
    })
}

impl PortMapping {
    fn add_to(&self, published: &mut Vec<PublishSpec>) -> Result<(), CniError> {
        let count = self.range.max(1);
        for (field, first) in [
            ("host_port", self.host_port),
            ("container_port", self.container_port),
        ] {
            if first == 0 || first.checked_add(count - 1).is_none() {
                let cause = format!("port_mappings: {count} ports from {field} {first} on");
                return Err(wrong(cause, "ports are 1 to 65535"));
            }
        }
        let at = match self.host_ip.as_str() {
            "" => PublishAt::Everywhere,
            text => PublishAt::Address(address("port_mappings: host_ip", text)?),
        };
        for protocol in self.protocol.split(',') {
            let protocol = match protocol.trim() {
                "" => Ok(Protocol::Tcp),
                name => name.to_ascii_lowercase().parse(),
            };
            published.push(PublishSpec {
                published: self.host_port,
                target: self.container_port,
                count,
                protocol: protocol.map_err(|error: ParseError| misread("port_mappings", error))?,
                mode: PublishMode::Host,
                at: at.clone(),
                allow: Vec::new(),
            });
        }
        Ok(())
    }
}

/// What `teardown` needs of the same: it must succeed, whatever else is missing or wrong.
#[derive(Debug, Deserialize)]
pub(super) struct Left {
    container_id: String,
    network_options: LeftOptions,
}

#[derive(Debug, Deserialize)]
struct LeftOptions {
    interface_name: String,
}

impl Left {
    pub(super) fn object(&self) -> String {
        format!("container {}", self.container_id)
    }

    /// DEL, as CNI calls it.
    pub(super) fn request(&self, namespace: &str) -> ContainerRequest {
        ContainerRequest::Del {
            name: name(&self.container_id, &self.network_options.interface_name),
            sandbox: Some(namespace.to_owned()).filter(|path| !path.is_empty()),
        }
    }
}

/// A container on several networks has an interface of another name on each.
fn name(container: &str, interface: &str) -> CniName {
    CniName {
        container: container.to_owned(),
        interface: interface.to_owned(),
        own: None,
    }
}
