//! Parses addresses given by IP or interface, with or without port, and chooses the default one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use model::{Kind, Refusal};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

/// The control plane's port, as in Swarm.
pub(crate) const PORT: u16 = 2377;

/// `IP`, `IP:PORT`, `[IPv6]:PORT`, `INTERFACE` or `INTERFACE:PORT`.
pub(crate) fn parse(text: &str) -> Result<SocketAddr, Refusal> {
    if let Some(address) = literal(text) {
        return Ok(address);
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().map_err(|_| unknown(text))?),
        None => (text, PORT),
    };
    let on_interface: Vec<IpAddr> = candidates()
        .into_iter()
        .filter(|(link, _)| link == name)
        .map(|(_, ip)| ip)
        .collect();
    match choose(&on_interface) {
        Some(ip) => Ok(SocketAddr::new(ip, port)),
        None if on_interface.is_empty() => Err(unknown(text)),
        None => Err(ambiguous(&format!("interface {name}"), &on_interface)),
    }
}

/// A manager's address: an IP, with a port or without.
pub(crate) fn parse_manager(text: &str) -> Result<SocketAddr, Refusal> {
    literal(text).ok_or_else(|| {
        let cause = format!("{text:?} is not a manager's address");
        Refusal::new(
            Kind::Invalid,
            cause,
            "give its IP, such as 192.0.2.1:2377; `swarmctl token worker` there prints it",
        )
    })
}

/// The address that others most likely reach this host by: the default route's source, or the only
/// one there is.
pub(crate) fn guess() -> Result<SocketAddr, Refusal> {
    if let Some(ip) = default_source() {
        return Ok(SocketAddr::new(ip, PORT));
    }
    let all: Vec<IpAddr> = candidates().into_iter().map(|(_, ip)| ip).collect();
    match choose(&all) {
        Some(ip) => Ok(SocketAddr::new(ip, PORT)),
        None => Err(ambiguous("this host", &all)),
    }
}

/// Every address of this family.
pub(crate) fn unspecified(like: SocketAddr, port: u16) -> SocketAddr {
    let any = if like.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    };
    SocketAddr::new(any, port)
}

fn literal(text: &str) -> Option<SocketAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    text.parse()
        .ok()
        .or_else(|| bare.parse().ok().map(|ip| SocketAddr::new(ip, PORT)))
}

/// Connecting a UDP socket sends nothing; it only chooses a source. The targets are for
/// documentation (RFC 5737, 3849).
fn default_source() -> Option<IpAddr> {
    let source = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    source("0.0.0.0:0", "192.0.2.1:9").or_else(|| source("[::]:0", "[2001:db8::1]:9"))
}

/// Addresses of interfaces that are up, save loopback and link-local ones.
fn candidates() -> Vec<(String, IpAddr)> {
    let up = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let interfaces = getifaddrs()
        .into_iter()
        .flatten()
        .filter(|interface| up(interface.flags));
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))?;
        Some((interface.interface_name, ip))
    });
    addresses.filter(|(_, ip)| !is_link_local(*ip)).collect()
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The only IPv4 address, or the only IPv6 address where there is no IPv4.
fn choose(addresses: &[IpAddr]) -> Option<IpAddr> {
    let v4: Vec<_> = addresses.iter().filter(|ip| ip.is_ipv4()).collect();
    match (v4.as_slice(), addresses) {
        ([only], _) => Some(**only),
        ([], [only]) => Some(*only),
        _ => None,
    }
}

fn unknown(text: &str) -> Refusal {
    let there = candidates()
        .into_iter()
        .map(|(link, ip)| format!("{ip} on {link}"))
        .collect::<Vec<_>>()
        .join(", ");
    Refusal::new(
        Kind::Invalid,
        format!("{text:?} is neither an IP address nor an interface of this host that has one"),
        if there.is_empty() {
            "give this host an address first".to_owned()
        } else {
            format!("choose one of {there}")
        },
    )
}

fn ambiguous(of: &str, addresses: &[IpAddr]) -> Refusal {
    if addresses.is_empty() {
        return Refusal::new(
            Kind::Invalid,
            "this host has no address that other hosts could reach",
            "give it one first",
        );
    }
    let there = crate::output::join(addresses);
    Refusal::new(
        Kind::Invalid,
        format!("{of} has several addresses: {there}"),
        "choose one with --advertise-addr",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_port_and_no_brackets() {
        let expect = |text: &str, address: &str| {
            assert_eq!(parse(text), Ok(address.parse().unwrap()), "{text}")
        };
        expect("192.0.2.1", "192.0.2.1:2377");
        expect("192.0.2.1:1", "192.0.2.1:1");
        expect("fd00::1", "[fd00::1]:2377");
        expect("[fd00::1]", "[fd00::1]:2377");
        expect("[fd00::1]:1", "[fd00::1]:1");
    }

    #[test]
    fn malformed_addresses_are_refused_with_the_choices() {
        for text in ["", "nonsense", "no-such-link:2377", "192.0.2.1:port"] {
            assert!(
                parse(text)
                    .unwrap_err()
                    .cause
                    .contains("neither an IP address nor an interface"),
                "{text}"
            );
        }
        assert!(parse_manager("web").is_err());
    }

    #[test]
    fn the_only_address_is_chosen_and_ipv4_goes_first() {
        let ips = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<IpAddr>>()
        };
        assert_eq!(
            choose(&ips(&["fd00::1", "192.0.2.1", "fd00::2"])),
            Some("192.0.2.1".parse().unwrap())
        );
        assert_eq!(choose(&ips(&["fd00::1"])), Some("fd00::1".parse().unwrap()));
        for several in [
            &["192.0.2.1", "192.0.2.2"][..],
            &["fd00::1", "fd00::2"],
            &[],
        ] {
            assert_eq!(choose(&ips(several)), None, "{several:?}");
        }
    }
}
