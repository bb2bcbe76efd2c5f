//! Ports of services: named ports, and published ports of the hosts.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Level, ParseError, Subnet};

/// A transport protocol that has ports.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Transmission Control Protocol (RFC 9293).
    #[default]
    Tcp,
    /// User Datagram Protocol (RFC 768).
    Udp,
    /// Stream Control Transmission Protocol (RFC 9260).
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
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(ParseError::not(text, "a protocol", "tcp, udp or sctp")),
        }
    }
}

/// A named port of a service's tasks, published in SRV records (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    /// The name, without underscore: `http`; letters, digits and `-`, 1-15, as RFC 6335 section 5.1
    /// says.
    pub name: String,
    /// The transport protocol of the port.
    pub protocol: Protocol,
    /// The port, from 1.
    pub port: u16,
}

/// Which hosts answer at a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// Every host of the cluster.
    #[default]
    Ingress,
    /// Only hosts that run a task of the service; each leads to its own tasks.
    Host,
}

/// Which addresses of a host a published port is at.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishAt {
    /// All, those of the loopback included.
    #[default]
    Everywhere,
    /// This one, on the host that has it; `0.0.0.0` and `::`: all of that family, from
    /// [`Level::DISTINCTIONS`] on.
    Address(IpAddr),
    /// Those of the host's interface of this name.
    Interface(String),
}

/// Ports of the hosts that lead to ports of a service's tasks, as the user asked for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishSpec {
    /// The first port of the hosts, from 1.
    pub published: u16,
    /// Port of the tasks. In a range the next published port leads to the next target.
    pub target: u16,
    /// How many; at least 1, and none beyond 65535.
    pub count: u16,
    /// The transport protocol of the ports.
    pub protocol: Protocol,
    /// Which hosts answer.
    pub mode: PublishMode,
    /// Which addresses they are at.
    pub at: PublishAt,
    /// Prefixes from which callers are allowed; empty: everywhere.
    pub allow: Vec<Subnet>,
}

impl PublishSpec {
    /// The last port of the hosts.
    pub fn last(&self) -> u16 {
        self.published.saturating_add(self.count.saturating_sub(1))
    }

    /// Whether it is at all addresses of one family, which means nothing before
    /// [`Level::DISTINCTIONS`].
    pub fn is_of_one_family(&self) -> bool {
        matches!(self.at, PublishAt::Address(address) if address.is_unspecified())
    }

    /// The same in the shape of a level: before [`Level::DISTINCTIONS`] a port of one family is one
    /// of both.
    pub fn become_of(&mut self, level: Level) {
        if level < Level::DISTINCTIONS && self.is_of_one_family() {
            self.at = PublishAt::Everywhere;
        }
    }

    /// Whether a packet could match both. The addresses of an interface are not known here.
    pub fn overlaps(&self, other: &Self) -> bool {
        let places = match (&self.at, &other.at) {
            (PublishAt::Address(one), PublishAt::Address(two)) => {
                let is_any = one.is_unspecified() || two.is_unspecified();
                one == two || is_any && one.is_ipv4() == two.is_ipv4()
            }
            (PublishAt::Interface(one), PublishAt::Interface(two)) => one == two,
            _ => true,
        };
        places
            && self.protocol == other.protocol
            && self.published <= other.last()
            && other.published <= self.last()
    }
}

impl fmt::Display for PublishAt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishAt::Everywhere => out.write_str("*"),
            PublishAt::Address(IpAddr::V4(address)) => write!(out, "{address}"),
            PublishAt::Address(IpAddr::V6(address)) => write!(out, "[{address}]"),
            PublishAt::Interface(name) => out.write_str(name),
        }
    }
}

/// As Docker writes it: `*:8080->80/tcp`.
impl fmt::Display for PublishSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |first: u16| match self.count {
            0 | 1 => first.to_string(),
            count => format!("{first}-{}", first.saturating_add(count - 1)),
        };
        let mode = if self.mode == PublishMode::Host {
            " (host)"
        } else {
            ""
        };
        write!(
            out,
            "{}:{}->{}/{}{mode}",
            self.at,
            range(self.published),
            range(self.target),
            self.protocol
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(at: PublishAt, published: u16, count: u16) -> PublishSpec {
        let (protocol, mode, allow) = (Protocol::Tcp, PublishMode::Ingress, Vec::new());
        PublishSpec {
            published,
            target: 80,
            count,
            protocol,
            mode,
            at,
            allow,
        }
    }

    #[test]
    fn ports_overlap_where_a_packet_could_be_meant_for_both() {
        let address = |text: &str| PublishAt::Address(text.parse().unwrap());
        let link = |name: &str| PublishAt::Interface(name.to_owned());
        let range = spec(PublishAt::Everywhere, 8000, 10);
        assert!(range.overlaps(&spec(address("::1"), 8009, 1)));
        assert!(!range.overlaps(&spec(PublishAt::Everywhere, 8010, 1)));
        assert!(!range.overlaps(&PublishSpec {
            protocol: Protocol::Udp,
            ..range.clone()
        }));
        assert!(!spec(address("10.0.0.1"), 80, 1).overlaps(&spec(address("10.0.0.2"), 80, 1)));
        let any = |text| spec(address(text), 80, 1);
        assert!(any("0.0.0.0").overlaps(&any("10.0.0.1")) && any("::1").overlaps(&any("::")));
        assert!(!any("0.0.0.0").overlaps(&any("::")) && !any("0.0.0.0").overlaps(&any("::1")));
        assert!(any("::").overlaps(&spec(PublishAt::Everywhere, 80, 1)));
        assert!(!spec(link("eth0"), 80, 1).overlaps(&spec(link("eth1"), 80, 1)));
        assert!(spec(link("eth0"), 80, 1).overlaps(&spec(address("10.0.0.2"), 80, 1)));
    }

    #[test]
    fn a_published_port_is_written_as_docker_does() {
        let at = PublishAt::Address("::1".parse().unwrap());
        let host = PublishSpec {
            mode: PublishMode::Host,
            ..spec(at, 8000, 3)
        };
        assert_eq!(host.to_string(), "[::1]:8000-8002->80-82/tcp (host)");
        assert_eq!(
            spec(PublishAt::Everywhere, 443, 1).to_string(),
            "*:443->80/tcp"
        );
    }
}
