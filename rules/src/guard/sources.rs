//! The rules of a network's namespace: who may send what.

use std::net::IpAddr;

use model::{
    Mac,
    names::{self, LinkName},
};
use nftables::{
    Chain, Comparison, Expression, Family, Header, Hook, Ip, Key, Kind, Meta, Rule, Ruleset, Set,
    SetRef, Type, Verdict, octets,
};

use super::{
    BEFORE_TRACKING, DNS_PORT, FILTER, FROM_TUNNEL, IPPROTO_TCP, IPPROTO_UDP, error, set_names,
};

/// Who may send what in one network's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Allowed sources of this host's endpoints: link, Ethernet address, IP address.
    pub endpoints: Vec<(LinkName, Mac, IpAddr)>,
    /// Allowed sources from the tunnel: Ethernet address of the sending router, IP address.
    pub remotes: Vec<(Mac, IpAddr)>,
    /// Routers that may send ICMP errors from the tunnel under their own address, and nothing else.
    pub routers: Vec<(Mac, IpAddr)>,
    /// Where the network's names are answered.
    pub resolvers: Vec<IpAddr>,
}

/// Rule set of a network's namespace: drops and counts packets from an endpoint or the tunnel with
/// another source. Packets from the host are not checked: it is the default route.
pub fn guard(sources: &Sources) -> Ruleset {
    let goto = |links: &str, chain: &str| {
        Rule::new()
            .link_in(links)
            .verdict(Verdict::Goto(chain.to_owned()))
    };
    let asked =
        Ip::BOTH.map(|version| untracked(Rule::new().link_in("e*"), version, Direction::Asked));
    let answered = Ip::BOTH.map(|version| untracked(Rule::new(), version, Direction::Answered));
    let entries = [
        &asked[..],
        &[goto("vx-*", FROM_TUNNEL), goto("e*", "from-endpoint")],
    ]
    .concat();
    let of_endpoint = |version| {
        Rule::new()
            .version(version)
            .load_link_in(0)
            .source_mac(4)
            .source(version, 6)
    };
    let of_remote = |version| {
        Rule::new()
            .version(version)
            .source_mac(0)
            .source(version, 2)
    };
    let known = |rule: Rule, set: &str| rule.in_set(set).verdict(Verdict::Accept);
    let from_endpoint =
        Ip::BOTH.map(|version| known(of_endpoint(version), set_names(version).endpoints));
    let from_tunnel = Ip::BOTH.map(|version| known(of_remote(version), set_names(version).remotes));
    let errors = Ip::BOTH.map(|version| {
        let error = error(Rule::new().version(version), version);
        known(
            error.source_mac(0).source(version, 2),
            set_names(version).routers,
        )
    });
    let spoofed = Rule::new().counter().verdict(Verdict::Drop);
    let ruleset = Ruleset::new(Family::Inet, names::TABLE)
        .chain(
            "sources",
            Chain::base(Kind::Filter, Hook::Prerouting, BEFORE_TRACKING, entries),
        )
        .chain(
            "names",
            Chain::base(
                Kind::Filter,
                Hook::Output,
                BEFORE_TRACKING,
                answered.to_vec(),
            ),
        )
        .chain(
            "from-endpoint",
            Chain::regular([&from_endpoint[..], &[unspecified(), spoofed.clone()]].concat()),
        )
        .chain(
            FROM_TUNNEL,
            Chain::regular([&from_tunnel[..], &errors, &[spoofed]].concat()),
        );
    Ip::BOTH.into_iter().fold(ruleset, |ruleset, version| {
        with_sources(ruleset, sources, version)
    })
}

/// Which half of a conversation with the resolver.
enum Direction {
    Asked,
    Answered,
}

