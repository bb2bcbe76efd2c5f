//! Rule sets of published ports. The called host marks packets and routes them into the network's
//! namespace without translation; there they are balanced; the host whose task answers sends the
//! answers back by the called host. Each part is added to the guard table of its namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipvs::{VirtualService, slots, turn, unreachable};
use model::{
    Balance, Mac, Protocol, Subnet, Vni,
    names::{self, LinkName},
};
use nftables::{
    Chain, Change, Comparison, Connection, Conntrack, Expression, FibResult, Header, Hook, Ip, Key,
    Kind, Meta, Nat, Rule, Ruleset, Set, SetRef, Step, Type, Verdict, octets,
};

use crate::{
    addresses_of,
    guard::{FROM_TUNNEL, UPLINKS, outermost, set_names},
};

/// The bits of a packet's mark that are ours on the host; the highest is always set.
pub const MARK_MASK: u32 = 0xfff0_0000;
const MARKED: u32 = 0x8000_0000;
/// Stands for `::1` inside a network's namespace, because the kernel takes no packet from or to
/// `::1` from a device (RFC 4291 section 2.5.3). A unique local address (RFC 4193), which never
/// leaves the host.
pub const LOOPBACK: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x6574, 0x6400, 0, 0, 0, 0, 1);

/// `NF_IP_PRI_MANGLE`: after connection tracking, before destinations are translated.
const MANGLE: i32 = -150;
const TRANSLATE_DESTINATION: i32 = -100;
const TRANSLATE_SOURCE: i32 = 100;
const FILTER: i32 = 0;
/// Before and behind firewalld's reverse path check of IPv6 (`filter + 10`, once `raw + 10`), which
/// looks at marks.
const BEFORE_CHECKS: i32 = -299;
const BEHIND_CHECKS: i32 = 250;
/// The host's set of the ports that lead elsewhere.
const PORTS: &str = "ports";
/// A chain per port begins with this.
const CHAIN: &str = "port-";
/// A set of a port's tasks begins with this: those that keep their callers are among them.
const TASKS: &str = "tasks";
/// `RTN_LOCAL`.
const LOCAL: [u8; 4] = 2u32.to_ne_bytes();
/// `NFTA_FIB_F_SADDR` and `NFTA_FIB_F_DADDR`.
const OF_SOURCE: u32 = 1;
const OF_DESTINATION: u32 = 2;
/// `NF_CT_STATE_BIT`s: new; established and related.
const NEW: u32 = 8;
const KNOWN: u32 = 2 | 4;

/// The mark of packets that are on their way into a network's namespace. Networks that agree in
/// eleven bits cannot both have published ports on one host.
pub fn mark(vni: Vni) -> u32 {
    MARKED | (u32::from(vni) & 0x7ff) << 20
}

/// Ports of the host that lead to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Unique on the host.
    pub name: String,
    /// Whose they are: what one of a service's ports knows of a caller, all of them do.
    pub service: String,
    /// The mark of its network.
    pub mark: u32,
    /// Their protocol.
    pub protocol: Protocol,
    /// The first.
    pub published: u16,
    /// The port of the tasks that the first leads to.
    pub target: u16,
    /// How many.
    pub count: u16,
    /// The addresses that they are at; `None`: all.
    pub at: Option<BTreeSet<IpAddr>>,
    /// Who may call; everybody where empty.
    pub allow: Vec<Subnet>,
    /// How one of those that they lead to is chosen; what counts connections takes turns instead.
    pub balance: Balance,
    /// Where they lead, and the weights.
    pub real_servers: BTreeMap<IpAddr, u16>,
}

/// What the host leads elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diversion {
    /// The ports.
    pub ports: Vec<Port>,
    /// The host's ends of the uplinks of their networks, with the marks that lead there.
    pub uplinks: BTreeMap<LinkName, u32>,
    /// The host as tasks see it when it calls them from its loopback, or other tasks do: one
    /// address per family.
    pub own: Vec<IpAddr>,
}

/// What tasks of a network get from callers at other hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// The network's own subnets: no outsider has an address there.
    pub subnets: Vec<Subnet>,
    /// The routers of the hosts that may be called, with the connection marks that lead back there.
    pub routers: BTreeMap<Mac, u32>,
    /// What may be called: addresses, protocols, first ports and how many.
    pub targets: Vec<(IpAddr, Protocol, u16, u16)>,
}

