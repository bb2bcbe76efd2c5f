//! The rules of the host's namespace: masquerading, isolation, and checks of tunnel packets.

use std::net::IpAddr;

use model::{Mac, Subnet, Vni, names};
use nftables::{
    Chain, Comparison, Expression, Family, Hook, Ip, Key, Kind, Meta, Reject, Rule, Ruleset, Set,
    Type, Verdict, octets,
};

use super::{BEFORE_TRACKING, FILTER, IPPROTO_UDP, UPLINKS, error, outermost, set_names};
use crate::addresses_of;

/// `NF_IP_PRI_NAT_SRC`.
const TRANSLATE_SOURCE: i32 = 100;
/// `NF_CT_STATE_BIT`s of packets that belong to no connection of before: invalid, new, untracked.
const NO_ANSWER: u32 = 1 | 8 | 64;
/// Code of ICMPX unreachables: administratively prohibited.
const PROHIBITED: u8 = 3;
/// The first half of a VXLAN header: the flag of a valid VNI and no other.
const VXLAN_FLAGS: [u8; 4] = [8, 0, 0, 0];

/// What the host's namespace guards.
#[derive(Clone, Debug, Default)]
pub struct Border {
    /// The subnets of networks with a way out.
    pub subnets: Vec<Subnet>,
    /// Who may call endpoints of networks from outside.
    pub exposed: Vec<Exposed>,
    /// The UDP ports and network identifiers of the tunnels that this host has part in.
    pub tunnels: Vec<(u16, Vni)>,
    /// The hosts that may send tunnel packets, each with the Ethernet address of its router.
    pub vteps: Vec<(IpAddr, Mac)>,
    /// Where this host's own tunnels end.
    pub own: Option<IpAddr>,
    /// What must never be seen in the clear.
    pub secret: Option<Secret>,
}

/// A network whose endpoints machines outside the cluster may call.
#[derive(Clone, Debug)]
pub struct Exposed {
    /// Its network identifier.
    pub vni: Vni,
    /// Their prefixes.
    pub callers: Vec<Subnet>,
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
        exposed(egress(table, &border.exposed), &border.exposed)
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

/// The sets of those who may call.
fn exposed(table: Ruleset, networks: &[Exposed]) -> Ruleset {
    let each = |version: Ip| networks.iter().map(move |network| (network, version));
    let all = Ip::BOTH.into_iter().flat_map(each);
    all.fold(table, |table, (network, version)| {
        let callers = outermost(&network.callers, version).map(addresses_of);
        let set = Set::ranges(&[version.into()], callers);
        table.set(&callers_name(network, version), set)
    })
}

fn callers_name(network: &Exposed, version: Ip) -> String {
    match version {
        Ip::V4 => format!("exposed4-{}", network.vni),
        Ip::V6 => format!("exposed6-{}", network.vni),
    }
}

/// Lets those whom a network is exposed to begin connections into it, from devices of the host.
fn let_in(network: &Exposed, version: Ip) -> Rule {
    let entering = Rule::new()
        .link_out(names::uplink_link(network.vni).as_str())
        .link_in_not(UPLINKS)
        .version(version)
        .source(version, 0);
    entering
        .in_set(&callers_name(network, version))
        .verdict(Verdict::Accept)
}

fn egress(table: Ruleset, exposed: &[Exposed]) -> Ruleset {
    let rules = |rule: fn(Ip) -> Rule| Ip::BOTH.map(rule).to_vec();
    let let_in =
        (exposed.iter()).flat_map(|network| Ip::BOTH.map(|version| let_in(network, version)));
    let isolated = Ip::BOTH.into_iter().flat_map(isolate);
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
            Chain::base(
                Kind::Filter,
                Hook::Forward,
                FILTER,
                let_in.chain(isolated).collect(),
            ),
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

fn masquerade(version: Ip) -> Rule {
    let leaving = Rule::new()
        .link_out_not(UPLINKS)
        .version(version)
        .source(version, 0);
    leaving
        .in_set(set_names(version).subnets)
        .with(Expression::Masquerade)
}

/// Rejects what enters a network and answers nobody there: what belongs to no connection, and those
/// that others began, for somebody may have been let in who is no longer.
fn isolate(version: Ip) -> [Rule; 2] {
    let entering = Rule::new()
        .link_out(UPLINKS)
        .version(version)
        .destination(version, 0)
        .in_set(set_names(version).subnets);
    let stray = entering.clone().states(NO_ANSWER);
    [stray, entering.calls()].map(|rule| rule.reject(Reject::Icmpx(PROHIBITED)))
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
