//! Rule sets of the overlay: source checks where packets enter a network's namespace, and
//! masquerading, isolation and tunnel checks on the host.

mod border;
mod queries;
mod sources;

use model::Subnet;
use nftables::{Expression, Ip, Key, Rule, Set, SetRef, Type};

pub use border::{Border, Exposed, Secret, border, passage};
pub use queries::{instead_of_engine, names, untracked_names};
pub use sources::{Sources, claims, guard};

/// `NF_IP_PRI_RAW`: before connection tracking.
const BEFORE_TRACKING: i32 = -300;
/// `NF_IP_PRI_FILTER`.
const FILTER: i32 = 0;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_TCP: u8 = 6;
const DNS_PORT: u16 = 53;
const IPPROTO_ICMPV6: u8 = 58;
/// Unreachable, too big, time exceeded, parameter problem: ICMP (RFC 792) and ICMPv6 (RFC 4443)
/// together.
const ICMP_ERRORS: [u8; 6] = [1, 2, 3, 4, 11, 12];
/// The host's ends of the uplinks.
pub(crate) const UPLINKS: &str = "nu-*";
/// Chain for packets from a tunnel; its last rule drops.
pub(crate) const FROM_TUNNEL: &str = "from-tunnel";

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

/// The names of one IP version's sets.
pub(crate) struct Names {
    pub(crate) subnets: &'static str,
    vteps: &'static str,
    hosts: &'static str,
    endpoints: &'static str,
    remotes: &'static str,
    routers: &'static str,
    resolvers: &'static str,
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
        },
        Ip::V6 => Names {
            subnets: "subnets6",
            vteps: "vteps6",
            hosts: "hosts6",
            endpoints: "endpoints6",
            remotes: "remotes6",
            routers: "routers6",
            resolvers: "resolvers6",
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
