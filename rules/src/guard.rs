//! Rule sets of the overlay: source checks where packets enter a network's namespace, and
//! masquerading, isolation and tunnel checks on the host.

use std::net::IpAddr;

use model::{
    Mac, Subnet, Vni,
    names::{self, LinkName},
};
use nftables::{
    Chain, Comparison, Expression, Family, Header, Hook, Ip, Key, Kind, Meta, Nat, Reject, Rule,
    Ruleset, Set, SetRef, Type, Verdict, octets,
};

use crate::addresses_of;

/// `NF_IP_PRI_RAW`: before connection tracking.
const BEFORE_TRACKING: i32 = -300;
/// `NF_IP_PRI_NAT_SRC`.
const TRANSLATE_SOURCE: i32 = 100;
/// Before virtual IPs (`NF_IP_PRI_NAT_DST`): DNS queries are not for them.
const TRANSLATE_QUESTIONS: i32 = -110;
/// `NF_IP_PRI_FILTER`.
const FILTER: i32 = 0;
/// `NF_CT_STATE_BIT`s of packets that belong to no established connection: invalid, new, untracked.
const NO_ANSWER: u32 = 1 | 8 | 64;
/// Code of ICMPX unreachables: administratively prohibited.
const PROHIBITED: u8 = 3;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_TCP: u8 = 6;
const DNS_PORT: u16 = 53;
const ETH_P_IP: u16 = 0x0800;
const IPPROTO_ICMPV6: u8 = 58;
/// Unreachable, too big, time exceeded, parameter problem: ICMP (RFC 792) and ICMPv6 (RFC 4443)
/// together.
const ICMP_ERRORS: [u8; 6] = [1, 2, 3, 4, 11, 12];
/// The first half of a VXLAN header: the flag of a valid VNI and no other.
const VXLAN_FLAGS: [u8; 4] = [8, 0, 0, 0];
/// The host's ends of the uplinks.
pub(crate) const UPLINKS: &str = "nu-*";
/// Chain for packets from a tunnel; its last rule drops.
pub(crate) const FROM_TUNNEL: &str = "from-tunnel";

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

/// What the host's namespace guards.
#[derive(Clone, Debug, Default)]
pub struct Border {
    /// The subnets of networks with a way out.
    pub subnets: Vec<Subnet>,
    /// The UDP ports and network identifiers of the tunnels that this host has part in.
    pub tunnels: Vec<(u16, Vni)>,
    /// The hosts that may send tunnel packets, each with the Ethernet address of its router.
    pub vteps: Vec<(IpAddr, Mac)>,
    /// Where this host's own tunnels end.
    pub own: Option<IpAddr>,
    /// What must never be seen in the clear.
    pub secret: Option<Secret>,
}

/// Tunnels that are encrypted: they have a port of their own.
#[derive(Clone, Debug)]
pub struct Secret {
    /// Its number; UDP.
    pub port: u16,
    /// Their network identifiers.
    pub vnis: Vec<Vni>,
}

/// Rule set of the host's namespace: masquerades packets from a subnet that leave by a device
/// outside our networks; lets only answers into a network; drops and counts tunnel packets from
/// strangers, and plaintext of encrypted networks.
pub fn border(border: &Border) -> Ruleset {
    let rules = |rule: fn(Ip) -> Rule| Ip::BOTH.map(rule).to_vec();
    let tunnel_key = |(port, vni): &(u16, Vni)| {
        Key::of(&[&port.to_be_bytes(), &(u32::from(*vni) << 8).to_be_bytes()])
    };
    let secret = border.secret.as_ref();
    let table = Ruleset::new(Family::Inet, names::TABLE);
    let table = secret.into_iter().fold(table, self::secret);
    // These rules enable connection tracking: left out if no network has a way out.
    let table = if border.subnets.is_empty() {
        table
    } else {
        egress(table)
    };
    let ruleset = table
        .chain(
            "tunnel",
            Chain::base(
                Kind::Filter,
                Hook::Prerouting,
                BEFORE_TRACKING,
                [rules(of_host), rules(arriving)].concat(),
            ),
        )
        .chain(
            "tunnel-source",
            Chain::regular(vec![Rule::new().counter().verdict(Verdict::Drop)]),
        )
        .chain(
            "tunnel-out",
            Chain::base(
                Kind::Filter,
                Hook::Output,
                BEFORE_TRACKING,
                vec![forged(), leaving()],
            ),
        )
        .set(
            "tunnels",
            Set::values(
                &[Type::Port, Type::Mark],
                border.tunnels.iter().map(tunnel_key),
            ),
        );
    Ip::BOTH.into_iter().fold(ruleset, |ruleset, version| {
        let subnets = outermost(&border.subnets, version).map(addresses_of);
        let vteps = border
            .vteps
            .iter()
            .filter(|(vtep, _)| Ip::of(*vtep) == version);
        let hosts = vteps
            .clone()
            .map(|(vtep, _)| *vtep)
            .chain(border.own.filter(|own| Ip::of(*own) == version));
        let vteps = vteps.map(|(vtep, router)| Key::of(&[&octets(*vtep), &router.0]));
        let names = set_names(version);
        ruleset
            .set(names.subnets, Set::ranges(&[version.into()], subnets))
            .set(
                names.hosts,
                Set::values(&[version.into()], hosts.map(Key::address)),
            )
            .set(
                names.vteps,
                Set::values(&[version.into(), Type::Ethernet], vteps),
            )
    })
}