/// Adds to the host's [border](crate::guard::border) the rules that lead callers into networks.
/// Answers to the host's own calls and forwarded packets are left alone.
pub fn divert(table: Ruleset, diversion: &Diversion) -> Ruleset {
    if diversion.ports.is_empty() {
        return table;
    }
    let called = |chain: &str| {
        let goto = Verdict::Goto(chain.to_owned());
        vec![
            Rule::new().answers().verdict(Verdict::Return),
            Rule::new().called(0).in_set(PORTS).verdict(goto),
        ]
    };
    let ports = diversion
        .ports
        .iter()
        .flat_map(numbers)
        .map(|(protocol, port)| called_key(protocol, port));
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
        .set(PORTS, Set::values(&[Type::Protocol, Type::Port], ports))
        .set("uplinks", uplinks(diversion));
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

/// Adds to the guard of a network's namespace the rules that accept callers of other hosts, to
/// published targets only, and that send answers back by the called host.
pub fn answer(mut table: Ruleset, answers: &Answers) -> Ruleset {
    if answers.routers.is_empty() {
        return table;
    }
    if let Some(chain) = table.chains.get_mut(FROM_TUNNEL) {
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
        .chain("callers", Chain::regular(callers_of_others()))
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
        let targets = answers
            .targets
            .iter()
            .filter(|(address, ..)| Ip::of(*address) == version);
        let targets = targets.flat_map(|&(address, protocol, first, count)| {
            (first..=last(first, count)).map(move |port| target_key(address, protocol, port))
        });
        table
            .set(
                set_names(version).subnets,
                Set::ranges(&[version.into()], subnets),
            )
            .set(
                at_names(version).targets,
                Set::values(&[version.into(), Type::Protocol, Type::Port], targets),
            )
    })
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

/// A new connection to a published target is remembered with the router that it came from; the rest
/// of it comes from there.
fn callers_of_others() -> Vec<Rule> {
    let begin = |version: Ip| {
        let behind = (Type::from(version).size() / 4) as u8;
        let target = Rule::new()
            .states(NEW)
            .version(version)
            .destination(version, 0)
            .called(behind);
        let from = target
            .in_set(at_names(version).targets)
            .source_mac(0)
            .map("ways");
        from.with(Expression::SetConntrack {
            key: Conntrack::Mark,
            from: 0,
        })
        .verdict(Verdict::Accept)
    };
    let goes_on = Rule::new()
        .states(KNOWN)
        .source_mac(0)
        .with(Expression::Conntrack {
            key: Conntrack::Mark,
            into: 2,
        });
    let goes_on = goes_on.in_set("known").verdict(Verdict::Accept);
    [
        &Ip::BOTH.map(begin)[..],
        &[goes_on, Rule::new().counter().verdict(Verdict::Drop)],
    ]
    .concat()
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

/// By address first: a port is never both at an address and everywhere.
fn lead(table: Ruleset, ports: &[Port]) -> Ruleset {
    let at = |version: Ip| {
        let behind = (Type::from(version).size() / 4) as u8;
        Rule::new()
            .version(version)
            .destination(version, 0)
            .called(behind)
            .verdict_map(at_names(version).ports)
    };
    let rules = [
        &Ip::BOTH.map(at)[..],
        &[Rule::new().called(0).verdict_map("everywhere")],
    ]
    .concat();
    let way = |port: &Port| Verdict::Goto(chain(port));
    let general = ports.iter().filter(|port| port.at.is_none());
    let general = general.flat_map(|port| {
        numbers(port).map(move |(protocol, number)| (called_key(protocol, number), way(port)))
    });
    let table = table.chain("lead", Chain::regular(rules)).set(
        "everywhere",
        Set::verdicts(&[Type::Protocol, Type::Port], general),
    );
    Ip::BOTH.into_iter().fold(table, |table, version| {
        let placed = ports.iter().flat_map(|port| {
            port.at
                .iter()
                .flatten()
                .map(move |address| (port, *address))
        });
        let placed = placed
            .filter(|(_, address)| Ip::of(*address) == version)
            .flat_map(|(port, address)| {
                numbers(port).map(move |(protocol, number)| {
                    (target_key(address, protocol, number), way(port))
                })
            });
        let key = [version.into(), Type::Protocol, Type::Port];
        table.set(at_names(version).ports, Set::verdicts(&key, placed))
    })
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

/// What callers of a network's published ports are led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Led {
    /// The network's own subnets.
    pub subnets: Vec<Subnet>,
    /// By protocol and port.
    pub servers: BTreeMap<(u8, u16), BTreeSet<IpAddr>>,
}

impl Led {
    /// Where these ports lead on a network.
    pub fn of(subnets: Vec<Subnet>, ports: &[Port]) -> Self {
        let mut servers: BTreeMap<_, BTreeSet<IpAddr>> = BTreeMap::new();
        for port in ports {
            for (protocol, number) in numbers(port) {
                let addresses = port.real_servers.keys().copied();
                servers
                    .entry((protocol.number(), number))
                    .or_default()
                    .extend(addresses);
            }
        }
        Self { subnets, servers }
    }

    /// Whether a translated connection leads to a task that no longer answers there. TCP
    /// connections end by themselves; UDP and the like would stay with a removed task as long as
    /// the caller sends.
    pub fn is_stale(&self, found: &Connection) -> bool {
        let called = (found.protocol, found.port);
        let is_led = found.destination != found.server
            && !self
                .subnets
                .iter()
                .any(|own| own.contains(found.destination));
        is_led
            && found.protocol != Protocol::Tcp.number()
            && !self
                .servers
                .get(&called)
                .is_some_and(|servers| servers.contains(&found.server))
    }
}

/// Whether this changes where callers of published ports are led.
pub fn is_led_elsewhere(change: &Change) -> bool {
    change.steps.iter().any(|step| match step {
        Step::FlushChain(chain) | Step::DeleteChain(chain) => chain.starts_with(CHAIN),
        Step::DeleteElements { set, .. } | Step::DeleteSet(set) => set.starts_with(TASKS),
        Step::DeleteTable => true,
        _ => false,
    })
}

/// The ports (protocol, number) that a host led elsewhere and is not to any more.
pub fn closed(wanted: Option<&Ruleset>, observed: Option<&Ruleset>) -> BTreeSet<(u8, u16)> {
    let keys = |table: Option<&Ruleset>| -> BTreeSet<Vec<u8>> {
        let set = table.and_then(|table| table.sets.get(PORTS));
        set.into_iter()
            .flat_map(|set| set.elements.keys().map(|key| key.first.clone()))
            .collect()
    };
    let called = |key: &Vec<u8>| {
        Some((
            *key.first()?,
            u16::from_be_bytes(key.get(4..6)?.try_into().ok()?),
        ))
    };
    keys(observed)
        .difference(&keys(wanted))
        .filter_map(called)
        .collect()
}

fn of_version(port: &Port, version: Ip) -> VirtualService {
    let servers = port
        .real_servers
        .iter()
        .filter(|(address, _)| Ip::of(**address) == version);
    let real_servers = servers
        .map(|(address, weight)| (*address, *weight))
        .collect();
    VirtualService {
        balance: port.balance,
        real_servers,
    }
}

fn chain(port: &Port) -> String {
    format!("{CHAIN}{}", port.name)
}

fn numbers(port: &Port) -> impl Iterator<Item = (Protocol, u16)> {
    let protocol = port.protocol;
    (port.published..=last(port.published, port.count)).map(move |number| (protocol, number))
}

fn last(first: u16, count: u16) -> u16 {
    first.saturating_add(count.saturating_sub(1))
}

fn called_key(protocol: Protocol, port: u16) -> Key {
    Key::of(&[&[protocol.number()], &port.to_be_bytes()])
}

fn target_key(address: IpAddr, protocol: Protocol, port: u16) -> Key {
    Key::of(&[&octets(address), &[protocol.number()], &port.to_be_bytes()])
}

/// The names of one IP version's sets.
struct AtNames {
    /// (address, protocol, port) to chains.
    ports: &'static str,
    /// (address, protocol, port) of tasks.
    targets: &'static str,
}

fn at_names(version: Ip) -> AtNames {
    match version {
        Ip::V4 => AtNames {
            ports: "ports4",
            targets: "targets4",
        },
        Ip::V6 => AtNames {
            ports: "ports6",
            targets: "targets6",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_to_a_gone_task_are_forgotten() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let led = Led {
            subnets: vec!["10.0.9.0/24".parse().unwrap()],
            servers: [((17, 53), [ip("10.0.9.5")].into())].into(),
        };
        let found = |protocol, destination: &str, port, server: &str| {
            led.is_stale(&Connection {
                protocol,
                destination: ip(destination),
                port,
                server: ip(server),
                translated: true,
                answered: true,
            })
        };
        assert!(found(17, "192.0.2.1", 53, "10.0.9.6"), "a removed task");
        assert!(found(17, "192.0.2.1", 54, "10.0.9.5"), "a removed port");
        assert!(!found(17, "192.0.2.1", 53, "10.0.9.5"));
        assert!(
            !found(6, "192.0.2.1", 53, "10.0.9.6"),
            "TCP comes to its end"
        );
        assert!(!found(17, "10.0.9.2", 53, "10.0.9.6"), "a virtual IP");
        assert!(
            !found(17, "192.0.2.1", 53, "192.0.2.1"),
            "a task's own call"
        );
    }

    #[test]
    fn a_task_that_goes_is_missed_though_it_had_no_turn_any_more() {
        let ports = |servers: &[(&str, u16)]| {
            let port = Port {
                name: "web-000".to_owned(),
                service: "web".to_owned(),
                mark: MARKED,
                protocol: Protocol::Udp,
                published: 53,
                target: 53,
                count: 1,
                at: None,
                allow: Vec::new(),
                balance: Balance::default(),
                real_servers: servers
                    .iter()
                    .map(|(address, weight)| (address.parse().unwrap(), *weight))
                    .collect(),
            };
            balance(Ruleset::new(nftables::Family::Inet, "t"), &[port])
        };
        let (both, one) = (
            ports(&[("10.0.9.5", 1), ("10.0.9.6", 0)]),
            ports(&[("10.0.9.5", 1)]),
        );
        let change = |after, before| nftables::difference(Some(after), Some(before)).unwrap();
        assert!(is_led_elsewhere(&change(&one, &both)));
        assert!(!is_led_elsewhere(&change(&both, &one)));
    }

    #[test]
    fn marks_stay_in_their_bits_and_are_never_none() {
        for vni in [Vni::FIRST, Vni::LAST, 0x1234.try_into().unwrap()] {
            assert!(mark(vni) & !MARK_MASK == 0 && mark(vni) & MARKED != 0);
        }
    }
}
