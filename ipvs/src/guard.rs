//! Rule sets that belong to the overlay rather than to balancing: sources are checked where packets enter a network's
//! namespace, and what leaves the host does so under the host's address.

use model::{Subnet, names};

use crate::nft::{Chain, Comparison, Expression, Family, Hook, Ip, Key, Kind, Rule, Ruleset, Set, Type, Verdict};

/// `NF_IP_PRI_RAW`: before connection tracking.
const BEFORE_TRACKING: i32 = -300;
/// `NF_IP_PRI_NAT_SRC`.
const TRANSLATE_SOURCE: i32 = 100;
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

/// For the host's namespace: what comes from one of these subnets and leaves through a device that is not a network's
/// does so under the host's address.
pub fn masquerade(subnets: &[Subnet]) -> Ruleset {
    let rules = Ip::BOTH.map(|version| {
        let leaving = Rule::new().link_out_not(UPLINKS).version(version).source(version, 0);
        leaving.in_set(set_name(version)).with(Expression::Masquerade)
    });
    let base = Chain::base(Kind::Nat, Hook::Postrouting, TRANSLATE_SOURCE, rules.to_vec());
    let ruleset = Ruleset::new(Family::Inet, names::TABLE).chain("masquerade", base);
    Ip::BOTH.into_iter().fold(ruleset, |ruleset, version| {
        let ours = outermost(subnets, version).map(|subnet| Key::subnet(&subnet));
        ruleset.set(set_name(version), Set::ranges(&[Type::from(version)], ours))
    })
}

fn set_name(version: Ip) -> &'static str {
    match version {
        Ip::V4 => "subnets4",
        Ip::V6 => "subnets6",
    }
}

/// The subnets that lie in no other one: ranges of a set must not overlap.
fn outermost(subnets: &[Subnet], version: Ip) -> impl Iterator<Item = Subnet> {
    let of_version = subnets.iter().filter(move |subnet| Ip::of(subnet.network()) == version);
    let covered = |subnet: &Subnet| subnets.iter().any(|other| other != subnet && other.covers(subnet));
    of_version.filter(move |subnet| !covered(subnet)).copied()
}
