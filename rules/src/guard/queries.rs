//! The rules that lead DNS queries to a resolver of ours.

use std::net::IpAddr;

use model::names::{self, LinkName};
use nftables::{
    Chain, Comparison, Expression, Family, Hook, Ip, Key, Kind, Meta, Nat, Rule, Ruleset, Set,
    SetRef, Type, octets,
};

use super::{BEFORE_TRACKING, DNS_PORT, IPPROTO_TCP, IPPROTO_UDP, set_names};

/// Before virtual IPs (`NF_IP_PRI_NAT_DST`): DNS queries are not for them.
const TRANSLATE_QUESTIONS: i32 = -110;
const ETH_P_IP: u16 = 0x0800;

/// DNS queries that Docker's resolver (127.0.0.11) forwards for a container, and the resolver that
/// must answer them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOn {
    /// The container's link.
    pub link: LinkName,
    /// Whom the engine asks.
    pub asked: IpAddr,
    /// The network's resolver of the same family.
    pub resolver: IpAddr,
}

/// Adds to a network's rules the redirection of these queries to the network's resolver.
pub fn passed_on(ruleset: Ruleset, questions: &[PassedOn]) -> Ruleset {
    if questions.is_empty() {
        return ruleset;
    }
    let rule = |version| {
        let question = question(version).load_link_in(0).destination(version, 4);
        to_resolver(question.map(set_names(version).asked), version)
    };
    let chain = Chain::base(
        Kind::Nat,
        Hook::Prerouting,
        TRANSLATE_QUESTIONS,
        Ip::BOTH.map(rule).to_vec(),
    );
    Ip::BOTH
        .into_iter()
        .fold(ruleset.chain("passed-on", chain), |ruleset, version| {
            let of_version = questions
                .iter()
                .filter(|question| Ip::of(question.asked) == version);
            let elements = of_version.map(|to| {
                (
                    Key::of(&[&Key::link(to.link.as_str()), &octets(to.asked)]),
                    octets(to.resolver),
                )
            });
            ruleset.set(
                set_names(version).asked,
                Set::map(&[Type::Link, version.into()], version.into(), elements),
            )
        })
}

/// For a container on a LAN whose engine forwards queries to these addresses: redirects them to the
/// resolver inside, which has no IPv6 address.
pub fn passed_on_inside(asked: impl Iterator<Item = IpAddr>) -> Ruleset {
    let rule = question(Ip::V4)
        .destination(Ip::V4, 0)
        .in_set(set_names(Ip::V4).asked);
    let rule = to_resolver(rule.constant(&names::RESOLVER.octets()), Ip::V4);
    let asked = asked.filter(IpAddr::is_ipv4).map(Key::address);
    Ruleset::new(Family::Inet, names::TABLE)
        .chain(
            "passed-on",
            Chain::base(Kind::Nat, Hook::Output, TRANSLATE_QUESTIONS, vec![rule]),
        )
        .set(set_names(Ip::V4).asked, Set::values(&[Type::Ipv4], asked))
}

/// What is asked at port 53.
fn question(version: Ip) -> Rule {
    let transports = Set::values(
        &[Type::Protocol],
        [IPPROTO_UDP, IPPROTO_TCP].map(|code| Key::of(&[&[code]])),
    );
    let transports = Expression::Match {
        set: SetRef::Anonymous(transports),
        from: 0,
        invert: false,
    };
    let rule = Rule::new()
        .version(version)
        .with(Expression::Meta {
            key: Meta::L4proto,
            into: 0,
        })
        .with(transports);
    rule.transport(2, 2, 0)
        .compare(Comparison::Equal, &DNS_PORT.to_be_bytes())
}

/// Leads to the resolver at the address that is loaded.
fn to_resolver(rule: Rule, version: Ip) -> Rule {
    // Behind the address, which has up to four registers.
    let port = Expression::Immediate {
        into: 4,
        value: names::RESOLVER_PORT.to_be_bytes().to_vec(),
    };
    rule.with(port).with(Expression::Nat {
        kind: Nat::Destination,
        version,
        address: 0,
        ports: Some((4, 4)),
    })
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
