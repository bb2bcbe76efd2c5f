//! The nftables balancer: virtual services as one table of maps. A packet costs one look-up,
//! however many services there are. Address-only DNAT works for every protocol. The client's
//! address is hidden only if it is balanced to itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter, mem,
    net::IpAddr,
    sync::Arc,
};

use model::{Balance, Scheduler};
use nftables::{
    Chain, Change, Comparison, Data, Expression, Family, Hook, Ip, Key, Kind, Meta, Nat, NftError,
    Numbers, Reject, Rule, Ruleset, Set, SetRef, Socket, Type, Verdict, address, difference,
    octets,
};
use nix::libc::{IPPROTO_TCP, IPPROTO_UDP};

use crate::{
    Balancer, BalancerError, Observed, Op, Table, Traffic, VirtualService,
    connections::Connections,
    moment::Moment,
    slots::slots,
    sysctl::{Sysctls, TRACKING},
};

/// The nftables table of the engine, family `inet`.
pub const TABLE: &str = model::names::BALANCER_TABLE;

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
/// The part of a mode that is the affinity in seconds; the scheduler is above.
const AFFINITY_BITS: u32 = 28;
/// The register behind the three addresses of a rule.
const SPARE: u8 = 12;

/// The balancer moves the source ports of connections to virtual IPs into this range, so that a
/// packet of such a connection can be told by its port.
pub const BALANCED_PORTS: (u16, u16) = (0x4000, 0x7fff);

/// Where the clients of virtual services are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Behind the namespace, which routes for them.
    Routed,
    /// In the namespace itself.
    Local,
}

/// The engine in one network namespace.
pub struct Nftables {
    clients: Clients,
    socket: Socket,
    sysctls: Sysctls,
    connections: Connections,
    seen: Seen,
}

/// What was found in the kernel.
enum Seen {
    Nothing,
    /// The rule set of a table.
    Whole(Arc<Table>, Moment),
    /// Something else.
    Damaged(Option<Ruleset>),
}

/// The table that is to be, what it takes, and when, if it is known.
type Prepared = (Arc<Table>, Option<Change>, Option<Moment>);

impl Nftables {
    /// In the calling thread's network namespace; afterwards it can be used from any thread.
    pub fn open(clients: Clients) -> Result<Self, BalancerError> {
        let mut socket = Socket::open()?;
        nftables::load(&mut socket);
        let sysctls = Sysctls::open(TRACKING.iter().copied()).map_err(BalancerError::Sysctl)?;
        Ok(Self {
            clients,
            socket,
            sysctls,
            connections: Connections::translated(),
            seen: Seen::Nothing,
        })
    }

    /// The desired rule set; `None` in a sandbox without virtual services, where no packet is to be
    /// matched.
    fn wanted(&self, table: &Table) -> Option<Ruleset> {
        self.is_needed(table).then(|| ruleset(table, self.clients))
    }

    fn is_needed(&self, table: &Table) -> bool {
        self.clients == Clients::Routed || !table.services.is_empty()
    }

    fn read(&mut self) -> Result<Observed, NftError> {
        let now = Moment::now(&mut self.socket)?;
        if let Seen::Whole(table, at) = &self.seen
            && *at == now
        {
            return Ok(Observed {
                table: table.clone(),
                damage: Vec::new(),
            });
        }
        let found = nftables::observe(&mut self.socket, Family::Inet, TABLE)?;
        let table = Arc::new(found.as_ref().map(table).unwrap_or_default());
        let change = difference(self.wanted(&table).as_ref(), found.as_ref());
        self.seen = match &change {
            Some(_) => Seen::Damaged(found),
            None => Seen::Whole(table.clone(), now),
        };
        let steps = change.map(|change| change.steps).unwrap_or_default();
        Ok(Observed {
            table,
            damage: steps.iter().map(ToString::to_string).collect(),
        })
    }

    fn prepare(&mut self, ops: &[Op]) -> Result<Prepared, NftError> {
        if matches!(self.seen, Seen::Nothing) {
            self.read()?;
        }
        match mem::replace(&mut self.seen, Seen::Nothing) {
            Seen::Whole(mut table, at) => {
                let wanted = |table: &Table| {
                    self.is_needed(table)
                        .then(|| part(table, self.clients, ops))
                };
                let before = wanted(&table);
                ops.iter()
                    .for_each(|op| Arc::make_mut(&mut table).apply(op));
                let change = difference(wanted(&table).as_ref(), before.as_ref());
                Ok((table, change, Some(at)))
            }
            Seen::Damaged(found) => {
                let mut desired = found.as_ref().map(table).unwrap_or_default();
                ops.iter().for_each(|op| desired.apply(op));
                let change = difference(self.wanted(&desired).as_ref(), found.as_ref());
                Ok((Arc::new(desired), change, None))
            }
            Seen::Nothing => Ok((Arc::default(), None, None)),
        }
    }
}

