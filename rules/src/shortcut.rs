//! The short way between endpoints of two hosts, past routing, connection tracking and NAT: a
//! packet from an endpoint's device goes directly into the tunnel, and from the tunnel directly to
//! the endpoint. Packets that are not plain TCP or UDP, fail the source check, or may have been
//! translated take the long way.

use std::{collections::BTreeMap, net::IpAddr};

use ipvs::BALANCED_PORTS;
use model::{
    Mac,
    names::{self, LinkName},
};
use nftables::{
    Chain, Comparison, Expression, Family, Header, Ip, Key, Rule, Ruleset, Set, SetRef, Type,
    Verdict, octets,
};

/// The bits of a port that tell whether it is one of [`BALANCED_PORTS`]: such packets always take
/// the long way, where their addresses are translated, and no connection on the short way can be
/// mistaken for one.
const PORT_BLOCK: [u8; 2] = [0xc0, 0];

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// Set of the protocols on the short way. One set for all rules, because reading each set takes a
/// request.
const TRANSPORTS: &str = "transports";
/// The first four bytes of a frame's source towards an endpoint; the last two make its header's sum
/// zero.
const NETWORK_MAC: [u8; 4] = [0x0e, 0x6e, 0x65, 0x74];

/// The devices of a network's namespace, and who is behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// The tunnel.
    pub tunnel: Device,
    /// This host's endpoints, by their link in the namespace.
    pub endpoints: BTreeMap<LinkName, Endpoint>,
    /// Other hosts' endpoints: the router of the host, and the address.
    pub remotes: Vec<(Mac, IpAddr)>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub link: LinkName,
    /// Its number in the namespace.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// An endpoint behind a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The number of the network's end of its link.
    pub index: u32,
    /// The Ethernet address of the sandbox's end.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The rule set of the devices. Pure.
pub fn shortcut(devices: &Devices) -> Ruleset {
    let mut ruleset = Ruleset::new(Family::Netdev, names::TABLE).chain(
        devices.tunnel.link.as_str(),
        Chain::of_device(
            devices.tunnel.link.as_str(),
            Ip::BOTH.map(arriving).to_vec(),
        ),
    );
    for router in devices.remotes.iter().map(|(router, _)| *router) {
        let out = deliver(frame(router, devices.tunnel.mac), devices.tunnel.index);
        ruleset = ruleset.chain(&via(router), Chain::regular(vec![out]));
    }
    for (link, endpoint) in &devices.endpoints {
        let rules = endpoint
            .addresses
            .iter()
            .map(|address| departing(endpoint.mac, *address))
            .collect();
        ruleset = ruleset.chain(link.as_str(), Chain::of_device(link.as_str(), rules));
        for version in Ip::BOTH {
            let frame = balanced_frame(endpoint.mac, version);
            ruleset = ruleset.chain(
                &to(version, link),
                Chain::regular(vec![deliver(frame, endpoint.index)]),
            );
        }
    }
    let transports = [IPPROTO_TCP, IPPROTO_UDP].map(|transport| Key::of(&[&[transport]]));
    let ruleset = ruleset.set(TRANSPORTS, Set::values(&[Type::Protocol], transports));
    Ip::BOTH.into_iter().fold(ruleset, |ruleset, version| {
        with_sets(ruleset, devices, version)
    })
}

fn with_sets(ruleset: Ruleset, devices: &Devices, version: Ip) -> Ruleset {
    let (names, address) = (set_names(version), Type::from(version));
    let remotes = || {
        devices
            .remotes
            .iter()
            .filter(move |(_, address)| Ip::of(*address) == version)
    };
    let sources = remotes().map(|(router, address)| Key::of(&[&router.0, &octets(*address)]));
    let ways =
        remotes().map(|(router, address)| (Key::address(*address), Verdict::Goto(via(*router))));
    let local = devices.endpoints.iter().flat_map(|(link, endpoint)| {
        let own = endpoint
            .addresses
            .iter()
            .filter(|address| Ip::of(**address) == version);
        own.map(move |address| (Key::address(*address), Verdict::Goto(to(version, link))))
    });
    ruleset
        .set(
            names.sources,
            Set::values(&[Type::Ethernet, address], sources),
        )
        .set(names.remotes, Set::verdicts(&[address], ways))
        .set(names.locals, Set::verdicts(&[address], local))
}

/// From an endpoint: its own Ethernet address and its own address.
fn departing(mac: Mac, address: IpAddr) -> Rule {
    let version = Ip::of(address);
    let source = [&mac.0[..], &ethertype(version)].concat();
    let own = load(Rule::new(), Header::Link, 6, 8).compare(Comparison::Equal, &source);
    let own = own
        .source(version, 0)
        .compare(Comparison::Equal, &octets(address));
    let plain = local_port(plain(own, version), 0);
    plain
        .destination(version, 0)
        .verdict_map(set_names(version).remotes)
}

/// Out of the tunnel: from a router in the name of an endpoint that lives behind it.
fn arriving(version: Ip) -> Rule {
    let of_version =
        load(Rule::new(), Header::Link, 12, 2).compare(Comparison::Equal, &ethertype(version));
    let known = of_version
        .source_mac(0)
        .source(version, 2)
        .in_set(set_names(version).sources);
    let plain = local_port(plain(known, version), 2);
    plain
        .destination(version, 0)
        .verdict_map(set_names(version).locals)
}

