//! The rule set that balances a table. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use model::{Balance, Scheduler};
use nftables::{
    Chain, Comparison, Expression, Family, Hook, Ip, Key, Kind, Meta, Nat, Numbers, Reject, Rule,
    Ruleset, Set, SetRef, Type, Verdict, octets,
};
use nix::libc::{IPPROTO_TCP, IPPROTO_UDP};

use super::{BALANCED_PORTS, Clients, TABLE, mode, names, number};
use crate::{Op, Table, VirtualService, crowd::Crowd, slots::slots};

/// NF_IP_PRI_NAT_DST and NF_IP_PRI_NAT_SRC.
const TRANSLATE_DESTINATION: i32 = -100;
const TRANSLATE_SOURCE: i32 = 100;
/// `IPS_DST_NAT`.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// Code of ICMPX unreachables: port.
const PORT_UNREACHABLE: u8 = 1;
/// In the byte of TCP's flags.
const SYN: u8 = 2;
/// Seed of Jenkins' hash: the same on every host, so that a client gets the same server from
/// everywhere.
const SEED: u32 = 0x6e65_7464;
/// The register behind the three addresses of a rule.
const SPARE: u8 = 12;

/// The rule set that balances a table. Pure.
pub(super) fn ruleset(table: &Table, clients: Clients, crowd: Crowd) -> Ruleset {
    with_affinities(table, clients, crowd, &affinities(table))
}

/// As much of it as these ops are about. What does not belong to single virtual IPs is the same in
/// any part of a table, but for what affinities take, which only the ops that say how to choose can
/// change.
pub(super) fn part(table: &Table, clients: Clients, crowd: Crowd, ops: &[Op]) -> Ruleset {
    let chooses = |op: &Op| matches!(op, Op::AddService { .. } | Op::DelService { .. });
    let affinities = if ops.iter().any(chooses) {
        affinities(table)
    } else {
        BTreeSet::new()
    };
    with_affinities(&table.part(ops), clients, crowd, &affinities)
}

fn with_affinities(
    table: &Table,
    clients: Clients,
    crowd: Crowd,
    affinities: &BTreeSet<u32>,
) -> Ruleset {
    // A packet that is still addressed to a virtual IP here belongs to no connection: only first
    // packets of connections pass this chain.
    let balance = [
        Ip::BOTH.map(stray).to_vec(),
        crowd.rules(|flow, version| flow.in_set(names(version).services)),
        Ip::BOTH.map(balance).to_vec(),
        Ip::BOTH.map(refuse).to_vec(),
    ]
    .concat();
    let hook = if clients == Clients::Routed {
        Hook::Prerouting
    } else {
        Hook::Output
    };
    let mut ruleset = crowd
        .objects(Ruleset::new(Family::Inet, TABLE))
        .chain("unreachable", Chain::regular(unreachable()))
        .chain(
            "balance",
            Chain::base(Kind::Nat, hook, TRANSLATE_DESTINATION, balance),
        );
    if clients == Clients::Routed {
        let translated = |rule: Rule| rule.status(DESTINATION_TRANSLATED);
        ruleset = ruleset.chain("hairpin", sources(translated));
    }
    for version in Ip::BOTH {
        ruleset = with_hairpins(with_sets(ruleset, table, version), table, version);
        ruleset = with_shared(ruleset, version, affinities);
    }
    for (vip, service) in table
        .services
        .iter()
        .filter(|(_, service)| service.is_open())
    {
        ruleset = ruleset.chain(&chain_name(*vip), Chain::regular(distribute(*vip, service)));
    }
    ruleset
}

/// The chain that translates sources of balanced connections, which the rules' first expressions
/// match.
pub(crate) fn sources(balanced: impl Fn(Rule) -> Rule) -> Chain {
    let rules = [
        Ip::BOTH.map(hairpin),
        Ip::BOTH.map(|version| port(version, &balanced)),
    ]
    .concat();
    Chain::base(Kind::Nat, Hook::Postrouting, TRANSLATE_SOURCE, rules)
}

/// Resets mid-stream TCP packets of unknown connections: their real server is gone, and no other
/// could continue.
fn stray(version: Ip) -> Rule {
    let stray = middle_of_tcp(version)
        .destination(version, 0)
        .in_set(names(version).services);
    stray.verdict(Verdict::Goto("unreachable".to_owned()))
}

/// Only TCP segments that begin no connection.
pub(crate) fn middle_of_tcp(version: Ip) -> Rule {
    let flags = Rule::new()
        .version(version)
        .protocol(IPPROTO_TCP as u8)
        .transport(13, 1, 0);
    let syn = flags.with(Expression::Bitwise {
        from: 0,
        into: 0,
        mask: vec![SYN],
        xor: vec![0],
    });
    syn.compare(Comparison::Equal, &[0])
}

pub(super) fn balance(version: Ip) -> Rule {
    Rule::new()
        .version(version)
        .destination(version, 0)
        .verdict_map(names(version).vips)
}