/// DNS queries and responses are not tracked: two at once from one port cannot be confused
/// (kubernetes#56903), and a flood cannot fill the connection table.
fn untracked(rule: Rule, version: Ip, direction: Direction) -> Rule {
    let transports = [IPPROTO_UDP, IPPROTO_TCP].map(|protocol| Key::of(&[&[protocol]]));
    let transports = SetRef::Anonymous(Set::values(&[Type::Protocol], transports));
    let rule = rule.with(Expression::Meta {
        key: Meta::L4proto,
        into: 0,
    });
    let rule = rule.with(Expression::Match {
        set: transports,
        from: 0,
        invert: false,
    });
    let port = if matches!(direction, Direction::Asked) {
        2
    } else {
        0
    };
    let rule = rule
        .transport(port, 2, 0)
        .compare(Comparison::Equal, &DNS_PORT.to_be_bytes())
        .version(version);
    let rule = match direction {
        Direction::Asked => rule.destination(version, 0),
        Direction::Answered => rule.source(version, 0),
    };
    rule.in_set(set_names(version).resolvers)
        .with(Expression::Notrack)
}

/// ARP rules (RFC 826) of a network's namespace: an endpoint may only use its own addresses,
/// because every claim takes room in the host's neighbour table. The tunnel carries no ARP, because
/// all neighbours there are permanent.
pub fn claims(sources: &Sources) -> Ruleset {
    let (names, dropped) = (set_names(Ip::V4), |links| {
        Rule::new().link_in(links).counter().verdict(Verdict::Drop)
    });
    let claim = |offset, len, into| Expression::Payload {
        base: Header::Network,
        offset,
        len,
        into,
    };
    let own = Rule::new()
        .load_link_in(0)
        .with(claim(8, 6, 4))
        .with(claim(14, 4, 6))
        .in_set(names.endpoints);
    let rules = vec![own.verdict(Verdict::Accept), dropped("e*"), dropped("vx-*")];
    let of_version = sources
        .endpoints
        .iter()
        .filter(|(.., source)| source.is_ipv4());
    let endpoints = of_version
        .map(|(link, mac, source)| Key::of(&[&Key::link(link.as_str()), &mac.0, &octets(*source)]));
    // In this family the first hook is the one of input (`NF_ARP_IN`).
    Ruleset::new(Family::Arp, names::TABLE)
        .chain(
            "claims",
            Chain::base(Kind::Filter, Hook::Prerouting, FILTER, rules),
        )
        .set(
            names.endpoints,
            Set::values(&[Type::Link, Type::Ethernet, Type::Ipv4], endpoints),
        )
}

fn with_sources(ruleset: Ruleset, sources: &Sources, version: Ip) -> Ruleset {
    let (names, address) = (set_names(version), Type::from(version));
    let endpoints = sources
        .endpoints
        .iter()
        .filter(|(.., source)| Ip::of(*source) == version);
    let endpoints = endpoints
        .map(|(link, mac, source)| Key::of(&[&Key::link(link.as_str()), &mac.0, &octets(*source)]));
    let remotes = sources
        .remotes
        .iter()
        .filter(|(_, source)| Ip::of(*source) == version);
    let remotes = remotes.map(|(mac, source)| Key::of(&[&mac.0, &octets(*source)]));
    let routers = sources
        .routers
        .iter()
        .filter(|(_, source)| Ip::of(*source) == version);
    let routers = routers.map(|(mac, source)| Key::of(&[&mac.0, &octets(*source)]));
    let resolvers = sources
        .resolvers
        .iter()
        .filter(|address| Ip::of(**address) == version);
    ruleset
        .set(
            names.resolvers,
            Set::values(&[address], resolvers.map(|address| Key::address(*address))),
        )
        .set(
            names.endpoints,
            Set::values(&[Type::Link, Type::Ethernet, address], endpoints),
        )
        .set(
            names.remotes,
            Set::values(&[Type::Ethernet, address], remotes),
        )
        .set(
            names.routers,
            Set::values(&[Type::Ethernet, address], routers),
        )
}

/// Drops multicast reports that a new link sends without a source address (RFC 3590), without
/// counting them as spoofed.
fn unspecified() -> Rule {
    let from = Rule::new().version(Ip::V6).source(Ip::V6, 0);
    from.compare(Comparison::Equal, &[0; 16])
        .verdict(Verdict::Drop)
}
