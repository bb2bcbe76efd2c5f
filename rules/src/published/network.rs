//! A network's namespace on the called host: balances callers.

use ipvs::{slots, turn, unreachable};
use model::names;
use nftables::{
    Chain, Conntrack, Expression, Hook, Ip, Key, Kind, Nat, Rule, Ruleset, Set, SetRef, Type,
    Verdict, octets,
};

use super::{Port, TASKS, TRANSLATE_DESTINATION, chain, last, lead, of_version};

const FILTER: i32 = 0;

/// Adds to the guard of a network's namespace the rules that balance callers of this host.
pub fn balance(table: Ruleset, ports: &[Port]) -> Ruleset {
    if ports.is_empty() {
        return table;
    }
    let led = Rule::new()
        .link_in(names::UPLINK)
        .verdict(Verdict::Goto("lead".to_owned()));
    let turned = Rule::new()
        .link_in(names::UPLINK)
        .link_out(names::UPLINK)
        .counter()
        .verdict(Verdict::Drop);
    let table = table
        .chain(
            "publish",
            Chain::base(
                Kind::Nat,
                Hook::Prerouting,
                TRANSLATE_DESTINATION,
                vec![led],
            ),
        )
        // What is balanced nowhere would come back for ever.
        .chain(
            "turn-back",
            Chain::base(Kind::Filter, Hook::Forward, FILTER, vec![turned]),
        )
        .chain("no-server", Chain::regular(unreachable()));
    let table = lead(table, ports);
    ports.iter().fold(table, |table, port| {
        let table = Ip::BOTH
            .into_iter()
            .fold(table, |table, version| with_callers(table, port, version));
        let rules = Ip::BOTH.map(|version| distribute(port, version));
        table.chain(&chain(port), Chain::regular(rules.concat()))
    })
}

/// Sets of the tasks that may have callers, to notice removed ones. With affinity also the map from
/// callers to their last task, and the set of tasks that take callers.
fn with_callers(table: Ruleset, port: &Port, version: Ip) -> Ruleset {
    let all = of_version(port, version)
        .real_servers
        .into_keys()
        .map(Key::address);
    let name = format!(
        "{TASKS}{}-{}",
        if version == Ip::V4 { 4 } else { 6 },
        port.name
    );
    let table = table.set(&name, Set::values(&[version.into()], all));
    if port.balance.affinity.is_none() {
        return table;
    }
    let open = of_version(port, version);
    let open = open.shares().map(|(address, _)| Key::address(address));
    table
        .set(
            &callers_name(port, version),
            Set::memory(&[version.into()], version.into()),
        )
        .set(
            &open_name(port, version),
            Set::values(&[version.into()], open),
        )
}

fn callers_name(port: &Port, version: Ip) -> String {
    format!(
        "{}-{}",
        if version == Ip::V4 {
            "callers4"
        } else {
            "callers6"
        },
        port.service
    )
}

fn open_name(port: &Port, version: Ip) -> String {
    format!(
        "{}-{}",
        if version == Ip::V4 { "open4" } else { "open6" },
        port.name
    )
}

/// Caller and task stand one behind the other in the registers, then the port; the number of the
/// turn has the last one.
fn distribute(port: &Port, version: Ip) -> Vec<Rule> {
    const TURN: u8 = 12;
    let (service, task) = (
        of_version(port, version),
        (Type::from(version).size() / 4) as u8,
    );
    if !service.is_open() {
        return vec![
            Rule::new()
                .version(version)
                .verdict(Verdict::Goto("no-server".to_owned())),
        ];
    }
    let caller = || Rule::new().version(version).source(version, 0);
    let chosen = || {
        let turns = (0u32..)
            .zip(slots(&service))
            .map(|(slot, to)| (Key::of(&[&slot.to_ne_bytes()]), octets(to)));
        let set = SetRef::Anonymous(Set::map(&[Type::Number], version.into(), turns));
        caller()
            .with(turn(&service, version, TURN))
            .with(Expression::Map {
                set,
                from: TURN,
                into: task,
            })
    };
    let Some(seconds) = port.balance.affinity else {
        return vec![translate(chosen(), port, version, task)];
    };
    let (map, milliseconds) = (callers_name(port, version), u64::from(seconds) * 1000);
    let forget = Expression::Forget {
        map: map.clone(),
        key: 0,
        data: task,
    };
    let remember = Expression::Remember {
        map: map.clone(),
        key: 0,
        data: task,
        milliseconds,
    };
    let open = SetRef::Named(open_name(port, version));
    let again = caller()
        .with(Expression::Map {
            set: SetRef::Named(map),
            from: 0,
            into: task,
        })
        .with(Expression::Match {
            set: open,
            from: task,
            invert: false,
        })
        .with(remember.clone());
    let anew = chosen().with(forget).with(remember);
    // The last rule is for when the map of callers is full.
    [again, anew, chosen()]
        .map(|rule| translate(rule, port, version, task))
        .to_vec()
}

/// To the address in the register, and the port that the called one leads to.
fn translate(rule: Rule, port: &Port, version: Ip, address: u8) -> Rule {
    const PORT: u8 = 8;
    let nat = |ports| Expression::Nat {
        kind: Nat::Destination,
        version,
        address,
        ports,
    };
    if port.published == port.target {
        return rule.with(nat(None));
    }
    let targets = (port.published..=last(port.published, port.count)).zip(port.target..);
    let targets = targets.map(|(port, target)| {
        (
            Key::of(&[&port.to_be_bytes()]),
            target.to_be_bytes().to_vec(),
        )
    });
    let set = SetRef::Anonymous(Set::map(&[Type::Port], Type::Port, targets));
    rule.with(Expression::Conntrack {
        key: Conntrack::CalledPort,
        into: PORT,
    })
    .with(Expression::Map {
        set,
        from: PORT,
        into: PORT,
    })
    .with(nat(Some((PORT, PORT))))
}