fn refuse(version: Ip) -> Rule {
    let refused = Rule::new()
        .version(version)
        .destination(version, 0)
        .in_set(names(version).services);
    refused.verdict(Verdict::Goto("unreachable".to_owned()))
}

/// How many registers an address takes.
fn width(version: Ip) -> u8 {
    (Type::from(version).size() / 4) as u8
}

fn hairpin(version: Ip) -> Rule {
    let pair = Rule::new()
        .version(version)
        .source(version, 0)
        .destination(version, width(version));
    pair.map(names(version).hairpins).nat(Nat::Source, version)
}

/// Moves the source port of a balanced connection to where packets are known to need translation.
fn port(version: Ip, balanced: impl Fn(Rule) -> Rule) -> Rule {
    let (first, last) = BALANCED_PORTS;
    let transports = Set::values(
        &[Type::Protocol],
        [IPPROTO_TCP, IPPROTO_UDP].map(|code| Key::of(&[&[code as u8]])),
    );
    balanced(Rule::new().version(version))
        .source(version, 0)
        .with(Expression::Meta {
            key: Meta::L4proto,
            into: 4,
        })
        .with(Expression::Match {
            set: SetRef::Anonymous(transports),
            from: 4,
            invert: false,
        })
        .with(Expression::Immediate {
            into: 4,
            value: first.to_be_bytes().to_vec(),
        })
        .with(Expression::Immediate {
            into: 5,
            value: last.to_be_bytes().to_vec(),
        })
        .with(Expression::Nat {
            kind: Nat::Source,
            version,
            address: 0,
            ports: Some((4, 5)),
        })
}

/// Refuses what is to go nowhere: TCP by a reset, the rest by ICMP.
pub fn unreachable() -> Vec<Rule> {
    let tcp = Rule::new()
        .protocol(IPPROTO_TCP as u8)
        .reject(Reject::TcpReset);
    vec![tcp, Rule::new().reject(Reject::Icmpx(PORT_UNREACHABLE))]
}

/// A table's virtual IPs of a version.
pub(crate) fn of_version(
    table: &Table,
    version: Ip,
) -> impl Iterator<Item = (&IpAddr, &VirtualService)> {
    table
        .services
        .iter()
        .filter(move |(vip, _)| Ip::of(**vip) == version)
}

fn with_sets(ruleset: Ruleset, table: &Table, version: Ip) -> Ruleset {
    let (names, key) = (names(version), Type::from(version));
    let services = || of_version(table, version);
    let open = || services().filter(|(_, service)| service.is_open());
    let vips = open().map(|(vip, _)| (Key::address(*vip), Verdict::Jump(chain_name(*vip))));
    let unusual = services().filter(|(_, service)| service.balance != Balance::default());
    let modes = unusual.map(|(vip, service)| (Key::address(*vip), number(mode(service.balance))));
    let weights = services().flat_map(|(vip, service)| {
        service
            .real_servers
            .iter()
            .map(|(address, weight)| (Key::pair(*vip, *address), number(u32::from(*weight))))
    });
    let slots = open().flat_map(|(vip, service)| {
        let turns = (0u32..).zip(slots(service));
        turns.map(|(slot, address)| (Key::of(&[&octets(*vip), &number(slot)]), octets(address)))
    });
    ruleset
        .set(
            names.services,
            Set::values(&[key], services().map(|(vip, _)| Key::address(*vip))),
        )
        .set(names.vips, Set::verdicts(&[key], vips))
        .set(names.modes, Set::map(&[key], Type::Mark, modes))
        .set(
            names.weights,
            Set::map(&[key, key], Type::Mark, weights).counted(),
        )
        .set(
            names.slots,
            Set::map(&[key, Type::Mark], key, slots).counted(),
        )
        .set(names.clients, Set::memory(&[key, key], key))
}

pub(crate) fn with_hairpins(ruleset: Ruleset, table: &Table, version: Ip) -> Ruleset {
    let key = Type::from(version);
    let local = table
        .hairpins
        .iter()
        .filter(|(address, _)| Ip::of(**address) == version);
    let hairpins =
        local.map(|(address, gateway)| (Key::pair(*address, *address), octets(*gateway)));
    ruleset.set(
        names(version).hairpins,
        Set::map(&[key, key], key, hairpins),
    )
}

fn chain_name(vip: IpAddr) -> String {
    // A name with colons could not be typed to the `nft` program.
    format!("vip-{}", vip.to_string().replace(':', "_"))
}