impl Balancer for Nftables {
    fn observe(&mut self) -> Result<Observed, BalancerError> {
        let mut observed = self.read()?;
        observed.damage.extend(self.sysctls.damage());
        observed
            .damage
            .extend(self.connections.damage(&mut self.socket, &observed.table)?);
        Ok(observed)
    }

    fn apply(&mut self, ops: &[Op]) -> Result<(), BalancerError> {
        self.sysctls.apply().map_err(BalancerError::Sysctl)?;
        let (table, change, before) = self.prepare(ops)?;
        if let Some(change) = &change {
            nftables::apply(&mut self.socket, change)?;
        }
        let ours = before.map(|before| before.after(change.as_ref()));
        if let Some(ours) = ours.filter(|ours| ours.is_now(&mut self.socket)) {
            self.seen = Seen::Whole(table.clone(), ours);
        }
        self.connections.forget(&mut self.socket, ops, &table)
    }

    fn overlook(&mut self, before: u32) {
        if let Seen::Whole(_, at) = &mut self.seen {
            at.overlook(before);
        }
    }

    fn generation(&self) -> Option<u32> {
        match self.seen {
            Seen::Whole(_, at) => Some(at.number()),
            Seen::Nothing | Seen::Damaged(_) => None,
        }
    }

    fn doubt(&mut self) {
        self.seen = Seen::Nothing;
    }

    fn traffic(&mut self, vip: IpAddr) -> Result<Traffic, BalancerError> {
        let (version, size) = (Ip::of(vip), Type::from(Ip::of(vip)).size());
        let names = names(version);
        let mut connections = BTreeMap::new();
        // Connections by affinity, and connections by turn.
        for (key, _, count) in
            nftables::counted(&mut self.socket, Family::Inet, TABLE, names.weights)?
        {
            let server = pair(&key, size)
                .filter(|(of, _)| *of == vip)
                .map(|(_, server)| server);
            connections.extend(server.map(|server| (server, count)));
        }
        for (key, data, count) in
            nftables::counted(&mut self.socket, Family::Inet, TABLE, names.slots)?
        {
            let server = if let Data::Value(server) = &data {
                address(server)
            } else {
                None
            };
            let own = key
                .first
                .starts_with(&octets(vip))
                .then_some(server)
                .flatten();
            own.into_iter()
                .for_each(|server| *connections.entry(server).or_default() += count);
        }
        Ok(Traffic {
            connections,
            passed: None,
        })
    }
}

/// The names of one IP version's sets.
struct Names {
    /// Every virtual IP.
    services: &'static str,
    /// Those with a real server to go to, and their chains.
    vips: &'static str,
    /// How they choose, where it is not the usual.
    modes: &'static str,
    /// (virtual IP, real server) to weight: what the chains are made from.
    weights: &'static str,
    /// (virtual IP, number) to the real server whose turn it is.
    slots: &'static str,
    /// (client, virtual IP) to the real server that it had last.
    clients: &'static str,
    /// (endpoint, endpoint) to the gateway that it sees calling.
    hairpins: &'static str,
}

fn names(version: Ip) -> Names {
    match version {
        Ip::V4 => Names {
            services: "services4",
            vips: "vips4",
            modes: "modes4",
            weights: "weights4",
            slots: "slots4",
            clients: "clients4",
            hairpins: "hairpins4",
        },
        Ip::V6 => Names {
            services: "services6",
            vips: "vips6",
            modes: "modes6",
            weights: "weights6",
            slots: "slots6",
            clients: "clients6",
            hairpins: "hairpins6",
        },
    }
}

/// The rule set that balances a table. Pure.
pub fn ruleset(table: &Table, clients: Clients) -> Ruleset {
    with_affinities(table, clients, &affinities(table))
}

/// As much of it as these ops are about. What does not belong to single virtual IPs is the same in
/// any part of a table, but for what affinities take, which only the ops that say how to choose can
/// change.
fn part(table: &Table, clients: Clients, ops: &[Op]) -> Ruleset {
    let chooses = |op: &Op| matches!(op, Op::AddService { .. } | Op::DelService { .. });
    let affinities = if ops.iter().any(chooses) {
        affinities(table)
    } else {
        BTreeSet::new()
    };
    with_affinities(&table.part(ops), clients, &affinities)
}

