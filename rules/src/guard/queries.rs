//! The rules that lead DNS queries to a resolver of ours.

use model::names;
use nftables::{
    Chain, Comparison, Expression, Family, Hook, Ip, Key, Kind, Meta, Nat, Rule, Ruleset, Set,
    SetRef, Type,
};

use super::{BEFORE_TRACKING, DNS_PORT, IPPROTO_TCP, IPPROTO_UDP};

/// Before virtual IPs and the engine's own rule (`NF_IP_PRI_NAT_DST`).
const BEFORE_TRANSLATION: i32 = -110;
const ETH_P_IP: u16 = 0x0800;

/// For a container of Docker Engine: redirects what it asks the engine's resolver, which has the
/// same address, to ours. What ours asks the engine's in turn has a source of its own and passes.
/// The table lasts as long as netd's socket: without netd the engine's resolver answers. The
/// engine redirects, too, at the priority of `NF_IP_PRI_NAT_DST`: the first translation counts.
pub fn instead_of_engine() -> Ruleset {
    let transports = Set::values(
        &[Type::Protocol],
        [IPPROTO_UDP, IPPROTO_TCP].map(|code| Key::of(&[&[code]])),
    );
    let transports = Expression::Match {
        set: SetRef::Anonymous(transports),
        from: 0,
        invert: false,
    };
    let asked = Rule::new()
        .version(Ip::V4)
        .with(Expression::Meta {
            key: Meta::L4proto,
            into: 0,
        })
        .with(transports)
        .transport(2, 2, 0)
        .compare(Comparison::Equal, &DNS_PORT.to_be_bytes())
        .destination(Ip::V4, 0)
        .compare(Comparison::Equal, &names::RESOLVER.octets())
        .source(Ip::V4, 0)
        .compare(Comparison::NotEqual, &names::ASKS_ENGINE.octets());
    // Behind the address, which has up to four registers.
    let port = Expression::Immediate {
        into: 4,
        value: names::RESOLVER_PORT.to_be_bytes().to_vec(),
    };
    let redirected = asked
        .constant(&names::RESOLVER.octets())
        .with(port)
        .with(Expression::Nat {
            kind: Nat::Destination,
            version: Ip::V4,
            address: 0,
            ports: Some((4, 4)),
        });
    let chain = Chain::base(
        Kind::Nat,
        Hook::Output,
        BEFORE_TRANSLATION,
        vec![redirected],
    );
    Ruleset::new(Family::Inet, names::TABLE)
        .chain("names", chain)
        .of_socket()
}

/// For a sandbox on a LAN: rewrites port 53 of the resolver's address to the port it listens on,
/// and back. Done on frames of the loopback, so that other traffic of the sandbox is neither
/// matched nor tracked.
pub fn names() -> Ruleset {
    const PORTS: [(u8, u32); 2] = [(IPPROTO_UDP, 6), (IPPROTO_TCP, 16)];
    let with = |load: fn(Rule) -> Rule, protocol| {
        let rule = load(Rule::new().carries(ETH_P_IP))
            .compare(Comparison::Equal, &names::RESOLVER.octets());
        rule.protocol(protocol)
    };
    let translate = |rule: Rule, offset, from: u16, to, checksum| {
        let rule = rule
            .transport(offset, 2, 0)
            .compare(Comparison::Equal, &from.to_be_bytes());
        rule.set_port(to, offset, checksum)
    };
    let rules = PORTS.iter().flat_map(|&(protocol, checksum)| {
        let (asked, answered) = (
            with(|rule| rule.destination(Ip::V4, 0), protocol),
            with(|rule| rule.source(Ip::V4, 0), protocol),
        );
        let to = translate(asked, 2, DNS_PORT, names::RESOLVER_PORT, checksum);
        [
            to,
            translate(answered, 0, names::RESOLVER_PORT, DNS_PORT, checksum),
        ]
    });
    let loopback = names::loopback_link();
    Ruleset::new(Family::Netdev, names::TABLE).chain(
        "names",
        Chain::of_device(loopback.as_str(), rules.collect()),
    )
}

/// For a sandbox on a LAN with connection tracking: does not track queries to its resolver.
pub fn untracked_names() -> Ruleset {
    let of = |load: fn(Rule) -> Rule, offset, port: u16| {
        let at =
            load(Rule::new().version(Ip::V4)).compare(Comparison::Equal, &names::RESOLVER.octets());
        at.transport(offset, 2, 0)
            .compare(Comparison::Equal, &port.to_be_bytes())
            .with(Expression::Notrack)
    };
    let rules = [
        of(|rule| rule.destination(Ip::V4, 0), 2, DNS_PORT),
        of(|rule| rule.source(Ip::V4, 0), 0, names::RESOLVER_PORT),
    ];
    let chain = Chain::base(Kind::Filter, Hook::Output, BEFORE_TRACKING, rules.to_vec());
    Ruleset::new(Family::Inet, names::TABLE).chain("names", chain)
}