/// A virtual IP's own chain uses no map: on a change the kernel walks a map's elements for every
/// chain that uses it, which would take minutes with thousands of chains. The chain puts the number
/// of the turn into the packet's mark; shared chains look up the real server.
fn distribute(vip: IpAddr, service: &VirtualService) -> Vec<Rule> {
    let version = Ip::of(vip);
    let go = |verdict: Verdict| Rule::new().verdict(verdict);
    let turn = Rule::new()
        .version(version)
        .source(version, 0)
        .with(turn(service, version, SPARE));
    let turn = turn.with(Expression::SetMeta {
        key: Meta::Mark,
        from: SPARE,
    });
    match service.balance.affinity {
        None => vec![turn.verdict(Verdict::Goto(chosen_chain(version)))],
        Some(seconds) => {
            let again = go(Verdict::Jump(again_chain(version, seconds)));
            vec![
                again,
                turn.verdict(Verdict::Goto(remembered_chain(version, seconds))),
            ]
        }
    }
}

fn chosen_chain(version: Ip) -> String {
    format!("chosen{}", digit(version))
}

fn again_chain(version: Ip, seconds: u32) -> String {
    format!("again{}-{seconds}s", digit(version))
}

fn remembered_chain(version: Ip, seconds: u32) -> String {
    format!("chosen{}-{seconds}s", digit(version))
}

fn digit(version: Ip) -> u8 {
    if version == Ip::V4 { 4 } else { 6 }
}

/// The chains that all virtual IPs of a version share. Client, virtual IP and real server stand one
/// behind the other in the registers of their rules, as they do in keys.
fn with_shared(mut ruleset: Ruleset, version: Ip, affinities: &BTreeSet<u32>) -> Ruleset {
    let (names, server) = (names(version), 2 * width(version));
    let addresses_of = |rule: Rule| rule.source(version, 0).destination(version, width(version));
    let addresses = || addresses_of(Rule::new().version(version));
    let weigh = |rule: Rule| {
        let set = SetRef::Named(names.weights.to_owned());
        rule.with(Expression::Map {
            set,
            from: width(version),
            into: SPARE,
        })
    };
    let translate = |rule: Rule| {
        rule.with(Expression::Immediate {
            into: SPARE,
            value: number(0),
        })
        .with(Expression::SetMeta {
            key: Meta::Mark,
            from: SPARE,
        })
        .with(Expression::Nat {
            kind: Nat::Destination,
            version,
            address: server,
            ports: None,
        })
    };
    let in_turn = |rule: Rule| {
        let set = SetRef::Named(names.slots.to_owned());
        let turn = rule.with(Expression::Meta {
            key: Meta::Mark,
            into: server,
        });
        turn.with(Expression::Map {
            set,
            from: width(version),
            into: server,
        })
    };
    let chosen = || in_turn(addresses());
    // A packet may be processed during a commit, with the number of a turn that was just removed.
    // It then gets the first turn, which always exists.
    let first = || {
        let mark = Rule::new().version(version).with(Expression::Immediate {
            into: SPARE,
            value: number(0),
        });
        in_turn(addresses_of(mark.with(Expression::SetMeta {
            key: Meta::Mark,
            from: SPARE,
        })))
    };
    ruleset = ruleset.chain(
        &chosen_chain(version),
        Chain::regular(vec![translate(chosen()), translate(first())]),
    );
    for &seconds in affinities {
        let remember = |rule: Rule| {
            let (map, milliseconds) = (names.clients.to_owned(), u64::from(seconds) * 1000);
            rule.with(Expression::Remember {
                map,
                key: 0,
                data: server,
                milliseconds,
            })
        };
        let forget = Expression::Forget {
            map: names.clients.to_owned(),
            key: 0,
            data: server,
        };
        let known = Expression::Map {
            set: SetRef::Named(names.clients.to_owned()),
            from: 0,
            into: server,
        };
        let takes = Expression::Compare {
            from: SPARE,
            how: Comparison::NotEqual,
            value: number(0),
        };
        let again = weigh(addresses().with(known)).with(takes);
        // The last rule is for when the map of clients is full.
        let anew = vec![
            translate(remember(chosen().with(forget))),
            translate(chosen()),
            translate(first()),
        ];
        ruleset = ruleset
            .chain(
                &again_chain(version, seconds),
                Chain::regular(vec![translate(remember(again))]),
            )
            .chain(&remembered_chain(version, seconds), Chain::regular(anew));
    }
    ruleset
}

fn affinities(table: &Table) -> BTreeSet<u32> {
    table
        .services
        .values()
        .filter_map(|service| service.balance.affinity)
        .collect()
}

/// Puts the number of a slot into the register; the client's address is in the first one.
pub fn turn(service: &VirtualService, version: Ip, into: u8) -> Expression {
    let modulus = slots(service).len() as u32;
    match service.balance.scheduler {
        Scheduler::Sh | Scheduler::Mh if modulus > 1 => {
            let len = Type::from(version).size() as u32;
            Expression::Hash {
                from: 0,
                len,
                modulus,
                seed: SEED,
                offset: 0,
                into,
            }
        }
        _ => Expression::Number {
            kind: Numbers::Incremental,
            modulus,
            offset: 0,
            into,
        },
    }
}
