//! The called host: marks packets and routes them into the networks, and their answers out.

use std::net::{IpAddr, Ipv6Addr};

use ipvs::unreachable;
use nftables::{
    Chain, Comparison, Expression, FibResult, Header, Hook, Ip, Key, Kind, Meta, Nat, Rule,
    Ruleset, Set, Type, Verdict, octets,
};

use super::{
    Diversion, Grain, LOOPBACK, MANGLE, MARK_MASK, MARKED, NEW, PORTS, Port, TRANSLATE_DESTINATION,
    chain, keys, lead, of_grain, of_version,
};
use crate::{
    addresses_of,
    guard::{UPLINKS, outermost, set_names},
};

const TRANSLATE_SOURCE: i32 = 100;
/// Before and behind firewalld's reverse path check of IPv6 (`filter + 10`, once `raw + 10`), which
/// looks at marks.
const BEFORE_CHECKS: i32 = -299;
const BEHIND_CHECKS: i32 = 250;
/// `RTN_LOCAL`.
const LOCAL: [u8; 4] = 2u32.to_ne_bytes();
/// `NFTA_FIB_F_SADDR` and `NFTA_FIB_F_DADDR`.
const OF_SOURCE: u32 = 1;
const OF_DESTINATION: u32 = 2;

/// Adds to the host's [border](crate::guard::border) the rules that lead callers into networks.
/// Answers to the host's own calls and forwarded packets are left alone.
pub fn divert(table: Ruleset, diversion: &Diversion) -> Ruleset {
    if diversion.ports.is_empty() {
        return table;
    }
    let grains = Grain::ALL.map(|grain| (grain, of_grain(&diversion.ports, grain)));
    let grains = || grains.iter().filter(|(_, ports)| !ports.is_empty());
    let called = |chain: &str| {
        let to_port = |(grain, _): &(Grain, _)| {
            let goto = Verdict::Goto(chain.to_owned());
            Rule::new()
                .called(0)
                .in_set(&grain.name(PORTS))
                .verdict(goto)
        };
        let answers = Rule::new().answers().verdict(Verdict::Return);
        [answers].into_iter().chain(grains().map(to_port)).collect()
    };
    let table = table
        .chain(
            "divert",
            Chain::base(
                Kind::Filter,
                Hook::Prerouting,
                BEHIND_CHECKS,
                called("from-outside"),
            ),
        )
        .chain(
            "divert-own",
            Chain::base(Kind::Route, Hook::Output, MANGLE, called("from-here")),
        )
        .chain("from-outside", Chain::regular(from_outside()))
        .chain("from-here", Chain::regular(vec![elsewhere(), goto("lead")]))
        .chain("no-server", Chain::regular(unreachable()))
        .chain(
            "loopback",
            Chain::base(
                Kind::Nat,
                Hook::Output,
                TRANSLATE_DESTINATION,
                vec![loopback()],
            ),
        )
        .chain(
            "callers",
            Chain::base(
                Kind::Nat,
                Hook::Postrouting,
                TRANSLATE_SOURCE,
                callers(&diversion.own),
            ),
        )
        .chain(
            "returning",
            Chain::base(Kind::Filter, Hook::Prerouting, BEFORE_CHECKS, returning()),
        )
        .chain(
            "returned",
            Chain::base(Kind::Filter, Hook::Prerouting, BEHIND_CHECKS, returned()),
        )
        .set("uplinks", uplinks(diversion));
    let table = grains().fold(table, |table, (grain, ports)| {
        let all = ports.iter().flat_map(|port| keys(port, None));
        let set = grain.set(&[Type::Protocol, Type::Port], all);
        table.set(&grain.name(PORTS), set)
    });
    let table = lead(table, &diversion.ports);
    diversion.ports.iter().fold(table, |table, port| {
        let table = Ip::BOTH
            .into_iter()
            .fold(table, |table, version| with_allowed(table, port, version));
        table.chain(
            &chain(port),
            Chain::regular(Ip::BOTH.map(|version| admit(port, version)).concat()),
        )
    })
}

/// From a device of the host. What claims to come from a network but does not would be believed
/// there.
fn from_outside() -> Vec<Rule> {
    let spoofed = |version: Ip| {
        let inside = Rule::new()
            .link_in_not(UPLINKS)
            .version(version)
            .source(version, 0);
        inside
            .in_set(set_names(version).subnets)
            .counter()
            .verdict(Verdict::Drop)
    };
    let own = fib(OF_SOURCE)
        .compare(Comparison::Equal, &LOCAL)
        .verdict(Verdict::Return);
    // Addresses of a link mean nothing in a namespace.
    let on_link = Rule::new().version(Ip::V6);
    let on_link = on_link.with(Expression::Payload {
        base: Header::Network,
        offset: 8,
        len: 2,
        into: 0,
    });
    let on_link = masked(on_link, &[0xff, 0xc0])
        .compare(Comparison::Equal, &[0xfe, 0x80])
        .verdict(Verdict::Return);
    [
        &[elsewhere()][..],
        &Ip::BOTH.map(spoofed),
        &[own, on_link, goto("lead")],
    ]
    .concat()
}

/// Not to this host.
fn elsewhere() -> Rule {
    fib(OF_DESTINATION)
        .compare(Comparison::NotEqual, &LOCAL)
        .verdict(Verdict::Return)
}

fn fib(flags: u32) -> Rule {
    Rule::new().with(Expression::Fib {
        result: FibResult::AddressType,
        flags,
        into: 0,
    })
}

fn goto(chain: &str) -> Rule {
    Rule::new().verdict(Verdict::Goto(chain.to_owned()))
}

