//! Rule sets that belong to the overlay rather than to balancing: sources are checked where packets enter a network's
//! namespace, and what leaves the host does so under the host's address.

use std::net::IpAddr;

use model::{Subnet, Vni, names};

use crate::nft::{
    Chain, Comparison, Expression, Family, Header, Hook, Ip, Key, Kind, Reject, Rule, Ruleset, Set, SetRef, Type,
    Verdict,
};

/// `NF_IP_PRI_RAW`: before connection tracking.
const BEFORE_TRACKING: i32 = -300;
/// `NF_IP_PRI_NAT_SRC`.
const TRANSLATE_SOURCE: i32 = 100;
/// `NF_IP_PRI_FILTER`.
const FILTER: i32 = 0;
/// `NF_CT_STATE_BIT`s of what answers no connection: invalid, new, untracked.
const NO_ANSWER: u32 = 1 | 8 | 64;
/// Code of ICMPX unreachables: administratively prohibited.
const PROHIBITED: u8 = 3;
const IPPROTO_UDP: u8 = 17;
/// Devices whose packets must come from where they are routed to: endpoints and the tunnel.
const CHECKED_LINKS: [&str; 2] = ["e*", "vx-*"];
/// The host's ends of the uplinks.
const UPLINKS: &str = "nu-*";

/// For a network's namespace: a packet from an endpoint or the tunnel whose source is not routed back to where it came
/// from is dropped and counted. Packets from the host are not checked: it has the default route.
pub fn guard() -> Ruleset {
    let check = |link: &&str| Rule::new().link_in(link).verdict(Verdict::Jump("check-source".to_owned()));
    let spoofed = Rule::new().source_routed_elsewhere().counter().verdict(Verdict::Drop);
    Ruleset::new(Family::Inet, names::TABLE)
        .chain(
            "sources",
            Chain::base(Kind::Filter, Hook::Prerouting, BEFORE_TRACKING, CHECKED_LINKS.iter().map(check).collect()),
        )
        .chain("check-source", Chain::regular(vec![link_local(), spoofed]))
}

/// Link-local sources never leave their link, and neighbour discovery cannot do without them.
fn link_local() -> Rule {
    let mask = [&[0xff, 0xc0][..], &[0; 14]].concat();
    let masked = Expression::Bitwise { from: 0, into: 0, mask, xor: vec![0; 16] };
    let prefix = [&[0xfe, 0x80][..], &[0; 14]].concat();
    let from = Rule::new().version(Ip::V6).source(Ip::V6, 0).with(masked);
    from.compare(Comparison::Equal, &prefix).verdict(Verdict::Return)
}

/// What the host's namespace guards.
#[derive(Clone, Debug, Default)]
pub struct Border {
    /// The subnets of networks with a way out.
    pub subnets: Vec<Subnet>,
    /// The UDP ports and network identifiers of the tunnels that this host has part in.
    pub tunnels: Vec<(u16, Vni)>,
    /// The hosts that may send tunnel packets.
    pub vteps: Vec<IpAddr>,
}

/// For the host's namespace: what comes from a subnet and leaves by a device that is not a network's does so under the
/// host's address; but for answers, nothing gets from outside or from another network into a network; and tunnel
/// packets of our networks from others than our hosts are dropped and counted.
pub fn border(border: &Border) -> Ruleset {
    let rules = |rule: fn(Ip) -> Rule| Ip::BOTH.map(rule).to_vec();
    let tunnel_key = |(port, vni): &(u16, Vni)| Key::of(&[&port.to_be_bytes(), &(u32::from(*vni) << 8).to_be_bytes()]);
    let ruleset = Ruleset::new(Family::Inet, names::TABLE)
        .chain("masquerade", Chain::base(Kind::Nat, Hook::Postrouting, TRANSLATE_SOURCE, rules(masquerade)))
        .chain("isolate", Chain::base(Kind::Filter, Hook::Forward, FILTER, rules(isolate)))
        .chain("tunnel", Chain::base(Kind::Filter, Hook::Input, FILTER, rules(tunnel)))
        .set("tunnels", Set::values(&[Type::Port, Type::Mark], border.tunnels.iter().map(tunnel_key)));
    Ip::BOTH.into_iter().fold(ruleset, |ruleset, version| {
        let subnets = outermost(&border.subnets, version).map(|subnet| Key::subnet(&subnet));
        let vteps = border.vteps.iter().filter(|vtep| Ip::of(**vtep) == version).map(|vtep| Key::address(*vtep));
        let names = set_names(version);
        ruleset
            .set(names.subnets, Set::ranges(&[version.into()], subnets))
            .set(names.vteps, Set::values(&[version.into()], vteps))
    })
}

/// For the forward chains of other software on the host: what comes from a network or goes to one passes; whether it
/// may is decided by our own [`border`]. Written so that `iptables` can show it.
pub fn passage() -> Vec<Rule> {
    [Rule::new().link_in(UPLINKS), Rule::new().link_out(UPLINKS)]
        .map(|rule| rule.counter().verdict(Verdict::Accept))
        .to_vec()
}

fn masquerade(version: Ip) -> Rule {
    let leaving = Rule::new().link_out_not(UPLINKS).version(version).source(version, 0);
    leaving.in_set(set_names(version).subnets).with(Expression::Masquerade)
}

fn isolate(version: Ip) -> Rule {
    let entering = Rule::new().link_out(UPLINKS).version(version).destination(version, 0);
    entering.in_set(set_names(version).subnets).states(NO_ANSWER).reject(Reject::Icmpx(PROHIBITED))
}

/// The first 32 bits of a VXLAN header after its flags are the VNI and eight that the kernel wants to be zero.
fn tunnel(version: Ip) -> Rule {
    let load = |offset, len, into| Expression::Payload { base: Header::Transport, offset, len, into };
    let to_us = Rule::new().version(version).protocol(IPPROTO_UDP).with(load(2, 2, 0)).with(load(12, 4, 1));
    let of_ours = to_us.in_set("tunnels");
    let from_others =
        Expression::Match { set: SetRef::Named(set_names(version).vteps.to_owned()), from: 0, invert: true };
    of_ours.source(version, 0).with(from_others).counter().verdict(Verdict::Drop)
}

/// The names of one IP version's sets.
struct Names {
    subnets: &'static str,
    vteps: &'static str,
}

fn set_names(version: Ip) -> Names {
    match version {
        Ip::V4 => Names { subnets: "subnets4", vteps: "vteps4" },
        Ip::V6 => Names { subnets: "subnets6", vteps: "vteps6" },
    }
}

/// The subnets that lie in no other one: ranges of a set must not overlap.
fn outermost(subnets: &[Subnet], version: Ip) -> impl Iterator<Item = Subnet> {
    let of_version = subnets.iter().filter(move |subnet| Ip::of(subnet.network()) == version);
    let covered = |subnet: &Subnet| subnets.iter().any(|other| other != subnet && other.covers(subnet));
    of_version.filter(move |subnet| !covered(subnet)).copied()
}
