//! Owners of addresses.

use std::{fmt, str::FromStr};

use model::{EndpointId, NodeId, ServiceId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The holder of one address per family on a network. Written `gateway`, `vip/<service>`,
/// `slot/<service>/<number>`, `node/<node>` and `container/<endpoint>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The network's router: one address of every subnet.
    Gateway,
    /// The virtual IP of a service.
    Vip(ServiceId),
    /// A replica of a service, whichever task fills it.
    Slot(ServiceId, u32),
    /// A host with addresses of its own on the network's LAN.
    Node(NodeId),
    /// An interface of a container that others run.
    Container(EndpointId),
}

/// Text that cannot be parsed as an owner.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error(
    "{0:?} is no owner: it reads `gateway`, `vip/<service id>`, `slot/<service id>/<number>`, \
     `node/<node id>` or `container/<endpoint id>`"
)]
pub struct OwnerError(pub String);

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Gateway => out.write_str("gateway"),
            Owner::Vip(service) => write!(out, "vip/{service}"),
            Owner::Slot(service, slot) => write!(out, "slot/{service}/{slot}"),
            Owner::Node(node) => write!(out, "node/{node}"),
            Owner::Container(endpoint) => write!(out, "container/{endpoint}"),
        }
    }
}

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let parts: Vec<&str> = text.split('/').collect();
        let owner = match parts[..] {
            ["gateway"] => Some(Owner::Gateway),
            ["node", node] => node.parse().ok().map(Owner::Node),
            ["container", endpoint] => endpoint.parse().ok().map(Owner::Container),
            ["vip", service] => service.parse().ok().map(Owner::Vip),
            ["slot", service, slot] => service
                .parse()
                .ok()
                .and_then(|service| Some(Owner::Slot(service, slot.parse().ok()?))),
            _ => None,
        };
        owner.ok_or_else(|| OwnerError(text.to_owned()))
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_read_back_as_written() {
        let services = [
            Owner::Vip(ServiceId(7)),
            Owner::Slot(ServiceId(u64::MAX), 12),
        ];
        for owner in services.into_iter().chain([
            Owner::Gateway,
            Owner::Node(NodeId(1)),
            Owner::Container(EndpointId(3)),
        ]) {
            assert_eq!(owner.to_string().parse(), Ok(owner));
        }
    }

    #[test]
    fn malformed_owners_are_refused() {
        for text in [
            "",
            "gateway/",
            "vip",
            "vip/7",
            "slot/0000000000007",
            "slot/0000000000007/x",
            "node/",
        ] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }
}