fn egress(table: Ruleset) -> Ruleset {
    let rules = |rule: fn(Ip) -> Rule| Ip::BOTH.map(rule).to_vec();
    table
        .chain(
            "masquerade",
            Chain::base(
                Kind::Nat,
                Hook::Postrouting,
                TRANSLATE_SOURCE,
                rules(masquerade),
            ),
        )
        .chain(
            "isolate",
            Chain::base(Kind::Filter, Hook::Forward, FILTER, rules(isolate)),
        )
}

/// Rules for forward chains of other software on the host: accept packets from and to our networks;
/// our own [`border`] decides about them. Written so that `iptables` can show them.
pub fn passage() -> Vec<Rule> {
    [Rule::new().link_in(UPLINKS), Rule::new().link_out(UPLINKS)]
        .map(|rule| rule.counter().verdict(Verdict::Accept))
        .to_vec()
}

/// Drops and counts plaintext of encrypted networks, in both directions: by their port, by their
/// VNIs on any port, and ICMP errors that quote decrypted packets.
fn secret(table: Ruleset, secret: &Secret) -> Ruleset {
    let port = secret.port.to_be_bytes();
    let gone = |rule: Rule| rule.counter().verdict(Verdict::Drop);
    let clear = |load: Expression| {
        let udp = || {
            Rule::new()
                .with(load.clone())
                .compare(Comparison::Equal, &[0])
                .protocol(IPPROTO_UDP)
        };
        let by_port = udp().transport(2, 2, 0).compare(Comparison::Equal, &port);
        vec![
            gone(by_port),
            gone(udp().transport(8, 8, 0).in_set("secret")),
        ]
    };
    let comes = clear(Expression::Meta {
        key: Meta::Secpath,
        into: 0,
    });
    let quotes =
        Ip::BOTH.map(|version| gone(quoted_port(version).compare(Comparison::Equal, &port)));
    let goes = [clear(Expression::RouteIpsec { into: 0 }), quotes.to_vec()].concat();
    let header = |vni: &Vni| Key::of(&[&VXLAN_FLAGS, &(u32::from(*vni) << 8).to_be_bytes()]);
    table
        .chain(
            "clear-in",
            Chain::base(Kind::Filter, Hook::Input, FILTER, comes),
        )
        .chain(
            "clear-out",
            Chain::base(Kind::Filter, Hook::Output, FILTER, goes),
        )
        .set(
            "secret",
            Set::values(&[Type::Mark, Type::Mark], secret.vnis.iter().map(header)),
        )
}

/// Loads the destination port of the UDP packet that an ICMP error quotes. The ICMP header takes
/// eight bytes; behind it lies the IP header, then that of UDP.
fn quoted_port(version: Ip) -> Rule {
    let (ip_protocol, port) = match version {
        Ip::V4 => (8 + 9, 8 + 20 + 2),
        Ip::V6 => (8 + 6, 8 + 40 + 2),
    };
    error(Rule::new().version(version), version)
        .transport(ip_protocol, 1, 0)
        .compare(Comparison::Equal, &[IPPROTO_UDP])
        .transport(port, 2, 0)
}

