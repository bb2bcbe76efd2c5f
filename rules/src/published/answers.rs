//! The host whose task answers: sends the answers back by the called host.

use std::sync::Arc;

use nftables::{
    Chain, Comparison, Conntrack, Expression, Hook, Ip, Key, Kind, Meta, Rule, Ruleset, Set, Type,
    Verdict, octets,
};

use super::{Answers, Grain, MANGLE, NEW, at_names};
use crate::{
    addresses_of,
    guard::{FROM_TUNNEL, outermost, set_names},
};

/// `NF_CT_STATE_BIT`s of what belongs to a known connection: established, related.
const KNOWN: u32 = 2 | 4;

/// Adds to the guard of a network's namespace the rules that accept callers of other hosts, and
/// that send answers back by the called host. To published targets everybody may call, to others
/// only the hosts themselves, each from its own addresses, and those whom the network is exposed
/// to.
pub fn answer(mut table: Ruleset, answers: &Answers) -> Ruleset {
    if answers.routers.is_empty() {
        return table;
    }
    if let Some(chain) = table.chains.get_mut(FROM_TUNNEL) {
        let chain = Arc::make_mut(chain);
        let strangers = chain.rules.len().saturating_sub(1);
        chain
            .rules
            .splice(strangers..strangers, Ip::BOTH.map(of_outside));
    }
    let judge = |version| {
        let outside = Rule::new()
            .link_in("vx-*")
            .version(version)
            .source(version, 0);
        outside
            .not_in_set(set_names(version).subnets)
            .verdict(Verdict::Goto("callers".to_owned()))
    };
    let restore = Rule::new()
        .link_in("e*")
        .answers()
        .with(Expression::Conntrack {
            key: Conntrack::Mark,
            into: 0,
        });
    let restore = restore
        .compare(Comparison::NotEqual, &[0; 4])
        .with(Expression::SetMeta {
            key: Meta::Mark,
            from: 0,
        });
    let ways = answers
        .routers
        .iter()
        .map(|(router, mark)| (Key::of(&[&router.0]), mark.to_ne_bytes().to_vec()));
    let known = answers
        .routers
        .iter()
        .map(|(router, mark)| Key::of(&[&router.0, &mark.to_ne_bytes()]));
    let table = table
        .chain(
            "answers",
            Chain::base(
                Kind::Filter,
                Hook::Prerouting,
                MANGLE,
                [&Ip::BOTH.map(judge)[..], &[restore]].concat(),
            ),
        )
        .chain("callers", Chain::regular(callers_of_others(answers)))
        .set(
            "routers",
            Set::values(
                &[Type::Ethernet],
                answers.routers.keys().map(|router| Key::of(&[&router.0])),
            ),
        )
        .set("ways", Set::map(&[Type::Ethernet], Type::Mark, ways))
        .set("known", Set::values(&[Type::Ethernet, Type::Mark], known));
    Ip::BOTH.into_iter().fold(table, |table, version| {
        let subnets = outermost(&answers.subnets, version).map(addresses_of);
        let of_version = |grain| {
            let targets = answers.targets.iter();
            targets.filter(move |(address, _, _, count)| {
                Ip::of(*address) == version && Grain::of(*count) == grain
            })
        };
        let table = grains(answers).fold(table, |table, grain| {
            let targets = of_version(grain).flat_map(|&(address, protocol, first, count)| {
                grain.keys(Some(address), protocol, (first, count))
            });
            table.set(
                &grain.name(at_names(version).targets),
                grain.set(&[version.into(), Type::Protocol, Type::Port], targets),
            )
        });
        let table = table.set(
            set_names(version).subnets,
            Set::ranges(&[version.into()], subnets),
        );
        with_callers(table, answers, version)
    })
}

/// The sets of those who may call all there is, where there are any.
fn with_callers(table: Ruleset, answers: &Answers, version: Ip) -> Ruleset {
    let names = at_names(version);
    let mut table = table;
    if !answers.hosts.is_empty() {
        let hosts = answers.hosts.iter();
        let hosts = hosts.filter(|(_, address)| Ip::of(*address) == version);
        let hosts = hosts.map(|(router, address)| Key::of(&[&router.0, &octets(*address)]));
        let key = [Type::Ethernet, version.into()];
        table = table.set(names.hosts, Set::values(&key, hosts));
    }
    if !answers.exposed.is_empty() {
        let exposed = outermost(&answers.exposed, version).map(addresses_of);
        table = table.set(names.exposed, Set::ranges(&[version.into()], exposed));
    }
    table
}

/// Whether the tunnel's packet is for a published target is only known once its connection is.
fn of_outside(version: Ip) -> Rule {
    let by_host = Rule::new()
        .version(version)
        .source_mac(0)
        .in_set("routers")
        .source(version, 0);
    by_host
        .not_in_set(set_names(version).subnets)
        .verdict(Verdict::Accept)
}

/// A new connection that may be is remembered with the router that it came from; the rest
/// of it comes from there.
fn callers_of_others(answers: &Answers) -> Vec<Rule> {
    let begin = |version: Ip, grain: Grain| {
        let behind = (Type::from(version).size() / 4) as u8;
        let target = Rule::new()
            .states(NEW)
            .version(version)
            .destination(version, 0)
            .called(behind);
        let from = target
            .in_set(&grain.name(at_names(version).targets))
            .source_mac(0)
            .map("ways");
        remembered(from)
    };
    let begin = |grain| Ip::BOTH.map(|version| begin(version, grain));
    let of_hosts = |version: Ip| {
        let from = Rule::new().states(NEW).version(version).source_mac(0);
        let from = from.source(version, 2).in_set(at_names(version).hosts);
        remembered(from.source_mac(0).map("ways"))
    };
    let of_exposed = |version: Ip| {
        let from = Rule::new().states(NEW).version(version).source(version, 0);
        let from = from.in_set(at_names(version).exposed);
        remembered(from.source_mac(0).map("ways"))
    };
    let of_hosts = (!answers.hosts.is_empty()).then(|| Ip::BOTH.map(of_hosts));
    let of_exposed = (!answers.exposed.is_empty()).then(|| Ip::BOTH.map(of_exposed));
    let of_all = of_hosts.into_iter().chain(of_exposed).flatten();
    let goes_on = Rule::new()
        .states(KNOWN)
        .source_mac(0)
        .with(Expression::Conntrack {
            key: Conntrack::Mark,
            into: 2,
        });
    let goes_on = goes_on.in_set("known").verdict(Verdict::Accept);
    let rest = [goes_on, Rule::new().counter().verdict(Verdict::Drop)];
    grains(answers)
        .flat_map(begin)
        .chain(of_all)
        .chain(rest)
        .collect()
}

/// Takes the mark that was looked up down with the connection, and lets it in.
fn remembered(rule: Rule) -> Rule {
    rule.with(Expression::SetConntrack {
        key: Conntrack::Mark,
        from: 0,
    })
    .verdict(Verdict::Accept)
}

/// Single ones always, ranges where there are any.
fn grains(answers: &Answers) -> impl Iterator<Item = Grain> {
    let targets = &answers.targets;
    let has_ranges = targets
        .iter()
        .any(|(.., count)| Grain::of(*count) == Grain::Range);
    let grains = Grain::ALL.into_iter();
    grains.filter(move |grain| *grain == Grain::Single || has_ranges)
}