/// Drops and counts callers that are not on the allow-list, except the host itself; leads others
/// into the network, or rejects them if no task answers.
fn admit(port: &Port, version: Ip) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !port.allow.is_empty() {
        let stranger = fib(OF_SOURCE)
            .compare(Comparison::NotEqual, &LOCAL)
            .version(version)
            .source(version, 0);
        rules.push(
            stranger
                .not_in_set(&allowed(port, version))
                .counter()
                .verdict(Verdict::Drop),
        );
    }
    if !of_version(port, version).is_open() {
        rules.push(
            Rule::new()
                .version(version)
                .states(NEW)
                .verdict(Verdict::Goto("no-server".to_owned())),
        );
    }
    let marked = Rule::new().version(version).with(Expression::Meta {
        key: Meta::Mark,
        into: 0,
    });
    let (mask, xor) = (
        (!MARK_MASK).to_ne_bytes().to_vec(),
        port.mark.to_ne_bytes().to_vec(),
    );
    let marked = marked.with(Expression::Bitwise {
        from: 0,
        into: 0,
        mask,
        xor,
    });
    rules.push(
        marked
            .with(Expression::SetMeta {
                key: Meta::Mark,
                from: 0,
            })
            .verdict(Verdict::Return),
    );
    rules
}

fn with_allowed(table: Ruleset, port: &Port, version: Ip) -> Ruleset {
    if port.allow.is_empty() {
        return table;
    }
    let subnets = outermost(&port.allow, version).map(addresses_of);
    table.set(
        &allowed(port, version),
        Set::ranges(&[version.into()], subnets),
    )
}

fn allowed(port: &Port, version: Ip) -> String {
    format!(
        "{}-{}",
        if version == Ip::V4 {
            "allow4"
        } else {
            "allow6"
        },
        port.name
    )
}

fn loopback() -> Rule {
    let called = Rule::new().version(Ip::V6).destination(Ip::V6, 0);
    let called = called.compare(Comparison::Equal, &Ipv6Addr::LOCALHOST.octets());
    is_marked(called)
        .constant(&LOOPBACK.octets())
        .nat(Nat::Destination, Ip::V6)
}

/// Translates callers from the loopback, and tasks, to the host's address: answers could not return
/// to their own.
fn callers(own: &[IpAddr]) -> Vec<Rule> {
    let rules = own.iter().flat_map(|&own| {
        let version = Ip::of(own);
        let leaving = || Rule::new().link_out(UPLINKS).version(version);
        let local = match version {
            Ip::V4 => leaving()
                .with(Expression::Payload {
                    base: Header::Network,
                    offset: 12,
                    len: 1,
                    into: 0,
                })
                .compare(Comparison::Equal, &[127]),
            Ip::V6 => leaving()
                .source(version, 0)
                .compare(Comparison::Equal, &Ipv6Addr::LOCALHOST.octets()),
        };
        let task = is_marked(leaving())
            .source(version, 0)
            .in_set(set_names(version).subnets);
        [local, task].map(|rule| rule.constant(&octets(own)).nat(Nat::Source, version))
    });
    rules.collect()
}

fn is_marked(rule: Rule) -> Rule {
    let rule = rule.with(Expression::Meta {
        key: Meta::Mark,
        into: 0,
    });
    masked(rule, &MARKED.to_ne_bytes()).compare(Comparison::NotEqual, &[0; 4])
}

fn masked(rule: Rule, mask: &[u8]) -> Rule {
    rule.with(Expression::Bitwise {
        from: 0,
        into: 0,
        mask: mask.to_vec(),
        xor: vec![0; mask.len()],
    })
}

/// Marks answers out of a network. Their source is an address of the host, so a reverse path check
/// only passes under the mark that leads into that network.
fn returning() -> Vec<Rule> {
    let back = || Rule::new().link_in(UPLINKS).version(Ip::V6);
    let own = back().with(Expression::Fib {
        result: FibResult::AddressType,
        flags: OF_SOURCE,
        into: 0,
    });
    let own = own.compare(Comparison::Equal, &LOCAL);
    let loopback = back()
        .source(Ip::V6, 0)
        .compare(Comparison::Equal, &LOOPBACK.octets());
    vec![mark_of_uplink(own), mark_of_uplink(loopback)]
}

/// Only what goes on to `::1`, which is no address of the uplink, needs the mark to get there.
fn returned() -> Vec<Rule> {
    let local = Rule::new()
        .link_in(UPLINKS)
        .version(Ip::V6)
        .destination(Ip::V6, 0);
    let local = local.compare(Comparison::Equal, &Ipv6Addr::LOCALHOST.octets());
    let answer = Rule::new().link_in(UPLINKS).version(Ip::V6).answers();
    let answer = answer.with(Expression::Meta {
        key: Meta::Mark,
        into: 0,
    });
    let answer = masked(answer, &(!MARK_MASK).to_ne_bytes()).with(Expression::SetMeta {
        key: Meta::Mark,
        from: 0,
    });
    vec![mark_of_uplink(local).verdict(Verdict::Accept), answer]
}

fn mark_of_uplink(rule: Rule) -> Rule {
    rule.load_link_in(0)
        .map("uplinks")
        .with(Expression::SetMeta {
            key: Meta::Mark,
            from: 0,
        })
}

fn uplinks(diversion: &Diversion) -> Set {
    let marks = diversion.uplinks.iter().map(|(link, mark)| {
        (
            Key::of(&[&Key::link(link.as_str())]),
            mark.to_ne_bytes().to_vec(),
        )
    });
    Set::map(&[Type::Link], Type::Mark, marks)
}