/// ICMP errors, of a rule for this IP version.
fn error(rule: Rule, version: Ip) -> Rule {
    let protocol = if version == Ip::V4 {
        IPPROTO_ICMP
    } else {
        IPPROTO_ICMPV6
    };
    let errors = Set::values(
        &[Type::Protocol],
        ICMP_ERRORS.map(|code| Key::of(&[&[code]])),
    );
    let is_error = Expression::Match {
        set: SetRef::Anonymous(errors),
        from: 0,
        invert: false,
    };
    rule.protocol(protocol).transport(0, 1, 0).with(is_error)
}

fn masquerade(version: Ip) -> Rule {
    let leaving = Rule::new()
        .link_out_not(UPLINKS)
        .version(version)
        .source(version, 0);
    leaving
        .in_set(set_names(version).subnets)
        .with(Expression::Masquerade)
}

fn isolate(version: Ip) -> Rule {
    let entering = Rule::new()
        .link_out(UPLINKS)
        .version(version)
        .destination(version, 0);
    entering
        .in_set(set_names(version).subnets)
        .states(NO_ANSWER)
        .reject(Reject::Icmpx(PROHIBITED))
}

/// Packets to this host, or forwarded to another host of ours: a container's packet might leave
/// under this host's address. Tunnels of other clusters that are only forwarded are not checked.
fn arriving(version: Ip) -> Rule {
    let to_host = of_our_tunnels(Rule::new().version(version))
        .destination(version, 0)
        .in_set(set_names(version).hosts);
    to_host.verdict(Verdict::Goto("tunnel-source".to_owned()))
}

/// Matches tunnel packets written by a process: they have a socket owner, the kernel's own do not.
fn forged() -> Rule {
    let owned = Rule::new().protocol(IPPROTO_UDP).with(Expression::Meta {
        key: Meta::Owner,
        into: 0,
    });
    let owned = owned.compare(Comparison::GreaterOrEqual, &[0; 4]);
    of_our_tunnels(owned).counter().verdict(Verdict::Drop)
}

fn leaving() -> Rule {
    of_our_tunnels(Rule::new()).with(Expression::Notrack)
}

/// The 32 bits after the flags of a VXLAN header are the VNI and eight reserved bits, which the
/// kernel requires to be zero.
fn of_our_tunnels(rule: Rule) -> Rule {
    rule.protocol(IPPROTO_UDP)
        .transport(2, 2, 0)
        .transport(12, 4, 1)
        .in_set("tunnels")
}

/// Behind the UDP (8) and VXLAN (8) headers is a frame, whose source address at offset 6 is the
/// sender's router. Checked first: one look-up for all valid packets.
fn of_host(version: Ip) -> Rule {
    let vtep_length = (Type::from(version).size() / 4) as u8;
    let from = Rule::new()
        .version(version)
        .protocol(IPPROTO_UDP)
        .source(version, 0)
        .transport(22, 6, vtep_length);
    from.in_set(set_names(version).vteps)
        .with(Expression::Notrack)
        .verdict(Verdict::Accept)
}

/// The names of one IP version's sets.
pub(crate) struct Names {
    pub(crate) subnets: &'static str,
    vteps: &'static str,
    hosts: &'static str,
    endpoints: &'static str,
    remotes: &'static str,
    routers: &'static str,
    resolvers: &'static str,
    asked: &'static str,
}

pub(crate) fn set_names(version: Ip) -> Names {
    match version {
        Ip::V4 => Names {
            subnets: "subnets4",
            vteps: "vteps4",
            hosts: "hosts4",
            endpoints: "endpoints4",
            remotes: "remotes4",
            routers: "routers4",
            resolvers: "resolvers4",
            asked: "asked4",
        },
        Ip::V6 => Names {
            subnets: "subnets6",
            vteps: "vteps6",
            hosts: "hosts6",
            endpoints: "endpoints6",
            remotes: "remotes6",
            routers: "routers6",
            resolvers: "resolvers6",
            asked: "asked6",
        },
    }
}

/// The subnets that lie in no other one: ranges of a set must not overlap.
pub(crate) fn outermost(subnets: &[Subnet], version: Ip) -> impl Iterator<Item = Subnet> {
    let of_version = subnets
        .iter()
        .filter(move |subnet| Ip::of(subnet.network()) == version);
    let covered = |subnet: &Subnet| {
        subnets
            .iter()
            .any(|other| other != subnet && other.covers(subnet))
    };
    of_version.filter(move |subnet| !covered(subnet)).copied()
}