fn with_affinities(table: &Table, clients: Clients, affinities: &BTreeSet<u32>) -> Ruleset {
    // A packet that is still addressed to a virtual IP here belongs to no connection: only first
    // packets of connections pass this chain.
    let balance = [
        Ip::BOTH.map(stray),
        Ip::BOTH.map(balance),
        Ip::BOTH.map(refuse),
    ]
    .concat();
    let hook = if clients == Clients::Routed {
        Hook::Prerouting
    } else {
        Hook::Output
    };
    let mut ruleset = Ruleset::new(Family::Inet, TABLE)
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

fn balance(version: Ip) -> Rule {
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

pub(crate) fn number(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// A way to choose as one number.
pub(crate) fn mode(balance: Balance) -> u32 {
    let scheduler = Scheduler::ALL
        .iter()
        .position(|known| *known == balance.scheduler)
        .unwrap_or(0) as u32;
    scheduler << AFFINITY_BITS | balance.affinity.unwrap_or(0).min((1 << AFFINITY_BITS) - 1)
}

pub(crate) fn balance_of(mode: u32) -> Balance {
    let scheduler = Scheduler::ALL
        .get((mode >> AFFINITY_BITS) as usize)
        .copied()
        .unwrap_or_default();
    let affinity = mode & ((1 << AFFINITY_BITS) - 1);
    Balance {
        scheduler,
        affinity: (affinity > 0).then_some(affinity),
    }
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

/// The virtual services that a rule set was made for. Other differences show when the rule set is
/// made from them again and compared.
fn table(ruleset: &Ruleset) -> Table {
    let mut table = Table::default();
    for version in Ip::BOTH {
        let names = names(version);
        let size = Type::from(version).size();
        for (key, _) in elements(ruleset, names.services) {
            table
                .services
                .extend(address(&key.first).map(|vip| (vip, VirtualService::default())));
        }
        for (key, data) in elements(ruleset, names.modes) {
            let service = address(&key.first).and_then(|vip| table.services.get_mut(&vip));
            let Some((service, mode)) = service.zip(value(data)) else {
                continue;
            };
            service.balance = balance_of(mode);
        }
        for (key, data) in elements(ruleset, names.weights) {
            let weight = value(data).and_then(|weight| u16::try_from(weight).ok());
            let Some(((vip, server), weight)) = pair(key, size).zip(weight) else {
                continue;
            };
            table
                .services
                .get_mut(&vip)
                .and_then(|service| service.real_servers.insert(server, weight));
        }
    }
    table.hairpins = hairpins(ruleset);
    table
}

pub(crate) fn hairpins(ruleset: &Ruleset) -> BTreeMap<IpAddr, IpAddr> {
    let of_version = |version: Ip| {
        let hairpins = elements(ruleset, names(version).hairpins);
        hairpins.filter_map(move |(key, data)| {
            let gateway = if let Data::Value(value) = data {
                address(value)
            } else {
                None
            };
            let (local, _) = pair(key, Type::from(version).size())?;
            Some((local, gateway?))
        })
    };
    Ip::BOTH.into_iter().flat_map(of_version).collect()
}

pub(crate) fn elements<'a>(
    ruleset: &'a Ruleset,
    set: &str,
) -> Box<dyn Iterator<Item = (&'a Key, &'a Data)> + 'a> {
    match ruleset.sets.get(set) {
        Some(set) => Box::new(set.elements.iter()),
        None => Box::new(iter::empty()),
    }
}

fn pair(key: &Key, size: usize) -> Option<(IpAddr, IpAddr)> {
    let (first, second) = key.first.split_at_checked(size)?;
    address(first).zip(address(second))
}

pub(crate) fn value(data: &Data) -> Option<u32> {
    let Data::Value(value) = data else {
        return None;
    };
    Some(u32::from_ne_bytes(value.as_slice().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::tables;

    proptest! {
        #[test]
        fn a_rule_set_tells_the_table_that_it_was_made_for(expected in tables()) {
            for clients in [Clients::Routed, Clients::Local] {
                prop_assert_eq!(&table(&ruleset(&expected, clients)), &expected);
            }
        }

        #[test]
        fn a_part_changes_as_the_whole_does(before in tables(), after in tables()) {
            let ops = before.ops(&after);
            let change = |before: &Table, after: &Table| {
                let rulesets = [after, before].map(|table| ruleset(table, Clients::Routed));
                difference(Some(&rulesets[0]), Some(&rulesets[1]))
            };
            let parts = [&after, &before].map(|table| part(table, Clients::Routed, &ops));
            prop_assert_eq!(difference(Some(&parts[0]), Some(&parts[1])), change(&before, &after));
        }
    }
}
