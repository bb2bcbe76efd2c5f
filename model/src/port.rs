//! Ports of services: those with a name, and those that the hosts answer at.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Subnet;

/// A transport protocol that has ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    #[default]
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// Its number (IANA, Assigned Internet Protocol Numbers).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(format!("{text:?} is not a protocol: tcp, udp or sctp")),
        }
    }
}

/// A port of a service's tasks that has a name: what SRV records tell (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    /// The name, without underscore: `http`; letters, digits and `-`, 1-15, as RFC 6335 section 5.1 says.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port, from 1.
    pub port: u16,
}

/// Which hosts answer at a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// All of them.
    #[default]
    Ingress,
    /// Those that run a task of the service; each reaches its own only.
    Host,
}

/// Which addresses of a host a published port is at.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishAt {
    /// All, those of the loopback included.
    #[default]
    Everywhere,
    /// This one, on the host that has it.
    Address(IpAddr),
    /// Those of the host's interface of this name.
    Interface(String),
}

/// Ports of the hosts that lead to ports of a service's tasks, as the user asked for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishSpec {
    /// The first port of the hosts, from 1.
    pub published: u16,
    /// The port of the tasks that it leads to; the next one leads to the next.
    pub target: u16,
    /// How many; at least 1, and none beyond 65535.
    pub count: u16,
    /// Their protocol.
    pub protocol: Protocol,
    /// Which hosts answer.
    pub mode: PublishMode,
    /// Which addresses they are at.
    pub at: PublishAt,
    /// The prefixes of those who may call; everybody where empty.
    pub allow: Vec<Subnet>,
}
