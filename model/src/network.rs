//! Networks: what a user asks for and what the ledger made of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{Millis, NetworkId, ParseError, Subnet, Vni, level::is_zero};

/// How endpoints of a network reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Routed VXLAN (RFC 7348) between hosts.
    Overlay,
    /// Each endpoint is a port of the LAN, with an Ethernet address of its own.
    Macvlan,
    /// Endpoints share the Ethernet address of their host's link to the LAN.
    Ipvlan,
}

impl std::fmt::Display for Driver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Driver::Overlay => out.pad("overlay"),
            Driver::Macvlan => out.pad("macvlan"),
            Driver::Ipvlan => out.pad("ipvlan"),
        }
    }
}

impl Driver {
    /// Whether its endpoints are on a LAN beside machines that are not ours.
    pub fn is_lan(self) -> bool {
        matches!(self, Driver::Macvlan | Driver::Ipvlan)
    }
}

impl std::str::FromStr for Driver {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "overlay" => Ok(Driver::Overlay),
            "macvlan" => Ok(Driver::Macvlan),
            "ipvlan" => Ok(Driver::Ipvlan),
            _ => {
                let form = "overlay, macvlan or ipvlan";
                Err(ParseError::not(text, "a driver", form))
            }
        }
    }
}

/// A prefix as the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetSpec {
    /// Prefix, such as 10.0.9.0/24.
    pub subnet: Subnet,
    /// The gateway's address; the first host address where none is given.
    pub gateway: Option<IpAddr>,
    /// The part of the prefix that addresses are given out of; all of it where none is given.
    pub range: Option<Subnet>,
}

/// A network as the user asked for it. Never edited by the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Unique in the cluster; letters, digits, `_`, `.`, `-`, starting with a letter or digit, at
    /// most 63.
    pub name: String,
    /// How endpoints reach each other.
    pub driver: Driver,
    /// Its prefixes; one IPv4 and one IPv6 prefix from the default pools where empty.
    pub subnets: Vec<SubnetSpec>,
    /// No way out, no forwarding of names.
    pub internal: bool,
    /// ESP between hosts (RFC 4303).
    pub encrypted: bool,
    /// Containers that belong to no service may attach.
    pub attachable: bool,
    /// Labels of the user; those that begin with `netd.` mean something to netd.
    pub labels: BTreeMap<String, String>,
    /// Driver options, such as `mtu` or `parent`.
    pub options: BTreeMap<String, String>,
}

/// A prefix that a network owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetLease {
    /// Prefix, such as 10.0.9.0/24.
    pub subnet: Subnet,
    /// The address of the router: of an overlay the same on every host, where it answers DNS; of a
    /// LAN its own.
    pub gateway: IpAddr,
}

/// Who outside of an overlay may call its endpoints by their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Every host of the cluster.
    #[serde(default)]
    pub hosts: bool,
    /// Machines that are no members, by prefix; any host takes their packets.
    #[serde(default)]
    pub exposed: BTreeSet<Subnet>,
}

impl Reach {
    /// Whether nobody may.
    pub fn is_nobody(&self) -> bool {
        !self.hosts && self.exposed.is_empty()
    }

    /// Whether somebody may: every host has part in the network then, because callers may come to
    /// any.
    pub fn is_open(&self) -> bool {
        !self.is_nobody()
    }
}

/// A network of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id; in JSON 13 characters of base 36.
    pub id: NetworkId,
    /// What the user asked for; netd never changes it.
    pub spec: NetworkSpec,
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// The prefixes it owns, in the order asked for; IPv4 first where they came from the default
    /// pools.
    pub subnets: Vec<SubnetLease>,
    /// Who outside of it may call its endpoints; nobody before [`crate::Level::REACH`].
    #[serde(default, skip_serializing_if = "Reach::is_nobody")]
    pub reach: Reach,
    /// When it was made.
    pub created: Millis,
    /// The revision of the last change of what people ask of it; 0 before [`crate::Level`] 2.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub version: u64,
}