/// Only TCP and UDP right behind an IP header without options, and no fragments: these have no
/// ports.
fn plain(rule: Rule, version: Ip) -> Rule {
    let transports = Expression::Match {
        set: SetRef::Named(TRANSPORTS.to_owned()),
        from: 0,
        invert: false,
    };
    match version {
        Ip::V4 => {
            let whole = load(rule, Header::Network, 0, 1).compare(Comparison::Equal, &[0x45]);
            let whole = masked(load(whole, Header::Network, 4, 4), [0, 0, 0x3f, 0xff])
                .compare(Comparison::Equal, &[0; 4]);
            load(whole, Header::Network, 9, 1).with(transports)
        }
        Ip::V6 => load(rule, Header::Network, 6, 1).with(transports),
    }
}

/// Only if the port at this offset is none of the balancer's. Four bytes are masked and compared
/// faster than two.
fn local_port(rule: Rule, offset: usize) -> Rule {
    let (mut mask, mut block) = ([0; 4], [0; 4]);
    mask[offset..offset + 2].copy_from_slice(&PORT_BLOCK);
    block[offset..offset + 2].copy_from_slice(&BALANCED_PORTS.0.to_be_bytes());
    masked(load(rule, Header::Transport, 0, 4), mask).compare(Comparison::NotEqual, &block)
}

fn load(rule: Rule, base: Header, offset: u32, len: u32) -> Rule {
    rule.with(Expression::Payload {
        base,
        offset,
        len,
        into: 0,
    })
}

fn masked(rule: Rule, mask: [u8; 4]) -> Rule {
    rule.with(Expression::Bitwise {
        from: 0,
        into: 0,
        mask: mask.to_vec(),
        xor: vec![0; 4],
    })
}

/// Gives the packet a new Ethernet header, but for the type, and sends it out of a device.
fn deliver(frame: [u8; 12], index: u32) -> Rule {
    Rule::new()
        .with(Expression::Immediate {
            into: 0,
            value: frame.to_vec(),
        })
        .with(Expression::SetPayload {
            base: Header::Link,
            offset: 0,
            len: 12,
            from: 0,
            checksum: None,
        })
        .with(Expression::Immediate {
            into: 4,
            value: index.to_ne_bytes().to_vec(),
        })
        .with(Expression::Forward { device: 4 })
}

fn frame(to: Mac, from: Mac) -> [u8; 12] {
    let mut frame = [0; 12];
    frame[..6].copy_from_slice(&to.0);
    frame[6..].copy_from_slice(&from.0);
    frame
}

/// A header whose 16-bit words add up to zero (RFC 1071). `fwd` puts it before a packet without
/// adding it to the sum that a network card may have taken of the packet (`CHECKSUM_COMPLETE`), and
/// the other end of the veth subtracts it.
fn balanced_frame(to: Mac, version: Ip) -> [u8; 12] {
    let [a, b, c, d] = NETWORK_MAC;
    let mut frame = frame(to, Mac([a, b, c, d, 0, 0]));
    let header = [&frame[..], &ethertype(version)].concat();
    let sum: u32 = header
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    frame[10..].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame
}

fn ethertype(version: Ip) -> [u8; 2] {
    match version {
        Ip::V4 => [0x08, 0],
        Ip::V6 => [0x86, 0xdd],
    }
}

fn via(router: Mac) -> String {
    format!(
        "via-{}",
        router.0.map(|byte| format!("{byte:02x}")).concat()
    )
}

fn to(version: Ip, link: &LinkName) -> String {
    format!("to{}-{link}", if version == Ip::V4 { 4 } else { 6 })
}

/// The names of one IP version's sets.
struct Names {
    /// (router, address) of other hosts' endpoints.
    sources: &'static str,
    /// Other hosts' endpoints to the chains that lead there.
    remotes: &'static str,
    /// This host's endpoints to the chains that lead there.
    locals: &'static str,
}

fn set_names(version: Ip) -> Names {
    match version {
        Ip::V4 => Names {
            sources: "sources4",
            remotes: "remotes4",
            locals: "locals4",
        },
        Ip::V6 => Names {
            sources: "sources6",
            remotes: "remotes6",
            locals: "locals6",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_to_an_endpoint_adds_up_to_zero() {
        for version in Ip::BOTH {
            for last in 0..=255 {
                let frame = balanced_frame(Mac([0x02, 0x42, 0xff, 0xff, 0xfe, last]), version);
                let header = [&frame[..], &ethertype(version)].concat();
                let sum: u32 = header
                    .chunks(2)
                    .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
                    .sum();
                assert_eq!(sum % 0xffff, 0);
            }
        }
    }

    #[test]
    fn the_balancers_ports_are_one_block() {
        let block = |port: u16| port & u16::from_be_bytes(PORT_BLOCK);
        let (first, last) = BALANCED_PORTS;
        assert!(block(first) == first && block(last) == first);
        assert!(block(first - 1) != first && block(last + 1) != first);
    }
}
